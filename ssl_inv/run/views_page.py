"""The page that shows views: a picture of every source with the outlines of its views, and the views with how they were
made.
"""

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ssl_inv.atomic import written_aside
from ssl_inv.run.view_samples import Pixels, Sample, ShownView

_COLOURS = (
    "#1f5fae",
    "#c2410c",
    "#15803d",
    "#7e22ce",
    "#be185d",
    "#0f766e",
    "#8a6100",
    "#475569",
    "#b91c1c",
    "#4338ca",
)


_INK, _SOFT, _LINE, _PAPER, _BEYOND = "#1c2127", "#5f6873", "#dfe3e8", "#ffffff", "#eceff2"


_SIDE, _GAP, _MOST_COLUMNS, _NARROWEST_PAGE = 256, 24, 6, 860


_TEXT, _LEADING = 17, 24


_FRAME, _BADGE = 4, 13


_FINER = 4
"""Lines are drawn so many times larger and then reduced: Pillow draws them without smoothing."""


_FARTHEST = 2.5
"""How far from its centre, in half sides of the source, a picture shows what lies outside of it."""


Line = Sequence[NDArray[np.float64]]
"""Points (x, y) in pixels."""


@dataclass(frozen=True)
class Tile:
    """A picture with words below it."""

    picture: Image.Image
    words: str = ""
    colour: str = _INK


@dataclass(frozen=True)
class Strip:
    """The pictures of one sample, and how many of them belong on one line together."""

    name: str
    tiles: Sequence[Tile]
    unit: int = 1


def write_page(title: str, words: str, samples: Sequence[Sample], path: Path) -> None:
    """Write the page aside and rename it to `path`, as PNG or as HTML with everything inside, by how the name ends.

    Args:
        title: the largest words.
        words: what is shown, in a sentence or two.
        samples: a strip each.
        path: the file; folders above it are made.
    """
    reach = _reach(samples)
    strips = [_strip(sample, reach) for sample in samples]
    content = _html(title, words, strips) if path.suffix == ".html" else _png_bytes(_sheet(title, words, strips))
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        aside.write_bytes(content)


# Pictures.


def _reach(samples: Sequence[Sample]) -> float:
    """Half the side of every picture of a source, in half sides of the source: all outlines of the page fit, and all
    have one scale.
    """
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
        tiles += [Tile(_view_picture(view), view.words, _colour(view)) for view in source.views]
    pairs = all(len(source.views) == 1 and source.pixels is not None for source in sample.sources)
    return Strip(sample.name, tiles, 2 if pairs else 1)


def _colour(view: ShownView) -> str:
    return _COLOURS[view.number % len(_COLOURS)]


