"""Parameters of views: read from the columns of a table, and the translation of a moved object.

Words describe a latent: a group, then a unit, then options, such as `circle deg` or `real scale=0.5`.

- `circle deg`, `circle rad` (or `deg`, `rad`): an angle; a full turn changes nothing. Recorded in radians,
  `Circle(2 pi)`.
- `circle turn` (or `turn`): turns, such as a hue. Recorded in turns, `Circle(1)`.
- `circle period=24`: numbers that wrap at 24. Recorded as they are, `Circle(24)`.
- `real` (or `none`), `real scale=2`: numbers; `scale` is a typical size, 1 by default. Recorded as they are,
  `Real(scale)`.
- `real deg`, `real rad`, `real turn`: an angle that does not wrap; `scale` is in the column's unit. Recorded in
  radians, or in turns, `Real(scale)`.
- `flag`: 0 or 1. Recorded as it is, `Flag()`.
- `category`: names, such as those of sites or sensors, in ascending order; empty where it is unknown. Recorded as whole
  numbers, -1 where it is unknown, `Category(16)` for 16 names.
- `category count=16`: whole numbers from 0 to 15 that are names, -1 where it is unknown. Recorded as they are,
  `Category(16)`.
- `rotation quaternion`: four columns `qx`, `qy`, `qz`, `qw`, scalar last. Recorded as unit quaternions, `Rotation()`.
- `rotation euler deg`, `rad`, `turn`: three columns `euler_x`, `euler_y`, `euler_z`, extrinsic x, y, z. Recorded as
  unit quaternions, `Rotation()`.

The columns of a rotation with another name, for example `camera`, begin with it: `camera_qx`, `camera_euler_x`. For a
single column, the words can stand in the header, in brackets: `azimuth[deg]`, `zoom[real scale=2]`. Three columns
`euler_x[deg]` and so on are one rotation, and so are four columns `qx`, `qy`, `qz`, `qw`, which need no unit.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import suggest
from ssl_inv.transforms import Category, Circle, Flag, Group, Pose, Real, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_conjugate, quaternion_from_euler, quaternion_rotate

_TO_RECORDED = {"deg": math.pi / 180, "rad": 1.0, "turn": 1.0, "none": 1.0}

UNITS = tuple(unit for unit in _TO_RECORDED if unit != "none")
"""Units of angles, as headers write them."""

_TURN = {"deg": 2 * math.pi, "rad": 2 * math.pi, "turn": 1.0}

_TO_RADIANS = {"deg": math.pi / 180, "rad": 1.0, "turn": 2 * math.pi}

_SHORT = {"deg": "circle deg", "rad": "circle rad", "turn": "circle turn", "none": "real"}

_QUATERNION = ("qx", "qy", "qz", "qw")

_EULER = ("euler_x", "euler_y", "euler_z")

_BRACKETS = re.compile(r"(?P<name>[^\[\]]+)\[(?P<words>[^\[\]]*)\]")

_PART = re.compile(r"(?:(?P<name>.+)_)?(?P<part>q[xyzw]|euler_[xyz])")

_UNIT_NORM_TOLERANCE = 0.01

_LARGEST_ROUNDING = 1e-3
"""Largest error of single precision, as a share of the spread of a latent."""

_SAME = 1e-11
"""Numbers that differ by less, as a share of their size, are meant to be equal."""

Frame = Literal["object", "base"]

TRANSLATION_SCALE = 0.5
"""Largest shift along an axis in 3DIEBench-T; the scale of recorded translations in all data."""

_NAMES: dict[Frame, str] = {"object": "translation", "base": "position"}


@dataclass(frozen=True)
class Latent:
    """One parameter and its columns.

    Attributes:
        name: name of the parameter.
        group: its group.
        columns: names of its columns, without the words in brackets.
        kind: what the columns hold.
        factor: multiplies every number of the table.
    """

    name: str
    group: Group
    columns: tuple[str, ...]
    kind: Literal["number", "quaternion", "euler", "names"] = "number"
    factor: float = 1.0

    def values(self, numbers: NDArray[np.float64], where: str) -> Tensor:
        """The values of all views, float32, `(V,)` or `(V, 4)`, from the numbers in the columns, `(V, columns)`.

        Raises:
            ValueError: if a flag is neither 0 nor 1, a category is none of its numbers, a quaternion is not of unit
                length, or numbers are so large that their differences are lost in single precision.
        """
        if self.kind == "euler":
            return quaternion_from_euler(torch.from_numpy(numbers * self.factor)).float()
        if self.kind == "quaternion":
            length = np.linalg.norm(numbers, axis=1, keepdims=True)
            wrong = np.abs(length[:, 0] - 1) > _UNIT_NORM_TOLERANCE
            _refuse(wrong, f"{where}: the quaternion {self.name!r}", "is not of unit length")
            return torch.from_numpy(numbers / length).float()
        if isinstance(self.group, Flag):
            _refuse(~np.isin(numbers[:, 0], (0.0, 1.0)), f"{where}: the flag {self.name!r}", "is neither 0 nor 1")
        if isinstance(self.group, Category):
            wrong = ~np.isin(numbers[:, 0], np.arange(-1, self.group.count))
            problem = f"is no whole number from -1, unknown, to {self.group.count - 1}"
            _refuse(wrong, f"{where}: the category {self.name!r}", problem)
            return torch.from_numpy(numbers[:, 0].astype(np.int64))
        values = numbers[:, 0] * self.factor
        single, spread = values.astype(np.float32), np.ptp(values)
        if spread > _SAME * np.abs(values).max() and np.abs(single - values).max() > _LARGEST_ROUNDING * spread:
            advice = f"subtract {numbers[:, 0].min():g} from all"
            what = f"single precision loses the differences between the numbers of {self.name!r}"
            raise ValueError(f"{where}: {what}; {advice}")
        return torch.from_numpy(single)


def latents_from_settings(latents: Mapping[str, str]) -> list[Latent]:
    """Latents from their names and descriptions; see the docstring of this module.

    Raises:
        ValueError: if a description cannot be understood.
    """
    return [_latent(name, words) for name, words in latents.items()]


def latents_from_header(header: Sequence[str]) -> list[Latent]:
    """The latents that a table's header describes: columns with words in brackets, and the four columns of a
    quaternion.

    Raises:
        ValueError: if a description cannot be understood or a rotation lacks some of its columns.
    """
    found: dict[str, Latent] = {}
    for column in header:
        name, words = _parted(column)
        part = _PART.fullmatch(name)
        if part is None:
            if words is not None:
                found[name] = _latent(name, words)
        elif part["part"].startswith("q") or words is not None:
            latent = part["name"] or "rotation"
            found[latent] = _latent(latent, "rotation quaternion" if words is None else f"rotation euler {words}")
            _check_parts(found[latent], words, header)
    return list(found.values())


def column_name(column: str) -> str:
    """A column's name without the words in brackets."""
    return _parted(column)[0]


