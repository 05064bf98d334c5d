"""How many dimensions the features of objects, and of the views of one object, fill."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.neighbours import nearest_rows, without_duplicates
from ssl_inv.evaluation.protocols.sampling import at_most, one_view_each
from ssl_inv.evaluation.results import Bootstrap, Result


@dataclass(frozen=True)
class IntrinsicDimension(Protocol):
    """The local and the linear dimension of the features, of content and of pose; no labels are used.

    Content: one random view of each object. Pose: all views of one object, averaged over objects. Both numbers say more
    than either: views of all objects together would measure the pose alone, because the nearest neighbours of a view
    are other views of its object.

    - `two_nn`: TwoNN, the slope of -ln(1 - F) on ln(r2 / r1), the largest 10 % left out; `two_nn_mle`: N / sum of
      ln(r2 / r1) (Facco et al., Scientific Reports 2017).
    - `knn_mle`: Levina and Bickel's estimate from k neighbours (NIPS 2004), the inverse of the mean of inverse local
      estimates (MacKay and Ghahramani, 2005). The mean of local estimates is higher.
    - `participation`: (sum of eigenvalues)^2 / sum of their squares, of the covariance: a linear dimension. It is k + 1
      for a sphere of k dimensions, which the others call k.

    What it orders wrongly: local estimates are too low for high dimensions at finite N (7.3 for an 8-sphere of 1,000
    points). Noise fills all dimensions, so a higher dimension is not a better encoder. Equal rows have no distance;
    they are left out and counted.

    Attributes:
        neighbours: k of the k-nearest-neighbour estimate; cut to the number of other rows.
        discarded: share of the largest ratios that the linear fit of TwoNN leaves out.
        samples: objects that content uses at most.
        poses: objects that pose uses at most.
        least_views: different views that an object must have to count for pose.
        seed: draws views and objects.
    """

    neighbours: int = 10
    discarded: float = 0.1
    samples: int = 10_000
    poses: int = 100
    least_views: int = 20
    seed: int = 0

    headlines: ClassVar[tuple[str, ...]] = ("dimension/content/two_nn", "dimension/pose/two_nn")
    has_targets: ClassVar[bool] = False

    def run(self, encoded: Encoded) -> Iterator[Result]:
        for part in encoded.parts:
            yield from self._content(encoded, part)
            yield from self._pose(encoded, part)

    def _content(self, encoded: Encoded, part: str) -> Iterator[Result]:
        given = one_view_each(encoded.train, self.samples, self.seed).part(part)
        features, dropped = without_duplicates(given)
        if len(features) < 4:
            detail = f"needs four objects with different features, got {len(features)}"
            yield Result("dimension/content", part, None, detail=detail)
            return
        detail = f"{len(features)} objects, {dropped} duplicates left out"
        for name, (value, error) in self.measures(features, self.bootstrap).items():
            yield _finite(Result(f"dimension/content/{name}", part, value, error, detail))

    def _pose(self, encoded: Encoded, part: str) -> Iterator[Result]:
        table = encoded.train.ordered()
        counts = torch.unique_consecutive(table.objects, return_counts=True)[1]
        starts, several = counts.cumsum(0) - counts, (counts >= self.least_views).nonzero()[:, 0]
        found: list[dict[str, float]] = []
        dropped = 0
        for index in at_most(several, self.poses, self.seed).tolist():
            start, count = int(starts[index]), int(counts[index])
            features, twice = without_duplicates(table.part(part)[start : start + count])
            dropped += twice
            if len(features) >= self.least_views:
                of_object = {name: value for name, (value, _) in self.measures(features, None).items()}
                # Views that are all equally far apart have no dimension.
                found += [of_object] if all(map(math.isfinite, of_object.values())) else []
        if not found:
            yield Result(
                "dimension/pose",
                part,
                None,
                detail=f"no object has {self.least_views} different views with a dimension",
            )
            return
        detail = f"mean of {len(found)} objects, {dropped} duplicates left out"
        for name in found[0]:
            values = np.array([one[name] for one in found])
            error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
            yield Result(f"dimension/pose/{name}", part, float(values.mean()), error, detail)

    def measures(self, features: Tensor, bootstrap: Bootstrap | None) -> dict[str, tuple[float, float | None]]:
        """Every estimate and its standard error, of different rows `(N, D)`."""
        k = min(self.neighbours, len(features) - 1)
        distances = nearest_rows(features, k, device=self.device)[0]
        # Of rows that differ by rounding only, the distance can be 0 all the same.
        distances = distances[distances[:, 0] > 0]
        ones = torch.ones(len(distances), dtype=torch.float64)
        inverse = (distances[:, -1:] / distances[:, :-1]).log().mean(dim=1)
        errors: list[float | None] = [None, None]
        if bootstrap is not None:
            logs = (distances[:, 1] / distances[:, 0]).log()
            for index, of_row in enumerate((logs, inverse)):
                sums = torch.stack((ones, of_row), dim=1)
                errors[index] = bootstrap.standard_error(sums, lambda totals: totals[:, 0] / totals[:, 1])
        return {
            "two_nn": (two_nn_fit(distances, self.discarded), None),
            "two_nn_mle": (two_nn(distances), errors[0]),
            "knn_mle": (knn_dimension(distances), errors[1]),
            "participation": (participation_ratio(features), None),
        }


def _finite(result: Result) -> Result:
    assert result.value is not None
    if math.isfinite(result.value):
        return result
    return Result(result.name, result.part, None, detail="not defined: the nearest rows are all equally far away")


def two_nn(distances: Tensor) -> float:
    """TwoNN by maximum likelihood: N / sum of ln(r2 / r1), from ascending distances `(N, 2 or more)`."""
    return float(len(distances) / (distances[:, 1] / distances[:, 0]).log().sum())


def two_nn_fit(distances: Tensor, discarded: float = 0.1) -> float:
    """TwoNN by the line through the origin of -ln(1 - F) on ln(r2 / r1), with F = i / N.

    Args:
        distances: `(N, 2 or more)`, ascending.
        discarded: share of the largest ratios that is left out.
    """
    logs = (distances[:, 1] / distances[:, 0]).log().sort().values
    kept = max(int(len(logs) * (1 - discarded)), 1)
    empirical = torch.arange(1, kept + 1, dtype=torch.float64) / len(logs)
    # The last row of all has F = 1 and no place on the line.
    kept -= int(kept == len(logs))
    x, y = logs[:kept], -torch.log1p(-empirical[:kept])
    return float((x @ y) / (x @ x))


def knn_dimension(distances: Tensor) -> float:
    """Levina and Bickel's estimate from all k distances `(N, k)`, ascending: 1 / the mean of ln(r_k / r_j) over rows
    and j < k.
    """
    return float(1 / (distances[:, -1:] / distances[:, :-1]).log().mean())


def participation_ratio(features: Tensor) -> float:
    """(sum of eigenvalues)^2 / sum of their squares, of the covariance of `(N, D)`; from 1 to min(N - 1, D)."""
    x = features.double() - features.double().mean(dim=0)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    return float(gram.trace() ** 2 / gram.square().sum())
