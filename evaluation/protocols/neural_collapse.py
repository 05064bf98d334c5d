"""Neural collapse: how close the features of a class are to one point, and the classes to a simplex."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol, shuffle_targets
from ssl_inv.evaluation.protocols.logistic import LogisticRegression
from ssl_inv.evaluation.protocols.sampling import at_most, jackknife_error, object_groups
from ssl_inv.evaluation.results import Result, object_sums
from ssl_inv.transforms.keyed_random import permutation


@dataclass(frozen=True)
class NeuralCollapse(Protocol):
    """NC1 to NC4 on the training rows (Papyan, Han, Donoho, PNAS 2020), all 0 at complete collapse.

    - `nc1`: tr(S_w S_b^+) / C, with S_w the covariance within classes, S_b that of the class means, C classes.
    - `nc2/norms`: standard deviation / mean of the distances of class means from their mean; `nc2/angles`: mean of
      |cos + 1 / (C - 1)| over pairs of class means.
    - `nc3`: |W / |W| - M / |M||, with W the weights of a classifier and M the centred class means.
    - `nc4`: share of rows that the classifier and the nearest class mean put into different classes.

    Frozen features have no classifier of their own; W is an L2 logistic regression. Classes are the labels
    (`collapse/classes`) and the objects (`collapse/objects`), where nc3 and nc4 are left out: a classifier of thousands
    of objects says nothing. The level of no collapse is the value with shuffled labels, or shuffled objects.

    What it orders wrongly: collapse of labels is a sign of fitting them, not of good transfer; collapse of objects
    means that the pose is lost. nc1 depends on the number of rows where that is near the number of dimensions.

    Attributes:
        strength: C of the logistic regression, see `LogisticRegression`.
        samples: labelled rows that are used at most.
        objects: objects that are used as classes at most.
        seed: draws the rows and objects where there are more.
    """

    strength: float = 1.0
    samples: int = 50_000
    objects: int = 1000
    seed: int = 0

    headlines: ClassVar[tuple[str, ...]] = ("collapse/classes/nc1", "collapse/objects/nc1")

    def run(self, encoded: Encoded) -> Iterator[Result]:
        table = encoded.train.ordered()
        for part in encoded.parts:
            yield from self._classes(table, part)
            yield from self._objects(table, table.objects, part)

    def shuffled(self, encoded: Encoded, seed: int) -> Iterator[Result]:
        """The same with labels exchanged between objects, and objects exchanged between rows."""
        table = shuffle_targets(encoded.train, seed).ordered()
        objects = table.objects[torch.from_numpy(permutation(seed, length=len(table)))]
        for part in encoded.parts:
            yield from self._classes(table, part)
            yield from self._objects(table, objects, part)

    def _classes(self, table: FeatureTable, part: str) -> Iterator[Result]:
        table = table.select(at_most(table.labelled_rows(), self.samples, self.seed))
        if not len(table) or table.labels is None or len(torch.unique(table.labels)) < 2:
            yield Result("collapse/classes/nc1", part, None, detail="needs labels of two classes")
            return
        features, labels, objects = table.part(part), table.labels, table.objects
        yield from self._means(features, labels, objects, part, "classes")
        head = LogisticRegression(device=self.device).fit(features, labels, self.strength)
        third = self_duality(features, labels, head.weight.T)
        disagreeing = nearest_mean_disagreement(features, labels, head(features))
        detail = f"C = {self.strength:g}"
        yield _finite(Result("collapse/classes/nc3", part, third, detail=f"{detail}, 1.414 for unrelated directions"))
        error = self.bootstrap.mean_error(disagreeing, objects)
        yield Result("collapse/classes/nc4", part, float(disagreeing.mean()), error, detail)

    def _objects(self, table: FeatureTable, objects: Tensor, part: str) -> Iterator[Result]:
        used = at_most(torch.unique(table.objects), self.objects, self.seed)
        kept = torch.isin(table.objects, used)
        if len(used) < 2 or len(used) == int(kept.sum()):
            yield Result("collapse/objects/nc1", part, None, detail="needs two objects with several views")
            return
        yield from self._means(table.part(part)[kept], objects[kept], table.objects[kept], part, "objects")

    def _means(self, features: Tensor, labels: Tensor, objects: Tensor, part: str, kind: str) -> Iterator[Result]:
        measures = {"nc1": within_over_between, "nc2/norms": unequal_norms, "nc2/angles": unequal_angles}
        whole, others = ClassMoments.of(features, labels), list(ClassMoments.without_groups(features, labels, objects))
        detail = f"{len(whole.means)} classes, {len(features)} rows"
        for name, measure in measures.items():
            error = jackknife_error([measure(one) for one in others])
            yield _finite(Result(f"collapse/{kind}/{name}", part, measure(whole), error, detail))


def _finite(result: Result) -> Result:
    if result.value is not None and math.isfinite(result.value):
        return result
    return replace(result, value=None, spread=None, detail="not defined: class means do not differ")


@dataclass(frozen=True)
class ClassMoments:
    """What NC1 and NC2 are made from.

    Attributes:
        means: of the classes, in ascending order, `(C, D)`.
        scatter: the sum of squares and products within classes, `(D, D)`.
        rows: number of rows.
    """

    means: Tensor
    scatter: Tensor
    rows: int

    @classmethod
    def of(cls, features: Tensor, labels: Tensor) -> "ClassMoments":
        """Of rows `(N, D)` with classes `(N,)`."""
        means, position = _class_means(features, labels)
        apart = features.double() - means[position]
        return cls(means, apart.T @ apart, len(features))

    @classmethod
    def without_groups(
        cls, features: Tensor, labels: Tensor, objects: Tensor, groups: int = 10
    ) -> Iterator["ClassMoments"]:
        """The moments without one group of the objects `(N,)` after the other, from sums over groups."""
        group = object_groups(objects, min(groups, len(torch.unique(objects))))
        means, position = _class_means(features, labels)
        apart = features.double() - means[position]
        sums = apart.new_zeros(len(means), apart.shape[1] + 1)
        counted = torch.cat((apart, apart.new_ones(len(apart), 1)), dim=1)
        whole, scatter = sums.index_add(0, position, counted), apart.T @ apart
        for left_out in range(int(group.max()) + 1):
            gone = (group == left_out).nonzero()[:, 0]
            kept = whole - sums.index_add(0, position[gone], counted[gone])
            there = kept[:, -1] > 0
            counts = kept[there, -1:]
            moved = kept[there, :-1] / counts
            # The class means have moved, and the scatter about the new ones is smaller.
            rest = scatter - apart[gone].T @ apart[gone] - (moved * counts).T @ moved
            yield cls(means[there] + moved, rest, len(features) - len(gone))


def _class_means(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the classes in ascending order, `(C, D)`, and the position of the class of each row, `(N,)`."""
    x = features.double()
    sums = object_sums(torch.cat((x, x.new_ones(len(x), 1)), dim=1), labels)
    return sums[:, :-1] / sums[:, -1:], torch.unique(labels, return_inverse=True)[1]


