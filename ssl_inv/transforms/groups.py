"""What the values of a transform's parameters are, and how two of them relate. Each group is final; `Group` is the only
abstract class.

Quaternions are scalar-last (x, y, z, w), as in scipy. Angles are radians. Hues are turns in [0, 1).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_inv.transforms.quaternions import canonical_sign, quaternion_conjugate, quaternion_multiply, quaternion_rotate


class Group(ABC):
    """What the values of one parameter are, and how two of them relate. Values have shape `(B,)` or `(B, d)`."""

    @abstractmethod
    def neutral(self, batch: int) -> Tensor:
        """The value of a transform that was not applied, repeated `batch` times."""

    @abstractmethod
    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        """The step from `a` to `b`."""

    @abstractmethod
    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        """The value that `step` leads to from `a`."""

    @abstractmethod
    def scale_step(self, step: Tensor, fraction: float) -> Tensor:
        """`fraction` of the way that `step` goes; 0 is no step and 1 the whole step."""

    @abstractmethod
    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """How far `a` and `b` are apart, shape `(B,)`; the unit is the group's own."""

    @abstractmethod
    def value_vector(self, value: Tensor) -> Tensor:
        """A value as numbers that a regression can aim at, shape `(B, n)`."""

    @abstractmethod
    def step_vector(self, step: Tensor) -> Tensor:
        """A step as numbers in the canonical convention, shape `(B, n)`."""

    def plain_step_vector(self, a: Tensor, b: Tensor) -> Tensor:
        """The step from `a` to `b` as the papers' code writes it; the plain difference unless the group says otherwise."""
        return _columns(b - a)


def _columns(value: Tensor) -> Tensor:
    return value.reshape(len(value), -1)


@dataclass(frozen=True)
class Rotation(Group):
    """3-D rotations as unit quaternions `(B, 4)`.

    A step is the body-frame rotation a^-1 b; distances are angles in radians.
    """

    def neutral(self, batch: int) -> Tensor:
        return torch.tensor([0.0, 0.0, 0.0, 1.0]).repeat(batch, 1)

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


@dataclass(frozen=True)
class Pose(Group):
    """Rigid motions of space, SE(3), as `(B, 7)`: a unit quaternion for the rotation R, then the translation c.

    With M the 4x4 matrix [R | c], a step is M_a^-1 M_b: the body-frame rotation R_a^-1 R_b and the shift R_a^-1 (c_b -
    c_a), along the axes of `a`. So the same shift is another step from a rotated start. A path turns along the shorter
    arc and shifts straight; it has constant speed in the metric that `distance` measures, and is not the screw motion
    between its ends.
    """

    scale: float = 1.0
    """The length that counts as much as one radian; in vectors, translations are divided by it. A constant of the
    parameter.
    """

    def neutral(self, batch: int) -> Tensor:
        return torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]).repeat(batch, 1)

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


@dataclass(frozen=True)
class Circle(Group):
    """Values `(B,)` on a circle of the given period: hue (period 1), azimuth (period 2 pi). Steps lie in [-period/2,
    period/2).
    """

    period: float = 1.0

    def neutral(self, batch: int) -> Tensor:
        return torch.zeros(batch)

    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        half = self.period / 2
        return torch.remainder(b - a + half, self.period) - half

    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        return torch.remainder(a + step, self.period)

    def scale_step(self, step: Tensor, fraction: float) -> Tensor:
        return step * fraction

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return self.relative(a, b).abs()

    def value_vector(self, value: Tensor) -> Tensor:
        """Cosine and sine, `(B, 2)`: the circle has no end at which a regression could tear."""
        angle = value * (2 * math.pi / self.period)
        return torch.stack((angle.cos(), angle.sin()), dim=-1)

    def step_vector(self, step: Tensor) -> Tensor:
        return self.value_vector(step)


@dataclass(frozen=True)
class Box(Group):
    """Crop boxes `(B, 4)` as (centre x, centre y, width, height) in fractions of the source image.

    A step is the shift of the centre, in fractions of the source, and the logarithm of the ratio of widths and of
    heights.
    """

    def neutral(self, batch: int) -> Tensor:
        return torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(batch, 1)

    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat((b[:, :2] - a[:, :2], (b[:, 2:] / a[:, 2:]).log()), dim=-1)

    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        return torch.cat((a[:, :2] + step[:, :2], a[:, 2:] * step[:, 2:].exp()), dim=-1)

    def scale_step(self, step: Tensor, fraction: float) -> Tensor:
        return step * fraction

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(self.relative(a, b), dim=-1)
        return length

    def value_vector(self, value: Tensor) -> Tensor:
        return value

    def step_vector(self, step: Tensor) -> Tensor:
        return step


@dataclass(frozen=True)
class Real(Group):
    """Real numbers, `(B,)` or `(B, d)`; vectors are divided by `scale`, a constant of the parameter and never a
    statistic of the batch.
    """

    scale: float = 1.0
    neutral_value: float = 0.0
    dimensions: int = 0
    """Numbers per view; 0 stands for a tensor of shape `(B,)`."""

    def neutral(self, batch: int) -> Tensor:
        return torch.full((batch, self.dimensions) if self.dimensions else (batch,), self.neutral_value)

    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        return b - a

    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        return a + step

    def scale_step(self, step: Tensor, fraction: float) -> Tensor:
        return step * fraction

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(_columns(b - a), dim=-1)
        return length / self.scale

    def value_vector(self, value: Tensor) -> Tensor:
        return _columns(value - self.neutral_value) / self.scale

    def step_vector(self, step: Tensor) -> Tensor:
        return _columns(step) / self.scale


@dataclass(frozen=True)
class Flag(Group):
    """Yes or no, as 0.0 and 1.0 of shape `(B,)`: flipped, grey. A step says whether the two differ."""

    def neutral(self, batch: int) -> Tensor:
        return torch.zeros(batch)

    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        return (a != b).to(a.dtype)

    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        return (a - step).abs()

    def scale_step(self, step: Tensor, fraction: float) -> Tensor:
        return step if fraction >= 0.5 else torch.zeros_like(step)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return self.relative(a, b)

    def value_vector(self, value: Tensor) -> Tensor:
        return _columns(value)

    def step_vector(self, step: Tensor) -> Tensor:
        return _columns(step)


@dataclass(frozen=True)
class Code(Group):
    """Whole numbers `(B,)`, int64, that name something and measure nothing: the order of a jitter, the seed of a field.

    They are recorded so that a view can be made again. A regression has nothing to learn from them: their vectors have
    no columns.
    """

    def neutral(self, batch: int) -> Tensor:
        return torch.zeros(batch, dtype=torch.int64)

    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        return b - a

    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        return a + step

    def scale_step(self, step: Tensor, fraction: float) -> Tensor:
        return step if fraction >= 0.5 else torch.zeros_like(step)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (a != b).float()

    def value_vector(self, value: Tensor) -> Tensor:
        return torch.empty(len(value), 0, device=value.device)

    def step_vector(self, step: Tensor) -> Tensor:
        return torch.empty(len(step), 0, device=step.device)

    def plain_step_vector(self, a: Tensor, b: Tensor) -> Tensor:
        return self.step_vector(b)
