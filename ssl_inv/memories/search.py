"""K-means and nearest neighbours: the only file that imports faiss.

What a training step searches stays in torch, on the device of the batch (`Bank.similarities`, NNCLR's neighbours). Even
on a CPU that is faster: for 256 queries and 65,536 vectors of 128 numbers, one core takes 0.09 s, and 0.28 s by faiss.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from joblib import cpu_count
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import require, require_at_least, require_between
from ssl_inv.data.source import Indices
from ssl_inv.memories.bank import Bank
from ssl_inv.nn.distributed import all_sum, processes_here, rank, wait_for_first
from ssl_inv.transforms import keyed_random

_SCORES = 2**25
"""How many scores of vectors and centroids exist at once."""

_QUERIES = 4096
"""How many images are searched for neighbours at a time."""

_POINTS = 256
"""How many images for each cell k-means sees at most; faiss samples down to this number too."""


@contextmanager
def faiss_for_all_processes() -> Iterator[Any]:
    """Give faiss the threads of all processes of this machine, up to its cores: one works, and the others wait."""
    import faiss

    own = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(max(own, min(cpu_count(), own * processes_here())))
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(own)


# K-means.


@torch.no_grad()
def k_means(
    bank: Bank,
    clusters: int,
    iterations: int = 20,
    seed: int = 0,
    spherical: bool = False,
    points: int = 256,
    device: torch.device | None = None,
) -> Tensor:
    """Centroids `(K, D)`, float32, of a sample of the bank, the same on all processes. No cluster is empty.

    The first process computes them and sends them to the others: a hundred times less than the bank.

    Args:
        bank: N vectors.
        clusters: K.
        iterations: of Lloyd's algorithm.
        seed: of the sample and the first centroids.
        spherical: whether centroids are unit vectors.
        points: the sample has at most this many vectors for each cluster.
        device: of the centroids, and of the exchange between processes; None is the bank's.

    Raises:
        ValueError: if there are more clusters than vectors.
    """
    if clusters > len(bank):
        raise ValueError(f"{len(bank)} objects cannot be put into {clusters} clusters")
    found = torch.zeros(clusters, bank.vectors.shape[1])
    if rank() == 0:
        sample = keyed_random.permutation(seed, length=len(bank))[: clusters * points].copy()
        rows = bank.rows(torch.from_numpy(sample).sort().values.to(bank.vectors.device), found).numpy()
        with faiss_for_all_processes() as faiss:
            found = torch.from_numpy(_trained(faiss, rows, clusters, iterations, seed, spherical, points).centroids)
    wait_for_first()
    return all_sum(found.to(device or bank.vectors.device))


def nearest_centroids(bank: Bank, centroids: Tensor) -> Tensor:
    """The number of the centroid nearest to every vector of the bank, `(N,)`, int32.

    In torch, on the device of the centroids: faiss for CPUs would copy the whole bank to the host. Without a GPU faiss
    would be faster: for 100,000 vectors and 1,000 centroids, one core takes 0.63 s, and 0.28 s by faiss.
    """
    labels = torch.empty(len(bank), dtype=torch.int32, device=centroids.device)
    offsets = centroids.square().sum(dim=1) / 2
    for where, vectors in bank.blocks(centroids, max(1, _SCORES // len(centroids)) * centroids.shape[1]):
        labels[where] = (vectors @ centroids.T - offsets).argmax(dim=1).int()
    return labels


def two_means(rows: Tensor, iterations: int = 20) -> Tensor:
    """Which of the vectors `(n, D)`, n at least 2, are in the second of two clusters, `(n,)`, bool; both have members.

    Lloyd's algorithm from the vector farthest from the mean and the one farthest from that one: nothing is random. If
    one cluster stays empty, as with equal vectors, every other vector goes into the second. It runs within a step, on
    the device of the vectors; faiss is no faster (2,000 vectors of 128 numbers on one core: 2.6 ms, and 3.0 by faiss).
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


def _trained(
    faiss: Any, vectors: NDArray[np.float32], count: int, iterations: int, seed: int, spherical: bool, points: int
) -> Any:
    # Without these limits, faiss warns if there are fewer than 39 points for a cluster, and draws its own sample if
    # there are more than 256.
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": points}
    machine = faiss.Kmeans(vectors.shape[1], count, niter=iterations, seed=seed % 2**31, spherical=spherical, **limits)
    machine.train(vectors)
    return machine


# Neighbours.