def _source_picture(pixels: Pixels, views: Sequence[ShownView], reach: float) -> Image.Image:
    """A source with the numbered outlines of its views; a number stands at the corner that is the view's upper left
    one.
    """
    picture = Image.new("RGB", (_SIDE, _SIDE), _BEYOND)
    scale = _SIDE / reach / max(pixels.shape[:2])
    image = _resized(pixels, round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    picture.paste(image, ((_SIDE - image.width) // 2, (_SIDE - image.height) // 2))
    outlines = [(view.outline * [image.width, image.height] + _SIDE) / 2 for view in views]
    picture = _with_lines(
        picture, [([[*points, points[0]]], _colour(view)) for view, points in zip(views, outlines, strict=True)], 3
    )
    taken: list[tuple[float, float]] = []
    for view, points in zip(views, outlines, strict=True):
        place = _free_place(points, taken)
        taken.append(place)
        _badge(picture, place, view)
    return picture


def _view_picture(view: ShownView) -> Image.Image:
    picture = _resized(view.pixels, _SIDE, _SIDE)
    if len(view.arrows):
        picture = _with_lines(picture, [(_arrow_lines((view.arrows + 1) / 2 * _SIDE), _colour(view))], 1.25)
    ImageDraw.Draw(picture).rectangle((0, 0, _SIDE - 1, _SIDE - 1), outline=_colour(view), width=_FRAME)
    _badge(picture, (_BADGE + 4, _BADGE + 4), view)
    return picture


def _resized(pixels: Pixels, width: int, height: int) -> Image.Image:
    """Small images are magnified without smoothing: one sees the pixels that there are."""
    way = Image.Resampling.NEAREST if width >= 2 * pixels.shape[1] else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((width, height), way)


def _with_lines(picture: Image.Image, drawn: Sequence[tuple[Sequence[Line], str]], width: float) -> Image.Image:
    """The picture with smooth lines on a white ground: some of one colour, then some of another."""
    layer = Image.new("RGBA", (_FINER * _SIDE, _FINER * _SIDE))
    draw = ImageDraw.Draw(layer)
    for lines, colour in drawn:
        flat = [
            [float(value) for point in line for value in np.clip(point, -_SIDE, 2 * _SIDE) * _FINER] for line in lines
        ]
        for fill, pixels in (("#ffffffd0", 5 / 3 * width), (colour, width)):
            for one in flat:
                draw.line(one, fill=fill, width=round(pixels * _FINER), joint="curve")
    smooth = layer.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return Image.alpha_composite(picture.convert("RGBA"), smooth).convert("RGB")


def _arrow_lines(arrows: NDArray[np.float64]) -> list[Line]:
    """A shaft and a barb for each arrow from `arrows[:, 0]` to `arrows[:, 1]`; none for one that is shorter than a
    pixel.
    """
    lines: list[Line] = []
    for tail, head in arrows:
        length = math.dist(tail, head)
        if length < 1:
            continue
        along = (head - tail) / length * min(4, length / 2)
        across = np.array([-along[1], along[0]]) * 0.7
        lines += [[tail, head], [head - along + across, head, head - along - across]]
    return lines


def _free_place(outline: NDArray[np.float64], taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Where a number stands: inside the picture, at the first corner, or along the upper side as far as other numbers
    leave room.
    """
    margin = _BADGE + 3
    for fraction in np.linspace(0, 1, 25):
        x, y = np.clip(outline[0] + fraction * (outline[len(outline) // 4] - outline[0]), margin, _SIDE - margin)
        if all(math.dist((x, y), other) >= 2 * _BADGE for other in taken):
            return float(x), float(y)
    x, y = np.clip(outline[0], margin, _SIDE - margin)
    return float(x), float(y)


def _badge(picture: Image.Image, place: tuple[float, float], view: ShownView) -> None:
    """The number of a view, counted from 1, in a disk of its colour."""
    side = 2 * _BADGE + 4
    layer = Image.new("RGBA", (side * _FINER, side * _FINER))
    draw, middle = ImageDraw.Draw(layer), side * _FINER / 2
    draw.circle((middle, middle), (_BADGE + 2) * _FINER, fill="#ffffffd0")
    draw.circle((middle, middle), _BADGE * _FINER, fill=_colour(view))
    draw.text(
        (middle, middle), str(view.number + 1), fill="#ffffff", font=_font((_TEXT - 2) * _FINER, bold=True), anchor="mm"
    )
    smooth = layer.resize((side, side), Image.Resampling.BOX)
    picture.paste(smooth, (round(place[0] - side / 2), round(place[1] - side / 2)), smooth)


@lru_cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    # The simple layout is always there; with the other, the same page would differ from machine to machine.
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


# The page as one picture.


def _sheet(title: str, words: str, strips: Sequence[Strip]) -> Image.Image:
    columns = _columns(strips)
    abreast = min(max(_MOST_COLUMNS // columns, 1), len(strips))
    bands = [strips[start : start + abreast] for start in range(0, len(strips), abreast)]
    heights = [max(_strip_height(strip, columns) for strip in band) for band in bands]
    width = max(_GAP + abreast * columns * (_SIDE + _GAP), _NARROWEST_PAGE)
    heading = _wrapped(words, width - 2 * _GAP)
    top = 2 * _GAP + (2 + len(heading)) * _LEADING
    sheet = Image.new("RGB", (width, top + sum(heights) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, fill=_INK, font=_font(28, bold=True))
    _write_lines(draw, heading, (_GAP, _GAP + 2 * _LEADING), _SOFT)
    for band, height in zip(bands, heights, strict=True):
        for number, strip in enumerate(band):
            _paint_strip(sheet, strip, columns, (_GAP + number * columns * (_SIDE + _GAP), top))
        top += height
    return sheet


def _columns(strips: Sequence[Strip]) -> int:
    """As many as let the lines of the longest strip be equally long, and keep together what belongs together."""
    longest, unit = max(len(strip.tiles) for strip in strips), max(strip.unit for strip in strips)
    lines = math.ceil(longest / _MOST_COLUMNS)
    return math.ceil(longest / lines / unit) * unit


def _lines(strip: Strip, columns: int) -> list[tuple[Sequence[Tile], int]]:
    """The tiles of every line, and the height of the line in pixels."""
    parts = [strip.tiles[start : start + columns] for start in range(0, len(strip.tiles), columns)]
    return [
        (part, _SIDE + 8 + _LEADING * max(len(_wrapped(tile.words, _SIDE)) for tile in part) + 16) for part in parts
    ]


def _strip_height(strip: Strip, columns: int) -> int:
    return 2 * _LEADING + sum(height for _, height in _lines(strip, columns)) + 8


def _paint_strip(sheet: Image.Image, strip: Strip, columns: int, place: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(sheet)
    (left, top), width = place, columns * (_SIDE + _GAP) - _GAP
    draw.line((left, top, left + width, top), fill=_LINE, width=2)
    draw.text((left, top + 12), _shortened(strip.name, width), fill=_SOFT, font=_font(_TEXT))
    top += 2 * _LEADING
    for tiles, height in _lines(strip, columns):
        for column, tile in enumerate(tiles):
            corner = left + column * (_SIDE + _GAP), top
            sheet.paste(tile.picture, corner)
            _write_lines(draw, _wrapped(tile.words, _SIDE), (corner[0], top + _SIDE + 8), tile.colour)
        top += height


def _write_lines(draw: ImageDraw.ImageDraw, lines: Sequence[str], place: tuple[int, int], colour: str) -> None:
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * _LEADING), line, fill=colour, font=_font(_TEXT))


def _wrapped(words: str, width: int) -> list[str]:
    """Words in lines of at most `width` pixels, broken at commas where that is possible; what fits into no line is
    shortened.
    """
    lines: list[str] = []
    for piece in _unbroken(words, width).split(" "):
        if lines and _length(f"{lines[-1]} {piece}") <= width:
            lines[-1] += f" {piece}"
        elif piece:
            lines.append(_shortened(piece, width))
    return lines


def _unbroken(words: str, width: int) -> str:
    """Words with spaces at which no line ends, except after commas and in what is longer than a line."""
    phrases = re.split(r", (?![^(]*\))", words)
    return ", ".join(one.replace(" ", "\N{NO-BREAK SPACE}") if _length(f"{one},") <= width else one for one in phrases)


def _length(text: str) -> float:
    return _font(_TEXT).getlength(text)


def _shortened(text: str, width: int) -> str:
    """The end of a text that is too long for a line: of a path it is the part that tells files apart."""
    if _length(text) <= width:
        return text
    while text and _length(f"…{text}") > width:
        text = text[1:]
    return f"…{text}"


def _png_bytes(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


# The page as HTML.

_HTML = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { margin: 0 auto; padding: 32px 24px 64px; max-width: 1720px; background: #fff; color: #1c2127; }
body { font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 8px; overflow-wrap: anywhere; }
p { color: #5f6873; max-width: 80ch; margin: 0 0 24px; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, {{ width }}px), 1fr)); gap: 0 24px; }
section { border-top: 1px solid #dfe3e8; padding: 8px 0 20px; break-inside: avoid; }
h2 { font-size: 14px; font-weight: 400; color: #5f6873; margin: 0 0 8px; overflow-wrap: anywhere; }
div { display: flex; flex-wrap: wrap; gap: 20px 24px; }
figure { margin: 0; width: 256px; }
img { display: block; width: 256px; height: 256px; }
figcaption { margin-top: 6px; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ words }}</p>
<main>
{% for strip in strips %}
<section>
<h2>{{ strip.name }}</h2>
<div>
{% for tile in strip.tiles %}
<figure><img alt="" src="data:image/png;base64,{{ data(tile.picture) }}">
{%- if tile.words %}<figcaption style="color: {{ tile.colour }}">{{ unbroken(tile.words) }}</figcaption>{% endif %}</figure>
{% endfor %}
</div>
</section>
{% endfor %}
</main>
</body>
</html>
"""


def _html(title: str, words: str, strips: Sequence[Strip]) -> bytes:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["data"] = lambda picture: base64.b64encode(_png_bytes(picture)).decode("ascii")
    environment.globals["unbroken"] = lambda caption: _unbroken(caption, _SIDE)
    width = _columns(strips) * (_SIDE + _GAP) - _GAP
    return environment.from_string(_HTML).render(title=title, words=words, strips=strips, width=width).encode()
