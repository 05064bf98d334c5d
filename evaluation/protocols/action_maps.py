"""Linear maps of features, one for each action: a matrix of its own, or a polynomial of the action."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ssl_inv.evaluation.protocols.linear_maps import chosen_ridge, nearest_orthogonal
from ssl_inv.transforms import Action, Transform

_GRID, _STEP = 64, 1e-3
"""Different actions at most that views can form a grid of; vectors of actions that differ by less are equal."""

_SAMPLED, COLUMNS = 64, 2048
"""Actions whose matrices are compared where each has its own; products of terms and features at most."""


class Maps(ABC):
    """Maps of the features, one for each action."""

    @abstractmethod
    def __call__(self, z: Tensor, action: Action) -> Tensor:
        """Features `(P, d)` after the actions, P rows."""

    def knows(self, action: Action) -> Tensor:
        """Which of the actions have a map, `(P,)` bool."""
        return torch.ones(len(action), dtype=torch.bool)


class LinearMaps(Maps):
    """Maps that are matrices."""

    detail: ClassVar[str]

    @abstractmethod
    def matrices(self, action: Action) -> Tensor:
        """The matrices of some of the actions, `(G, d, d)`."""

    @abstractmethod
    def orthogonal(self) -> "LinearMaps":
        """The orthogonal matrices R that bring R z + b nearest to W z + b, in the mean over features z: the solution of
        Procrustes' problem, the polar factor of W times the covariance of z.
        """


@dataclass(frozen=True)
class Grid(LinearMaps):
    """One matrix for each action of a grid.

    Attributes:
        names: parameters of the action.
        vectors: canonical vectors of the actions, `(G, n)`.
        weights: `(G, d, d)`; a column vector z becomes W z + b.
        offsets: b, `(G, d)`.
        covariance: of the features before the action, `(d, d)`.
    """

    names: list[str]
    vectors: Tensor
    weights: Tensor
    offsets: Tensor
    covariance: Tensor

    detail: ClassVar[str] = "one matrix per action"

    def __call__(self, z: Tensor, action: Action) -> Tensor:
        which = self._nearest(action)[0]
        return torch.einsum("pij,pj->pi", self.weights[which], z) + self.offsets[which]

    def knows(self, action: Action) -> Tensor:
        return self._nearest(action)[1] < 2 * _STEP

    def _nearest(self, action: Action) -> tuple[Tensor, Tensor]:
        distances, which = torch.cdist(action.as_vector(self.names).double(), self.vectors).min(dim=1)
        return which, distances

    def matrices(self, action: Action) -> Tensor:
        return self.weights

    def orthogonal(self) -> "Grid":
        return replace(self, weights=nearest_orthogonal(self.weights @ self.covariance))


@dataclass(frozen=True)
class Polynomial(LinearMaps):
    """The map of an action, z -> W z + b, is a polynomial of its canonical vector.

    Attributes:
        names: parameters of the action.
        weights: `(d, F (d + 1))`; the columns belong to the products of the F terms with the d features and with 1.
        covariance: of the features before the action, `(d, d)`.
        turned: whether orthogonal matrices take the place of the polynomial's W.
    """

    names: list[str]
    weights: Tensor
    covariance: Tensor
    turned: bool = False

    detail: ClassVar[str] = "a polynomial of the action"

    def __call__(self, z: Tensor, action: Action) -> Tensor:
        if self.turned:
            matrices, offsets = self._matrices(action)
            return torch.einsum("pij,pj->pi", matrices, z) + offsets
        return _products(factors_of(action, self.names), z) @ self.weights.T

    def _matrices(self, action: Action) -> tuple[Tensor, Tensor]:
        factors = factors_of(action, self.names)
        weights = self.weights.view(len(self.weights), factors.shape[1], -1)
        maps = torch.einsum("pf,ifj->pij", factors, weights)
        matrices, offsets = maps[..., :-1], maps[..., -1]
        return (nearest_orthogonal(matrices @ self.covariance) if self.turned else matrices), offsets

    def matrices(self, action: Action) -> Tensor:
        rows = torch.arange(min(_SAMPLED, len(action)))
        few = Transform(action.source, action.groups).select(rows)
        return self._matrices(few.relative(Transform(action.target, action.groups).select(rows)))[0]

    def orthogonal(self) -> "Polynomial":
        return replace(self, turned=True)


def fit_maps(
    sources: Tensor, targets: Tensor, action: Action, names: list[str], objects: Tensor, seed: int = 0
) -> LinearMaps:
    """Affine maps that lead from `sources` to `targets`, `(P, d)`, by ridge regression.

    One map for each action if there are few different ones; else a polynomial of the action.

    Args:
        sources: features before the action.
        targets: features after it.
        action: P rows.
        names: the parameters of it that count.
        objects: `(P,)`; the penalty is chosen on some of them.
        seed: draws those.
    """
    vectors, covariance = action.as_vector(names).double(), sources.T.cov(correction=0).view(sources.shape[1], -1)
    if (known := different(vectors)) is None:
        inputs = _products(factors_of(action, names), sources)
        # The constant b is among the products.
        return Polynomial(names, chosen_ridge(inputs, targets, objects, seed, intercept=False)[0], covariance)
    which = torch.cdist(vectors, known).argmin(dim=1)
    rows = [(which == number).nonzero()[:, 0] for number in range(len(known))]
    maps = [chosen_ridge(sources[some], targets[some], objects[some], seed) for some in rows]
    weights, offsets = zip(*maps, strict=True)
    return Grid(names, known, torch.stack(weights), torch.stack(offsets), covariance)


def different(vectors: Tensor) -> Tensor | None:
    """The different ones of `(P, n)`, up to `_STEP`; None if there are more than `_GRID`."""
    found = torch.unique((vectors / _STEP).round(), dim=0) * _STEP
    if len(found) > 4 * _GRID:
        return None
    kept: list[Tensor] = []
    for vector in found:
        if all(float((vector - other).norm()) > 2 * _STEP for other in kept):
            kept.append(vector)
    return torch.stack(kept) if len(kept) <= _GRID else None


def identity_error(neutral: Tensor) -> float:
    """|W_e - I| / sqrt(d) of the neutral element's matrix `(d, d)`."""
    return distance_from_identity(neutral[None])


