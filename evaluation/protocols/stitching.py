"""Whether a classifier of one encoder's features works on another's, by features relative to common anchors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.protocols.adapters import Adapter, affine_adapter_of_scale, orthogonal_adapter, widened
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.cka import same_views
from ssl_inv.evaluation.protocols.classification import class_count, in_top
from ssl_inv.evaluation.protocols.logistic import LinearHead, LogisticRegression
from ssl_inv.evaluation.protocols.sampling import at_most, one_view_rows
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms.keyed_random import permutation

_ANCHORS = 4
"""Separates these draws from others with the same seed."""


@dataclass(frozen=True)
class Stitching(Protocol):
    """Accuracy of a classifier that is trained on this encoder's features and applied, unchanged, to the second's.

    Relative features are the cosines with anchors, the same training views in both encoders, after subtraction of the
    training mean (Moschella et al., ICLR 2023). They are equal for encoders that differ by a rotation and a scale.

    - `own`: trained and applied on this encoder, relative features; `cross`: applied to the second's;
    - `absolute`: trained on features of length 1 and applied to the second's, filled up with zeros: the level of no
      common ground; `orthogonal` and `affine`: applied after a map that is fitted to the anchors.

    A part of this encoder meets the part of the same name, or the first one. The classifier is a logistic regression
    with a fixed C. Errors are over validation objects and draws of anchors.

    What it orders wrongly: equal accuracy does not mean equal features; the second encoder may know more than the
    classifier asks for. More anchors raise all numbers.

    Attributes:
        anchors: anchors, one random view of an object each; cut to the training objects.
        draws: draws of anchors.
        strength: C, see `LogisticRegression`.
        samples: training rows that are used at most.
        seed: draws anchors and rows.
    """

    anchors: int = 300
    draws: int = 10
    strength: float = 1.0
    samples: int = 10_000
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("second",)
    headlines: ClassVar[tuple[str, ...]] = ("stitching/own", "stitching/cross")

    @classmethod
    def quick(cls) -> "Stitching":
        return cls(draws=3, samples=2000)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        assert encoded.second is not None
        tables = [[one.train.ordered(), one.validation.ordered()] for one in (encoded, encoded.second)]
        for own, other in zip(*tables, strict=True):
            same_views(own, other)
        (train, validation), (second_train, second_validation) = tables
        known = train.known_labels()
        if not len(validation.labelled_rows()) or len(torch.unique(known)) < 2:
            yield Result("stitching/own", encoded.parts[0], None, detail="needs labels of two classes")
            return
        rows, asked = at_most(train.labelled_rows(), self.samples, self.seed), validation.labelled_rows()
        train, second_train, classes = train.select(rows), second_train.select(rows), class_count(train, validation)
        judge = _Judge(self, train.known_labels(), validation.known_labels(), classes)
        anchors = one_view_rows(train, self.seed)
        for part, other_part in common_parts(encoded):
            first = _Space(train.part(part), validation.part(part)[asked])
            second = _Space(second_train.part(other_part), second_validation.part(other_part)[asked])
            hits = self._hits(first, second, anchors, judge)
            yield from self._results(hits, part, validation.objects[asked], len(anchors), other_part)

    def _hits(self, first: "_Space", second: "_Space", anchors: Tensor, judge: "_Judge") -> dict[str, list[Tensor]]:
        absolute = judge.trained(normalize(first.train, dim=1))
        width = first.train.shape[1]
        hits: dict[str, list[Tensor]] = {name: [] for name in ("own", "cross", "absolute", *_ADAPTERS)}
        hits["absolute"].append(judge(absolute, _fitted(second.validation, width)))
        for draw in range(self.draws):
            order = permutation(self.seed, _ANCHORS, draw, length=len(anchors))[: self.anchors]
            chosen = anchors[torch.from_numpy(order)]
            head = judge.trained(first.relative(first.train, chosen))
            hits["own"].append(judge(head, first.relative(first.validation, chosen)))
            hits["cross"].append(judge(head, second.relative(second.validation, chosen)))
            for name, fit in _ADAPTERS.items():
                adapted = fit(second.train[chosen], first.train[chosen])(second.validation)
                hits[name].append(judge(absolute, _fitted(adapted, width)))
        return hits

    def _results(
        self, hits: dict[str, list[Tensor]], part: str, objects: Tensor, anchors: int, other: str
    ) -> Iterator[Result]:
        detail = f"{min(self.anchors, anchors)} anchors, second part {other!r}"
        for name, of_draws in hits.items():
            values = torch.stack(of_draws)
            over_objects = self.bootstrap.mean_error(values.mean(dim=0), objects) or 0.0
            drawing = float(values.mean(dim=1).var()) / len(values) if len(values) > 1 else 0.0
            error = (over_objects**2 + drawing) ** 0.5
            draws = f", {len(values)} draws, {drawing**0.5:.3f} over draws" if len(values) > 1 else ""
            yield Result(f"stitching/{name}", part, float(values.mean()), error, detail + draws)


def common_parts(encoded: Encoded) -> list[tuple[str, str]]:
    """Each part of an encoder with the part of the second that has the same name, or else its first."""
    assert encoded.second is not None
    others = encoded.second.parts
    return [(part, part if part in others else others[0]) for part in encoded.parts]


def relative_features(features: Tensor, anchors: Tensor) -> Tensor:
    """Cosines of rows `(N, D)` with anchors `(A, D)`, `(N, A)` (Moschella et al., eq. 2). Nothing is centred here."""
    return normalize(features, dim=1) @ normalize(anchors, dim=1).T


_ADAPTERS: dict[str, Callable[[Tensor, Tensor], Adapter]] = {
    "orthogonal": orthogonal_adapter,
    "affine": affine_adapter_of_scale,
}


class _Space:
    """Training and validation features of one encoder, minus the training mean."""

    def __init__(self, train: Tensor, validation: Tensor) -> None:
        mean = train.double().mean(dim=0)
        self.train, self.validation = train.double() - mean, validation.double() - mean

    def relative(self, rows: Tensor, anchors: Tensor) -> Tensor:
        return relative_features(rows, self.train[anchors])


class _Judge:
    """Trains classifiers on the labels of the chosen training rows and scores them on validation rows."""

    def __init__(self, protocol: Stitching, labels: Tensor, wanted: Tensor, classes: int) -> None:
        self.regression = LogisticRegression(device=protocol.device)
        self.strength, self.labels, self.wanted, self.classes = protocol.strength, labels, wanted, classes

    def trained(self, features: Tensor) -> LinearHead:
        return self.regression.fit(features, self.labels, self.strength)

    def __call__(self, head: LinearHead, rows: Tensor) -> Tensor:
        return in_top(head.scores(rows, self.classes), self.wanted, 1).double()


def _fitted(rows: Tensor, width: int) -> Tensor:
    """Rows of length 1 with so many columns: cut, or filled up with zeros."""
    return normalize(widened(rows, max(width, rows.shape[1]))[:, :width], dim=1)
