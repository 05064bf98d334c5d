"""Whether an object is recognised from all sides: the worst of its views beside the mean."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.classification import class_count
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.evaluation.protocols.logistic import LogisticRegression
from ssl_inv.evaluation.protocols.sampling import equal_views
from ssl_inv.evaluation.results import Result


@dataclass(frozen=True)
class WorstView(Protocol):
    """Accuracy over the views of an object, of nearest neighbours and of a logistic regression.

    With n views of each object, the same for all:

    - `mean`: of all views; `worst_case`: the share of objects that are right in all n views;
    - `worst_view`: the accuracy of the view number that has the lowest; it means something where view numbers do;
    - `worst_of_k`: the chance that k random views of an object are all right, mean of C(c, k) / C(n, k) over objects
      with c right views: unbiased, so it compares data with different n;
    - `majority`: of the most frequent prediction, of equals the smallest; `pairwise`: the share of pairs of views with
      the same prediction, right or wrong; `agreement`: how far that is above the share among views of different
      objects, in units of what there is to gain, Fleiss' kappa (1971);
    - on a ring of views, `adjacent`: the share of neighbouring views with the same prediction.

    What it orders wrongly: the worst case falls with n, so compare equal n or `worst_of_k`. Independent errors would
    give mean^n, the level in the remark; real views are far above. A constant classifier is perfectly consistent, and
    so may be one that was fitted to shuffled labels: its `pairwise` is 1. Read `agreement`, which then has no value.

    Attributes:
        sizes: k of `worst_of_k`; those above n are left out.
        ring: whether view 0 follows the last, equally far apart.
        knn: the nearest neighbours.
        logistic: the logistic regression.
    """

    sizes: tuple[int, ...] = (2, 3, 5)
    ring: bool = False
    knn: NearestNeighbours = field(default_factory=NearestNeighbours)
    logistic: LogisticRegression = field(default_factory=LogisticRegression)

    revision: ClassVar[int] = 1
    headlines: ClassVar[tuple[str, ...]] = ("worst_view/knn/mean", "worst_view/knn/worst_case")

    @classmethod
    def quick(cls) -> "WorstView":
        return cls(logistic=LogisticRegression.quick())

    def run(self, encoded: Encoded) -> Iterator[Result]:
        train, validation = encoded.train.ordered(), encoded.validation.ordered()
        validation = validation.select(validation.labelled_rows())
        known = train.known_labels()
        if not len(validation) or len(torch.unique(known)) < 2:
            yield Result("worst_view/knn/mean", encoded.parts[0], None, detail="needs labels of two classes")
            return
        views = equal_views(validation)
        if views.shape[1] < 2:
            yield Result("worst_view/knn/mean", encoded.parts[0], None, detail="needs two views of most objects")
            return
        for part in encoded.parts:
            for name, scores in self._scores(train, validation, part):
                assert validation.labels is not None
                predicted, labels = scores.argmax(dim=1)[views], validation.labels[views[:, 0]]
                yield from self.measures(name, part, predicted, labels)

    def _scores(self, train: FeatureTable, validation: FeatureTable, part: str) -> Iterator[tuple[str, Tensor]]:
        rows, classes = train.labelled_rows(), class_count(train, validation)
        queries = validation.part(part)
        yield "knn", self.knn.votes(train.part(part)[rows], train.known_labels(), queries, classes)
        yield "logistic", replace(self.logistic, device=self.device).scores(train, validation, part)[0]

    def measures(self, head: str, part: str, predicted: Tensor, labels: Tensor) -> Iterator[Result]:
        """Every number of one head, from predictions `(objects, n)` and labels `(objects,)`."""
        correct = (predicted == labels[:, None]).double()
        objects, views = correct.shape
        mean = float(correct.mean())
        of_object = {
            "mean": (correct.mean(dim=1), ""),
            "worst_case": (worst_case(correct), f", {mean**views:.3f} if views were independent"),
            **{f"worst_of_{k}": (worst_of(correct, k), "") for k in self.sizes if k <= views},
            "majority": ((majority(predicted) == labels).double(), ""),
            "pairwise": (pairwise_consistency(predicted), ""),
        }
        if self.ring:
            of_object["adjacent"] = (adjacent_consistency(predicted), "")
        detail = f"{objects} objects, n = {views}"
        for name, (values, remark) in of_object.items():
            error = self.bootstrap.mean_error(values, torch.arange(objects))
            yield Result(f"worst_view/{head}/{name}", part, float(values.mean()), error, detail + remark)
        yield self._agreement(head, part, predicted, detail)
        sums = torch.cat((correct, correct.new_ones(objects, 1)), dim=1)
        error = self.bootstrap.standard_error(sums, lambda totals: totals[:, :-1].amin(dim=1) / totals[:, -1])
        lowest = correct.mean(dim=0)
        worst = f", view {int(lowest.argmin())} of each"
        yield Result(f"worst_view/{head}/worst_view", part, float(lowest.min()), error, detail + worst)

    def _agreement(self, head: str, part: str, predicted: Tensor, detail: str) -> Result:
        counts = _counts(predicted).double()
        sums = torch.cat((pairwise_consistency(predicted)[:, None], counts), dim=1)
        value, name = float(kappa(sums.sum(dim=0, keepdim=True), len(sums))[0]), f"worst_view/{head}/agreement"
        if value != value:
            return Result(name, part, None, detail="all views have the same prediction")
        error = self.bootstrap.standard_error(sums, lambda totals: kappa(totals, len(sums)))
        return Result(name, part, value, error, detail)


def kappa(totals: Tensor, objects: int) -> Tensor:
    """Fleiss' kappa from totals over objects `(N, 1 + C)`: the shares of agreeing pairs, and how often each class was
    predicted. NaN where one class has all predictions.
    """
    shares = totals[:, 1:] / totals[:, 1:].sum(dim=1, keepdim=True)
    chance = shares.square().sum(dim=1)
    return torch.where(chance < 1 - 1e-12, (totals[:, 0] / objects - chance) / (1 - chance), torch.nan)


def worst_case(correct: Tensor) -> Tensor:
    """1 for each object that is right in all views, `(objects,)`, from 0 and 1, `(objects, n)`."""
    return correct.amin(dim=1)


def worst_of(correct: Tensor, k: int) -> Tensor:
    """The chance of each object that k random different views of its n are all right, C(c, k) / C(n, k).

    Raises:
        ValueError: if k is above n.
    """
    views = correct.shape[1]
    if not 1 <= k <= views:
        raise ValueError(f"k views of {views} need k from 1 to {views}, got {k}")
    right = correct.double().sum(dim=1, keepdim=True)
    steps = torch.arange(k)
    return ((right - steps).clamp_min(0) / (views - steps)).prod(dim=1)


def majority(predicted: Tensor) -> Tensor:
    """The most frequent prediction of each object, of equals the smallest, `(objects,)` from `(objects, n)`."""
    return _counts(predicted).argmax(dim=1)


def pairwise_consistency(predicted: Tensor) -> Tensor:
    """The share of pairs of views with the same prediction, for each object."""
    counts, views = _counts(predicted).double(), predicted.shape[1]
    return (counts * (counts - 1)).sum(dim=1) / (views * (views - 1))


def adjacent_consistency(predicted: Tensor) -> Tensor:
    """The share of views with the prediction of the next view on the ring, for each object."""
    return (predicted == predicted.roll(-1, dims=1)).double().mean(dim=1)


def _counts(predicted: Tensor) -> Tensor:
    counts = predicted.new_zeros(len(predicted), int(predicted.max()) + 1)
    return counts.scatter_add_(1, predicted, torch.ones_like(predicted))
