"""Indices of vectors for search by cosine: all of them as they are, or compressed for millions.

The compressed index is an inverted file with product quantisation (Jegou, Douze, Schmid, "Product quantization for
nearest neighbor search", TPAMI 2011): vectors lie in cells around k-means centroids, a search looks into some of the
cells, and a vector is kept as one byte for every four numbers. What it finds is ranked again by the vectors themselves,
which stay on the disk.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_inv.atomic import written_aside
from ssl_inv.data.source import Indices
from ssl_inv.memories.search import faiss_for_all_processes

Vectors = NDArray[np.float32]

LEAST_COMPRESSED = 1024
"""Fewer vectors are not compressed: there are 256 words for every four numbers to be learned from them."""

_NUMBERS_A_BYTE = 4
_WORDS = 256
_SAMPLES_A_CELL = 64


@dataclass(frozen=True)
class Compression:
    """The sizes of a compressed index.

    Attributes:
        rows: vectors N.
        width: numbers in a vector D.
        cells: of the inverted file, 4 sqrt(N), with at least 39 vectors each.
        code: bytes of a compressed vector.
        sample: vectors that cells and words are learned from.
    """

    rows: int
    width: int
    cells: int
    code: int
    sample: int

    @classmethod
    def of(cls, rows: int, width: int) -> "Compression":
        """The sizes for so many vectors.

        Raises:
            ValueError: if there are too few to learn from.
        """
        if rows < LEAST_COMPRESSED:
            raise ValueError(f"a compressed index needs at least {LEAST_COMPRESSED:,} images, and there are {rows:,}")
        cells = max(1, min(round(4 * math.sqrt(rows)), rows // 39))
        sample = min(rows, max(_SAMPLES_A_CELL * cells, 39 * _WORDS))
        return cls(rows, width, cells, math.ceil(width / _NUMBERS_A_BYTE), sample)

    @property
    def padded(self) -> int:
        """Numbers in a vector with the zeros that make it a multiple of four."""
        return self.code * _NUMBERS_A_BYTE

    @property
    def memory(self) -> int:
        """Bytes of the open index: codes and 8-byte numbers of the vectors, centroids, words."""
        return self.rows * (self.code + 8) + (self.cells + _WORDS) * self.padded * 4

    @property
    def training_memory(self) -> int:
        """Bytes while it is made, at most: the index, and three copies of the sample."""
        return self.memory + 3 * self.sample * self.padded * 4


def exact_memory(rows: int, width: int) -> int:
    """Bytes of an index of uncompressed vectors."""
    return 4 * rows * width


def unit(vectors: Vectors) -> Vectors:
    """The vectors divided by their lengths; a zero vector stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)
    return scaled


def exact_index(blocks: Iterable[Vectors], width: int) -> Any:
    """An index of unit vectors, as they are."""
    with faiss_for_all_processes() as faiss:
        index = faiss.IndexFlatIP(width)
        for block in blocks:
            index.add(np.ascontiguousarray(unit(block)))
    return index


def compressed_index(sample: Vectors, blocks: Iterable[Vectors], sizes: Compression, seed: int = 0) -> Any:
    """A compressed index of unit vectors.

    Args:
        sample: vectors to learn cells and words from.
        blocks: all vectors in their order.
        sizes: of the index.
        seed: of the first centroids.
    """
    with faiss_for_all_processes() as faiss:
        cells = faiss.IndexFlatIP(sizes.padded)
        index = faiss.IndexIVFPQ(cells, sizes.padded, sizes.cells, sizes.code, 8, faiss.METRIC_INNER_PRODUCT)
        for one in (index.cp, index.pq.cp):
            one.seed, one.min_points_per_centroid = seed % 2**31, 1
        index.train(_padded(unit(sample), sizes.padded))
        for block in blocks:
            index.add(_padded(unit(block), sizes.padded))
    return index


def _padded(vectors: Vectors, width: int) -> Vectors:
    return np.ascontiguousarray(np.pad(vectors, ((0, 0), (0, width - vectors.shape[1]))))


def write_index(index: Any, path: Path) -> None:
    """Write an index, whole or not at all."""
    with faiss_for_all_processes() as faiss, written_aside(path) as aside:
        faiss.write_index(index, str(aside))


def read_index(path: Path) -> Any:
    """Read an index into memory.

    Raises:
        ValueError: if the file is no index.
    """
    with faiss_for_all_processes() as faiss:
        try:
            return faiss.read_index(str(path))
        except RuntimeError as error:
            raise ValueError(f"{path} is no index: {str(error).splitlines()[-1]}") from None


def search(index: Any, queries: Vectors, count: int, probes: int | None = None) -> tuple[Indices, Vectors]:
    """The rows with the largest cosines to each query, and these, `(Q, count)`; -1 where a search found no more.

    Args:
        index: from `read_index`.
        queries: `(Q, D)`.
        count: rows for each query.
        probes: cells that a search in a compressed index looks into.
    """
    with faiss_for_all_processes():
        if probes is not None:
            index.nprobe = probes
        cosines, rows = index.search(_padded(unit(queries), index.d), min(count, index.ntotal))
    return rows, cosines


def best(rows: Indices, cosines: Vectors, count: int) -> tuple[Indices, Vectors]:
    """The `count` best of every line, best first, and the first rows among equals; rows of -1 come last."""
    order = np.lexsort((rows, -np.where(rows < 0, -np.inf, cosines)))[:, :count]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(cosines, order, axis=1)


def recall(found: Indices, true: Indices) -> float:
    """The share of the true neighbours `(Q, k)` that stand among those found."""
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(true, found, strict=True)]))
