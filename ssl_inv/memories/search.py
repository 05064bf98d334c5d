"""How many cores there are, and who has them."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import SettingError, require_at_least
from ssl_inv.data.source import Indices
from ssl_inv.memories.bank import Bank
from ssl_inv.nn.distributed import all_sum, rank, world_size
from ssl_inv.transforms import keyed_random


@dataclass(frozen=True)
class EdgeRules:
    """Which images are neighbours.

    Attributes:
        neighbours: k; two images are neighbours if each is among the k of other objects that are most similar to the
        other.
        max_degree: neighbours that an image keeps, the most similar ones; None is k.
        least_similarity: cosine below which images are no neighbours.
        cells: neighbours are in the same of so many k-means cells; 0 for any.
    """

    neighbours: int = 10
    max_degree: int | None = None
    least_similarity: float = -1.0
    cells: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, neighbours=self.neighbours)
        if self.max_degree is not None and self.max_degree < 1:
            raise SettingError("max_degree", f"must be at least 1, got {self.max_degree}")
        if not -1 <= self.least_similarity <= 1:
            raise SettingError("least_similarity", f"must be a cosine, from -1 to 1, got {self.least_similarity}")
        if self.cells < 0 or self.cells == 1:
            raise SettingError("cells", f"must be 0 for none, or at least 2, got {self.cells}")

    @property
    def width(self) -> int:
        """The most neighbours that an image can have."""
        return self.neighbours if self.max_degree is None else min(self.neighbours, self.max_degree)


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
    """Centroids `(K, D)`, float32, of a sample of the bank by faiss, the same on all processes; all clusters are used.

    The first process finds them and hands them to the others: a hundred times less than the bank.

    Args:
        bank: N vectors.
        clusters: K.
        iterations: of Lloyd's algorithm.
        seed: decides the sample and the first centroids.
        spherical: whether centroids are brought to length one.
        points: vectors of the sample for each cluster, at most.
        device: where centroids shall be, and over which processes exchange them; that of the bank if None.

    Raises:
        ValueError: if there are more clusters than vectors.
    """
    if clusters > len(bank):
        raise ValueError(f"{len(bank)} objects cannot be put into {clusters} clusters")
    found = torch.zeros(clusters, bank.vectors.shape[1])
    if rank() == 0:
        import faiss

        sample = (
            torch.from_numpy(keyed_random.permutation(seed, length=len(bank))[: clusters * points].copy()).sort().values
        )
        # faiss prints a warning where there are fewer than 39 points for a cluster, and draws a sample of its own where
        # there are more.
        limits = {"min_points_per_centroid": 1, "max_points_per_centroid": points}
        machine = faiss.Kmeans(
            found.shape[1], clusters, niter=iterations, seed=seed % 2**31, spherical=spherical, **limits
        )
        with faiss_on_cores_of_all_processes():
            machine.train(bank.rows(sample.to(bank.vectors.device), found).numpy())
        found = torch.from_numpy(machine.centroids)
    return all_sum(found.to(device or bank.vectors.device))


def available_cores(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use, which a scheduler or a container may have made fewer than the machine has.

    Args:
        control_group: where Linux says how much time on processors a container may take.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _quota(control_group)
    return min(cores, math.ceil(quota / period)) if quota > 0 and period > 0 else cores


def _quota(control_group: Path) -> tuple[int, int]:
    """Microseconds of processor time in a period and the length of the period; both 0 if there is no limit."""
    try:
        content = (control_group / "cpu.max").read_text().split()
    except OSError:
        try:
            content = [(control_group / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
        except OSError:
            return 0, 0
    return (0, 0) if content[0] == "max" else (int(content[0]), int(content[1]))


@contextmanager
def faiss_on_cores_of_all_processes() -> Iterator[None]:
    """Give faiss the threads of all processes, as far as there are cores, for what the first does while the others wait
    for it.
    """
    import faiss

    own = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(max(own, min(available_cores(), own * world_size())))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(own)


_QUERIES = 4096
"""Images whose neighbours are searched at a time."""


_ASKED = 4096
"""Images that are asked for a partner when pairs are judged."""


_POINTS = 256
"""Images for each cell that k-means sees, at most: what faiss takes of more."""


def find_neighbours(
    features: NDArray[np.float32],
    groups: Indices,
    rules: EdgeRules,
    readable: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> NDArray[np.int32]:
    """The neighbours of every image, `(N, rules.width)`, the most similar first; behind them -1. All edges have both
    directions.

    An image's own group is left out before the k nearest are taken, and only mutual neighbours are kept: an image that
    is among the nearest of very many has k of these at most. The search is exact, N^2 D products by faiss.

    Args:
        features: `(N, D)`; overwritten by their unit vectors.
        groups: the object that each image shows, `(N,)`, those of one object behind each other.
        rules: what makes an edge.
        readable: `(N,)`; the others have no edges. None is all.
        seed: decides the first centroids of the cells.

    Raises:
        ValueError: if there are more cells than images.
    """
    import faiss

    faiss.normalize_L2(features)
    rows = np.arange(len(features)) if readable is None else np.flatnonzero(readable)
    some = features if len(rows) == len(features) else features[rows]
    found = np.full((len(features), rules.neighbours), -1, dtype=np.int32)
    ids, similarities = _nearest(some, groups[rows], rules.neighbours)
    ids[similarities < rules.least_similarity] = -1
    if rules.cells:
        cells = _cells(some, rules.cells, seed)
        ids[cells[ids] != cells[:, np.newaxis]] = -1
    ids = _mutual(ids)
    ids[(ids >= 0).cumsum(axis=1) > rules.width] = -1
    ids = _mutual(ids)
    found[rows] = np.where(ids >= 0, rows[ids], -1)
    return np.take_along_axis(found, np.argsort(found < 0, axis=1, kind="stable"), axis=1)[:, : rules.width]


def _nearest(vectors: NDArray[np.float32], groups: Indices, count: int) -> tuple[Indices, NDArray[np.float32]]:
    """The rows of other groups with the largest inner products, `(N, count)`, and these; -1 where there are no more."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    ids, products = (
        np.full((len(vectors), count), -1, dtype=np.int64),
        np.full((len(vectors), count), -2.0, dtype=np.float32),
    )
    sizes = np.bincount(groups)[groups]
    for start in range(0, len(vectors), _QUERIES):
        # Of so many, `count` are of other groups, if there are as many.
        asked = min(len(vectors), count + int(sizes[start : start + _QUERIES].max()))
        values, there = index.search(vectors[start : start + _QUERIES], asked)
        is_own = groups[there] == groups[start : start + _QUERIES, np.newaxis]
        order = np.argsort(is_own, axis=1, kind="stable")[:, :count]
        others = np.take_along_axis(np.where(is_own, -1, there), order, axis=1)
        ids[start : start + _QUERIES, : others.shape[1]] = others
        products[start : start + _QUERIES, : others.shape[1]] = np.take_along_axis(values, order, axis=1)
    return ids, products


def _cells(vectors: NDArray[np.float32], count: int, seed: int) -> Indices:
    """The cell of each unit vector, `(N,)`, by spherical k-means."""
    import faiss

    if count > len(vectors):
        raise SettingError("cells", f"{count}, but there are {len(vectors)} images")
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": _POINTS}
    machine = faiss.Kmeans(vectors.shape[1], count, niter=20, seed=seed % 2**31, spherical=True, **limits)
    machine.train(vectors)
    cells: Indices = machine.index.search(vectors, 1)[1][:, 0]
    return cells


def _mutual(ids: Indices) -> Indices:
    """The neighbours that have each other, and -1 in the places of the rest."""
    own, kept = np.arange(len(ids))[:, np.newaxis], np.full_like(ids, -1)
    for column, there in enumerate(ids.T):
        both = (there >= 0) & (ids[there] == own).any(axis=1)
        kept[both, column] = there[both]
    return kept
