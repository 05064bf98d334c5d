"""R2 of a regression from frozen features to how a view was made, for every recorded parameter.

Relative: from the features of two views of one object, side by side, to the action between them. Absolute: from one
view to its own transform. The head is that of the SIE paper (Garrido, Najman, LeCun, ICML 2023): an MLP 2D-1024-1024-n
with ReLU, Adam at 1e-3, one random pair of every training object in each of 300 epochs. Two things differ: features and
targets are standardised with training statistics, so that one learning rate suits every encoder and parameter, and the
learning rate follows a cosine to zero.

There are two numbers for each parameter. `r2` is the headline: the canonical action, and the mean over its dimensions.
`r2_pooled` is the number in the SIE papers: the action as their code writes it, and one mean over all numbers. The two
can lie far apart, for either reason.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ssl_inv.evaluation.features import FeatureTable, Standardiser
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.results import Bootstrap, Result, object_sums
from ssl_inv.transforms import Circle, Convention, Group, Rotation, require
from ssl_inv.transforms.keyed_random import distinct, permutation

Kind = Literal["relative", "absolute"]

Target = tuple[str, Convention]
"""A parameter and the convention of its action."""

ANGLE_STEP, _FEWEST_PAIRS = 30, 5
"""Errors are given for each 30 degrees of the true angle that at least five pairs have."""

VALIDATION_EPOCH = 2**32
"""The epoch in the key of the validation draw; no training epoch gets there."""


@dataclass(frozen=True)
class TransformR2(Protocol):
    """How well a head reads from frozen features how a view was made. The defaults are SIE's.

    What it orders wrongly: R2 weighs every dimension of the action alike, so a parameter that hardly varies counts as
    much as one that varies much; and an R2 of 0.7 is compatible with a median error of 30 degrees: read the errors in
    degrees beside. Pooled R2 gives a constant prediction more than 0 wherever the dimensions have different variances.
    Wider features give the head more inputs.

    Attributes:
        hidden: width of the two hidden layers; 0 is a linear head, as ContextSSL and seq-JEPA regress colour.
        epochs: draws of pairs from all training objects.
        pairs_per_object: pairs (or single views) of every object in an epoch, and in the fixed validation draw.
        batch: pairs in a step.
        minimum_steps: a data set that is so small that `epochs` have fewer steps gets more epochs.
        learning_rate: of Adam, at the start of the cosine.
        joint: whether one head predicts everything. This costs one training instead of one for each parameter and form.
            Standardised targets give every dimension equal weight in it, but they share the hidden layers.
        parameters: the ones to predict; None means all that the data record.
        convention: how the headline writes actions. With `sie` it is seq-JEPA's number, scikit-learn's R2 of the
            papers' action.
        seed: decides the initial weights, the pairs and their order.
        kinds: what is regressed: the action between two views, the transform of one view, or both.
    """

    hidden: int = 1024
    epochs: int = 300
    pairs_per_object: int = 1
    batch: int = 256
    minimum_steps: int = 0
    learning_rate: float = 1e-3
    joint: bool = False
    parameters: tuple[str, ...] | None = None
    convention: Convention = "canonical"
    seed: int = 0
    kinds: tuple[Kind, ...] = ("relative", "absolute")

    revision: ClassVar[int] = 1
    headlines: ClassVar[tuple[str, ...]] = ("r2/relative/rotation", "r2_pooled/relative/rotation")
    otherwise: ClassVar[str] = "r2/"
    opening: ClassVar[str] = "r2/relative/"
    opening_part: ClassVar[str] = "equivariant"

    @classmethod
    def quick(cls) -> "TransformR2":
        """One narrow head for all parameters, and fewer steps."""
        return cls(hidden=256, epochs=10, pairs_per_object=4, minimum_steps=500, joint=True, kinds=("relative",))

    def run(self, encoded: Encoded) -> Iterator[Result]:
        for part in encoded.parts:
            yield from self.measure(encoded.train, encoded.validation, part)

    def measure(self, train: FeatureTable, validation: FeatureTable, part: str) -> list[Result]:
        """R2 of every parameter on the fixed draw of validation pairs.

        Where train or validation have no object with two views, a remark replaces relative R2.

        Raises:
            ValueError: if a parameter in `parameters` is not recorded.
        """
        train, validation = train.ordered(), validation.ordered()
        names = [require(name, train.transform.values) for name in self.parameters or train.transform.names]
        if not names:
            return [Result("r2", part, None, detail="the data record no transform")]
        results = []
        for kind in self.kinds:
            if not all(has_draws(table, kind, self) for table in (train, validation)):
                results.append(Result(f"r2/{kind}", part, None, detail="no object has two views"))
                continue
            codes = [
                name for name in names if not targets_of(train, _first(kind), [(name, self.convention)])[0].shape[1]
            ]
            reason = f"a code has no {'difference between two views' if kind == 'relative' else 'numbers to predict'}"
            results += [
                Result(f"{form}/{kind}/{name}", part, None, detail=reason)
                for name in codes
                for form in ("r2", "r2_pooled")
            ]
            wanted = {name: _target_list(train, kind, name, self.convention) for name in names if name not in codes}
            if not wanted:
                continue
            every = [target for targets in wanted.values() for target in targets]
            scored: dict[Target, Predicted] = {}
            for together in [every] if self.joint else [[target] for target in every]:
                scored |= regress(train, validation, part, kind, together, self)
            for name, targets in wanted.items():
                for form, target in (("r2", targets[0]), ("r2_pooled", targets[-1])):
                    results.append(r2_result(f"{form}/{kind}/{name}", part, scored[target], self.bootstrap))
                if self.convention == "canonical":
                    group, headline = train.transform.groups[name], scored[targets[0]]
                    errors = errors_by_angle(group, headline.targets, headline.predictions)
                    results[-2] = replace(results[-2], errors=errors)
        return results


def _varying(targets: Tensor) -> Tensor:
    if not targets.numel():
        return torch.zeros(targets.shape[1], dtype=torch.bool)
    return targets.double().std(dim=0, correction=0) > 1e-6


def r2_per_dimension(targets: Tensor, predictions: Tensor) -> Tensor:
    """1 - sum (t - p)^2 / sum (t - mean t)^2 for every dimension of `(N, n)`; shape `(n,)`, float64, NaN where the
    target is constant.
    """
    t, p = targets.double(), predictions.double()
    scores = 1 - (t - p).square().sum(dim=0) / (t - t.mean(dim=0)).square().sum(dim=0)
    return scores.masked_fill(~_varying(targets), math.nan)


def r2_mean(targets: Tensor, predictions: Tensor) -> float:
    """The mean of `r2_per_dimension` over the dimensions that vary; scikit-learn's `r2_score` counts constant ones too.

    A rotation in the plane leaves two numbers of its quaternion at zero, which say nothing about an encoder. NaN when
    no dimension varies.
    """
    return float(r2_per_dimension(targets, predictions).nanmean())


def r2_pooled(targets: Tensor, predictions: Tensor) -> float:
    """SIE's form: one mean over all rows and dimensions, and one sum of all squares.

    Where the dimensions have different means, a constant scores above zero: 0.23 for the relative quaternion of angles
    within 90 degrees.
    """
    t, p = targets.double(), predictions.double()
    return float(1 - (t - p).square().sum() / (t - t.mean()).square().sum())


def errors_by_angle(group: Group, targets: Tensor, predictions: Tensor) -> tuple[tuple[str, float], ...]:
    """The median error of a predicted angle in degrees, by the true angle: `("0-30", 12.5), ("30-60", 14.1), ...`.

    Predictions are brought to unit length, as rotations and directions are. Empty for parameters that are no angles.

    Args:
        group: of the parameter: rotations in space, or angles on a circle.
        targets: canonical vectors `(P, n)`.
        predictions: likewise, of any length.
    """
    t, p = normalize(targets.double(), dim=1), normalize(predictions.double(), dim=1)
    if isinstance(group, Rotation):
        # A quaternion and its negative are the same rotation.
        size, error = 2 * t[:, 3].abs().clamp(max=1).acos(), 2 * (t * p).sum(dim=1).abs().clamp(max=1).acos()
    elif isinstance(group, Circle) and math.isclose(group.period, 2 * math.pi, rel_tol=1e-6):
        size, error = t[:, 0].clamp(-1, 1).acos(), (t * p).sum(dim=1).clamp(-1, 1).acos()
    else:
        return ()
    bins = (torch.rad2deg(size) / ANGLE_STEP).floor().clamp(max=180 // ANGLE_STEP - 1).long()
    return tuple(
        (f"{ANGLE_STEP * number}-{ANGLE_STEP * (number + 1)}", float(torch.rad2deg(error[bins == number]).median()))
        for number in range(180 // ANGLE_STEP)
        if int((bins == number).sum()) >= _FEWEST_PAIRS
    )


class Draws:
    """Random draws of one or several different views of each object.

    Args:
        table: ordered; objects with too few views are left out.
        views: views in one draw.
        repeats: draws of every object in an epoch.
        seed: decides the draws.
    """

    def __init__(self, table: FeatureTable, views: int, repeats: int, seed: int) -> None:
        self.views, self.seed = views, seed
        ids, counts = (part.numpy() for part in torch.unique_consecutive(table.objects, return_counts=True))
        first = np.cumsum(counts) - counts
        enough = counts >= views
        self.ids, self.counts, self.first = (np.repeat(part[enough], repeats) for part in (ids, counts, first))
        self.number = np.tile(np.arange(repeats), int(enough.sum()))

    def __len__(self) -> int:
        return len(self.ids)

    def epoch(self, number: int) -> Tensor:
        """Rows of the table, `(P, views)`, the objects in ascending order."""
        chosen = distinct(self.seed, number, self.ids, self.number, population=self.counts, count=self.views)
        return torch.from_numpy(self.first[:, None] + chosen)


def _draws(table: FeatureTable, kind: Kind, settings: TransformR2) -> Draws:
    return Draws(table, 2 if kind == "relative" else 1, settings.pairs_per_object, settings.seed)


def has_draws(table: FeatureTable, kind: Kind, settings: TransformR2) -> bool:
    """Whether some object has so many views as a head of this kind needs."""
    return len(_draws(table, kind, settings)) > 0


def _first(kind: Kind) -> Tensor:
    """The first row of a table, once or twice."""
    return torch.zeros(1, 2 if kind == "relative" else 1, dtype=torch.int64)


def _target_list(table: FeatureTable, kind: Kind, name: str, convention: Convention) -> list[Target]:
    """The headline's target, and the papers' target where they write the action differently."""
    differs = kind == "relative" and convention == "canonical" and not table.transform.groups[name].plain_is_scaled
    return [(name, convention), (name, "sie")] if differs else [(name, convention)]


def targets_of(table: FeatureTable, rows: Tensor, wanted: list[Target]) -> list[Tensor]:
    """The targets `(P, n)` for the views or pairs in `rows`, `(P, 1 or 2)`."""
    first = table.transform.select(rows[:, 0])
    if rows.shape[1] == 1:
        return [first.as_vector([name]) for name, _ in wanted]
    action = first.relative(table.transform.select(rows[:, 1]))
    return [action.as_vector([name], convention) for name, convention in wanted]


def _head(inputs: int, outputs: int, settings: TransformR2) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if not settings.hidden:
            return nn.Linear(inputs, outputs)
        widths = (inputs, settings.hidden, settings.hidden)
        hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU(inplace=True))]
        return nn.Sequential(*hidden, nn.Linear(settings.hidden, outputs))


def _inputs(features: Tensor, rows: Tensor) -> Tensor:
    return features[rows.to(features.device)].flatten(1)


def _fit(features: Tensor, draws: Draws, target: Callable[[Tensor], Tensor], settings: TransformR2) -> nn.Module:
    """Train a head on new pairs in every epoch; `target` maps rows `(P, 1 or 2)` to standardised targets `(P, n)`."""
    outputs = target(draws.epoch(0)[:1]).shape[1]
    head = _head(features.shape[1] * draws.views, outputs, settings).to(features.device)
    optimiser = torch.optim.Adam(head.parameters(), lr=settings.learning_rate)
    steps = math.ceil(len(draws) / settings.batch)
    epochs = max(settings.epochs, math.ceil(settings.minimum_steps / steps))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * steps)
    for epoch in range(epochs):
        rows = draws.epoch(epoch)
        rows = rows[torch.from_numpy(permutation(settings.seed, epoch, length=len(rows)))]
        aims = target(rows).to(features.device)
        for start in range(0, len(rows), settings.batch):
            batch = slice(start, start + settings.batch)
            loss = (head(_inputs(features, rows[batch])) - aims[batch]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return head


@torch.no_grad()
def _predict(head: nn.Module, features: Tensor, rows: Tensor) -> Tensor:
    return torch.cat([head(_inputs(features, chunk)) for chunk in torch.split(rows, 4096)]).cpu()


@dataclass(frozen=True)
class Predicted:
    """Targets and predictions `(P, n)` of the validation draw, the objects `(P,)` that they belong to, and the rows of
    the ordered table, `(P, 1 or 2)`.
    """

    targets: Tensor
    predictions: Tensor
    objects: Tensor
    rows: Tensor


def regress(
    train: FeatureTable,
    validation: FeatureTable,
    part: str,
    kind: Kind,
    wanted: list[Target],
    settings: TransformR2,
) -> dict[Target, Predicted]:
    """The predictions of one head for all `wanted`, fitted to `train`, on the fixed draw from `validation`."""
    draws = _draws(train, kind, settings)

    def target(rows: Tensor) -> Tensor:
        return torch.cat(targets_of(train, rows, wanted), dim=1)

    standardise, scale = Standardiser.fit(train.part(part)), Standardiser.fit(target(draws.epoch(0)))
    head = _fit(standardise(train.part(part)).to(settings.device), draws, lambda rows: scale(target(rows)), settings)
    rows = _draws(validation, kind, settings).epoch(VALIDATION_EPOCH)
    predicted = scale.undo(_predict(head, standardise(validation.part(part)).to(settings.device), rows))
    aims = targets_of(validation, rows, wanted)
    pieces = torch.split(predicted, [aim.shape[1] for aim in aims], dim=1)
    objects = validation.objects[rows[:, 0]]
    return {key: Predicted(aim, piece, objects, rows) for key, aim, piece in zip(wanted, aims, pieces, strict=True)}


def _standard_error(scored: Predicted, pooled: bool, bootstrap: Bootstrap) -> float | None:
    """Standard error of either form of R2, from sums over objects of 1, t, t^2 and (t - p)^2."""
    # Shifting all dimensions by one number changes neither form and keeps the difference of squares exact.
    t = scored.targets.double() - scored.targets.double().mean()
    e = scored.targets.double() - scored.predictions.double()
    n, varying = t.shape[1], _varying(scored.targets)
    sums = object_sums(
        torch.cat((torch.ones(len(t), 1, dtype=torch.float64), t, t.square(), e.square()), dim=1), scored.objects
    )

    def statistic(totals: Tensor) -> Tensor:
        rows, first, second, error = torch.split(totals, [1, n, n, n], dim=1)
        if pooled:
            rows, first, second, error = (piece.sum(dim=1, keepdim=True) for piece in (rows * n, first, second, error))
            return (1 - error / (second - first.square() / rows))[:, 0]
        return (1 - error / (second - first.square() / rows))[:, varying].mean(dim=1)

    return bootstrap.standard_error(sums, statistic)


def r2_result(name: str, part: str, scored: Predicted, bootstrap: Bootstrap) -> Result:
    """R2 of predictions, pooled if the name begins so, with its standard error; a reason where no target varies."""
    targets, predictions = scored.targets, scored.predictions
    if not _varying(targets).any():
        finite = bool(targets.isfinite().all())
        why = "the same in all validation views" if finite else "not a finite number in all validation views"
        return Result(name, part, None, detail=why)
    pooled = name.startswith("r2_pooled/")
    if pooled:
        constant = r2_pooled(targets, targets.mean(dim=0).expand_as(targets))
        # abs() keeps rounding error from printing a negative zero.
        detail = f"a constant scores {abs(round(constant, 2)):.2f}"
    else:
        scores = r2_per_dimension(targets, predictions).tolist()
        printed = " ".join("constant" if math.isnan(score) else f"{score:.2f}" for score in scores)
        detail = f"dimensions {printed}" if len(scores) > 1 else ""
    value = (r2_pooled if pooled else r2_mean)(targets, predictions)
    return Result(name, part, value, _standard_error(scored, pooled, bootstrap), detail)
