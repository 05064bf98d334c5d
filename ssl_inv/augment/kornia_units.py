"""What kornia's parameters mean: the group that each belongs to, and its value in the units of this package.

Angles are radians, counter-clockwise as one looks at the image, and modulo a full turn. kornia counts degrees; its
`RandomAffine` turns clockwise and everything else counter-clockwise. Lengths are fractions of the image's sides. kornia
counts pixels, from 0 at the centre of the first one. Hues are turns.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from ssl_inv.transforms import Box, Circle, Code, Flag, Group, Real

Sides: TypeAlias = tuple[int, int]
"""Height and width of the images, in pixels."""

Convert: TypeAlias = Callable[[Tensor, Sides], Tensor]

_NEUTRAL_AT_ONE = frozenset(
    (
        "brightness_factor",
        "contrast_factor",
        "saturation_factor",
        "gamma_factor",
        "gain_factor",
        "sharpness",
        "scale",
        "gamma",
    )
)
"""Factors. All other numbers are neutral at 0, if their range has it, or else in its middle."""


@dataclass(frozen=True)
class Unit:
    """One recorded parameter.

    Attributes:
        name: in the record, after the name of the augmentation.
        group: what its values are.
        record: from kornia's value `(n, ...)` to the recorded one.
        restore: and back.
    """

    name: str
    group: Group
    record: Convert
    restore: Convert


def unit_of(kind: type, parameter: str, low: Tensor, high: Tensor) -> Unit:
    """The unit of a parameter of a kornia class.

    Args:
        kind: the class.
        parameter: kornia's name.
        low: its least value, `(...)`, as recorded by kornia.
        high: its largest value.
    """
    for one in kind.__mro__:
        if found := _KNOWN.get((one.__name__, parameter)):
            return found
    if low.dtype == torch.bool:
        return Unit(parameter, Flag(), _as(torch.float32), _as(torch.bool))
    if not low.is_floating_point():
        whole = parameter.endswith(("_factor", "bits", "quality", "number_of_drops"))
        if not (whole and low.dim() == 0):
            dimensions = 0 if low.dim() == 0 else low.numel()
            return Unit(parameter, Code(dimensions), _flat(torch.int64), _shaped(low))
    return Unit(parameter, _real(parameter, low.double(), high.double()), _flat(torch.float32), _shaped(low))


def _real(parameter: str, low: Tensor, high: Tensor) -> Real:
    # kornia keeps ranges in single precision: 0.2 is 0.20000000298.
    least, most = (float(f"{end.item():.6g}") for end in (low.min(), high.max()))
    wanted = 1.0 if parameter in _NEUTRAL_AT_ONE else 0.0
    near = 1e-5 * (most - least)  # random numbers end just below 1
    neutral = wanted if least - near <= wanted <= most + near else float(f"{(least + most) / 2:.6g}")
    scale = float(f"{(most - least) / 2:.6g}") or 1.0
    return Real(scale=scale, neutral_value=neutral, dimensions=low.numel() if low.dim() else 0)


def _as(dtype: torch.dtype) -> Convert:
    return lambda value, sides: value.to(dtype)


def _flat(dtype: torch.dtype) -> Convert:
    return lambda value, sides: (value.flatten(1) if value.dim() > 1 else value).to(dtype)


def _shaped(example: Tensor) -> Convert:
    shape, dtype = example.shape, example.dtype
    return lambda value, sides: (value if dtype.is_floating_point else value.round()).view(-1, *shape).to(dtype)


def _angle(name: str, degrees: float) -> Unit:
    """An angle that kornia counts in units of so many degrees, counter-clockwise."""
    turn = math.radians(degrees)
    return Unit(
        name,
        Circle(2 * math.pi),
        lambda value, sides: torch.remainder(value.double() * turn, 2 * math.pi).float(),
        lambda value, sides: (torch.remainder(value.double() + math.pi, 2 * math.pi) - math.pi).div(turn).float(),
    )


def _slant(name: str) -> Unit:
    """The angle of a shear. It does not go round in a circle."""
    return Unit(
        name,
        Real(scale=0.5),
        lambda value, sides: torch.deg2rad(value.double()).float(),
        lambda value, sides: torch.rad2deg(value.double()).float(),
    )


def _shift(name: str, axis: int) -> Unit:
    """A length along x (axis 1) or y (axis 0), in fractions of the side."""
    return Unit(
        name,
        Real(scale=0.5),
        lambda value, sides: value / sides[axis],
        lambda value, sides: _whole_if_near(value * sides[axis]),
    )


def _whole_if_near(pixels: Tensor) -> Tensor:
    """Places that are almost whole pixels are meant to be there: the record has single precision."""
    return torch.where((pixels - pixels.round()).abs() < 1e-3, pixels.round(), pixels)


def _width_and_height(sides: Sides, like: Tensor) -> Tensor:
    return torch.tensor([sides[1], sides[0]], dtype=like.dtype, device=like.device)


def _box_of(corners: Tensor, sides: Sides) -> Tensor:
    """The box of four corner pixels `(n, 4, 2)`, of which kornia gives the centres."""
    low, high = corners[:, 0].double(), corners[:, 2].double() + 1
    whole = _width_and_height(sides, low)
    return torch.cat(((low + high) / 2 / whole, (high - low) / whole), dim=1).float()


def _corners_of(box: Tensor, sides: Sides) -> Tensor:
    whole = _width_and_height(sides, box.double())
    middle, extent = box[:, :2].double() * whole, box[:, 2:].double() * whole
    (left, top), (right, bottom) = (one.unbind(1) for one in (middle - extent / 2, middle + extent / 2 - 1))
    x, y = torch.stack((left, right, right, left), 1), torch.stack((top, top, bottom, bottom), 1)
    return _whole_if_near(torch.stack((x, y), dim=2)).float()


_CROP = Unit("crop", Box(), _box_of, _corners_of)


def _perspective_corners(sides: Sides, like: Tensor) -> Tensor:
    right, bottom = sides[1] - 1, sides[0] - 1
    return torch.tensor([[0, 0], [right, 0], [right, bottom], [0, bottom]], dtype=like.dtype, device=like.device)


_CORNERS = Unit(
    "corners",
    Real(scale=0.25, dimensions=8),
    lambda value, sides: ((value - _perspective_corners(sides, value)) / _width_and_height(sides, value)).flatten(1),
    lambda value, sides: value.view(-1, 4, 2) * _width_and_height(sides, value) + _perspective_corners(sides, value),
)

_TRANSLATION = Unit(
    "translation",
    Real(scale=0.5, dimensions=2),
    lambda value, sides: value / _width_and_height(sides, value),
    lambda value, sides: value * _width_and_height(sides, value),
)

_HUE = Unit(
    "hue_factor",
    Circle(),
    lambda value, sides: torch.remainder(value.double(), 1.0).float(),
    lambda value, sides: (torch.remainder(value.double() + 0.5, 1.0) - 0.5).float(),
)

_QUARTERS = _angle("angle", 90.0)
"""kornia draws numbers between, and rounds them when it turns."""

_KNOWN: Mapping[tuple[str, str], Unit] = {
    ("RandomRotation", "degrees"): _angle("angle", 1.0),
    ("RandomRotation90", "times"): replace(
        _QUARTERS, record=lambda value, sides: _QUARTERS.record(value.round(), sides)
    ),
    ("RandomAffine", "angle"): _angle("angle", -1.0),
    ("RandomAffine", "translations"): _TRANSLATION,
    ("RandomAffine", "shear_x"): _slant("shear_x"),
    ("RandomAffine", "shear_y"): _slant("shear_y"),
    ("RandomShear", "shear_x"): _slant("shear_x"),
    ("RandomShear", "shear_y"): _slant("shear_y"),
    ("RandomTranslate", "translate_x"): _shift("translate_x", 1),
    ("RandomTranslate", "translate_y"): _shift("translate_y", 0),
    ("RandomPerspective", "end_points"): _CORNERS,
    ("RandomCrop", "src"): _CROP,
    ("RandomResizedCrop", "src"): _CROP,
    ("RandomMotionBlur", "angle_factor"): _angle("angle", 1.0),
    ("RandomErasing", "widths"): _shift("widths", 1),
    ("RandomErasing", "heights"): _shift("heights", 0),
    ("RandomErasing", "xs"): _shift("xs", 1),
    ("RandomErasing", "ys"): _shift("ys", 0),
    **{(name, "hue_factor"): _HUE for name in ("RandomHue", "ColorJitter", "ColorJiggle")},
}
