"""Whether one map of the features belongs to each action, and whether these maps compose as the actions do."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.action_maps import (
    COLUMNS,
    Maps,
    distance_from_identity,
    factors_of,
    fit_maps,
    orthogonality_error,
)
from ssl_inv.evaluation.protocols.base import Encoded, Protocol, ViewPredictor
from ssl_inv.evaluation.protocols.linear_maps import Span, chosen_ridge
from ssl_inv.evaluation.protocols.transforms_r2 import VALIDATION_EPOCH, Draws, r2_mean
from ssl_inv.evaluation.results import Bootstrap, Result, object_sums
from ssl_inv.transforms import Action, require
from ssl_inv.transforms.keyed_random import permutation

_VARIANCE = 0.99
"""Of the features, that the span holds."""


@dataclass(frozen=True)
class GroupAction(Protocol):
    """Whether the features carry a representation of the group that acts on the views.

    What it measures: whether one map for each action leads from the features before the action to those after it, for
    all objects alike; and whether these maps form a group.

    Definition: maps are fitted to pairs of views of training objects and scored on validation objects, in the span of
    the training features that holds 99 % of their variance, centred. Every map has a score of its own:

    - `linear`: one affine map z -> W_g z + b_g for each action, by ridge regression, its penalty chosen on held-out
      training objects;
    - `orthogonal`: the same with the orthogonal matrix R_g that brings R_g z nearest to W_g z, which solves Procrustes'
      problem;
    - `predictor`: the objective's own predictor, on the part that it reads;
    - `blind`: one affine map for all actions, R2 alone. It knows that views of an object have things in common, and
      nothing of the actions: only what is above it is of the group. Shuffled actions leave as much.

    `r2` is that of the prediction of the second view, the mean over dimensions, beside the R2 of copying the first
    view. On triples of views z1, z2, z3 of an object, with a_ij the action between them and |.| the mean over triples:

        identity    |P(z1, e) - z1| / |z1|
        inverse     |P(P(z1, a12), a21) - z1| / |z1|
        composition |P(P(z1, a12), a23) - P(z1, a13)| / |P(z1, a13)|
        closure     |P(P(z1, a12), a23) - z3| / |z3|

    and for matrices, with d dimensions and the mean over actions, `orthogonality` |W^T W - I| / sqrt(d) and `spread`
    |W - I| / sqrt(d), Frobenius norms.

    Where the views form a grid, so that at most 64 different actions lie between them, as on a turntable, each action
    has a map of its own, and the identity is measured if two views have the same pose. Where actions are random, W_g
    and b_g are polynomials of the action, W(a) = sum_k f_k(a) W_k. Here f are 1, the numbers of the canonical vector a
    of the action, and their products in pairs within each parameter; for rotations these span the entries of the
    rotation matrix. Steps of rotations are in the frame of the first view, a_13 = a_12 a_23, so that maps act in the
    opposite order: W_13 = W_23 W_12.

    Source: Lenc and Vedaldi, "Understanding image representations by measuring their equivariance and equivalence"
    (CVPR 2015) for the fitted maps; "Equivariance by Contrast" (NeurIPS 2025) for maps that are fitted to pairs that
    share an action. The errors are defined here.

    End points: a true representation has R2 1 and all errors 0. Invariant features pass identity, inverse and
    composition with W = I for every action: then R2 equals that of `blind` and of copying, and the spread is 0.

    What it orders wrongly: an invariant encoder looks like a perfect group unless spread and copying are read beside.
    Maps of shuffled actions are nearly one map, which composes with itself well: in small runs their composition error
    was below that of the right actions, so that error alone says nothing of the group.
    Ridge regression shrinks noisy maps towards 0, which adds to all errors. Orthogonal maps do not shrink, but where
    there is no group they mix directions of large and small variance, so that their R2, a mean over directions, can be
    far below 0. The polynomial of a random action is of second degree: representations of higher frequency, which turn
    faster than the view, are missed. Views of an object that hide its sides make its features no function of the pose
    alone.

    Attributes:
        parameters: of the action; None means those in `Encoded.told`, and all where there are none.
        dimensions: of the span, at most.
        triples: of views, drawn from each object.
        fitted: pairs of views that maps are fitted to at most.
        scored: triples that are scored at most.
        seed: draws them, and the held-out objects.
    """

    parameters: tuple[str, ...] | None = None
    dimensions: int = 64
    triples: int = 8
    fitted: int = 20_000
    scored: int = 2_000
    seed: int = 0

    revision: ClassVar[int] = 1
    headlines: ClassVar[tuple[str, ...]] = ("group/linear/r2", "group/linear/composition")

    @classmethod
    def quick(cls) -> "GroupAction":
        """A narrower span and fewer triples."""
        return cls(dimensions=24, triples=4, fitted=5_000, scored=500)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        train, validation = encoded.train.ordered(), encoded.validation.ordered()
        recorded = train.transform
        names = [require(name, recorded.values) for name in self.parameters or encoded.told or recorded.names]
        names = [name for name in names if recorded.only([name]).as_vector().shape[1]]
        if not names:
            yield Result("group", "all", None, detail="the data record no transform")
            return
        fitted, scored = (
            Triples(table, names, Draws(table, 3, self.triples, self.seed).epoch(epoch)).sample(most, self.seed)
            for table, epoch, most in ((train, 0, self.fitted // 6), (validation, VALIDATION_EPOCH, self.scored))
        )
        if not (len(fitted.rows) and len(scored.rows)):
            yield Result("group", "all", None, detail="no object has three views")
            return
        for part in encoded.parts:
            yield from self._linear(fitted, scored, part)
        if encoded.predictor is not None:
            yield from self._predictor(fitted, scored, encoded.predictor)

    def shuffled(self, encoded: Encoded, seed: int) -> Iterator[Result]:
        # The objective's own predictor is fitted to nothing here: it would only be measured a second time.
        yield from super().shuffled(replace(encoded, predictor=None), seed)

    def _linear(self, fitted: "Triples", scored: "Triples", part: str) -> Iterator[Result]:
        most = min(self.dimensions, max(4, COLUMNS // factors_of(fitted.action(0, 1), fitted.names).shape[1]))
        span = Span.fit(fitted.table.part(part), most, _VARIANCE)
        if not span.width:
            yield Result("group", part, None, detail="the features are the same for all training views")
            return
        sources, targets, action, objects = fitted.pairs(span(fitted.table.part(part)))
        maps = fit_maps(sources, targets, action, fitted.names, objects, self.seed)
        z = span(scored.table.part(part))
        yield self._blind(sources, targets, objects, scored, z, part)
        detail = f"{span.width} dimensions, {maps.detail}"
        for name, one in (("linear", maps), ("orthogonal", maps.orthogonal())):
            yield from self._scores(f"group/{name}", part, scored, z, torch.zeros(span.width), one, detail)
            matrices = one.matrices(action)
            measures = {"orthogonality": orthogonality_error(matrices), "spread": distance_from_identity(matrices)}
            for measure, value in measures.items():
                yield Result(f"group/{name}/{measure}", part, value, detail=detail)

    def _blind(
        self, sources: Tensor, targets: Tensor, objects: Tensor, scored: "Triples", z: Tensor, part: str
    ) -> Result:
        weights, constant = chosen_ridge(sources, targets, objects, self.seed)
        one, two = (z[scored.rows[:, place]].double() for place in range(2))
        predicted = one @ weights.T + constant
        value = r2_mean(two, predicted)
        if value != value:
            return Result("group/blind/r2", part, None, detail="the features are the same for all validation views")
        spread = _r2_error(two, predicted, scored.table.objects[scored.rows[:, 0]], self.bootstrap)
        return Result("group/blind/r2", part, value, spread, "one map for all actions")

    def _predictor(self, fitted: "Triples", scored: "Triples", predictor: ViewPredictor) -> Iterator[Result]:
        centre = fitted.table.part(predictor.part).double().mean(dim=0)
        z = scored.table.part(predictor.part)
        detail = "the objective's own predictor"
        yield from self._scores("group/predictor", predictor.part, scored, z, centre, _Own(predictor), detail)

    def _scores(
        self, start: str, part: str, scored: "Triples", z: Tensor, centre: Tensor, maps: Maps, detail: str
    ) -> Iterator[Result]:
        scored = scored.where(_known(maps, scored))
        if not len(scored.rows):
            yield Result(start, part, None, detail="no action of a validation object occurs in training")
            return
        one, two, three = (z[scored.rows[:, place]].double() for place in range(3))
        objects = scored.table.objects[scored.rows[:, 0]]
        predicted = maps(one, scored.action(0, 1))
        value = r2_mean(two, predicted)
        if value != value:
            yield Result(f"{start}/r2", part, None, detail="the features are the same for all validation views")
            return
        levels = f"copying scores {r2_mean(two, one):.2f}, a constant 0"
        yield Result(f"{start}/r2", part, value, _r2_error(two, predicted, objects, self.bootstrap), levels)
        direct, twice = maps(one, scored.action(0, 2)), maps(predicted, scored.action(1, 2))
        neutral = scored.action(0, 0)
        stay = maps(one, neutral) if bool(maps.knows(neutral).all()) else None
        errors = {
            "identity": (stay, one, one),
            "inverse": (maps(predicted, scored.action(1, 0)), one, one),
            "composition": (twice, direct, direct),
            "closure": (twice, three, three),
        }
        for name, (found, wanted, unit) in errors.items():
            if found is None:
                yield Result(f"{start}/{name}", part, None, detail="no two views have the same pose")
                continue
            lengths = torch.stack(((found - wanted).norm(dim=1), (unit - centre).norm(dim=1)), dim=1)
            value = float(_ratio(lengths.sum(dim=0, keepdim=True))[0])
            if not math.isfinite(value):
                yield Result(f"{start}/{name}", part, None, detail="the features are the same for all validation views")
                continue
            spread = self.bootstrap.standard_error(object_sums(lengths, objects), _ratio)
            yield Result(f"{start}/{name}", part, value, spread, detail)


@dataclass(frozen=True)
class Triples:
    """Three views of an object, and the actions between them.

    Attributes:
        table: the views.
        names: parameters of the actions.
        rows: of the table, `(P, 3)`.
    """

    table: FeatureTable
    names: list[str]
    rows: Tensor

    def sample(self, most: int, seed: int) -> "Triples":
        """At most so many of the triples, in their order."""
        chosen = torch.from_numpy(permutation(seed, 3, length=len(self.rows))[:most]).sort().values
        return replace(self, rows=self.rows[chosen])

    def where(self, kept: Tensor) -> "Triples":
        """Some of the triples."""
        return replace(self, rows=self.rows[kept])

    def action(self, source: int, target: int) -> Action:
        """The action from one of the three views to another."""
        return self._between(self.rows[:, source], self.rows[:, target])

    def _between(self, sources: Tensor, targets: Tensor) -> Action:
        recorded = self.table.transform.only(self.names)
        return recorded.select(sources).relative(recorded.select(targets))

    def pairs(self, z: Tensor) -> tuple[Tensor, Tensor, Action, Tensor]:
        """Sources, targets, actions and objects of all ordered pairs within the triples."""
        places = [(a, b) for a in range(3) for b in range(3) if a != b]
        first, second = (torch.cat([self.rows[:, pair[end]] for pair in places]) for end in (0, 1))
        return z[first], z[second], self._between(first, second), self.table.objects[first]


@dataclass(frozen=True)
class _Own(Maps):
    """The objective's own predictor."""

    predictor: ViewPredictor

    def __call__(self, z: Tensor, action: Action) -> Tensor:
        return self.predictor.predict(z.float(), action).double()


def _known(maps: Maps, triples: Triples) -> Tensor:
    """The triples between all of whose views there are maps."""
    between = ((0, 1), (1, 2), (0, 2), (1, 0))
    return torch.stack([maps.knows(triples.action(*pair)) for pair in between]).all(dim=0)


def _ratio(totals: Tensor) -> Tensor:
    return totals[:, 0] / totals[:, 1]


def _r2_error(targets: Tensor, predictions: Tensor, objects: Tensor, bootstrap: Bootstrap) -> float | None:
    """Standard error of the mean R2 of features over dimensions."""
    t = targets - targets.mean(dim=0)
    varying = t.std(dim=0, correction=0) > 1e-6
    t, e = t[:, varying], (targets - predictions)[:, varying]
    n = t.shape[1]
    columns = torch.cat((torch.ones(len(t), 1, dtype=torch.float64), t, t.square(), e.square()), dim=1)

    def statistic(totals: Tensor) -> Tensor:
        rows, first, second, error = torch.split(totals, [1, n, n, n], dim=1)
        return (1 - error / (second - first.square() / rows)).mean(dim=1)

    return bootstrap.standard_error(object_sums(columns, objects), statistic)
