"""A page of views: every source image with the outlines of its views, then the views and how they were made."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ssl_inv.data.pixels import shown_channels
from ssl_inv.run.pages.sheet import PAPER, Page, Strip, Tile, columns_for, font, png
from ssl_inv.run.pages.view_samples import Pixels, Sample, ShownView, first_samples
from ssl_inv.run.recipe import Recipe

_BLUE, _ORANGE, _GREEN, _PURPLE, _PINK = "#1f5fae", "#c2410c", "#15803d", "#7e22ce", "#be185d"
_COLOURS = (_BLUE, _ORANGE, _GREEN, _PURPLE, _PINK, "#0f766e", "#8a6100", "#475569", "#b91c1c", "#4338ca")
_BEYOND, _HALO = "#eceff2", "#ffffffd0"

_SIDE, _MOST_COLUMNS = 256, 6
_FRAME, _BADGE = 4, 13

_LONGEST_PHRASE = 32
"""A phrase of at most this many letters has room on a line below a picture."""

_FINER = 4
"""Overlays are drawn this many times larger and then reduced, because Pillow draws lines without smoothing."""

_FARTHEST = 2.5
"""How far from its centre, in half sides of the source, a picture shows what lies outside of the source."""


def write_page(title: str, words: str, samples: Sequence[Sample], path: Path) -> None:
    """Write `page_of` the samples, as PNG or as HTML with the pictures inside; the suffix of the path decides."""
    page_of(title, words, samples).write(path)


def page_of(title: str, words: str, samples: Sequence[Sample]) -> Page:
    """The page.

    Args:
        title: the heading.
        words: one or two sentences below it.
        samples: one strip each.
    """
    reach = _reach(samples)
    strips = [_strip(sample, reach) for sample in samples]
    return Page(title, words, strips, columns_for(strips, _MOST_COLUMNS))


class ShownViews(Sequence[Sample]):
    """The first samples of a run: their images and views, and the page that shows them.

    Args:
        page: shows them.
        samples: what is shown.
    """

    def __init__(self, page: Page, samples: Sequence[Sample]) -> None:
        self.page, self.samples = page, tuple(samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def picture(self) -> Image.Image:
        """The page as one picture."""
        return self.page.picture()

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page, as PNG or HTML."""
        self.page.write(Path(path))

    def __repr__(self) -> str:
        return f"ShownViews({self.page.title!r}, {len(self)} samples)"

    def _repr_png_(self) -> bytes:
        return png(self.picture)


def shown_views(name: str, recipe: Recipe, images: int) -> ShownViews:
    """The first views of a run of a recipe.

    Args:
        name: of the recipe, for the heading.
        recipe: every setting.
        images: samples to show.

    Raises:
        SettingError: if a value cannot be used.
    """
    samples = first_samples(recipe, images)
    words = f"The first samples of a run of this recipe; augmentation: {recipe.augmentation.name}."
    sources = [source for sample in samples for source in sample.sources]
    if any(source.pixels is not None for source in sources):
        words += " An outline shows where in the image a view lies; its number marks the view's upper left corner."
    if any(len(view.arrows) for source in sources for view in source.views):
        words += " Arrows show how far random fields move each part of a view."
    if any(view.paled for source in sources for view in source.views):
        words += " The student does not see pale patches; in a teacher's view, pale patches are not predicted."
    if samples and (shown := shown_channels(samples[0].channels)):
        words += f" Of {shown}."
    title = f"{Path(name).stem}: {recipe.objective.name} on {recipe.data.name}"
    return ShownViews(page_of(title, words, samples), samples)


# The pictures.


def _reach(samples: Sequence[Sample]) -> float:
    """Half the side of every source picture, in half sides of the source: all outlines fit, at one scale."""
    outlines = [
        view.outline for sample in samples for one in sample.sources for view in one.views if one.pixels is not None
    ]
    farthest = max((float(np.abs(one).max()) for one in outlines), default=1.0)
    return min(farthest * 1.04, _FARTHEST) if farthest > 1 + 1e-6 else 1.0


def _strip(sample: Sample, reach: float) -> Strip:
    tiles = []
    for source in sample.sources:
        if source.pixels is not None:
            tiles.append(Tile(_source_picture(source.pixels, source.views, reach)))
        tiles += [Tile(_view_picture(view), _words(view.words), _colour(view)) for view in source.views]
    pairs = all(len(source.views) == 1 and source.pixels is not None for source in sample.sources)
    return Strip(sample.name, tiles, 2 if pairs else 1)


