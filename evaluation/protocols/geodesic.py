"""How far a predicted rotation lies from the true one, in degrees.

R2 of a quaternion says little about angles: an R2 of 0.7 is compatible with a median error of 30 degrees. So a
prediction is scored once more, by the angle of the rotation that leads from it to the truth.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.features import FeatureTable, Standardiser
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.linear_maps import chosen_ridge
from ssl_inv.evaluation.protocols.transforms_r2 import (
    VALIDATION_EPOCH,
    Draws,
    Kind,
    Predicted,
    Target,
    TransformR2,
    errors_by_angle,
    has_draws,
    regress,
    targets_of,
)
from ssl_inv.evaluation.results import Bootstrap, Result, object_sums
from ssl_inv.transforms import Circle, Group, Pose, Rotation, require
from ssl_inv.transforms.keyed_random import permutation

Head = Literal["linear", "mlp"]

ACCURACIES, AREAS = (5, 10, 15, 30), (5, 15, 30)
"""Thresholds in degrees."""

_REPEATS = 4

_BIN = 0.5
"""Width in degrees of the bins that the standard error of a median is estimated from."""


@dataclass(frozen=True)
class Geodesic(Protocol):
    """The error in degrees of rotations and angles that a head predicts from frozen features.

    What it measures: how exactly the features tell a pose, relative (from two views to the action between them) and
    absolute (from one view to its own pose).

    Definition: for 3-D rotations the angle of R^-1 R', where R' is the prediction brought to unit length; q and -q are
    the same rotation. For an angle on a circle, the shorter arc, with a full turn of 360 degrees whatever the unit of
    the parameter: a hue too has an error of 180 degrees at most. Reported are the median, the mean, the share of errors
    of at most 5, 10, 15 and 30 degrees, and the area under the curve of that share up to 5, 15 and 30 degrees.

    Source: the median and the accuracy at a threshold are those of category pose estimation (Tulsiani and Malik,
    "Viewpoints and Keypoints", CVPR 2015); the area is that of `kornia.metrics`, in percent. The MLP is that of
    the SIE paper, see `ssl_inv.evaluation.protocols.transforms_r2`; the linear head is ridge regression, its penalty
    chosen on held-out training objects. Each parameter has a head of its own, unless heads
    are joint.

    End points: the remark of each number has the score of the best constant prediction, and of true poses that are
    exchanged between pairs. Two independent uniform rotations lie 132.3 degrees apart in the median.

    What it orders wrongly: an object that looks the same after half a turn has errors near 0 or near 180 degrees. The
    median hides the second kind and the mean mixes both, so an encoder is blamed for the symmetry of objects. An
    encoder that is right for most objects and random for the others has a better median than one that is roughly right
    for all. Where the true angles are small, the constant prediction is good: compare with it, and not between data
    sets.

    Attributes:
        heads: how the MLP is trained, and what is drawn. Its `convention` has no meaning.
        shapes: the heads that are fitted: `linear`, `mlp` or both.
        shown: true and predicted angles that are kept at most, for a scatter plot.
    """

    heads: TransformR2 = field(default_factory=TransformR2)
    shapes: tuple[Head, ...] = ("linear", "mlp")
    shown: int = 200

    headlines: ClassVar[tuple[str, ...]] = ("geodesic/mlp/relative/rotation/median",)

    @classmethod
    def quick(cls) -> "Geodesic":
        """One narrow head for all parameters, and fewer steps."""
        return cls(heads=TransformR2.quick())

    def run(self, encoded: Encoded) -> Iterator[Result]:
        train, validation = encoded.train.ordered(), encoded.validation.ordered()
        recorded = train.transform
        wanted = [require(name, recorded.values) for name in self.heads.parameters or recorded.names]
        names = [name for name in wanted if isinstance(recorded.groups[name], Rotation | Pose | Circle)]
        if not names:
            yield Result("geodesic", "all", None, detail="the data record no rotation and no angle")
            return
        for part in encoded.parts:
            for shape in self.shapes:
                for kind in self.heads.kinds:
                    yield from self._scored(train, validation, part, shape, kind, names)

    def _scored(
        self, train: FeatureTable, validation: FeatureTable, part: str, shape: Head, kind: Kind, names: list[str]
    ) -> Iterator[Result]:
        start, head = f"geodesic/{shape}/{kind}", replace(self.heads, device=self.device)
        if not all(has_draws(table, kind, head) for table in (train, validation)):
            yield Result(start, part, None, detail="no object has two views")
            return
        for name, found in predictions(train, validation, part, shape, kind, names, head).items():
            if not found.targets.isfinite().all():
                yield Result(f"{start}/{name}", part, None, detail="not a finite number in all validation views")
                continue
            yield from self.measure(f"{start}/{name}", part, train.transform.groups[name], found)

    def measure(self, start: str, part: str, group: Group, found: Predicted) -> Iterator[Result]:
        """All numbers of one head; their names begin with `start`."""
        true, guess = angle_vectors(group, found.targets), angle_vectors(group, found.predictions)
        errors = angular_errors(true, guess)
        constant = angular_errors(true, mean_direction(true).expand_as(true))
        exchanged = angular_errors(true, true[torch.from_numpy(permutation(self.heads.seed, length=len(true)))])
        for name, score, spread in _scores(errors, found.objects, self.bootstrap):
            levels = f"a constant scores {score(constant):.3g}, exchanged targets {score(exchanged):.3g}"
            result = Result(f"{start}/{name}", part, score(errors), spread, levels)
            if name == "median":
                like = Rotation() if true.shape[1] == 4 else Circle(2 * math.pi)
                by_angle = errors_by_angle(like, true, guess)
                result = replace(result, errors=by_angle, pairs=self._pairs(true, guess))
            yield result

    def _pairs(self, true: Tensor, guess: Tensor) -> tuple[tuple[float, float], ...]:
        chosen = torch.from_numpy(permutation(self.heads.seed, 1, length=len(true))[: self.shown])
        shown = torch.stack((signed_angles(true[chosen]), signed_angles(guess[chosen])), dim=1)
        return tuple((round(one, 2), round(other, 2)) for one, other in shown.tolist())


def predictions(
    train: FeatureTable,
    validation: FeatureTable,
    part: str,
    shape: Head,
    kind: Kind,
    names: list[str],
    settings: TransformR2,
) -> dict[str, Predicted]:
    """What heads predict of each of the named parameters: one head for each, or one for all if they are `joint`."""
    fit, found = linear_regress if shape == "linear" else regress, dict[str, Predicted]()
    for together in [names] if settings.joint else [[name] for name in names]:
        wanted: list[Target] = [(name, "canonical") for name in together]
        found |= {name: one for (name, _), one in fit(train, validation, part, kind, wanted, settings).items()}
    return found


def linear_regress(
    train: FeatureTable,
    validation: FeatureTable,
    part: str,
    kind: Kind,
    wanted: list[Target],
    settings: TransformR2,
) -> dict[Target, Predicted]:
    """`regress` with a linear head in closed form: the best that training could lead to.

    It is fitted to `_REPEATS` times as many draws of each object as an epoch has.
    """
    views = 2 if kind == "relative" else 1
    fitted = Draws(train, views, _REPEATS * settings.pairs_per_object, settings.seed).epoch(0)
    rows = Draws(validation, views, settings.pairs_per_object, settings.seed).epoch(VALIDATION_EPOCH)
    standardise = Standardiser.fit(train.part(part))
    inputs, queries = (
        standardise(table.part(part))[some].flatten(1) for table, some in ((train, fitted), (validation, rows))
    )
    found, objects = {}, validation.objects[rows[:, 0]]
    for target in wanted:
        (aim,), (truth,) = targets_of(train, fitted, [target]), targets_of(validation, rows, [target])
        weights, constant = chosen_ridge(inputs, aim, train.objects[fitted[:, 0]], settings.seed)
        found[target] = Predicted(truth, queries.double() @ weights.T + constant, objects, rows)
    return found


def angle_vectors(group: Group, vectors: Tensor) -> Tensor:
    """Unit vectors, float64, from canonical vectors `(P, n)`: quaternions `(P, 4)`, also of a pose, or the cosine and
    sine of a full turn, `(P, 2)`.
    """
    return normalize((vectors[:, :4] if isinstance(group, Pose) else vectors).double(), dim=1)


def angular_errors(targets: Tensor, predictions: Tensor) -> Tensor:
    """Angles in degrees, `(P,)`, between unit quaternions `(P, 4)`, in [0, 180]; or between points on a circle
    `(P, 2)`.

    The arc tangent keeps small angles exact, which the arc cosine rounds away.
    """
    if targets.shape[1] == 4:
        return torch.rad2deg(Rotation().distance(targets, predictions))
    cross = targets[:, 0] * predictions[:, 1] - targets[:, 1] * predictions[:, 0]
    return torch.rad2deg(torch.atan2(cross.abs(), (targets * predictions).sum(dim=1)))


def signed_angles(vectors: Tensor) -> Tensor:
    """Angles in degrees, `(P,)`: of a rotation its size in [0, 180], on a circle the angle in (-180, 180]."""
    if vectors.shape[1] == 4:
        return angular_errors(Rotation().neutral(len(vectors)).to(vectors), vectors)
    return torch.rad2deg(torch.atan2(vectors[:, 1], vectors[:, 0]))


def mean_direction(vectors: Tensor) -> Tensor:
    """The constant that is nearest to all of `(P, n)`, `(1, n)`: of rotations the quaternion with the largest summed
    squared product (Markley et al., "Averaging quaternions", 2007), on a circle the direction of the sum.
    """
    if vectors.shape[1] != 4:
        total = vectors.sum(dim=0, keepdim=True)
        return total / total.norm().clamp_min(1e-12) if total.norm() > 1e-9 else torch.eye(2).to(vectors)[:1]
    mean: Tensor = torch.linalg.eigh(vectors.T @ vectors).eigenvectors[:, -1:].T
    return mean


def accuracy_within(errors: Tensor, threshold: float) -> float:
    """The share of errors of at most `threshold`."""
    return float((errors <= threshold).double().mean())


def area_under_recall(errors: Tensor, threshold: float) -> float:
    """The area under the curve of recall over the error, from 0 to `threshold`, in percent of the largest possible.

    As `kornia.metrics.AUCMetric` has it: recall rises by 1 / N from each sorted error to the next, starting at (0, 0),
    along straight lines, and is flat from the last error below the threshold.
    """
    ordered = errors.double().sort().values
    below = int(torch.searchsorted(ordered, torch.tensor(float(threshold), dtype=torch.float64)))
    recall = torch.arange(below + 1, dtype=torch.float64) / len(ordered)
    x = torch.cat((ordered.new_zeros(1), ordered[:below], ordered.new_full((1,), threshold)))
    return 100 * float(torch.trapezoid(torch.cat((recall, recall[-1:])), x)) / threshold


def rotation_from_nine(numbers: Tensor) -> Tensor:
    """The rotation matrices `(B, 3, 3)` that are nearest to any matrices `(B, 9)`, row by row (Levinson et al., "An
    analysis of SVD for deep rotation estimation", NeurIPS 2020).
    """
    u, _, v = torch.linalg.svd(numbers.view(-1, 3, 3))
    sign = torch.linalg.det(u @ v)
    corrected = torch.cat((u[..., :2], u[..., 2:] * sign[:, None, None]), dim=-1)
    nearest: Tensor = corrected @ v
    return nearest


def rotation_from_six(numbers: Tensor) -> Tensor:
    """Rotation matrices `(B, 3, 3)` by Gram-Schmidt from their first two columns, `(B, 6)` (Zhou et al., "On the
    continuity of rotation representations", CVPR 2019).
    """
    first = normalize(numbers[:, :3], dim=1)
    second = normalize(numbers[:, 3:] - (first * numbers[:, 3:]).sum(dim=1, keepdim=True) * first, dim=1)
    return torch.stack((first, second, torch.linalg.cross(first, second)), dim=-1)


def _scores(
    errors: Tensor, objects: Tensor, bootstrap: Bootstrap
) -> Iterator[tuple[str, Callable[[Tensor], float], float | None]]:
    """Name, score and standard error of every number."""
    yield "median", lambda some: float(np.median(some.numpy())), median_error(errors, objects, bootstrap)
    yield "mean", lambda some: float(some.mean()), bootstrap.mean_error(errors, objects)
    for limit in ACCURACIES:
        spread = bootstrap.mean_error((errors <= limit).double(), objects)
        yield f"accuracy@{limit}", lambda some, limit=limit: accuracy_within(some, limit), spread  # type: ignore[misc]
    for limit in AREAS:
        # The area is the mean of this, up to 1 / N.
        spread = bootstrap.mean_error(100 * (1 - errors / limit).clamp_min(0), objects)
        yield f"auc@{limit}", lambda some, limit=limit: area_under_recall(some, limit), spread  # type: ignore[misc]


def median_error(errors: Tensor, objects: Tensor, bootstrap: Bootstrap) -> float | None:
    """Standard error of the median of `errors` `(P,)` in degrees, from their counts in bins of half a degree."""
    bins = (errors / _BIN).floor().clamp(0, 180 / _BIN - 1).long()
    used, position = torch.unique(bins, return_inverse=True)
    counts = object_sums(torch.nn.functional.one_hot(position, len(used)), objects)

    def median(totals: Tensor) -> Tensor:
        reached = totals.cumsum(dim=1) >= totals.sum(dim=1, keepdim=True) / 2
        first = reached.int().argmax(dim=1)
        before = (totals.cumsum(dim=1) - totals).gather(1, first[:, None])[:, 0]
        inside = (totals.sum(dim=1) / 2 - before) / totals.gather(1, first[:, None])[:, 0]
        value: Tensor = (used[first] + inside) * _BIN
        return value

    return bootstrap.standard_error(counts, median)
