"""The groups that the parameters of a transform belong to.

A group knows how two of its values relate, how they are written as vectors and in words, and how it is saved. Each
group is final; only `Group` is abstract.

Quaternions are scalar-last (x, y, z, w), as in scipy. Angles are radians. Hues are turns in [0, 1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.transforms import phrases
from ssl_inv.transforms.group import Group, columns
from ssl_inv.transforms.quaternions import canonical_sign, quaternion_conjugate, quaternion_multiply, quaternion_rotate


@dataclass(frozen=True)
class Rotation(Group):
    """3-D rotations as unit quaternions `(B, 4)`.

    A step is the body-frame rotation a^-1 b. The distance is an angle in radians.
    """

    def neutral(self, batch: int) -> Tensor:
        return torch.tensor([0.0, 0.0, 0.0, 1.0]).repeat(batch, 1)

    def random(self, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return normalize(torch.randn(batch, 4, dtype=dtype), dim=-1)

    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        return canonical_sign(quaternion_multiply(quaternion_conjugate(a), b))

    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        return quaternion_multiply(a, step)

    def scale_step(self, step: Tensor, fraction: float) -> Tensor:
        q = canonical_sign(step)
        sine = q[..., :3].norm(dim=-1, keepdim=True)
        half_angle = torch.atan2(sine, q[..., 3:])
        # sin(f h) / sin(h) tends to f as the angle h goes to zero, where the quotient itself is 0 / 0.
        ratio = torch.where(
            sine > 1e-12, torch.sin(fraction * half_angle) / sine.clamp_min(1e-12), torch.full_like(sine, fraction)
        )
        return torch.cat((q[..., :3] * ratio, torch.cos(fraction * half_angle)), dim=-1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        step = self.relative(a, b)
        return 2 * torch.atan2(step[..., :3].norm(dim=-1), step[..., 3])

    def value_vector(self, value: Tensor) -> Tensor:
        return canonical_sign(value)

    def step_vector(self, step: Tensor) -> Tensor:
        return canonical_sign(step)

    def plain_step_vector(self, a: Tensor, b: Tensor) -> Tensor:
        return quaternion_multiply(quaternion_conjugate(a), b)

    def words(self, label: str, value: Sequence[float]) -> str:
        return phrases.rotated("rotated" if label == "rotation" else f"{label} rotated", value, axis=True)

    def step_words(self, label: str, step: Sequence[float], target: Sequence[float]) -> str:
        return phrases.rotated("rotated" if label == "rotation" else f"{label} rotated", step)


@dataclass(frozen=True)
class Pose(Group):
    """Rigid motions of space, SE(3), as `(B, 7)`: a unit quaternion for the rotation R, then the translation c.

    With M the 4x4 matrix [R | c], a step is M_a^-1 M_b: the body-frame rotation R_a^-1 R_b and the shift
    R_a^-1 (c_b - c_a), along the axes of `a`. So the same shift is a different step from a rotated start. A path turns
    along the shorter arc and shifts straight. It has constant speed in the metric of `distance`, and is not the screw
    motion between its ends.
    """

    scale: float = 1.0
    """The length that counts as much as one radian, a constant of the parameter. Vectors have translations divided by
    it.
    """

    def neutral(self, batch: int) -> Tensor:
        return torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]).repeat(batch, 1)

    def random(self, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
        turn = Rotation().random(batch, dtype)
        return torch.cat((turn, self.scale * (torch.rand(batch, 3, dtype=dtype) - 0.5)), dim=1)

    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        step = self.plain_step_vector(a, b)
        return torch.cat((canonical_sign(step[:, :4]), step[:, 4:]), dim=-1)

    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        shift = quaternion_rotate(a[:, :4], step[:, 4:])
        return torch.cat((quaternion_multiply(a[:, :4], step[:, :4]), a[:, 4:] + shift), dim=-1)

    def scale_step(self, step: Tensor, fraction: float) -> Tensor:
        return torch.cat((Rotation().scale_step(step[:, :4], fraction), step[:, 4:] * fraction), dim=-1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """The root of the squared angle in radians plus the squared shift in units of `scale`."""
        return torch.hypot(Rotation().distance(a[:, :4], b[:, :4]), (b[:, 4:] - a[:, 4:]).norm(dim=-1) / self.scale)

    def value_vector(self, value: Tensor) -> Tensor:
        return self.step_vector(value)

    def step_vector(self, step: Tensor) -> Tensor:
        return torch.cat((canonical_sign(step[:, :4]), step[:, 4:] / self.scale), dim=-1)

    def plain_step_vector(self, a: Tensor, b: Tensor) -> Tensor:
        back = quaternion_conjugate(a[:, :4])
        return torch.cat((quaternion_multiply(back, b[:, :4]), quaternion_rotate(back, b[:, 4:] - a[:, 4:])), dim=-1)

    def words(self, label: str, value: Sequence[float]) -> str:
        turn = phrases.rotated(f"{label} rotated", value[:4], axis=True)
        return phrases.joined(turn, Real().words(f"{label} shifted", value[4:]))

    def step_words(self, label: str, step: Sequence[float], target: Sequence[float]) -> str:
        turn = phrases.rotated(f"{label} rotated", step[:4])
        return phrases.joined(turn, phrases.shift(f"{label} shifted", step[4:]))


@dataclass(frozen=True)
class Circle(Group):
    """Values `(B,)` on a circle of the given period: hue (period 1), azimuth (period 2 pi).

    Steps lie in [-period/2, period/2).
    """

    period: float = 1.0

    def neutral(self, batch: int) -> Tensor:
        return torch.zeros(batch)

    def random(self, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.rand(batch, dtype=dtype) * self.period

    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        half = self.period / 2
        return torch.remainder(b - a + half, self.period) - half

    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        return torch.remainder(a + step, self.period)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return self.relative(a, b).abs()

    def value_vector(self, value: Tensor) -> Tensor:
        """Cosine and sine, `(B, 2)`: a regression sees no jump where the circle closes."""
        angle = value * (2 * math.pi / self.period)
        return torch.stack((angle.cos(), angle.sin()), dim=-1)

    def step_vector(self, step: Tensor) -> Tensor:
        return self.value_vector(step)

    def words(self, label: str, value: Sequence[float]) -> str:
        if self._is_angle:
            return phrases.degrees(label, math.remainder(value[0], self.period))
        return f"{label} {value[0]:.2f}" if value[0] else ""

    def step_words(self, label: str, step: Sequence[float], target: Sequence[float]) -> str:
        return phrases.degrees(label, step[0]) if self._is_angle else phrases.shift(label, step)

    @property
    def _is_angle(self) -> bool:
        return math.isclose(self.period, 2 * math.pi, rel_tol=1e-6)


@dataclass(frozen=True)
class Box(Group):
    """Crop boxes `(B, 4)` as (centre x, centre y, width, height) in fractions of the source image.

    A step is the shift of the centre, in fractions of the source, then the logarithms of the ratios of widths and of
    heights.
    """

    def neutral(self, batch: int) -> Tensor:
        return torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(batch, 1)

    def random(self, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
        sides = 0.2 + 0.6 * torch.rand(batch, 2, dtype=dtype)
        return torch.cat((sides / 2 + (1 - sides) * torch.rand(batch, 2, dtype=dtype), sides), dim=1)

    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat((b[:, :2] - a[:, :2], (b[:, 2:] / a[:, 2:]).log()), dim=-1)

    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        return torch.cat((a[:, :2] + step[:, :2], a[:, 2:] * step[:, 2:].exp()), dim=-1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(self.relative(a, b), dim=-1)
        return length

    def words(self, label: str, value: Sequence[float]) -> str:
        x, y, width, height = value
        whole = tuple(value) == (0.5, 0.5, 1.0, 1.0)
        return "" if whole else f"{label} {width * height:.0%} at ({x:.2f}, {y:.2f})"

    def step_words(self, label: str, step: Sequence[float], target: Sequence[float]) -> str:
        sides = zip(("width", "height"), step[2:], strict=True)
        ratios = [phrases.factor(side, math.exp(log)) for side, log in sides if abs(log) >= 0.005]
        words = phrases.joined(*phrases.directions(step[0], step[1]), *ratios, between=" ")
        return f"{label} {words}" if words else ""


@dataclass(frozen=True)
class Real(Group):
    """Real numbers, `(B,)` or `(B, d)`.

    Vectors are divided by `scale`, a constant of the parameter and never a statistic of the batch.
    """

    plain_is_scaled: ClassVar[bool] = True

    scale: float = 1.0
    neutral_value: float = 0.0
    dimensions: int = 0
    """Numbers per view; 0 stands for a tensor of shape `(B,)`."""

    def neutral(self, batch: int) -> Tensor:
        return torch.full((batch, self.dimensions) if self.dimensions else (batch,), self.neutral_value)

    def random(self, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
        neutral = self.neutral(batch).to(dtype)
        return neutral + self.scale * (torch.rand_like(neutral) - 0.5)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(columns(b - a), dim=-1)
        return length / self.scale

    def value_vector(self, value: Tensor) -> Tensor:
        return columns(value - self.neutral_value) / self.scale

    def step_vector(self, step: Tensor) -> Tensor:
        return columns(step) / self.scale

    def words(self, label: str, value: Sequence[float]) -> str:
        # The value has passed through single precision, the neutral one has not.
        if all(math.isclose(number, self.neutral_value, rel_tol=1e-6, abs_tol=1e-12) for number in value):
            return ""
        return phrases.numbers(label, [phrases.minus(f"{number:.3g}") for number in value])


@dataclass(frozen=True)
class Flag(Group):
    """Yes or no, as 0.0 and 1.0 of shape `(B,)`: flipped, grey. A step is 1 where the two differ."""

    continuous: ClassVar[bool] = False

    def neutral(self, batch: int) -> Tensor:
        return torch.zeros(batch)

    def random(self, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return (torch.rand(batch, dtype=dtype) < 0.5).to(dtype)

    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        return (a != b).to(a.dtype)

    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        return (a - step).abs()

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return self.relative(a, b)

    def words(self, label: str, value: Sequence[float]) -> str:
        return label if value[0] else ""

    def step_words(self, label: str, step: Sequence[float], target: Sequence[float]) -> str:
        return f"{label} {'on' if target[0] else 'off'}" if step[0] else ""


@dataclass(frozen=True)
class Code(Group):
    """Whole numbers `(B,)` or `(B, d)`, int64, that are names and no measures: the order of a jitter, a seed.

    They are recorded so that a view can be made again. There is nothing to learn from them: vectors have no columns.
    """

    continuous: ClassVar[bool] = False

    dimensions: int = 0
    """As for `Real`."""

    def neutral(self, batch: int) -> Tensor:
        return torch.zeros((batch, self.dimensions) if self.dimensions else (batch,), dtype=torch.int64)

    def random(self, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Values from 0 to 23, int64 whatever `dtype` is: the orders of four jitters."""
        return torch.randint(0, 24, self.neutral(batch).shape)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (columns(a) != columns(b)).any(1).float()

    def value_vector(self, value: Tensor) -> Tensor:
        return torch.empty(len(value), 0, device=value.device)

    def step_vector(self, step: Tensor) -> Tensor:
        return torch.empty(len(step), 0, device=step.device)

    def plain_step_vector(self, a: Tensor, b: Tensor) -> Tensor:
        return self.step_vector(b)

    def words(self, label: str, value: Sequence[float]) -> str:
        return ""

    def step_words(self, label: str, step: Sequence[float], target: Sequence[float]) -> str:
        return f"another {label}" if any(step) else ""