@dataclass(frozen=True)
class EdgeRules:
    """Which images are neighbours.

    Attributes:
        neighbours: k. Two images are neighbours if each is among the k images of other objects most similar to the
            other.
        max_degree: how many neighbours an image keeps, the most similar ones; None is k.
        least_similarity: the cosine below which images are no neighbours.
        cells: the number of k-means cells; neighbours must be in the same cell. 0 is no such rule.
    """

    neighbours: int = 10
    max_degree: int | None = None
    least_similarity: float = -1.0
    cells: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, neighbours=self.neighbours)
        if self.max_degree is not None:
            require_at_least(1, max_degree=self.max_degree)
        require_between(-1, 1, least_similarity=self.least_similarity)
        require(self.cells == 0 or self.cells >= 2, "cells", f"must be 0 for none, or at least 2, got {self.cells}")

    @property
    def width(self) -> int:
        """The largest number of neighbours that an image can have."""
        return self.neighbours if self.max_degree is None else min(self.neighbours, self.max_degree)


def find_neighbours(
    features: NDArray[np.float32],
    groups: Indices,
    rules: EdgeRules,
    readable: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> NDArray[np.int32]:
    """The neighbours of every image, `(N, rules.width)`, the most similar first, then -1. Every edge goes both ways.

    Images of the same group are left out before the k nearest are taken. Only mutual neighbours remain, so that an
    image near to very many has at most k. The search is exact, N^2 D products.

    Args:
        features: `(N, D)`; they are normalised in place.
        groups: the object of every image, `(N,)`; images of one object are adjacent.
        rules: what makes an edge.
        readable: `(N,)`; images that are not have no edges. None is all.
        seed: of the first centroids of the cells.

    Raises:
        SettingError: if there are more cells than images.
    """
    rows = np.arange(len(features)) if readable is None else np.flatnonzero(readable)
    require(rules.cells <= len(rows), "cells", f"{rules.cells}, but there are {len(rows)} images")
    with faiss_for_all_processes() as faiss:
        faiss.normalize_L2(features)
        some = features if len(rows) == len(features) else features[rows]
        ids, similarities = _nearest(faiss, some, groups[rows], rules.neighbours)
        ids[similarities < rules.least_similarity] = -1
        if rules.cells:
            cells = _trained(faiss, some, rules.cells, 20, seed, True, _POINTS).index.search(some, 1)[1][:, 0]
            ids[cells[ids] != cells[:, np.newaxis]] = -1
    ids = _mutual(ids)
    ids[(ids >= 0).cumsum(axis=1) > rules.width] = -1
    ids = _mutual(ids)
    found = np.full((len(features), rules.neighbours), -1, dtype=np.int32)
    found[rows] = np.where(ids >= 0, rows[ids], -1)
    return np.take_along_axis(found, np.argsort(found < 0, axis=1, kind="stable"), axis=1)[:, : rules.width]


def _nearest(
    faiss: Any, vectors: NDArray[np.float32], groups: Indices, count: int
) -> tuple[Indices, NDArray[np.float32]]:
    """The rows of other groups with the largest inner products, `(N, count)`, and these; -1 where there are no more."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    ids = np.full((len(vectors), count), -1, dtype=np.int64)
    products = np.full((len(vectors), count), -2.0, dtype=np.float32)
    sizes = np.bincount(groups)[groups]
    for start in range(0, len(vectors), _QUERIES):
        # At least `count` of this many are of other groups, if there are so many.
        asked = min(len(vectors), count + int(sizes[start : start + _QUERIES].max()))
        values, there = index.search(vectors[start : start + _QUERIES], asked)
        is_own = groups[there] == groups[start : start + _QUERIES, np.newaxis]
        order = np.argsort(is_own, axis=1, kind="stable")[:, :count]
        others = np.take_along_axis(np.where(is_own, -1, there), order, axis=1)
        ids[start : start + _QUERIES, : others.shape[1]] = others
        products[start : start + _QUERIES, : others.shape[1]] = np.take_along_axis(values, order, axis=1)
    return ids, products


def _mutual(ids: Indices) -> Indices:
    """The neighbours that have each other; -1 in place of the rest."""
    own, kept = np.arange(len(ids))[:, np.newaxis], np.full_like(ids, -1)
    for column, there in enumerate(ids.T):
        both = (there >= 0) & (ids[there] == own).any(axis=1)
        kept[both, column] = there[both]
    return kept
