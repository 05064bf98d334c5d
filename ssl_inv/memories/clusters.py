"""Clusters of a bank's vectors, kept alive while the vectors move."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.catalogue import require, require_at_least
from ssl_inv.data.source import Labels
from ssl_inv.memories.bank import Bank
from ssl_inv.memories.base import Memory
from ssl_inv.memories.draws import Members
from ssl_inv.memories.search import k_means, nearest_centroids, two_means

_SCORES = 2**25
"""How many scores of vectors and centroids exist at once."""


class Clusters(Memory):
    """The cluster of every object, and the centroids.

    Sums over members run in the order of the objects, so that every process and every run gets the same bits.

    Args:
        objects: N.
        clusters: K.
        dimensions: D.
        smallest: the least number of members of a cluster, see `mend`; 0 is no limit.

    Attributes:
        labels: `(N,)`, int32. Until `fit`, object i is in cluster i mod K.
        centroids: `(K, D)`.

    Raises:
        SettingError: if there are fewer than two clusters or too few objects for them, or if `smallest` is below 0.
    """

    labels: Tensor
    centroids: Tensor

    def __init__(self, objects: int, clusters: int, dimensions: int, smallest: int = 0) -> None:
        super().__init__()
        fits = 2 <= clusters <= objects
        require(fits, "clusters", f"must lie between 2 and the {objects} objects of the training data, got {clusters}")
        require_at_least(0, smallest_cluster=smallest)
        enough = smallest * clusters <= objects
        require(enough, "smallest_cluster", f"{smallest} times {clusters} clusters is more than the {objects} objects")
        self.smallest = smallest
        self.register_buffer("labels", torch.arange(objects, dtype=torch.int32) % clusters)
        self.register_buffer("centroids", torch.zeros(clusters, dimensions))
        self._members: Members | None = None

    def forget(self) -> None:
        super().forget()
        self._members = None

    def _apply(self, fn: Any, recurse: bool = True) -> "Clusters":
        self._members = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def members(self) -> Members:
        """The objects sorted by cluster, computed again only after labels have changed."""
        if self._members is None:
            ordered = self.labels.sort(stable=True)
            numbers = torch.arange(len(self.centroids), dtype=torch.int32, device=self.labels.device)
            starts, ends = (torch.searchsorted(ordered.values, numbers, right=right) for right in (False, True))
            self._members = Members(ordered.indices, starts, ends - starts)
        return self._members

    @torch.no_grad()
    def fit(self, bank: Bank, iterations: int = 20, seed: int = 0, spherical: bool = False, points: int = 256) -> None:
        """Cluster the bank from scratch: `k_means` of a sample, then every object to its nearest centroid."""
        device = self.centroids.device  # the bank may be on the host, where processes may have no way to exchange
        self.centroids.copy_(k_means(bank, len(self.centroids), iterations, seed, spherical, points, device))
        self.labels.copy_(nearest_centroids(bank, self.centroids))
        self._members = None

    @torch.no_grad()
    def relabel(self, index: Tensor, rows: Tensor) -> None:
        """Give the objects `index`, `(B,)`, with vectors `rows` the cluster whose centroid has the largest product.

        A centroid is a mean of unit vectors, so it is shorter than one, and shortest for a wide cluster: as in the
        authors' code.
        """
        self.labels[index] = (rows.to(self.centroids.dtype) @ self.centroids.T).argmax(dim=1).int()
        self._members = None

    @torch.no_grad()
    def recentre(self, bank: Bank) -> None:
        """Set every centroid to the plain mean of its members' vectors; an empty cluster keeps its centroid."""
        order, starts, sizes = self.members
        edges = F.pad(starts, (0, 1), value=len(order))
        sums = torch.zeros_like(self.centroids)
        begun = 0
        for some in torch.split(order, max(1, _SCORES // self.centroids.shape[1])):
            offsets = (edges - begun).clamp(0, len(some))
            sums += torch.segment_reduce(bank.rows(some, sums), "sum", offsets=offsets, axis=0, initial=0)
            begun += len(some)
        means = sums / sizes.clamp_min(1).unsqueeze(1)
        self.centroids.copy_(torch.where((sizes > 0).unsqueeze(1), means, self.centroids))

    @torch.no_grad()
    def mend(self, bank: Bank) -> None:
        """Empty every cluster that is too small, then fill every empty one with half of the largest at that time.

        Members of a small cluster go to the nearest other centroid. If all clusters are small, nothing changes. The
        host waits for one number only: how many clusters are small.
        """
        if not self.smallest:
            return
        small = self.members.sizes < self.smallest
        lost = int(small.sum())
        if not 0 < lost < len(small):
            return
        scattered = small[self.labels].nonzero().squeeze(1)
        for some in torch.split(scattered, max(1, _SCORES // len(small))):
            scores = bank.rows(some, self.centroids) @ self.centroids.T
            self.labels[some] = scores.masked_fill_(small, -math.inf).argmax(dim=1).int()
        sizes = torch.where(small, 0, torch.bincount(self.labels, minlength=len(small)))
        for empty in small.nonzero().squeeze(1).tolist():
            self._split(bank, int(sizes.argmax()), empty, sizes)
        self._members = None

    def _split(self, bank: Bank, largest: int, empty: int, sizes: Tensor) -> None:
        """Give half of a cluster to an empty one."""
        objects = (self.labels == largest).nonzero().squeeze(1)
        rows = bank.rows(objects, self.centroids)
        leaves = two_means(rows)
        self.labels[objects[leaves]] = empty
        for cluster, part in ((largest, rows[~leaves]), (empty, rows[leaves])):
            self.centroids[cluster], sizes[cluster] = part.mean(dim=0), len(part)

    def agreement(self, labels: Labels | None) -> dict[str, float]:
        """The sizes of the clusters and, where classes are known, how well clusters and classes agree.

        Returns:
            `smallest_cluster`, `largest_cluster` and `empty_clusters`; `purity`, the share of objects whose class is
            the most frequent one in their cluster; and `nmi`, the mutual information of clusters and classes over the
            mean of their entropies.
        """
        sizes = self.members.sizes
        found = {"smallest_cluster": float(sizes.min()), "largest_cluster": float(sizes.max())}
        found["empty_clusters"] = float((sizes == 0).sum())
        if labels is None or not bool(labels.known.any()):
            return found
        from sklearn.metrics import normalized_mutual_info_score  # takes a second to import
        from sklearn.metrics.cluster import contingency_matrix

        both = labels.classes[labels.known].numpy(), self.labels.cpu()[labels.known].numpy()
        common = contingency_matrix(*both, sparse=True).max(axis=0).sum()
        return {**found, "purity": float(common / len(both[0])), "nmi": float(normalized_mutual_info_score(*both))}
