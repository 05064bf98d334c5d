"""Weighted nearest-neighbour classification, as in DINO (Caron et al., 2021, appendix F.1; Wu et al., 2018)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.classification import Classifier, accuracies, class_count, without_training_rows
from ssl_inv.evaluation.protocols.cosine_search import nearest_cosine
from ssl_inv.evaluation.results import Result


@dataclass(frozen=True)
class NearestNeighbours(Classifier):
    """The vote of the nearest training rows.

    Definition: the k training rows of the highest cosine similarity s vote for their class with weight exp(s / T).
    Neighbours are exact; of equally near ones the first by object and view counts.

    Source: Wu et al., 2018; Caron et al., 2021, appendix F.1.

    What it orders wrongly: it reads the features as they are, so directions of large variance count most. An encoder
    whose classes lie in small directions scores low here and high with a linear probe. Many views of few training
    objects crowd the neighbourhood.

    Attributes:
        k: neighbours that vote.
        temperature: a neighbour of cosine similarity s votes with weight exp(s / temperature).
    """

    k: int = 20
    temperature: float = 0.07

    name: ClassVar[str] = "knn"
    recipe: ClassVar[Mapping[str, str]] = {**Classifier.recipe, "neighbours": "k"}
    headlines: ClassVar[tuple[str, ...]] = ("knn/top1",)
    opening: ClassVar[str] = "knn/top1"

    def measure(self, train: FeatureTable, validation: FeatureTable, part: str) -> list[Result]:
        train, validation = train.ordered(), validation.ordered()
        rows, queried = train.labelled_rows(), validation.labelled_rows()
        if not len(rows) or not len(queried):
            raise ValueError(
                f"nearest neighbours need labels: {len(rows)} training and {len(queried)} validation rows have one"
            )
        classes = class_count(train, validation)
        votes = self.votes(train.part(part)[rows], train.known_labels(), validation.part(part)[queried], classes)
        # Classes without a vote are all equally bad.
        votes = votes.masked_fill(votes == 0, -torch.inf)
        k = min(self.k, len(rows))
        cut = f", cut from {self.k} to the number of training rows" if self.k > len(rows) else ""
        remarks = [f"k = {k}{cut}", without_training_rows(train, validation)]
        # Fewer than five voters cannot name five classes.
        return accuracies(self, part, votes, validation, remarks, top5=k >= 5)

    def votes(self, bank: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
        """The share of the vote that each class gets.

        Args:
            bank: `(N, D)`, rows that vote; `k` is cut to N.
            labels: `(N,)`, their classes.
            queries: `(M, D)`.
            classes: number of classes C.

        Returns:
            `(M, C)`; rows sum to 1.
        """
        similarity, neighbours = nearest_cosine(bank, queries, min(self.k, len(bank)), self.device)
        # The softmax over the neighbours is each vote divided by their sum, without computing exp(1 / 0.07).
        weights = (similarity / self.temperature).softmax(dim=1)
        return weights.new_zeros(len(queries), classes).scatter_add_(1, labels[neighbours], weights)
