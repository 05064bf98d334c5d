"""Classification from the labels of a small share of the training objects."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.classification import Classifier
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.evaluation.protocols.linear import LinearProbe
from ssl_inv.evaluation.protocols.logistic import LogisticRegression
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms.keyed_random import permutation

_LABELS = 3
"""Separates these draws from others with the same seed."""


@dataclass(frozen=True)
class FewLabels(Protocol):
    """Top-1 of frozen features with the labels of 1 % and 10 % of the training objects.

    Objects are drawn by class, the share of each class rounded up, and all their views are used: a share of the rows
    would give labels of nearly all objects. Everything is drawn anew several times (the fractions are those of Chen et
    al., SimCLR, ICML 2020, who fine-tune on two fixed lists and not by class). The error has both parts: over
    validation objects and over draws.

    What it orders wrongly: rounding up gives small classes more than their share. With few objects the choice of the
    learning rate and of C is noise, so small differences between encoders are too.

    Attributes:
        fractions: shares of the objects of each class.
        draws: drawings of objects.
        linear: the linear probe; None leaves it out.
        knn: the nearest neighbours; None leaves them out.
        logistic: the logistic regression; None leaves it out.
        seed: draws the objects.
    """

    fractions: tuple[float, ...] = (0.01, 0.1)
    draws: int = 3
    linear: LinearProbe | None = field(default_factory=LinearProbe)
    knn: NearestNeighbours | None = field(default_factory=NearestNeighbours)
    logistic: LogisticRegression | None = field(default_factory=LogisticRegression)
    seed: int = 0

    headlines: ClassVar[tuple[str, ...]] = ("few_labels/1%/linear", "few_labels/10%/linear")

    @classmethod
    def quick(cls) -> "FewLabels":
        return cls(draws=2, linear=LinearProbe(steps=300, batch=256), logistic=LogisticRegression.quick())

    def run(self, encoded: Encoded) -> Iterator[Result]:
        train, validation = encoded.train.ordered(), encoded.validation.ordered()
        for fraction in self.fractions:
            for name, head in self._heads().items():
                for part in encoded.parts:
                    yield self._measure(
                        f"few_labels/{100 * fraction:g}%/{name}", head, train, validation, part, fraction
                    )

    def _heads(self) -> dict[str, Classifier]:
        heads: dict[str, Classifier | None] = {"linear": self.linear, "knn": self.knn, "logistic": self.logistic}
        return {
            name: replace(head, bootstrap=self.bootstrap, device=self.device)
            for name, head in heads.items()
            if head is not None
        }

    def _measure(
        self, name: str, head: Classifier, train: FeatureTable, validation: FeatureTable, part: str, fraction: float
    ) -> Result:
        known = train.known_labels()
        if not len(validation.labelled_rows()) or len(torch.unique(known)) < 2:
            return Result(name, part, None, detail="needs labels of two classes")
        found, objects = [], 0
        for draw in range(self.draws):
            drawn = drawn_objects(train, fraction, self.seed, draw)
            objects = len(drawn)
            some = train.select(train.labelled_rows())
            some = some.select(torch.isin(some.objects, drawn).nonzero()[:, 0])
            found.append(head.measure(some, validation, part)[0])
        values = torch.tensor([one.value for one in found], dtype=torch.float64)
        errors = torch.tensor([one.spread or 0.0 for one in found], dtype=torch.float64)
        drawing = float(values.var()) / self.draws if self.draws > 1 else 0.0
        error = math.sqrt(float(errors.square().mean()) + drawing)
        detail = f"{objects} objects, {self.draws} draws, {math.sqrt(drawing):.3f} over draws"
        return Result(name, part, float(values.mean()), error, detail)


def label_budget(counts: Tensor, fraction: float) -> Tensor:
    """How many objects of each class get a label, `(C,)`: the share, rounded up, of `counts` `(C,)`; one at least."""
    # The share of a hundred must not become one more by rounding of the product.
    return torch.ceil(counts * fraction - 1e-9).long().clamp_min(1)


def drawn_objects(table: FeatureTable, fraction: float, seed: int, draw: int = 0) -> Tensor:
    """Numbers of the objects whose labels are given: a random share of each class, ascending.

    The class of an object is that of its first labelled view.
    """
    table = table.ordered()
    rows, labels = table.labelled_rows(), table.known_labels()
    ids, inverse = torch.unique(table.objects[rows], return_inverse=True)
    first = torch.full((len(ids),), len(rows)).scatter_reduce_(0, inverse, torch.arange(len(rows)), reduce="amin")
    classes, of_object = labels[first], []
    for label in torch.unique(classes).tolist():
        members = ids[classes == label]
        budget = int(label_budget(torch.tensor([len(members)]), fraction))
        of_object.append(
            members[torch.from_numpy(permutation(seed, _LABELS, draw, label, length=len(members))[:budget])]
        )
    return torch.cat(of_object).sort().values
