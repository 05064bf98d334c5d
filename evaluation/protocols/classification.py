"""What all classifiers of frozen features share: single and several views, unseen classes, top-1 and top-5."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssl_inv.evaluation.aggregation import mean_of
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol, shuffle_targets
from ssl_inv.evaluation.results import Result


@dataclass(frozen=True, kw_only=True)
class Classifier(Protocol):
    """A classifier that is fitted to labelled training rows.

    Attributes:
        aggregate: numbers of views of an object that are classified as one; see `ssl_inv.evaluation.aggregation`.
    """

    aggregate: tuple[int, ...] = ()

    name: ClassVar[str]
    recipe: ClassVar[Mapping[str, str]] = {"aggregate": "aggregate"}

    def run(self, encoded: Encoded) -> Iterator[Result]:
        return self._of_all(encoded, None)

    def shuffled(self, encoded: Encoded, seed: int) -> Iterator[Result]:
        return self._of_all(encoded, seed)

    def _of_all(self, encoded: Encoded, seed: int | None) -> Iterator[Result]:
        """Single views, then several; `seed` shuffles the training labels once the views are aggregated."""
        for views in (0, *self.aggregate):
            train, validation = encoded.several(views) if views else (encoded.train, encoded.validation)
            if train is None or validation is None:
                yield Result(f"{self.name}/top1", mean_of(views), None, detail=f"no object has {views} views")
                continue
            if seed is not None:
                train = shuffle_targets(train, seed)
            missing = _no_classes(train, validation)
            for part in train.features if views else encoded.parts:
                if missing:
                    yield Result(f"{self.name}/top1", part, None, detail=missing)
                else:
                    yield from self.measure(train, validation, part)

    @abstractmethod
    def measure(self, train: FeatureTable, validation: FeatureTable, part: str) -> list[Result]:
        """Accuracy on the labelled validation rows of a classifier fitted to the labelled training rows.

        Raises:
            ValueError: if either table has no labelled row.
        """


def _no_classes(train: FeatureTable, validation: FeatureTable) -> str:
    """Why nothing can be classified; empty if it can."""
    known = train.known_labels()
    if not len(known) or not len(validation.labelled_rows()):
        return "the data have no labels"
    return "labels have one class only" if int(known.min()) == int(known.max()) else ""


def class_count(train: FeatureTable, validation: FeatureTable) -> int:
    """The number of class names; without names, the highest label in either table plus one."""
    if train.class_names:
        return len(train.class_names)
    return int(torch.cat((train.known_labels(), validation.known_labels())).max()) + 1


def without_training_rows(train: FeatureTable, validation: FeatureTable) -> str:
    """A remark on the validation classes that no training row has; empty if there are none."""
    missing = sorted(set(validation.known_labels().tolist()) - set(train.known_labels().tolist()))
    return f"classes without training rows: {', '.join(map(str, missing))}" if missing else ""


def in_top(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the label is among the k highest scores of its row, `(M,)`, float.

    Of equal scores the lower class comes first. A label with the score -inf is never among them.
    """
    own = scores.gather(1, labels[:, None])
    # Counted, not sorted: a thousand classes of a million rows are too many to sort.
    lower = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    before = ((scores > own) | ((scores == own) & lower)).sum(dim=1)
    return ((before < k) & (own[:, 0] > -torch.inf)).float()


def accuracies(
    protocol: Classifier, part: str, scores: Tensor, validation: FeatureTable, remarks: list[str], top5: bool = True
) -> list[Result]:
    """Top-1, and with more than five classes top-5, as fractions of labelled rows, with a standard error over objects.

    Args:
        protocol: gives the name and the bootstrap.
        part: the part of the features that was classified.
        scores: `(M, C)`, of the labelled rows.
        validation: the table that they come from.
        remarks: what a reader has to know beside the numbers; empty ones are left out.
        top5: whether top-5 has a meaning.
    """
    labels, objects = validation.known_labels(), validation.objects[validation.labelled_rows()]
    results = []
    for k in (1, 5) if top5 and scores.shape[1] > 5 else (1,):
        hits = in_top(scores, labels, k)
        error = protocol.bootstrap.mean_error(hits, objects)
        detail = "; ".join(filter(None, remarks))
        results.append(Result(f"{protocol.name}/top{k}", part, float(hits.mean()), error, detail))
    return results