def inverse_error(matrices: Tensor, inverses: Tensor) -> float:
    """The mean over the group of |W_g W_h - I| / sqrt(d), `(G, d, d)`; `inverses[g]` is the number h of g^-1."""
    return distance_from_identity(matrices @ matrices[inverses])


def composition_error(matrices: Tensor, products: Tensor) -> float:
    """The mean over pairs of |W_g W_h - W_gh| / |W_gh|; `products[g, h]` is the number of g h in a left action."""
    composed = torch.einsum("gij,hjk->ghik", matrices, matrices)
    wanted = matrices[products]
    return float(((composed - wanted).flatten(2).norm(dim=2) / wanted.flatten(2).norm(dim=2)).mean())


def orthogonality_error(matrices: Tensor) -> float:
    """The mean of |W^T W - I| / sqrt(d), `(G, d, d)`."""
    return distance_from_identity(matrices.transpose(1, 2) @ matrices)


def distance_from_identity(matrices: Tensor) -> float:
    """The mean of |W - I| / sqrt(d), Frobenius norms, `(G, d, d)`."""
    size = matrices.shape[1]
    return float(((matrices - torch.eye(size).to(matrices)).flatten(1).norm(dim=1) / math.sqrt(size)).mean())


def factors_of(action: Action, names: list[str]) -> Tensor:
    """The terms of the polynomial, `(P, F)`: 1, and for each parameter its numbers and their products in pairs."""
    terms = [torch.ones(len(action), 1, dtype=torch.float64)]
    for name in names:
        a = action.as_vector([name]).double()
        first, second = torch.triu_indices(a.shape[1], a.shape[1])
        terms += [a, a[:, first] * a[:, second]]
    return torch.cat(terms, dim=1)


def _products(factors: Tensor, z: Tensor) -> Tensor:
    extended = torch.cat((z, torch.ones_like(z[:, :1])), dim=1)
    return torch.einsum("pf,pd->pfd", factors, extended).flatten(1)