def _words(words: str) -> str:
    """The words of a view, which then break at commas only, unless a phrase is too long for a line."""
    phrases = words.split(", ")
    return ", ".join(one.replace(" ", "\N{NO-BREAK SPACE}") if len(one) <= _LONGEST_PHRASE else one for one in phrases)


def _colour(view: ShownView) -> str:
    return _COLOURS[view.number % len(_COLOURS)]


def _source_picture(pixels: Pixels, views: Sequence[ShownView], reach: float) -> Image.Image:
    """A source with the outlines of its views. A number marks the corner that becomes the view's upper left corner."""
    picture = Image.new("RGB", (_SIDE, _SIDE), _BEYOND)
    scale = _SIDE / reach / max(pixels.shape[:2])
    image = _resized(pixels, round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    picture.paste(image, ((_SIDE - image.width) // 2, (_SIDE - image.height) // 2))
    outlines = [(view.outline * [image.width, image.height] + _SIDE) / 2 for view in views]
    taken: list[tuple[float, float]] = []
    with _overlay(picture) as draw:
        for view, points in zip(views, outlines, strict=True):
            _draw_lines(draw, [[*points, points[0]]], _colour(view), 3)
        for view, points in zip(views, outlines, strict=True):
            taken.append(_free_place(points, taken))
            _draw_badge(draw, taken[-1], view)
    return picture


def _view_picture(view: ShownView) -> Image.Image:
    picture = _resized(view.pixels, _SIDE, _SIDE)
    with _overlay(picture) as draw:
        _draw_lines(draw, _arrow_lines((view.arrows + 1) / 2 * _SIDE), _colour(view), 1.25)
        draw.rectangle((0, 0, _FINER * _SIDE - 1, _FINER * _SIDE - 1), outline=_colour(view), width=_FINER * _FRAME)
        _draw_badge(draw, (_BADGE + 4, _BADGE + 4), view)
    return picture


def _resized(pixels: Pixels, width: int, height: int) -> Image.Image:
    """Small images are magnified without smoothing, so that their pixels can be seen."""
    way = Image.Resampling.NEAREST if width >= 2 * pixels.shape[1] else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((width, height), way)


@contextmanager
def _overlay(picture: Image.Image) -> Iterator[ImageDraw.ImageDraw]:
    """A layer, `_FINER` times as large, that is laid over the picture at the end."""
    layer = Image.new("RGBA", (_FINER * _SIDE, _FINER * _SIDE))
    yield ImageDraw.Draw(layer)
    smooth = layer.resize(picture.size, Image.Resampling.BOX)
    picture.paste(smooth, mask=smooth)


def _draw_lines(
    draw: ImageDraw.ImageDraw, lines: Sequence[Sequence[NDArray[np.float64]]], colour: str, width: float
) -> None:
    """Lines through points (x, y), in pixels of the picture, over a white halo."""
    flat = [(np.clip(np.array(line), -_SIDE, 2 * _SIDE) * _FINER).ravel().tolist() for line in lines]
    for fill, pixels in ((_HALO, 5 / 3 * width), (colour, width)):
        for one in flat:
            draw.line(one, fill=fill, width=round(pixels * _FINER), joint="curve")


def _draw_badge(draw: ImageDraw.ImageDraw, place: tuple[float, float], view: ShownView) -> None:
    """The number of a view, counted from 1, in a disk of its colour."""
    middle = place[0] * _FINER, place[1] * _FINER
    draw.circle(middle, (_BADGE + 2) * _FINER, fill=_HALO)
    draw.circle(middle, _BADGE * _FINER, fill=_colour(view))
    draw.text(middle, str(view.number + 1), fill=PAPER, font=font(15 * _FINER, bold=True), anchor="mm")


def _arrow_lines(arrows: NDArray[np.float64]) -> list[list[NDArray[np.float64]]]:
    """A shaft and a barb for each arrow from `arrows[:, 0]` to `arrows[:, 1]` that is a pixel long or longer."""
    lines = []
    for tail, head in arrows:
        if (length := math.dist(tail, head)) >= 1:
            along = (head - tail) / length * min(4, length / 2)
            across = np.array([-along[1], along[0]]) * 0.7
            lines += [[tail, head], [head - along + across, head, head - along - across]]
    return lines


def _free_place(outline: NDArray[np.float64], taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Where a number stands: at the first corner, or as far along the upper side as other numbers leave room."""
    margin = _BADGE + 3
    first, second = outline[0], outline[len(outline) // 4]
    places = [
        (float(x), float(y))
        for x, y in np.clip(first + np.linspace(0, 1, 25)[:, None] * (second - first), margin, _SIDE - margin)
    ]
    free = (one for one in places if all(math.dist(one, other) >= 2 * _BADGE for other in taken))
    return next(free, places[0])
