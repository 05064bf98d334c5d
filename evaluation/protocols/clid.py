"""CLID: whether clusters of the features are learnable, and the dimension that they fill."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.intrinsic_dimension import two_nn_fit
from ssl_inv.evaluation.protocols.neighbours import nearest_rows, without_duplicates
from ssl_inv.evaluation.protocols.sampling import object_groups, one_view_each
from ssl_inv.evaluation.results import Result


@dataclass(frozen=True)
class CLID(Protocol):
    """Cluster learnability and intrinsic dimension of one random view of each object; no labels are used.

    Learnability: k-means splits the features, of length 1, into about sqrt(N) clusters. It is the share of rows whose
    nearest row, by cosine, among the other folds is in the same cluster. Dimension: the linear fit of TwoNN (Lu et al.,
    "Using representation expressiveness and learnability to evaluate self-supervised learning methods", 2022). The
    paper adds both after scaling each over the encoders that are compared, which needs more than one encoder; so the
    two numbers are reported, and `clid` adds them for several encoders.

    What it orders wrongly: few tight clusters are learnable whatever they mean. Random k-means seeds change
    learnability; the standard error is that over seeds and objects.

    Attributes:
        seeds: runs of k-means that are averaged.
        clusters: number of clusters; None: the root of the number of rows, rounded.
        folds: parts of the rows; the nearest row is sought in the others.
        iterations: steps of k-means at most.
        samples: objects that are used at most.
        seed: draws views, objects and folds; the first seed of k-means.
    """

    seeds: int = 5
    clusters: int | None = None
    folds: int = 5
    iterations: int = 50
    samples: int = 10_000
    seed: int = 0

    headlines: ClassVar[tuple[str, ...]] = ("clid/learnability", "clid/dimension")
    has_targets: ClassVar[bool] = False

    @classmethod
    def quick(cls) -> "CLID":
        return cls(samples=3000)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        for part in encoded.parts:
            given = one_view_each(encoded.train, self.samples, self.seed).part(part)
            features, dropped = without_duplicates(normalize(given, dim=1))
            if len(features) < max(self.folds, 4):
                detail = f"needs {max(self.folds, 4)} objects with different features, got {len(features)}"
                yield Result("clid/learnability", part, None, detail=detail)
                continue
            clusters = min(self.clusters or round(len(features) ** 0.5), len(features))
            hits = self.learnable(features, clusters)
            apart = self.bootstrap.mean_error(hits.mean(dim=0), torch.arange(len(features))) or 0.0
            over_seeds = float(hits.mean(dim=1).std()) / self.seeds**0.5 if self.seeds > 1 else 0.0
            detail = f"{len(features)} objects, {clusters} clusters, {self.seeds} seeds, {over_seeds:.3f} over seeds"
            error = (apart**2 + over_seeds**2) ** 0.5
            yield Result("clid/learnability", part, float(hits.mean()), error, detail)
            distances = nearest_rows(features, 2, device=self.device)[0]
            dimension = two_nn_fit(distances[distances[:, 0] > 0])
            detail = f"TwoNN by a line, {dropped} duplicates left out"
            if not np.isfinite(dimension):
                yield Result("clid/dimension", part, None, detail="the nearest rows are all equally far away")
                continue
            yield Result("clid/dimension", part, dimension, detail=detail)

    def learnable(self, features: Tensor, clusters: int) -> Tensor:
        """Whether the nearest row of the other folds is in the cluster of the row, `(seeds, N)`, for rows of length 1,
        `(N, D)`.
        """
        fold = object_groups(torch.arange(len(features)), self.folds, self.seed)
        nearest = nearest_rows(features, 1, fold, device=self.device)[1][:, 0]
        hits = []
        for seed in range(self.seed, self.seed + self.seeds):
            means = KMeans(clusters, n_init=1, max_iter=self.iterations, random_state=seed, copy_x=True)
            labels = torch.from_numpy(means.fit_predict(features.float().numpy()).astype(np.int64))
            hits.append((labels == labels[nearest]).double())
        return torch.stack(hits)


def clid(learnability: Tensor, dimension: Tensor) -> Tensor:
    """CLID of several encoders, `(E,)`: the sum of both numbers, each scaled to 0 for the lowest encoder and 1 for the
    highest. It has no meaning for one encoder alone.
    """
    scaled = [(values - values.min()) / (values.max() - values.min()) for values in (learnability, dimension)]
    return scaled[0] + scaled[1]
