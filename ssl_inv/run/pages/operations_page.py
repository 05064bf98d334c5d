"""A contact sheet of all operations that augmentations can use, each at three strengths, on one picture."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ssl_inv import augment
from ssl_inv.augment import kornia_names
from ssl_inv.augment.keyed import Keyed
from ssl_inv.augment.policies import custom
from ssl_inv.catalogue import OPERATIONS, within
from ssl_inv.data.pixels import as_colours
from ssl_inv.data.source import Source
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.run.build import build_data
from ssl_inv.run.pages.sheet import INK, Look, Page, Strip, Tile
from ssl_inv.run.recipe import Recipe
from ssl_inv.transforms import Transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.transforms.kornia_words import title
from ssl_inv.transforms.words import describe_view

SIDE = 144
"""Side of the pictures in pixels."""

_LOOK = Look(side=SIDE, gap=8, apart=32, text=12, names=INK)

_DRAWS, _STRENGTHS = 15, (1 / 6, 1 / 2, 5 / 6)
"""How many times each operation is drawn, and which of its draws are shown, in the order of how much they change."""

_AROUND = (0xEC, 0xEF, 0xF2)
"""The colour around pictures that are smaller than the others."""

_TRIED_IMAGES = 4


def settings(side: int) -> Mapping[str, Mapping[str, Any]]:
    """The settings of operations that cannot be shown with their defaults: some are required, others change nothing.

    Args:
        side: of the picture, in pixels.
    """
    kernel = side // 10 // 2 * 2 + 1
    around_one = [0.5, 1.5]
    return {
        "posterise": {"bits": [1, 6]},
        "shared": {"samples": 5, "operations": [{"name": "jitter", "probability": 1.0}]},
        "kornia.CenterCrop": {"size": side * 2 // 3},
        "kornia.ColorJiggle": {"brightness": 0.2, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
        "kornia.ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
        "kornia.LongestMaxSize": {"max_size": side // 2},
        "kornia.PadTo": {"size": [side * 5 // 4, side * 5 // 4]},
        "kornia.RandAugment": {"n": 2, "m": 15},
        "kornia.RandomAffine": {"degrees": 30.0, "translate": [0.1, 0.1], "scale": [0.8, 1.2], "shear": 10.0},
        "kornia.RandomBoxBlur": {"kernel_size": [7, 7]},
        "kornia.RandomBrightness": {"brightness": [0.7, 1.3]},
        "kornia.RandomContrast": {"contrast": around_one},
        "kornia.RandomCrop": {"size": [side * 2 // 3, side * 2 // 3]},
        "kornia.RandomElasticTransform": {"sigma": [8.0, 8.0], "alpha": [2.0, 2.0]},
        "kornia.RandomFisheye": {"center_x": [-0.3, 0.3], "center_y": [-0.3, 0.3], "gamma": [1.0, 3.0]},
        "kornia.RandomGamma": {"gamma": [0.5, 2.0]},
        "kornia.RandomGaussianBlur": {"kernel_size": [kernel, kernel], "sigma": [0.1, 4.0]},
        "kornia.RandomGaussianNoise": {"std": 0.1},
        "kornia.RandomHue": {"hue": [-0.5, 0.5]},
        "kornia.RandomMedianBlur": {"kernel_size": [7, 7]},
        "kornia.RandomMotionBlur": {"kernel_size": [3, kernel], "angle": 90.0, "direction": 1.0},
        "kornia.RandomPlasmaShadow": {"shade_intensity": [-0.6, -0.1], "shade_quantity": [0.2, 0.6]},
        "kornia.RandomPosterize": {"bits": [1, 6]},
        "kornia.RandomRain": {"number_of_drops": [50, 400]},
        "kornia.RandomResizedCrop": {"size": [side, side]},
        "kornia.RandomRotation": {"degrees": 45.0},
        "kornia.RandomRotation90": {"times": [1, 3]},
        "kornia.RandomSaturation": {"saturation": [0.0, 2.0]},
        "kornia.RandomSharpness": {"sharpness": [0.0, 10.0]},
        "kornia.RandomShear": {"shear": 20.0},
        "kornia.RandomSnow": {"snow_coefficient": [0.3, 0.8], "brightness": [1.5, 3.0]},
        "kornia.RandomTranslate": {"translate_x": [-0.2, 0.2], "translate_y": [-0.2, 0.2]},
        "kornia.Resize": {"size": [side // 2, side]},
        "kornia.SmallestMaxSize": {"max_size": side // 2},
    }


def available() -> list[str]:
    """The names of all operations, as recipes write them."""
    return [*augment.OPERATIONS, *(f"kornia.{name}" for name in kornia_names.names())]


@dataclass(frozen=True)
class _Drawn:
    """Draws of one operation: views `(n, 3, H, W)` in [0, 1], and how they were made."""

    views: Tensor
    record: Transform


def write_operations(recipe: Recipe | None, path: Path) -> None:
    """Write the sheet, as PNG or HTML.

    Args:
        recipe: whose data have the picture, the first image of its training set; None takes a rendered solid.
        path: the file, whose suffix decides; missing folders are made.

    Raises:
        SettingError: if the data cannot be used.
    """
    if recipe is None:
        picture = _first_image(RenderedSolids(objects=110, views=1, size=SIDE, samples=2, cache=False, seed=10))
    else:
        with within("data"):
            picture = _first_image(build_data(recipe).train)
    contact_sheet(picture).write(path)


def contact_sheet(picture: Tensor) -> Page:
    """The sheet.

    Args:
        picture: `(3, S, S)`, float in [0, 1].
    """
    strips, missing = [], list[str]()
    for name in available():
        given = settings(picture.shape[-1]).get(name, {})
        try:
            strips.append(_strip(name, given, picture))
        except (TypeError, ValueError) as error:  # Later versions of kornia may have classes that need settings.
            missing.append(f"{name}: {error}")
    reasons = dict.fromkeys(kornia_names.REFUSED.values())
    refused = [
        f"{', '.join(f'kornia.{name}' for name, other in kornia_names.REFUSED.items() if other == reason)}: {reason}"
        for reason in reasons
    ]
    words = (
        "Every operation on the picture at the beginning, always applied, with the settings below its name and with "
        "defaults elsewhere. From left to right: weak, middle, strong. These are three of "
        f"{_DRAWS} draws: a sixth, a half, and five sixths of all change the picture less. "
        "Fewer pictures stand where an operation has no more outcomes."
    )
    first = Strip("the picture", [Tile(_tile(picture))])
    foot = ["Not available in recipes:", *refused, *(["Not shown:", *missing] if missing else [])]
    return Page("Operations", words, [first, *strips], len(_STRENGTHS), foot, _LOOK)


def _first_image(source: Source) -> Tensor:
    """The first image that can be read, square, `(3, SIDE, SIDE)`."""
    objects = np.arange(min(len(source), _TRIED_IMAGES))
    images = source.load(objects, np.zeros_like(objects))
    if not images.readable.any():
        raise ValueError(f"none of the first {len(objects)} images can be read")
    pixels = as_colours(images.pixels[images.readable][:1]).float() / 255
    height, width = pixels.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[..., top : top + side, left : left + side]
    return F.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)[0]


def _strip(name: str, given: Mapping[str, Any], picture: Tensor) -> Strip:
    make = OPERATIONS.find(name).load()
    always = {key: 1.0 for key in ("p", "probability") if key in inspect.signature(make).parameters}
    drawn = _draw(name, make, {**given, **always}, picture)
    shown = _shown(drawn.views, picture)
    tiles = [Tile(_tile(drawn.views[row]), _words(drawn, row, name)) for row in shown]
    return Strip(name, tiles, words=", ".join(f"{key}: {_written(value)}" for key, value in given.items()))


def _draw(name: str, make: Any, chosen: Mapping[str, Any], picture: Tensor) -> _Drawn:
    pixels, key = picture.expand(_DRAWS, *picture.shape), Key(0, 0, np.arange(_DRAWS), 0)
    with torch.no_grad():
        if name in augment.OPERATIONS:
            return _Drawn(*custom(operations=[{"name": name, **chosen}])(pixels, key))
        operation: Keyed = make(**chosen)
        # As a policy keeps the size of its views, it would refuse classes that change it.
        views, record = operation(pixels.contiguous(), key)
        return _Drawn(views.clamp(0, 1), record)


def _shown(views: Tensor, picture: Tensor) -> list[int]:
    """The draws to show, from weak to strong. Equal ones, and those that change nothing, are left out if others do."""
    if views.shape[1:] == picture.shape:
        change = (views - picture).abs().mean((1, 2, 3))
    else:
        change = torch.arange(1.0, len(views) + 1)  # Pictures of other sizes cannot be compared.
    distinct = list({views[row].numpy().tobytes(): row for row in reversed(range(len(views)))}.values())
    rows = sorted((row for row in distinct if change[row] > 0), key=lambda row: float(change[row])) or distinct[-1:]
    if len(rows) <= len(_STRENGTHS):
        return rows
    return [rows[int(share * len(rows))] for share in _STRENGTHS]


def _words(drawn: _Drawn, row: int, name: str) -> str:
    """How a view was made. The name of an augmentation of kornia stands above already."""
    height, width = drawn.views.shape[-2:]
    words = describe_view(drawn.record, row)
    if name.startswith("kornia."):
        own = title(name)
        words = "" if words == own else words.removeprefix(f"{own}: ").removeprefix(f"{own} ")
    size = f"{width}\N{MULTIPLICATION SIGN}{height} px" if (height, width) != (SIDE, SIDE) else ""
    return ", ".join(part for part in (size, words) if part)


def _written(value: Any) -> str:
    return str(value).replace("'", "")


def _tile(view: Tensor) -> Image.Image:
    """A view, in the middle of a square if it is smaller, and reduced if it is larger."""
    pixels = (view.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), _AROUND)
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return square
