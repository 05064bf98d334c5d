"""Weighted nearest-neighbour classification, as in DINO (Caron et al., 2021, appendix F.1; Wu et al., 2018)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.results import DEFAULT_BOOTSTRAP, Bootstrap, Result


@dataclass(frozen=True)
class NearestNeighbourSettings:
    """How neighbours vote.

    Attributes:
        k: neighbours that vote.
        temperature: a neighbour of cosine similarity s votes with exp(s / temperature).
        chunk: queries compared with all training rows at a time; decides memory alone.
    """

    k: int = 20
    temperature: float = 0.07
    chunk: int = 256


def class_count(train: FeatureTable, validation: FeatureTable) -> int:
    """The number of classes: of the names where they are known, else one more than the highest label in either table."""
    if train.class_names:
        return len(train.class_names)
    return int(torch.cat((train.known_labels(), validation.known_labels())).max()) + 1


def without_training_rows(train: FeatureTable, validation: FeatureTable) -> str:
    """A remark on the validation classes that training rows never show; empty if there are none."""
    missing = sorted(set(validation.known_labels().tolist()) - set(train.known_labels().tolist()))
    return f"classes without training rows: {', '.join(map(str, missing))}" if missing else ""


def neighbour_votes(
    bank: Tensor, labels: Tensor, queries: Tensor, classes: int, settings: NearestNeighbourSettings
) -> Tensor:
    """The share of the vote that every class gets.

    Args:
        bank: `(N, D)`, rows that vote.
        labels: `(N,)`, their classes.
        queries: `(M, D)`.
        classes: number of classes C.
        settings: `k` is cut to N.

    Returns:
        `(M, C)`; rows sum to 1.
    """
    bank, k = normalize(bank, dim=1), min(settings.k, len(bank))
    votes = []
    for chunk in torch.split(normalize(queries, dim=1), settings.chunk):
        similarity, neighbours = (chunk @ bank.T).topk(k, dim=1)
        # The softmax over the neighbours is the vote divided by its sum, without exp(1 / 0.07) on the way.
        weights = (similarity / settings.temperature).softmax(dim=1)
        votes.append(weights.new_zeros(len(chunk), classes).scatter_add_(1, labels[neighbours], weights))
    return torch.cat(votes)


def in_top(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the label is among the k highest scores of its row, `(M,)`, float.

    Of equal scores the lower class comes first; a label with the score -inf is never among them.
    """
    own = scores.gather(1, labels[:, None])
    # Counted, not sorted: a thousand classes of a million rows are too many to sort.
    lower = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    before = ((scores > own) | ((scores == own) & lower)).sum(dim=1)
    return ((before < k) & (own[:, 0] > -torch.inf)).float()


def accuracy_results(
    name: str,
    part: str,
    scores: Tensor,
    labels: Tensor,
    objects: Tensor,
    bootstrap: Bootstrap,
    detail: str,
    ranks: tuple[int, ...] = (1, 5),
) -> list[Result]:
    """Top-1 and top-5 as fractions of rows, with a standard error over objects; top-5 of more than five classes only."""
    results = []
    for k in ranks:
        if k == 1 or scores.shape[1] > k:
            hits = in_top(scores, labels, k)
            results.append(
                Result(f"{name}/top{k}", part, float(hits.mean()), bootstrap.mean_error(hits, objects), detail)
            )
    return results


def nearest_neighbours(
    train: FeatureTable,
    validation: FeatureTable,
    part: str,
    settings: NearestNeighbourSettings = NearestNeighbourSettings(),
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> list[Result]:
    """Accuracy on the labelled validation rows by the vote of the labelled training rows.

    Raises:
        ValueError: if either table has no labelled row.
    """
    train, validation = train.ordered(), validation.ordered()
    rows, queried = train.labelled_rows(), validation.labelled_rows()
    if not len(rows) or not len(queried):
        raise ValueError(
            f"nearest neighbours need labels: {len(rows)} training and {len(queried)} validation rows have one"
        )
    votes = neighbour_votes(
        train.part(part)[rows],
        train.known_labels(),
        validation.part(part)[queried],
        class_count(train, validation),
        settings,
    )
    # Of classes without a vote none is better than another.
    votes = votes.masked_fill(votes == 0, -torch.inf)
    cut = f", cut from {settings.k} to the number of training rows" if settings.k > len(rows) else ""
    k = min(settings.k, len(rows))
    detail = "; ".join(filter(None, (f"k = {k}{cut}", without_training_rows(train, validation))))
    # Fewer than five voters cannot name five classes.
    ranks = (1, 5) if k >= 5 else (1,)
    return accuracy_results(
        "knn", part, votes, validation.known_labels(), validation.objects[queried], bootstrap, detail, ranks
    )
