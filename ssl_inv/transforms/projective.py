"""Homographies as a group: one comparable action for any mixture of crops, flips, turns, shears and perspective."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_inv.transforms import phrases
from ssl_inv.transforms.group import Group

_CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
"""Top left, top right, bottom right and bottom left of a view, as (x, y)."""

_ROOTS, _TERMS, _SQUARE_ROOT_STEPS = 8, 8, 24
"""For logarithms: how many square roots are taken, the terms of the series then, and steps of Newton's method for each
root. The root of the root ... lies so near to the identity that eight terms have double precision."""

_NEAREST = 0.05
"""Points nearer to the horizon than this are moved away from it, so that vectors stay finite."""


@dataclass(frozen=True)
class Projective(Group):
    """Maps of the plane that keep straight lines straight, `(B, 9)`: 3x3 matrices row by row, with determinant 1.

    A value maps points of a view to points of its source, (x, y, 1) with x to the right and y down, from -1 to 1
    between the outer edges of the outer pixels. A step is a^-1 b: it maps points of view `b` to points of view `a`.

    A fraction of a step is its matrix power, exp(f log H): turns go along the arc, zooms grow by equal factors. A step
    that has no real logarithm, such as a mirror image, is taken whole from 0.5 on.

    Vectors have eight numbers: how far the four corners of the view move, (x, y) each, as in deep homography estimation
    (DeTone et al., 2016, arXiv 1606.03798).
    """

    def neutral(self, batch: int) -> Tensor:
        return torch.eye(3).flatten().repeat(batch, 1)

    def random(self, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return matrix_values(torch.eye(3, dtype=dtype) + 0.3 * (torch.rand(batch, 3, 3, dtype=dtype) - 0.5))

    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        return matrix_values(torch.linalg.solve(_matrices(a), _matrices(b))).to(b.dtype)

    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        return matrix_values(_matrices(a) @ _matrices(step)).to(a.dtype)

    def scale_step(self, step: Tensor, fraction: float) -> Tensor:
        matrices = _matrices(step)
        logarithm, exists = _logarithm(matrices)
        whole = matrices if fraction >= 0.5 else torch.eye(3, dtype=matrices.dtype, device=step.device)
        part = torch.where(exists[:, None, None], torch.matrix_exp(fraction * logarithm), whole)
        return part.flatten(1).to(step.dtype)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """The norm of the step's logarithm: the length of the path between the two, the same seen from every view. A
        step without a real logarithm has the norm of the logarithms of its eigenvalues.
        """
        matrices = _matrices(self.relative(a.double(), b.double()))
        logarithm, exists = _logarithm(matrices)
        straight = torch.linalg.matrix_norm(logarithm)
        around = torch.linalg.vector_norm(torch.linalg.eigvals(matrices).log().abs(), dim=-1)
        length: Tensor = torch.where(exists, straight, around).to(a.dtype)
        return length

    def value_vector(self, value: Tensor) -> Tensor:
        corners = torch.tensor(_CORNERS, dtype=torch.float64, device=value.device).flatten()
        return (_moved_corners(_matrices(value)) - corners).to(value.dtype)

    def step_vector(self, step: Tensor) -> Tensor:
        return self.value_vector(step)

    def plain_step_vector(self, a: Tensor, b: Tensor) -> Tensor:
        return self.step_vector(self.relative(a, b))

    def words(self, label: str, value: Sequence[float]) -> str:
        return self._largest(label, value)

    def step_words(self, label: str, step: Sequence[float], target: Sequence[float]) -> str:
        return self._largest(label, step)

    def _largest(self, label: str, value: Sequence[float]) -> str:
        moved = self.value_vector(torch.tensor([value], dtype=torch.float64)).view(4, 2).norm(dim=1).amax().item() / 2
        return f"{label} moves a corner by {phrases.share(moved)}" if moved >= 0.005 else ""


def matrix_values(matrices: Tensor) -> Tensor:
    """The values of homographies `(B, 3, 3)`, `(B, 9)`. A multiple of a homography is the same homography."""
    determinant = torch.linalg.det(matrices)
    root = determinant.abs().pow(1 / 3) * determinant.sign()
    values: Tensor = (matrices / root[:, None, None]).flatten(1)
    return values


def _matrices(values: Tensor) -> Tensor:
    return values.reshape(-1, 3, 3).double()


def _moved_corners(matrices: Tensor) -> Tensor:
    corners = torch.tensor([(*one, 1.0) for one in _CORNERS], dtype=matrices.dtype, device=matrices.device)
    moved = corners @ matrices.transpose(1, 2)
    depth = moved[..., 2:]
    sign = torch.where(matrices[:, 2:, 2:] < 0, -1.0, 1.0)
    depth = sign * (sign * depth).clamp_min(_NEAREST)
    return (moved[..., :2] / depth).flatten(1)


def _logarithm(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The real logarithm of every matrix, `(B, 3, 3)`, and whether it has one, `(B,)`.

    Inverse scaling and squaring (Higham, Functions of Matrices, SIAM 2008, chapter 11): a square root is taken until
    the matrix is near the identity I. With Y = (A - I)(A + I)^-1, log A is 2 (Y + Y^3 / 3 + Y^5 / 5 + ...).
    """
    identity = torch.eye(3, dtype=matrices.dtype, device=matrices.device)
    root = matrices
    for _ in range(_ROOTS):
        root = _square_root(root)
    ratio = (root - identity) @ torch.linalg.inv_ex(root + identity)[0]
    square, power, total = ratio @ ratio, ratio, ratio.clone()
    for number in range(1, _TERMS):
        power = power @ square
        total += power / (2 * number + 1)
    total *= 2 ** (_ROOTS + 1)
    finite = total.isfinite().flatten(1).all(1)
    total = torch.where(finite[:, None, None], total, 0.0)
    missed = (torch.matrix_exp(total) - matrices).abs().amax((1, 2)) / matrices.abs().amax((1, 2))
    exists = finite & (missed < 1e-6)
    return torch.where(exists[:, None, None], total, 0.0), exists


def _square_root(matrices: Tensor) -> Tensor:
    """By the iteration of Denman and Beavers, which finds the principal root wherever there is one."""
    root, inverse = matrices, torch.eye(3, dtype=matrices.dtype, device=matrices.device).expand_as(matrices)
    for _ in range(_SQUARE_ROOT_STEPS):
        inverse_of_root, inverse_of_inverse = torch.linalg.inv_ex(root)[0], torch.linalg.inv_ex(inverse)[0]
        root, inverse = (root + inverse_of_inverse) / 2, (inverse + inverse_of_root) / 2
    return root