def _parted(column: str) -> tuple[str, str | None]:
    match = _BRACKETS.fullmatch(column)
    return (column, None) if match is None else (match["name"].strip(), match["words"].strip() or "none")


def _check_parts(latent: Latent, words: str | None, header: Sequence[str]) -> None:
    described = dict(_parted(column) for column in header)
    for column in latent.columns:
        if column not in described:
            columns = f"{', '.join(latent.columns)}, but there is no {column!r}"
            raise ValueError(f"the rotation {latent.name!r} needs the columns {columns}")
        if described[column] != words:
            units = f"{words} and {described[column]}"
            raise ValueError(f"the columns of the rotation {latent.name!r} have different units: {units}")


def _latent(name: str, description: str) -> Latent:
    words = _SHORT.get(description.strip(), description).split()
    try:
        options = {key: float(value) for key, value in (word.split("=") for word in words if "=" in word)}
    except ValueError:
        raise _not_understood(name, description) from None
    group, *details = [word for word in words if "=" not in word] or [""]
    unit = details[-1] if details else "none"
    if group == "rotation" and not options:
        return _rotation(name, details, description)
    if len(details) > 1 or unit not in _TO_RECORDED or any(value <= 0 for value in options.values()):
        raise _not_understood(name, description)
    factor = _TO_RECORDED[unit]
    if group == "real" and options.keys() <= {"scale"}:
        return Latent(name, Real(scale=options.get("scale", 1.0) * factor), (name,), factor=factor)
    if group == "circle" and (options.keys() == {"period"} if unit == "none" else not options):
        return Latent(name, Circle(options["period"] if unit == "none" else _TURN[unit]), (name,), factor=factor)
    if group == "flag" and not options and not details:
        return Latent(name, Flag(), (name,))
    if group == "category" and not details and options.keys() <= {"count"}:
        count = options.get("count", 2.0)
        if count.is_integer() and count >= 2:
            return Latent(name, Category(int(count)), (name,), "number" if options else "names")
    raise _not_understood(name, description)


