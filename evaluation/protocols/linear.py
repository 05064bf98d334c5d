"""Linear classification of frozen features: softmax regressions for a grid of learning rates, trained together.

The protocol is DINOv2's (Oquab et al., 2023): SGD with momentum 0.9, no weight decay, a cosine to zero, one head for
each learning rate. Two things differ. The learning rate is chosen on held-out training objects, never on the reported
set, and a head with the chosen rate is fitted again on all training objects, in single precision. And the features are
standardised with training statistics, so that one grid suits every encoder.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from ssl_inv.evaluation.features import FeatureTable, Standardiser
from ssl_inv.evaluation.protocols.classification import (
    Classifier,
    accuracies,
    class_count,
    in_top,
    without_training_rows,
)
from ssl_inv.evaluation.protocols.cosine_search import rough_precisions
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms.keyed_random import permutation


@dataclass(frozen=True)
class LinearProbe(Classifier):
    """A softmax regression by SGD.

    Definition: the module says what differs from DINOv2's protocol.

    Source: Oquab et al., 2023.

    What it orders wrongly: wide features are separated more easily than narrow ones, and what is linear in the features
    is all that it sees. The learning rate is chosen on a share of the training objects, which is noisy for few of them.

    Attributes:
        learning_rates: one head for each, ascending.
        steps: steps of SGD.
        batch: rows in a step.
        momentum: of SGD.
        held_out: share of the training objects that the learning rate is chosen on.
        seed: decides which objects are held out, and the order of rows.
    """

    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
    steps: int = 12_500
    batch: int = 1024
    momentum: float = 0.9
    held_out: float = 0.2
    seed: int = 0

    revision: ClassVar[int] = 1
    name: ClassVar[str] = "linear"
    headlines: ClassVar[tuple[str, ...]] = ("linear/top1",)
    opening: ClassVar[str] = "linear/top1"

    @classmethod
    def quick(cls) -> "LinearProbe":
        return cls(steps=1000, batch=256)

    def measure(self, train: FeatureTable, validation: FeatureTable, part: str) -> list[Result]:
        """As `Classifier.measure`.

        Raises:
            ValueError: if either table has no labelled row, or the training rows have only one class or one object.
        """
        train, validation = train.ordered(), validation.ordered()
        rows, scored = train.labelled_rows(), validation.labelled_rows()
        if not len(rows) or not len(scored):
            raise ValueError(
                f"a linear probe needs labels: {len(rows)} training and {len(scored)} validation rows have one"
            )
        labels, classes = train.known_labels(), class_count(train, validation)
        if int(labels.min()) == int(labels.max()):
            raise ValueError(
                f"labels have one class only: all {len(labels)} labelled training rows are of class {int(labels[0])}"
            )
        standardise = Standardiser.fit(train.part(part)[rows])
        features = standardise(train.part(part)[rows])
        rate = self.choose_learning_rate(features, labels, train.objects[rows], classes)
        weights = self.fit(features, labels, classes, (rate,))[0]
        scores = _with_constant(standardise(validation.part(part)[scored])) @ weights
        edge = ", an end of the grid" if rate in (self.learning_rates[0], self.learning_rates[-1]) else ""
        remarks = [f"learning rate {rate:g}{edge}", without_training_rows(train, validation)]
        return accuracies(self, part, scores, validation, remarks)

    def fit(
        self, features: Tensor, labels: Tensor, classes: int, learning_rates: Sequence[float], rough: bool = False
    ) -> Tensor:
        """Weights of one softmax regression for each learning rate.

        The gradient is written out, because all heads share one product with the features: with P the softmax and Y the
        labels of a batch of B rows X, it is X^T (P - Y) / B. The heads start at zero; the problem is convex.

        Args:
            features: `(N, D)`, standardised.
            labels: `(N,)`.
            classes: number of classes C.
            learning_rates: L of them.
            rough: whether products are of bfloat16 where the processor computes them itself; weights are not. It is
                good enough to choose a rate, and takes a third of the time.

        Returns:
            `(L, D + 1, C)`; the last row is the bias.
        """
        precision = rough_precisions(self.device)[0] if rough else features.dtype
        x, y = _with_constant(features.to(self.device, precision)), labels.to(self.device)
        heads = len(learning_rates)
        rates = torch.tensor(learning_rates, dtype=features.dtype, device=x.device)[:, None]
        weights = rates.new_zeros(classes, heads, x.shape[1])
        velocity = torch.zeros_like(weights)
        for step, rows in enumerate(self._batches(len(x))):
            rows = rows.to(x.device)
            # Copies whole rows, in half the time of `x[rows]`.
            batch = x.index_select(0, rows)
            # Classes stand first: a softmax over the first dimension runs over all rows and heads at once.
            logits = (weights.flatten(0, 1).to(precision) @ batch.T).float()
            error = logits.view(classes, -1).softmax(dim=0).view(classes, heads, -1)
            error -= one_hot(y[rows], classes).T[:, None]
            gradient = error.flatten(0, 1).div_(len(batch)).to(precision) @ batch
            velocity.mul_(self.momentum).add_(gradient.view_as(velocity))
            weights.sub_(velocity * (rates * (0.5 * (1 + math.cos(math.pi * step / self.steps)))))
        return weights.permute(1, 2, 0).contiguous().cpu()

    def _batches(self, rows: int) -> Iterator[Tensor]:
        """Row indices of every step: one random order of all rows after another."""
        epoch, waiting = 0, torch.zeros(0, dtype=torch.int64)
        size = min(self.batch, rows)
        for _ in range(self.steps):
            if len(waiting) < size:
                waiting = torch.cat((waiting, torch.from_numpy(permutation(self.seed, epoch, length=rows))))
                epoch += 1
            yield waiting[:size]
            waiting = waiting[size:]

    def choose_learning_rate(self, features: Tensor, labels: Tensor, objects: Tensor, classes: int) -> float:
        """The learning rate with the highest accuracy on held-out objects; of equals, the lowest cross-entropy there.

        Args:
            features: `(N, D)`, training rows, standardised.
            labels: `(N,)`.
            objects: `(N,)`; the views of one object are all held out or all kept.
            classes: number of classes.

        Raises:
            ValueError: if there is one object only.
        """
        apart = self.held_out_rows(objects)
        heads = self.fit(features[~apart], labels[~apart], classes, self.learning_rates, rough=True)
        rows, known = _with_constant(features[apart]), labels[apart]
        # One head after the other: the scores of all are as many as the classes times the rates.
        scores = (rows @ head for head in heads)
        ranking = [(float(in_top(one, known, 1).mean()), -float(cross_entropy(one, known))) for one in scores]
        return self.learning_rates[ranking.index(max(ranking))]

    def held_out_rows(self, objects: Tensor) -> Tensor:
        """Which rows belong to the held-out objects, `(N,)`, bool.

        Raises:
            ValueError: if there is one object only.
        """
        ids, position = torch.unique(objects, return_inverse=True)
        if len(ids) < 2:
            raise ValueError("a linear probe needs labelled training rows of at least two objects")
        count = min(max(round(len(ids) * self.held_out), 1), len(ids) - 1)
        chosen = torch.zeros(len(ids), dtype=torch.bool)
        chosen[torch.from_numpy(permutation(self.seed, length=len(ids))[:count])] = True
        return chosen[position]


def _with_constant(features: Tensor) -> Tensor:
    return torch.cat((features, features.new_ones(len(features), 1)), dim=1)
