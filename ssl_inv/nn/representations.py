"""Linear representations of the groups of parameters: matrices rho(g) that compose as the group's elements do.

For a step s from one view to the next, and a step t after it, rho(s t) z = rho(t) rho(s) z. Every entry of the
matrices is linear in a few numbers of the step, so a bilinear predictor that reads these can begin as the
representation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_inv.catalogue import SettingError
from ssl_inv.transforms import Action, Box, Circle, Convention, Flag, Group, Pose, Projective, Real, Rotation
from ssl_inv.transforms.quaternions import quaternion_multiply, quaternion_to_matrix


@dataclass(frozen=True)
class Representation:
    """A representation of one group, rho(s) = sum_k numbers_k(s) basis_k.

    Attributes:
        numbers: from steps to numbers `(B, K)`.
        basis: `(K, d, d)`.
        scalar: which of the numbers multiplies dimensions that are left over: the one that is 1 for no step.
    """

    numbers: Callable[[Tensor], Tensor]
    basis: Tensor
    scalar: int


def representation(group: Group, name: str) -> Representation:
    """The representation of a group.

    - `Rotation`: quaternions multiply from the right, d = 4; q and -q have opposite matrices.
    - `Circle`: turns of a pair, d = 2.
    - `Real` of n numbers: shifts x + s c of n numbers x beside their unit c, d = n + 1.
    - `Box`: the same for the centre, and the ratios of width and height as factors, d = 5.
    - `Projective`: the 3x3 matrix, d = 3. `Pose`: the 4x4 matrix of the rigid motion, d = 4. Both transposed, since
      further steps stand to the right.
    - `Flag`: the sign, d = 1.

    Args:
        group: of a parameter.
        name: of the parameter, for messages.

    Raises:
        SettingError: if the group is another one.
    """
    if isinstance(group, Rotation):
        return Representation(lambda step: step, multiplications_by_quaternions(), 3)
    if isinstance(group, Circle):
        turns = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, -1.0], [1.0, 0.0]]])
        return Representation(group.step_vector, turns, 0)
    if isinstance(group, Real):
        shifts = _shifts(group.dimensions or 1)
        return Representation(lambda step: _with_one(group.step_vector(step)), shifts, 0)
    if isinstance(group, Box):
        basis = torch.zeros(5, 5, 5)
        basis[:3, :3, :3] = _shifts(2)
        basis[3, 3, 3] = basis[4, 4, 4] = 1
        return Representation(lambda step: torch.cat((_with_one(step[:, :2]), step[:, 2:].exp()), dim=1), basis, 0)
    if isinstance(group, Projective):
        return Representation(lambda step: step, _transposed(3), 8)
    if isinstance(group, Pose):
        scale = group.scale
        return Representation(lambda step: _motion(step, scale), _transposed(4), 15)
    if isinstance(group, Flag):
        return Representation(lambda step: 1 - 2 * step[:, None], torch.ones(1, 1, 1), 0)
    problem = f"'group', but nothing is known of a linear representation of {name!r}, of {type(group).__name__}"
    raise SettingError("predictor_initialisation", problem)


class RepresentedAction:
    """Actions as the numbers of their representations, and the weights with which a bilinear predictor is these.

    Args:
        names: the parameters of the action, in their order.
        groups: the groups of all recorded parameters.
        convention: with `sie` and `seq-jepa`, quaternions have the sign of the product.
    """

    def __init__(self, names: Sequence[str], groups: Mapping[str, Group], convention: Convention) -> None:
        self.names, self.convention = list(names), convention
        self.parts = [representation(groups[name], name) for name in names]

    def __call__(self, action: Action) -> Tensor:
        """The numbers of every action, `(B, K)`."""
        steps = [self._step(action, name) for name in self.names]
        return torch.cat([part.numbers(step) for part, step in zip(self.parts, steps, strict=True)], dim=1)

    def _step(self, action: Action, name: str) -> Tensor:
        group = action.groups[name]
        if self.convention != "canonical" and isinstance(group, Rotation | Pose):
            return group.plain_step_vector(action.source[name], action.target[name])
        return action[name]

    @property
    def length(self) -> int:
        """K."""
        return sum(len(part.basis) for part in self.parts)

    def weights(self, embedding: int) -> Tensor:
        """W `(K, D, D)`: sum_k a_k W_k is the representation of an action, block by block.

        The dimensions are dealt to the parameters in equal shares. Within a share, as many blocks as fit follow each
        other; what is left over is multiplied by one number of the parameter, which is 1 where nothing is changed.
        """
        found, row, start = torch.zeros(self.length, embedding, embedding), 0, 0
        for number, part in enumerate(self.parts):
            end = embedding * (number + 1) // len(self.parts)
            count, size = len(part.basis), part.basis.shape[1]
            whole = (end - start) // size * size
            blocks = torch.stack([torch.kron(torch.eye(whole // size), one) for one in part.basis])
            found[row : row + count, start : start + whole, start : start + whole] = blocks
            found[row + part.scalar, start + whole : end, start + whole : end] = torch.eye(end - start - whole)
            row, start = row + count, end
        return found


def multiplications_by_quaternions() -> Tensor:
    """For each of the four basis quaternions, the matrix that multiplies by it from the right, `(4, 4, 4)`."""
    identity = torch.eye(4)
    return quaternion_multiply(identity, identity[:, None]).mT.contiguous()


def _shifts(dimensions: int) -> Tensor:
    basis = torch.zeros(dimensions + 1, dimensions + 1, dimensions + 1)
    basis[0] = torch.eye(dimensions + 1)
    for number in range(1, dimensions + 1):
        basis[number, number, 0] = 1
    return basis


def _transposed(side: int) -> Tensor:
    """The basis with which the entries of a matrix, row by row, make its transpose."""
    return torch.eye(side**2).view(side**2, side, side).mT.contiguous()


def _with_one(numbers: Tensor) -> Tensor:
    return torch.cat((torch.ones_like(numbers[:, :1]), numbers), dim=1)


def _motion(step: Tensor, scale: float) -> Tensor:
    last = torch.zeros_like(step[:, :4])
    last[:, 3] = 1
    upper = torch.cat((quaternion_to_matrix(step[:, :4]), step[:, 4:, None] / scale), dim=2)
    return torch.cat((upper.flatten(1), last), dim=1)
