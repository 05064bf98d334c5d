"""Maps from the features of one encoder to those of another: orthogonal, nearly orthogonal, affine."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Adapter:
    """An affine map of features: (rows - origin) matrix + shift.

    Attributes:
        origin: `(D,)`.
        matrix: `(D, D')`.
        shift: `(D',)`.
    """

    origin: Tensor
    matrix: Tensor
    shift: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """`(M, D')`, float64, of rows `(M, D)` or fewer columns, which are filled up with zeros."""
        return (widened(rows, len(self.origin)) - self.origin) @ self.matrix + self.shift


def widened(rows: Tensor, width: int) -> Tensor:
    """Rows with zeros behind, up to a width, float64."""
    return pad(rows.double(), (0, width - rows.shape[1]))


def same_width(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the larger width; zeros are put behind the shorter rows, before anything is centred."""
    width = max(first.shape[1], second.shape[1])
    return widened(first, width), widened(second, width)


def orthogonal_adapter(source: Tensor, target: Tensor) -> Adapter:
    """The rotation or reflection that comes closest to the target: centre both, R = U V^T of source^T target
    (Schoenemann, 1966).

    Args:
        source: `(N, D)`.
        target: `(N, D')`, of the same inputs; the shorter rows are filled up with zeros.
    """
    x, y = same_width(source, target)
    origin, shift = x.mean(dim=0), y.mean(dim=0)
    left, _, right = torch.linalg.svd((x - origin).T @ (y - shift))
    return Adapter(origin, left @ right, shift)


def affine_adapter(source: Tensor, target: Tensor, penalty: float = 1.0) -> Adapter:
    """The ridge regression from `source` `(N, D)` to `target` `(N, D')`, with an intercept that isn't penalised.

    With fewer rows than dimensions it is solved in the rows.
    """
    x, y = source.double(), target.double()
    origin, shift = x.mean(dim=0), y.mean(dim=0)
    x, y = x - origin, y - shift
    if len(x) < x.shape[1]:
        matrix = x.T @ torch.linalg.solve(x @ x.T + penalty * torch.eye(len(x), dtype=x.dtype), y)
    else:
        matrix = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    return Adapter(origin, matrix, shift)


def affine_adapter_of_scale(source: Tensor, target: Tensor, share: float = 0.01) -> Adapter:
    """`affine_adapter` with a penalty that is a share of the mean eigenvalue of X^T X, so that the scale of the
    features does not change the map.
    """
    x = source.double() - source.double().mean(dim=0)
    return affine_adapter(source, target, max(share * float(x.square().sum()) / x.shape[1], 1e-12))


def orthogonality_penalty(matrix: Tensor, slack: float, sharpness: float = 10.0) -> Tensor:
    """sigmoid(a (d - lambda)) d, with d = |W W^T - I|_F: as large as d above the slack lambda, and off below it
    (lambda-orthogonality regularisation, NeurIPS 2025).

    Args:
        matrix: W, `(D, D)`.
        slack: lambda.
        sharpness: a.
    """
    deviation = (matrix @ matrix.mT - torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)).norm()
    penalty: Tensor = torch.sigmoid(sharpness * (deviation - slack)) * deviation
    return penalty


def relaxed_adapter(
    source: Tensor,
    target: Tensor,
    slack: float | None = None,
    sharpness: float = 10.0,
    steps: int = 300,
    rate: float = 1e-3,
    device: str = "cpu",
) -> Adapter:
    """A square map that may leave the orthogonal ones by about lambda: minimises the mean squared distance to the
    target plus `orthogonality_penalty`, by Adam from the orthogonal adapter on.

    The distance is divided by the variance of the target, so that the scale of features does not change the balance.
    It is computed from X^T X and X^T Y, so a step does not depend on the number of rows. The paper's contrastive term,
    which needs labels, is left out.

    Args:
        source: `(N, D)`.
        target: `(N, D')`, of the same inputs.
        slack: lambda; None: 0.375 root(D), which is the paper's 12 at its width of 1024.
        sharpness: of the penalty.
        steps: of Adam.
        rate: the learning rate of Adam, falling to 0 as a cosine.
        device: where it is trained.
    """
    start = orthogonal_adapter(source, target)
    x, y = (rows.to(device) for rows in same_width(source, target))
    x, y = x - start.origin.to(device), y - start.shift.to(device)
    variance = y.square().sum().clamp_min(torch.finfo(y.dtype).tiny)
    gram, cross = (x.T @ x / variance).float(), (x.T @ y / variance).float()
    slack = 0.375 * math.sqrt(x.shape[1]) if slack is None else slack
    matrix = start.matrix.to(device).float().requires_grad_()
    adam = torch.optim.Adam([matrix], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(steps, 1))
    with torch.enable_grad():
        for _ in range(steps):
            distance = (matrix * (gram @ matrix - 2 * cross)).sum()
            loss = distance + orthogonality_penalty(matrix, slack, sharpness)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            schedule.step()
    return Adapter(start.origin, matrix.detach().double().cpu(), start.shift)
