"""Linear maps in closed form, and the span of features that they act in."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_inv.evaluation.protocols.transforms_r2 import r2_mean
from ssl_inv.transforms.keyed_random import uniform

STRENGTHS = tuple(10.0**power for power in range(-6, 3))
"""Penalties of ridge regressions, in units of the mean squared length of a training row."""

_HELD_OUT = 0.25


@dataclass(frozen=True)
class Span:
    """The directions of the largest variance of training features.

    Attributes:
        mean: of the training rows, `(D,)`.
        directions: orthonormal columns `(D, k)`, in descending order of their variance.
        scale: one number that brings the projections of training rows to unit mean variance. Directions are not scaled
            one by one: noise would be made as large as signal.
    """

    mean: Tensor
    directions: Tensor
    scale: float

    @classmethod
    def fit(cls, rows: Tensor, width: int | None = None, share: float = 1.0) -> "Span":
        """From rows `(N, D)`.

        Args:
            rows: training features.
            width: directions that are kept at most; None keeps all that vary.
            share: of the variance; as many directions are kept as hold it.
        """
        mean = rows.double().mean(dim=0)
        centred = rows.double() - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / max(len(rows), 1))
        values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
        varies = int((values > 1e-12 * values[0]).sum()) if values[0] > 0 else 0
        held = values.cumsum(0) / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
        kept = min(varies, int((held < share - 1e-12).sum()) + 1, varies if width is None else width)
        # Eigenvectors have no sign of their own; a fixed one makes repeated runs equal.
        vectors = vectors[:, :kept]
        largest = vectors.abs().argmax(dim=0, keepdim=True)
        vectors = vectors * vectors.gather(0, largest).sign()
        return cls(mean, vectors, float(values[:kept].mean().sqrt()) if kept else 1.0)

    @property
    def width(self) -> int:
        """Directions that are kept."""
        return self.directions.shape[1]

    def __call__(self, rows: Tensor) -> Tensor:
        """The projections of rows `(N, D)`, `(N, k)` in float64."""
        return (rows.double() - self.mean) @ self.directions / self.scale


def ridge(inputs: Tensor, targets: Tensor, strength: float, intercept: bool = False) -> tuple[Tensor, Tensor]:
    """The weights `(T, D)` and the intercept `(T,)` that minimise |X W^T + b - Y|^2 + strength |W|^2.

    Args:
        inputs: X, `(N, D)`.
        targets: Y, `(N, T)`.
        strength: the penalty, on the sum over rows as in scikit-learn. The intercept has none.
        intercept: whether there is one; else it is 0.
    """
    x, y = inputs.double(), targets.double()
    x_mean, y_mean = (part.mean(dim=0) if intercept else part.new_zeros(part.shape[1]) for part in (x, y))
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    gram.diagonal().add_(strength)
    weights = torch.linalg.lstsq(gram, x.T @ y, driver="gelsd").solution.T if strength == 0 else _solved(gram, x.T @ y)
    return weights, y_mean - weights @ x_mean


def _solved(gram: Tensor, right: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve(gram, right)
    return solution.T


def held_out(objects: Tensor, seed: int) -> Tensor:
    """Rows, `(N,)` bool, of the training objects that a penalty is chosen on: a quarter of the objects."""
    ids, position = torch.unique(objects, return_inverse=True)
    draws = torch.from_numpy(uniform(seed, ids.numpy(), count=1)[:, 0])
    chosen = torch.zeros(len(ids), dtype=torch.bool)
    chosen[draws.argsort()[: max(1, round(_HELD_OUT * len(ids)))]] = True
    return chosen[position]


def chosen_ridge(
    inputs: Tensor, targets: Tensor, objects: Tensor, seed: int = 0, intercept: bool = True
) -> tuple[Tensor, Tensor]:
    """`ridge` with the best of `STRENGTHS` by R2 on held-out training objects, fitted again to all rows.

    With fewer than four objects, the weakest penalty is taken.
    """
    unit = float(inputs.double().square().sum(dim=1).mean()) or 1.0
    best = STRENGTHS[0] * unit
    if len(torch.unique(objects)) >= 4:
        away = held_out(objects, seed)
        scores = []
        for strength in STRENGTHS:
            weights, constant = ridge(inputs[~away], targets[~away], strength * unit, intercept)
            scores.append(r2_mean(targets[away], inputs[away].double() @ weights.T + constant))
        best = STRENGTHS[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))] * unit
    return ridge(inputs, targets, best, intercept)


def nearest_orthogonal(matrices: Tensor) -> Tensor:
    """The orthogonal matrices `(..., d, d)` that are nearest in the Frobenius norm: the polar factors.

    Of Y^T X, that is the solution of the orthogonal Procrustes problem min |X W^T - Y| (Schönemann, 1966).
    """
    u, _, v = torch.linalg.svd(matrices)
    nearest: Tensor = u @ v
    return nearest
