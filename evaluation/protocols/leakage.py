"""What each half of a split representation knows of the other's business, at equal capacity.

A split representation has an invariant part, which should tell what is seen, and an equivariant part, which should tell
how. A probe on a wider part has more parameters and more features to choose from, so both parts are reduced to the same
number of principal components before they are compared.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import one_hot

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.linear_maps import Span, chosen_ridge
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2, regress
from ssl_inv.evaluation.results import Result, object_sums
from ssl_inv.transforms import Real, Transform, require
from ssl_inv.transforms.keyed_random import permutation

INVARIANT, EQUIVARIANT = "invariant", "equivariant"

_LEAST = 0.02
"""A score of the own part, above chance, below which a leak is undefined."""


class Scores(NamedTuple):
    """What a probe reads from one part, per row: squared errors of the pose `(N, n)`, and hits of the class `(M,)`."""

    pose_errors: Tensor
    hits: Tensor


@dataclass(frozen=True)
class Leakage(Protocol):
    """How far the two parts of a split representation are separate.

    What it measures: the pose that leaks into the invariant part, the class that leaks into the equivariant part, and
    one number for both.

    Definition: every part is centred and projected on its first k principal components of the training features, k
    being the width of the narrower part, and scaled by one number. The same probe reads each: for the pose (all
    recorded parameters that the encoder was told, absolute, canonical vectors) R2, the mean over dimensions; for the
    class top-1 accuracy; both on objects that the probe has not seen.

        pose leak  = R2(invariant) / R2(equivariant)
        class leak = (accuracy(equivariant) - chance) / (accuracy(invariant) - chance)
        separation = 1 - (pose leak + class leak) / 2

    Chance is 1 / classes. Negative leaks count as 0. The linear probes are ridge regression, with its penalty chosen on
    held-out training objects, and logistic regression with C = 1. The MLP is that of
    `ssl_inv.evaluation.protocols.transforms_r2`, on the pose and on one-hot classes. A leak is undefined where the own
    part has R2 or accuracy within 0.02 of chance.

    Source: there is no published standard. SIE (Garrido, Najman and LeCun, ICML 2023) probes both parts, at their own
    widths. Measures for single latent factors, such as DCI, do not fit two blocks.

    End points: separation is 1 without any leak, and about 0 for the two halves of a random split of the same features,
    which are measured as `random halves`; the untrained network stands beside.

    What it orders wrongly: an equivariant part always contains some class, because the shape of an object decides what
    its views look like, so that a leak of 0 cannot be reached. A linear probe bounds linear leakage only. A weak
    encoder whose own parts know little has a small difference between both parts and thus large leaks: read the scores
    first. More than k directions may hold what leaks.

    Attributes:
        heads: how the MLP is trained, and the parameters of the pose; None there means the parameters in
            `Encoded.told`, and all where there are none. Its `kinds`, `joint` and `convention` have no meaning.
        seed: draws the random halves and the held-out objects.
    """

    heads: TransformR2 = field(default_factory=TransformR2)
    seed: int = 0

    headlines: ClassVar[tuple[str, ...]] = ("leakage/linear/separation", "leakage/mlp/separation")

    @classmethod
    def quick(cls) -> "Leakage":
        """A narrow MLP and fewer steps."""
        return cls(heads=TransformR2.quick())

    def run(self, encoded: Encoded) -> Iterator[Result]:
        train, validation = encoded.train.ordered(), encoded.validation.ordered()
        recorded = train.transform
        names = [require(name, recorded.values) for name in self.heads.parameters or encoded.told or recorded.names]
        names = [name for name in names if recorded.only([name]).as_vector().shape[1]]
        lacking = (
            "the data record no transform"
            if not names
            else "train or validation has no labels of two classes"
            if not all(len(torch.unique(table.known_labels())) > 1 for table in (train, validation))
            else ""
        )
        if lacking:
            yield Result("leakage", "all", None, detail=lacking)
            return
        if {INVARIANT, EQUIVARIANT} <= set(encoded.parts):
            yield from self._measured(train, validation, names, "split", (INVARIANT, EQUIVARIANT))
        else:
            yield Result("leakage", "split", None, detail="the features have no invariant and equivariant part")
        whole = "all" if "all" in encoded.parts else encoded.parts[0]
        if train.part(whole).shape[1] < 2:
            yield Result("leakage", "random halves", None, detail=f"the part {whole!r} has one dimension only")
            return
        halves = [_halved(table, whole, self.seed) for table in (train, validation)]
        yield from self._measured(halves[0], halves[1], names, "random halves", (INVARIANT, EQUIVARIANT))

    def _measured(
        self, train: FeatureTable, validation: FeatureTable, names: list[str], split: str, parts: tuple[str, str]
    ) -> Iterator[Result]:
        width = min(train.part(part).shape[1] for part in parts)
        spans = {part: Span.fit(train.part(part), width) for part in parts}
        width = min(span.width for span in spans.values())
        if not width:
            yield Result("leakage", split, None, detail="a part is the same for all training views")
            return
        fitted, scored_on = (
            replace(table, features={part: span(table.part(part))[:, :width].float() for part, span in spans.items()})
            for table in (train, validation)
        )
        for shape in ("linear", "mlp"):
            probe = self._linear if shape == "linear" else self._mlp
            scored = {part: probe(fitted, scored_on, part, names) for part in parts}
            yield from self._results(scored_on, names, f"leakage/{shape}", split, width, scored)

    def _linear(self, train: FeatureTable, validation: FeatureTable, part: str, names: list[str]) -> Scores:
        x, queries = train.part(part), validation.part(part)
        weights, constant = chosen_ridge(x, train.transform.as_vector(names), train.objects, self.seed)
        pose = queries.double() @ weights.T + constant
        rows, judged = train.labelled_rows(), validation.labelled_rows()
        classifier = LogisticRegression(C=1.0, max_iter=1000)
        with warnings.catch_warnings():
            # What a thousand steps leave to gain does not change an accuracy.
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(x[rows].numpy(), train.known_labels().numpy())
        classes = torch.from_numpy(classifier.predict(queries[judged].numpy()))
        return _scores(validation, names, pose, classes)

    def _mlp(self, train: FeatureTable, validation: FeatureTable, part: str, names: list[str]) -> Scores:
        head = replace(self.heads, device=self.device, kinds=("absolute",))
        pose = _regressed(train, validation, part, train.transform.as_vector(names), head)
        count = int(max(table.known_labels().max() for table in (train, validation))) + 1
        rows, judged = train.labelled_rows(), validation.labelled_rows()
        targets = one_hot(train.known_labels(), count).float()
        scores = _regressed(train.select(rows), validation.select(judged), part, targets, head)
        return _scores(validation, names, pose, scores.argmax(dim=1))

    def _results(
        self,
        validation: FeatureTable,
        names: list[str],
        start: str,
        split: str,
        width: int,
        scored: dict[str, Scores],
    ) -> Iterator[Result]:
        targets, rows = validation.transform.as_vector(names).double(), validation.labelled_rows()
        classes = len(torch.unique(validation.known_labels()))
        terms = _Terms.of(targets, validation.objects, rows, scored)
        whole = terms.sums.sum(dim=0, keepdim=True)
        detail = f"{width} principal components of each part"
        for number, part in enumerate(scored):
            for name, statistic, chance in (
                ("pose_r2", partial(terms.pose, part=number), "a constant scores 0"),
                ("class_top1", partial(terms.accuracy, part=number), f"chance is {1 / classes:.3f}"),
            ):
                value = float(statistic(whole)[0])
                spread = self.bootstrap.standard_error(terms.sums, statistic)
                label = part if split == "split" else f"random half {number + 1}"
                if value != value:
                    yield Result(
                        f"{start}/{name}", label, None, detail="the target is the same in all validation views"
                    )
                else:
                    yield Result(f"{start}/{name}", label, value, spread, f"{detail}; {chance}")
        for place, name in enumerate(("pose_leak", "class_leak", "separation")):

            def leak(totals: Tensor, place: int = place) -> Tensor:
                poses, hits = ([score(totals, at) for at in range(2)] for score in (terms.pose, terms.accuracy))
                return leaks(poses[0], poses[1], hits[0], hits[1], 1 / classes)[place]

            value = float(leak(whole)[0])
            if value != value:
                reason = "undefined: the part that should know the target scores like chance"
                yield Result(f"{start}/{name}", split, None, detail=reason)
            else:
                yield Result(f"{start}/{name}", split, value, self.bootstrap.standard_error(terms.sums, leak), detail)


def leaks(
    pose_invariant: Tensor, pose_equivariant: Tensor, class_invariant: Tensor, class_equivariant: Tensor, chance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Pose leak, class leak and separation, each of the shape of the scores; NaN where the own part scores like chance.

    Args:
        pose_invariant: R2 of the pose from the invariant part.
        pose_equivariant: from the equivariant part.
        class_invariant: accuracy of the class from the invariant part.
        class_equivariant: from the equivariant part.
        chance: accuracy without knowledge.
    """
    pose = (pose_invariant / pose_equivariant).clamp_min(0)
    pose = torch.where(pose_equivariant > _LEAST, pose, torch.nan)
    own = class_invariant - chance
    kind = torch.where(own > _LEAST, ((class_equivariant - chance) / own).clamp_min(0), torch.nan)
    return pose, kind, 1 - (pose + kind) / 2


