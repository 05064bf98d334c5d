"""Linear classification of frozen features: one softmax regression for every learning rate of a grid, all trained
together.

The protocol is DINOv2's (Oquab et al., 2023): SGD with momentum 0.9, no weight decay, a cosine to zero, one head for
each learning rate. Two things differ. The learning rate is chosen on training objects held out for that, never on the
reported set, and the chosen one is fitted again on all training objects. And the features are standardised with
training statistics, so that one grid suits every encoder.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from ssl_inv.evaluation.features import FeatureTable, Standardiser
from ssl_inv.evaluation.protocols.knn import accuracy_results, class_count, in_top, without_training_rows
from ssl_inv.evaluation.results import DEFAULT_BOOTSTRAP, Bootstrap, Result
from ssl_inv.transforms.keyed_random import permutation


@dataclass(frozen=True)
class LinearSettings:
    """How the heads are trained.

    Attributes:
        learning_rates: one head for each, ascending.
        steps: steps of SGD.
        batch: rows in a step.
        momentum: of SGD.
        held_out: share of the training objects that the learning rate is chosen on.
        device: where the heads are trained.
        seed: decides which objects are held out, and the order of rows.
    """

    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
    steps: int = 12_500
    batch: int = 1024
    momentum: float = 0.9
    held_out: float = 0.2
    device: str = "cpu"
    seed: int = 0


def _batches(rows: int, settings: LinearSettings) -> Iterator[Tensor]:
    """Row indices of every step: one random order of all rows after another."""
    epoch, waiting = 0, torch.zeros(0, dtype=torch.int64)
    size = min(settings.batch, rows)
    for _ in range(settings.steps):
        if len(waiting) < size:
            waiting = torch.cat((waiting, torch.from_numpy(permutation(settings.seed, epoch, length=rows))))
            epoch += 1
        yield waiting[:size]
        waiting = waiting[size:]


def _with_constant(features: Tensor) -> Tensor:
    return torch.cat((features, features.new_ones(len(features), 1)), dim=1)


def fit_linear(
    features: Tensor, labels: Tensor, classes: int, learning_rates: Sequence[float], settings: LinearSettings
) -> Tensor:
    """Weights of one softmax regression for each learning rate.

    The gradient is written out, because all heads share one product with the features: with P the softmax and Y the
    labels of a batch of B rows X, it is X^T (P - Y) / B. The heads start at zero; the problem is convex.

    Args:
        features: `(N, D)`, standardised.
        labels: `(N,)`.
        classes: number of classes C.
        learning_rates: L of them.
        settings: steps, batch, momentum and seed.

    Returns:
        `(L, D + 1, C)`; the last row is the bias.
    """
    x, y = _with_constant(features.to(settings.device)), labels.to(settings.device)
    rates = x.new_tensor(learning_rates)[:, None]
    weights = x.new_zeros(x.shape[1], len(learning_rates), classes)
    velocity = torch.zeros_like(weights)
    for step, rows in enumerate(_batches(len(x), settings)):
        rows = rows.to(x.device)
        batch = x[rows]
        error = (batch @ weights.flatten(1)).view(len(batch), -1, classes).softmax(dim=-1)
        error -= one_hot(y[rows], classes)[:, None]
        gradient = batch.T @ error.flatten(1).div_(len(batch))
        velocity.mul_(settings.momentum).add_(gradient.view_as(velocity))
        weights.sub_(velocity * rates * (0.5 * (1 + math.cos(math.pi * step / settings.steps))))
    return weights.transpose(0, 1).cpu()


def _held_out(objects: Tensor, settings: LinearSettings) -> Tensor:
    """Which rows belong to the held-out objects, `(N,)`, bool."""
    ids, position = torch.unique(objects, return_inverse=True)
    if len(ids) < 2:
        raise ValueError("a linear probe needs labelled training rows of at least two objects")
    count = min(max(round(len(ids) * settings.held_out), 1), len(ids) - 1)
    chosen = torch.zeros(len(ids), dtype=torch.bool)
    chosen[torch.from_numpy(permutation(settings.seed, length=len(ids))[:count])] = True
    return chosen[position]


def choose_learning_rate(
    features: Tensor, labels: Tensor, objects: Tensor, classes: int, settings: LinearSettings
) -> float:
    """The learning rate whose head is right most often on held-out objects; of equals the one with the lowest
    cross-entropy there.

    Args:
        features: `(N, D)`, training rows, standardised.
        labels: `(N,)`.
        objects: `(N,)`; the views of one object are all held out or all kept.
        classes: number of classes.
        settings: the grid and how to train on it.

    Raises:
        ValueError: if there is one object only.
    """
    apart = _held_out(objects, settings)
    weights = fit_linear(features[~apart], labels[~apart], classes, settings.learning_rates, settings)
    rows, known = _with_constant(features[apart]), labels[apart]
    # One head after the other: the scores of all are as many as the classes times the rates.
    scores = (rows @ head for head in weights)
    ranking = [(float(in_top(head, known, 1).mean()), -float(cross_entropy(head, known))) for head in scores]
    return settings.learning_rates[ranking.index(max(ranking))]


def linear_probe(
    train: FeatureTable,
    validation: FeatureTable,
    part: str,
    settings: LinearSettings = LinearSettings(),
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> list[Result]:
    """Accuracy on the labelled validation rows of a linear classifier fitted to the labelled training rows.

    Raises:
        ValueError: if either table has no labelled row, or the training rows show one class or one object only.
    """
    train, validation = train.ordered(), validation.ordered()
    rows, judged = train.labelled_rows(), validation.labelled_rows()
    if not len(rows) or not len(judged):
        raise ValueError(
            f"a linear probe needs labels: {len(rows)} training and {len(judged)} validation rows have one"
        )
    labels, classes = train.known_labels(), class_count(train, validation)
    if int(labels.min()) == int(labels.max()):
        raise ValueError(
            f"labels have one class only: all {len(labels)} labelled training rows are of class {int(labels[0])}"
        )
    standardise = Standardiser.fit(train.part(part)[rows])
    features = standardise(train.part(part)[rows])
    rate = choose_learning_rate(features, labels, train.objects[rows], classes, settings)
    weights = fit_linear(features, labels, classes, (rate,), settings)[0]
    scores = _with_constant(standardise(validation.part(part)[judged])) @ weights
    edge = ", an end of the grid" if rate in (settings.learning_rates[0], settings.learning_rates[-1]) else ""
    detail = "; ".join(filter(None, (f"learning rate {rate:g}{edge}", without_training_rows(train, validation))))
    return accuracy_results(
        "linear", part, scores, validation.known_labels(), validation.objects[judged], bootstrap, detail
    )
