"""Closed-form linear probes, for scores during training: they cost milliseconds."""

import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable, Standardiser
from ssl_inv.evaluation.protocols.transforms_r2 import r2_mean

_STRENGTHS = tuple(10.0**power for power in range(-1, 6))


def ridge_regression(features: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
    """Predictions `(M, T)` for `queries` `(M, D)` of a ridge regression from `features` `(N, D)` to `targets` `(N, T)`,
    with intercept.

    Features are standardised. The penalty is the best of a few by leave-one-out error on the training rows.
    """
    scale = Standardiser.fit(features)
    ridge = RidgeCV(alphas=_STRENGTHS).fit(scale(features).double().numpy(), targets.double().numpy())
    predictions = torch.from_numpy(ridge.predict(scale(queries).double().numpy()))
    return predictions.view(len(queries), -1)


def ridge_accuracy(train: FeatureTable, validation: FeatureTable, part: str) -> float | None:
    """Accuracy on the labelled validation rows of a ridge regression on one-hot targets; None if either table has no
    labels.
    """
    fit, judge = train.labelled_rows(), validation.labelled_rows()
    if train.labels is None or validation.labels is None or not len(fit) or not len(judge):
        return None
    classes = int(max(train.labels[fit].max(), validation.labels[judge].max())) + 1
    one_hot = torch.nn.functional.one_hot(train.labels[fit], classes)
    scores = ridge_regression(train.part(part)[fit], one_hot, validation.part(part)[judge])
    return float((scores.argmax(dim=1) == validation.labels[judge]).double().mean())


def ridge_r2(train: FeatureTable, validation: FeatureTable, part: str, parameter: str) -> float:
    """R2, the mean over dimensions, of a ridge regression from one view to its own `parameter`."""
    predicted = ridge_regression(train.part(part), train.transform.as_vector([parameter]), validation.part(part))
    return r2_mean(validation.transform.as_vector([parameter]).double(), predicted)