def within_over_between(moments: ClassMoments) -> float:
    """NC1: tr(S_w S_b^+) / C, a mean over rows in S_w and over classes in S_b.

    The paper divides by C; the authors' notebook doesn't. The pseudoinverse has the rank C - 1 at most. NaN if the
    class means do not differ.
    """
    centred = (moments.means - moments.means.mean(dim=0)) / math.sqrt(len(moments.means))
    # The smaller of both products has the same eigenvalues.
    few = len(centred) < centred.shape[1]
    values, vectors = torch.linalg.eigh(centred @ centred.T if few else centred.T @ centred)
    rank = min(int((values > 1e-12 * values[-1]).sum()), len(centred) - 1)
    if rank < 1 or float(values[-1]) <= 0:
        return math.nan
    values, vectors = values[-rank:], vectors[:, -rank:]
    directions = centred.T @ vectors / values.sqrt() if few else vectors
    within = (directions * (moments.scatter @ directions)).sum(dim=0) / moments.rows
    return float((within / values).sum() / len(centred))


def unequal_norms(moments: ClassMoments) -> float:
    """NC2, equal norms: standard deviation / mean of the distances of class means from their mean; NaN without any."""
    norms = (moments.means - moments.means.mean(dim=0)).norm(dim=1)
    return float(norms.std() / norms.mean())


def unequal_angles(moments: ClassMoments, chunk: int = 512) -> float:
    """NC2, equal angles: the mean of |cos + 1 / (C - 1)| over pairs of centred class means."""
    unit = normalize(moments.means - moments.means.mean(dim=0), dim=1)
    classes, total = len(unit), 0.0
    for rows in torch.split(torch.arange(classes), chunk):
        differences = (unit[rows] @ unit.T + 1 / (classes - 1)).abs()
        differences[torch.arange(len(rows)), rows] = 0
        total += float(differences.sum())
    return total / (classes * (classes - 1))


def self_duality(features: Tensor, labels: Tensor, weights: Tensor) -> float:
    """NC3: |W / |W| - M / |M||, Frobenius norms, of the weights of a classifier `(C, D)` and the centred class means.

    The authors' notebook squares it.
    """
    means = _class_means(features, labels)[0]
    centred, weights = means - means.mean(dim=0), weights.double()
    return float((weights / weights.norm() - centred / centred.norm()).norm())


def nearest_mean_disagreement(features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
    """NC4 of each row, `(N,)`: 1 where the highest of the logits `(N, C)` is not that of the nearest class mean.

    Logits have the classes that occur, in ascending order.
    """
    means = _class_means(features, labels)[0]
    # |x|^2 is the same for all means; without the common mean less is lost to rounding.
    shift = means.mean(dim=0)
    centred = means - shift
    nearest = torch.cat(
        [
            ((rows.double() - shift) @ centred.T - centred.square().sum(dim=1) / 2).argmax(dim=1)
            for rows in torch.split(features, 8192)
        ]
    )
    return (nearest != logits.argmax(dim=1)).double()