@dataclass(frozen=True)
class _Terms:
    """Sums over objects that all scores follow from: 1, t and t^2 of the pose; then the labelled rows; then for each
    part the squared errors of the pose and the hits.
    """

    sums: Tensor
    dimensions: int
    varying: Tensor

    @classmethod
    def of(cls, targets: Tensor, objects: Tensor, labelled: Tensor, scored: dict[str, Scores]) -> "_Terms":
        t = targets - targets.mean(dim=0)
        rows = torch.zeros(len(t), 1, dtype=torch.float64)
        rows[labelled] = 1
        columns = [torch.ones_like(rows), t, t.square(), rows]
        for one in scored.values():
            hits = torch.zeros_like(rows)
            hits[labelled, 0] = one.hits
            columns += [one.pose_errors, hits]
        return cls(object_sums(torch.cat(columns, dim=1), objects), t.shape[1], t.std(dim=0, correction=0) > 1e-6)

    def pose(self, totals: Tensor, part: int) -> Tensor:
        n = self.dimensions
        rows, first, second = totals[:, :1], totals[:, 1 : 1 + n], totals[:, 1 + n : 1 + 2 * n]
        start = 2 + 2 * n + part * (n + 1)
        error = totals[:, start : start + n]
        return (1 - error / (second - first.square() / rows))[:, self.varying].mean(dim=1)

    def accuracy(self, totals: Tensor, part: int) -> Tensor:
        n = self.dimensions
        return totals[:, 2 + 2 * n + part * (n + 1) + n] / totals[:, 1 + 2 * n]