def _rotation(name: str, details: list[str], description: str) -> Latent:
    prefix = "" if name == "rotation" else f"{name}_"
    if details == ["quaternion"]:
        return Latent(name, Rotation(), tuple(prefix + part for part in _QUATERNION), "quaternion")
    if len(details) == 2 and details[0] == "euler" and details[1] in _TO_RADIANS:
        return Latent(name, Rotation(), tuple(prefix + part for part in _EULER), "euler", _TO_RADIANS[details[1]])
    raise _not_understood(name, description)


def _not_understood(name: str, description: str) -> ValueError:
    known = ["circle deg", "circle rad", "circle turn", "circle period=1", "real", "real deg", "real scale=1", "flag"]
    known += ["category", "category count=16"]
    known += ["rotation quaternion", "rotation euler deg", "rotation euler rad"]
    what = f"latent {name!r} is described by {description!r}, which is not understood"
    return ValueError(f"{what}; {suggest(description, known)}")


def _refuse(wrong: NDArray[np.bool_], what: str, why: str) -> None:
    if wrong.any():
        raise ValueError(f"{what} in row {int(np.argmax(wrong)) + 1} {why}")


@dataclass(frozen=True)
class MotionRecord:
    """The parameters that record an object's translation, in the terms of 3DIEBench-T (EquiCaps: Konstantinou and
    others, arXiv 2506.09895).

    An object is first shifted by t along its own axes, then rotated by R about the origin of the world. So it stands at
    R t.

    Attributes:
        translated: whether objects are shifted; if not, there is no parameter.
        frame: `object` records t as `translation`, `base` records R t as `position`. They have two names because the
            step between two views differs: t_b - t_a, or R_b t_b - R_a t_a. The second is visible.
        pose: whether rotation and translation are also recorded together as `pose`, with steps in SE(3).

    Raises:
        ValueError: if a pose is to be recorded of objects that are not shifted.
    """

    translated: bool
    frame: Frame = "object"
    pose: bool = False

    def __post_init__(self) -> None:
        if self.pose and not self.translated:
            problem = "pose records rotation and translation together, but objects of this data are not shifted"
            raise ValueError(f"{problem}; set pose to false")

    @property
    def name(self) -> str:
        """Name of the translation."""
        return _NAMES[self.frame]

    @property
    def groups(self) -> dict[str, Group]:
        if not self.translated:
            return {}
        translation: dict[str, Group] = {self.name: Real(TRANSLATION_SCALE, dimensions=3)}
        return {**translation, "pose": Pose(TRANSLATION_SCALE)} if self.pose else translation

    def values(self, rotation: Tensor, shift: Tensor) -> dict[str, Tensor]:
        """The record of objects shifted by t `(B, 3)`, then rotated by quaternions `(B, 4)`."""
        if not self.translated:
            return {}
        translation = shift if self.frame == "object" else quaternion_rotate(rotation, shift)
        values = {self.name: translation}
        return {**values, "pose": torch.cat((rotation, translation), dim=1)} if self.pose else values

    def position(self, rotation: Tensor, transform: Transform) -> Tensor | None:
        """The positions of recorded objects, R t, `(B, 3)` in float64; None if they are not shifted.

        Args:
            rotation: the recorded rotations, of norm one in float64.
            transform: the record.

        Raises:
            ValueError: if the recorded pose differs from the recorded rotation and translation.
        """
        if not self.translated:
            return None
        translation = transform[self.name].double()
        if self.pose:
            pose, advice = transform["pose"].double(), "change all three together or set pose to false"
            same_turn = bool(((pose[:, :4] * rotation).sum(dim=1).abs() > 1 - 1e-5).all())
            if not same_turn or not torch.allclose(pose[:, 4:], translation, atol=1e-4):
                raise ValueError(f"the parameter pose differs from rotation and {self.name}; {advice}")
        return quaternion_rotate(rotation, translation) if self.frame == "object" else translation


UNMOVED = MotionRecord(translated=False)
"""The record of objects that are not shifted."""


def recorded_frame(groups: Mapping[str, Group]) -> Frame | None:
    """The frame of recorded translations in data with these parameters; None if none is recorded."""
    for frame, name in _NAMES.items():
        if isinstance(group := groups.get(name), Real) and group.dimensions == 3:
            return frame
    return None


def recorded_shift(transform: Transform) -> Tensor | None:
    """The shift t of recorded objects along their own axes, `(B, 3)` in float64; None if no translation is recorded."""
    frame = recorded_frame(transform.groups)
    if frame is None:
        return None
    translation = transform[_NAMES[frame]].double()
    if frame == "base":
        translation = quaternion_rotate(quaternion_conjugate(transform["rotation"].double()), translation)
    return translation
