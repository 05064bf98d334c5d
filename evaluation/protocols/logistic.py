"""Linear classification of frozen features by L2-regularised logistic regression, fitted to convergence."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable, Standardiser
from ssl_inv.evaluation.protocols.classification import (
    Classifier,
    accuracies,
    class_count,
    in_top,
    without_training_rows,
)
from ssl_inv.evaluation.protocols.sampling import held_out_rows
from ssl_inv.evaluation.results import Result

_CHUNK = 1 << 23
"""Logits computed at a time."""


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier.

    Attributes:
        weight: `(D, C)`.
        bias: `(C,)`.
        classes: `(C,)`, int64, the labels that its scores stand for, ascending.
    """

    weight: Tensor
    bias: Tensor
    classes: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Logits `(M, C)` of `(M, D)`."""
        return rows.to(self.weight) @ self.weight + self.bias

    def scores(self, rows: Tensor, classes: int) -> Tensor:
        """Logits `(M, classes)` by label; -inf for labels without training rows."""
        logits = self(rows)
        return logits.new_full((len(rows), classes), -torch.inf).index_copy_(1, self.classes, logits)


@dataclass(frozen=True)
class LogisticRegression(Classifier):
    """Multinomial logistic regression: the minimum of C sum NLL + |w|^2 / 2, with a free intercept.

    The grid of C is DINOv2's (Oquab et al., 2023): 45 values from 1e-6 to 1e5, features as they are, double precision.
    C is chosen on held-out training objects, of equals the smallest; then the classifier is fitted again to all
    training objects. Two classes have one vector w, as in scikit-learn. L-BFGS runs in the eigenvectors of the
    covariance, scaled so that the problem is round. It needs 24 bytes of memory for each feature of each training row.

    What it orders wrongly: C multiplies a sum, so the best C falls with the number of rows; a fixed C must not be
    compared between sizes. Features of a tiny scale can need a C above the grid; the remark says so.

    Attributes:
        strengths: C, ascending.
        held_out: share of the training objects that C is chosen on.
        iterations: of L-BFGS at most.
        tolerance: on the gradient in the scaled problem.
        standardise: whether every dimension is standardised with training statistics.
        seed: decides which objects are held out.
    """

    strengths: tuple[float, ...] = tuple(float(c) for c in 10 ** np.linspace(-6, 5, 45))
    held_out: float = 0.1
    iterations: int = 1000
    tolerance: float = 1e-4
    standardise: bool = False
    seed: int = 0

    name: ClassVar[str] = "logistic"
    headlines: ClassVar[tuple[str, ...]] = ("logistic/top1",)

    @classmethod
    def quick(cls) -> "LogisticRegression":
        return cls(strengths=tuple(float(c) for c in 10 ** np.linspace(-6, 5, 12)), iterations=50)

    def measure(self, train: FeatureTable, validation: FeatureTable, part: str) -> list[Result]:
        validation = validation.ordered()
        scores, remarks = self.scores(train, validation, part)
        return accuracies(self, part, scores, validation, remarks)

    def scores(self, train: FeatureTable, validation: FeatureTable, part: str) -> tuple[Tensor, list[str]]:
        """Logits `(M, classes)` of the labelled validation rows, and remarks for the reader.

        Raises:
            ValueError: if either table has no labelled row, or the training rows have one object.
        """
        train, validation = train.ordered(), validation.ordered()
        rows, scored = train.labelled_rows(), validation.labelled_rows()
        if not len(rows) or not len(scored):
            raise ValueError(
                f"logistic regression needs labels: {len(rows)} training and {len(scored)} validation rows have one"
            )
        features, labels, queries = train.part(part)[rows], train.known_labels(), validation.part(part)[scored]
        if self.standardise:
            standardise = Standardiser.fit(features)
            features, queries = standardise(features), standardise(queries)
        strength = self.choose_strength(features, labels, train.objects[rows])
        edge = ", an end of the grid" if strength in (self.strengths[0], self.strengths[-1]) else ""
        remarks = [f"C = {strength:.3g}{edge}", without_training_rows(train, validation)]
        head = self.fit(features, labels, strength)
        return head.scores(queries, class_count(train, validation)), remarks

    def choose_strength(self, features: Tensor, labels: Tensor, objects: Tensor) -> float:
        """The C with the highest accuracy on held-out objects; of equals, the smallest.

        Args:
            features: `(N, D)`, training rows.
            labels: `(N,)`.
            objects: `(N,)`; the views of one object are all held out or all kept.

        Raises:
            ValueError: if there is one object only.
        """
        if len(self.strengths) == 1:
            return self.strengths[0]
        apart = held_out_rows(objects, self.held_out, self.seed)
        accuracies = self.grid_accuracies(features[~apart], labels[~apart], features[apart], labels[apart])
        return self.strengths[accuracies.index(max(accuracies))]

    def grid_accuracies(self, features: Tensor, labels: Tensor, queries: Tensor, wanted: Tensor) -> list[float]:
        """The accuracy on `queries` of the classifier of every C, fitted to `features`."""
        problem, found, start = _Problem(features, labels, self.device), [], None
        classes = int(torch.cat((labels, wanted)).max()) + 1
        for strength in self.strengths:
            head, start = problem.solve(strength, self.iterations, self.tolerance, start)
            found.append(float(in_top(head.scores(queries, classes), wanted, 1).mean()))
        return found

    def fit(self, features: Tensor, labels: Tensor, strength: float) -> LinearHead:
        """The classifier of one C, fitted to `features` `(N, D)` with `labels` `(N,)`."""
        return _Problem(features, labels, self.device).solve(strength, self.iterations, self.tolerance)[0]


class _Problem:
    """The regressions of one set of rows, in the eigenvectors of their covariance.

    With rows z = (x - mean) V and weights w = V a, both penalty and logits are those of the original problem. Along
    eigenvector j the curvature is near lambda_j / (N K) + 1 / (C N), with K classes. Dividing by its root makes the
    problem round, and L-BFGS needs few steps.
    """

    def __init__(self, features: Tensor, labels: Tensor, device: str) -> None:
        x = features.to(device, torch.float64)
        self.mean = x.mean(dim=0)
        x = x - self.mean
        self.classes, self.position = torch.unique(labels.to(device), return_inverse=True)
        if len(x) < x.shape[1]:
            values, left = torch.linalg.eigh(x @ x.T)
            kept = values > 1e-12 * values[-1]
            self.basis = x.T @ (left[:, kept] / values[kept].sqrt())
        else:
            values, basis = torch.linalg.eigh(x.T @ x)
            kept = values > 1e-12 * values[-1]
            self.basis = basis[:, kept]
        self.values, self.rows = values[kept], x @ self.basis

    def solve(
        self, strength: float, iterations: int, tolerance: float, start: Tensor | None = None
    ) -> tuple[LinearHead, Tensor]:
        """The classifier, and its weights in the eigenvectors with the bias below, `(R + 1, K)`, as the next start."""
        (count, rank), classes = self.rows.shape, len(self.classes)
        if classes == 2:
            # The vectors -w / 2 and w / 2 have half the penalty of the one vector w.
            strength = strength / 2
        scale = (self.values / (count * classes) + 1 / (strength * count)).rsqrt()
        scale = torch.cat((scale, scale.new_full((1,), classes**0.5)))[:, None]
        weights = self.rows.new_zeros(rank + 1, classes) if start is None else start

        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            scaled = torch.from_numpy(flat).to(scale).view(rank + 1, classes)
            loss, gradient = self._loss(scale * scaled, strength)
            return loss, (scale * gradient).flatten().cpu().numpy()

        given = (weights / scale).flatten().cpu().numpy()
        options = {"maxiter": iterations, "gtol": tolerance, "ftol": 0.0, "maxcor": 20, "maxls": 50}
        found = minimize(objective, given, jac=True, method="L-BFGS-B", options=options).x
        weights = scale * torch.from_numpy(found).to(scale).view(rank + 1, classes)
        weight = self.basis @ weights[:-1]
        bias = weights[-1] - self.mean @ weight
        return LinearHead(weight.cpu(), bias.cpu(), self.classes.cpu()), weights

    def _loss(self, weights: Tensor, strength: float) -> tuple[float, Tensor]:
        """(C sum NLL + |w|^2 / 2) / (C N) and its gradient, `(R + 1, K)`."""
        count = len(self.rows)
        decayed = weights / (strength * count)
        decayed[-1] = 0
        loss, gradient = (weights * decayed).sum() / 2, decayed
        size = max(_CHUNK // weights.shape[1], 1)
        for rows, position in zip(torch.split(self.rows, size), torch.split(self.position, size), strict=True):
            logs = (rows @ weights[:-1] + weights[-1]).log_softmax(dim=1)
            index = position[:, None]
            loss = loss - logs.gather(1, index).sum() / count
            error = logs.exp_().scatter_add_(1, index, logs.new_full(index.shape, -1.0)).div_(count)
            # A transposed copy of the few columns saves the time of a transposed view of the many rows.
            gradient[:-1] += (error.T.contiguous() @ rows).T
            gradient[-1] += error.sum(dim=0)
        return float(loss), gradient