def _scores(validation: FeatureTable, names: list[str], pose: Tensor, classes: Tensor) -> Scores:
    errors = (validation.transform.as_vector(names).double() - pose.double()).square()
    return Scores(errors, (classes == validation.known_labels()).double())


def _regressed(train: FeatureTable, validation: FeatureTable, part: str, targets: Tensor, head: TransformR2) -> Tensor:
    """Predictions of the MLP for all validation rows, in their order."""
    group = {"target": Real(dimensions=targets.shape[1])}
    # Every view is a row of its own, so that all of them are drawn, once each.
    single = [
        replace(table, objects=torch.arange(len(table)), views=torch.zeros(len(table), dtype=torch.int64))
        for table in (train, validation)
    ]
    unknown = torch.zeros(len(validation), targets.shape[1])
    fitted = replace(single[0], transform=Transform({"target": targets}, group))
    asked = replace(single[1], transform=Transform({"target": unknown}, group))
    once = replace(head, pairs_per_object=1)
    return regress(fitted, asked, part, "absolute", [("target", "canonical")], once)["target", "canonical"].predictions


def _halved(table: FeatureTable, part: str, seed: int) -> FeatureTable:
    """The dimensions of one part in two random halves."""
    features = table.part(part)
    order = torch.from_numpy(permutation(seed, 2, length=features.shape[1]))
    half = len(order) // 2
    return replace(table, features={INVARIANT: features[:, order[:half]], EQUIVARIANT: features[:, order[half:]]})