@dataclass(frozen=True)
class Category(Group):
    """One of `count` kinds, as whole numbers `(B,)` from 0, int64; -1 where it is unknown: a site, a sensor, a year.

    A value is a vector with 1 at its kind, and of zeros where it is unknown. The vector of a step is 1 where the two
    differ, and 0 otherwise.
    """

    continuous: ClassVar[bool] = False

    count: int = 2

    def neutral(self, batch: int) -> Tensor:
        return torch.zeros(batch, dtype=torch.int64)

    def random(self, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Any kind, int64 whatever `dtype` is."""
        return torch.randint(0, self.count, (batch,))

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (a != b).float()

    def value_vector(self, value: Tensor) -> Tensor:
        kinds = torch.arange(self.count, device=value.device)
        return (value.reshape(len(value), 1) == kinds).float()

    def step_vector(self, step: Tensor) -> Tensor:
        return columns(step != 0).float()

    def plain_step_vector(self, a: Tensor, b: Tensor) -> Tensor:
        return self.step_vector(b - a)

    def words(self, label: str, value: Sequence[float]) -> str:
        return f"{label} {int(value[0])}" if value[0] > 0 else f"{label} unknown" if value[0] else ""

    def step_words(self, label: str, step: Sequence[float], target: Sequence[float]) -> str:
        return f"another {label}" if step[0] else ""
