"""Clusters of a bank's vectors: k-means, and what keeps its clusters alive while the vectors move."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require_at_least
from ssl_inv.data.source import Labels
from ssl_inv.memories.bank import Bank
from ssl_inv.memories.draws import Members
from ssl_inv.memories.search import k_means

_SCORES = 2**25
"""Scores of vectors and centroids that exist at once."""


class Clusters(nn.Module):
    """The cluster of every object, and the clusters' centroids; the same on all processes, and saved with the
    objective.

    Sums over members run in the order of the objects, so that every process and every run gets the same, bit for bit.

    Args:
        objects: N.
        clusters: K.
        dimensions: D.
        smallest: members that a cluster keeps at least, see `mend`; 0 for any number.

    Attributes:
        labels: `(N,)`, int32; object i is in cluster i mod K until `fit`.
        centroids: `(K, D)`.

    Raises:
        ValueError: if there are fewer than two clusters, or too few objects for them, or `smallest` is below 0.
    """

    labels: Tensor
    centroids: Tensor

    def __init__(self, objects: int, clusters: int, dimensions: int, smallest: int = 0) -> None:
        super().__init__()
        if not 2 <= clusters <= objects:
            raise SettingError(
                "clusters", f"must be at least 2 and at most the {objects} objects of the training data, got {clusters}"
            )
        require_at_least(0, smallest_cluster=smallest)
        if smallest * clusters > objects:
            raise ValueError(
                f"smallest_cluster * clusters, {smallest} * {clusters}, is more than the {objects} objects of the training data"
            )
        self.smallest = smallest
        self.register_buffer("labels", torch.arange(objects, dtype=torch.int32) % clusters)
        self.register_buffer("centroids", torch.zeros(clusters, dimensions))
        self._members: Members | None = None
        self.register_load_state_dict_post_hook(_forget_members)  # type: ignore[no-untyped-call]

    def _apply(self, fn: Any, recurse: bool = True) -> "Clusters":
        self._members = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def members(self) -> Members:
        """The objects sorted by cluster, found anew only where labels have changed."""
        if self._members is None:
            ordered = self.labels.sort(stable=True)
            numbers = torch.arange(len(self.centroids), dtype=torch.int32, device=self.labels.device)
            starts, ends = (torch.searchsorted(ordered.values, numbers, right=right) for right in (False, True))
            self._members = Members(ordered.indices, starts, ends - starts)
        return self._members

    @torch.no_grad()
    def fit(self, bank: Bank, iterations: int = 20, seed: int = 0, spherical: bool = False, points: int = 256) -> None:
        """Cluster the bank from nothing: `k_means` of a sample, and every object to the nearest centroid."""
        device = self.centroids.device  # processes may have no way to exchange what lies on the host
        self.centroids.copy_(k_means(bank, len(self.centroids), iterations, seed, spherical, points, device))
        offsets = self.centroids.square().sum(dim=1) / 2
        for where, vectors in bank.blocks(
            self.centroids, max(1, _SCORES // len(self.centroids)) * self.centroids.shape[1]
        ):
            self.labels[where] = (vectors @ self.centroids.T - offsets).argmax(dim=1).int()
        self._members = None

    @torch.no_grad()
    def relabel(self, index: Tensor, rows: Tensor) -> None:
        """Put the objects `index`, `(B,)`, whose vectors are `rows`, into the clusters whose centroids have the largest
        inner product.

        Centroids are means of unit vectors and shorter than one, those of wide clusters shortest: so the authors' code
        has it.
        """
        self.labels[index] = (rows.to(self.centroids.dtype) @ self.centroids.T).argmax(dim=1).int()
        self._members = None

    @torch.no_grad()
    def recentre(self, bank: Bank) -> None:
        """Make every centroid the plain mean of its members' vectors; those of empty clusters stay."""
        order, starts, sizes = self.members
        edges = F.pad(starts, (0, 1), value=len(order))
        sums = torch.zeros_like(self.centroids)
        begun = 0
        for some in torch.split(order, max(1, _SCORES // self.centroids.shape[1])):
            offsets = (edges - begun).clamp(0, len(some))
            sums += torch.segment_reduce(bank.rows(some, sums), "sum", offsets=offsets, axis=0, initial=0)
            begun += len(some)
        self.centroids.copy_(
            torch.where((sizes > 0).unsqueeze(1), sums / sizes.clamp_min(1).unsqueeze(1), self.centroids)
        )

    @torch.no_grad()
    def mend(self, bank: Bank) -> None:
        """Empty the clusters with too few members, and fill every empty one with a half of what is then the largest.

        Members of small clusters go to the nearest centroid of the others. Whether there is anything to mend is the one
        thing here that the host has to know; and if all are small, nothing is done.
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
        """How large the clusters are and, where classes are known, how well the two agree.

        Returns:
            `smallest_cluster`, `largest_cluster` and `empty_clusters`; `purity`, the share of objects that are of the
            class that most of their cluster are of; and `nmi`, the mutual information of both over the mean of their
            entropies.
        """
        sizes = self.members.sizes
        found = {
            name: float(one) for name, one in (("smallest_cluster", sizes.min()), ("largest_cluster", sizes.max()))
        }
        found["empty_clusters"] = float((sizes == 0).sum())
        if labels is None or not bool(labels.known.any()):
            return found
        clusters, classes = self.labels.cpu()[labels.known].long(), labels.classes[labels.known]
        return {**found, **_agreement(clusters, classes, len(sizes), len(labels.names))}


def two_means(rows: Tensor, iterations: int = 20) -> Tensor:
    """Which of the vectors `(n, D)`, n at least 2, are in the second of two clusters, `(n,)` bool; both have members.

    Lloyd's algorithm from the vector farthest from the mean and the one farthest from that: nothing is drawn. Where it
    leaves a cluster empty, as among equal vectors, every other vector is in the second.
    """
    first = (rows - rows.mean(dim=0)).square().sum(dim=1).argmax()
    second = (rows - rows[first]).square().sum(dim=1).argmax()
    centroids = rows[torch.stack((first, second))]
    side = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for _ in range(iterations):
        scores = rows @ centroids.T - centroids.square().sum(dim=1) / 2
        side = scores[:, 1] > scores[:, 0]
        weights = torch.stack((~side, side)).to(rows.dtype)
        centroids = weights @ rows / weights.sum(dim=1, keepdim=True).clamp_min(1)
    alternate = torch.arange(len(rows), device=rows.device) % 2 == 1
    return torch.where(side.any() & ~side.all(), side, alternate)


def _agreement(clusters: Tensor, classes: Tensor, cluster_count: int, class_count: int) -> dict[str, float]:
    table = torch.bincount(clusters * class_count + classes, minlength=cluster_count * class_count)
    joint = table.view(cluster_count, class_count).double() / len(clusters)
    entropies = [float(torch.special.entr(joint.sum(dim=axis)).sum()) for axis in (0, 1)]
    mutual = sum(entropies) - float(torch.special.entr(joint).sum())
    nmi = mutual / (sum(entropies) / 2) if sum(entropies) else 1.0
    return {"purity": float(joint.amax(dim=1).sum()), "nmi": max(0.0, nmi)}


def _forget_members(clusters: nn.Module, _: Any) -> None:
    assert isinstance(clusters, Clusters)
    clusters._members = None
