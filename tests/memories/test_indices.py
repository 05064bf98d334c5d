"""Indices find what a comparison with every vector finds, compressed ones nearly so in the memory that was told."""

from pathlib import Path

import numpy as np
import pytest

from ssl_inv.memories.indices import (
    LEAST_COMPRESSED,
    Compression,
    best,
    compressed_index,
    exact_index,
    exact_memory,
    read_index,
    recall,
    search,
    unit,
    write_index,
)


def clustered(rows: int, width: int = 30) -> np.ndarray:
    """Vectors around a hundred centres, as features are."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(100, width))
    return (centres[generator.integers(0, 100, rows)] + 0.3 * generator.normal(size=(rows, width))).astype(np.float32)


def nearest(vectors: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-(unit(queries) @ unit(vectors).T), axis=1, kind="stable")[:, :count]


def test_an_exact_index_finds_the_largest_cosines_whatever_the_blocks() -> None:
    vectors = clustered(300)
    index = exact_index([vectors[:7], vectors[7:]], 30)
    rows, cosines = search(index, 5 * vectors[:9], 10)
    assert (rows == nearest(vectors, vectors[:9], 10)).all()
    np.testing.assert_allclose(cosines[:, 0], 1, atol=1e-6)


def test_a_compressed_index_is_as_large_as_told_and_finds_most_neighbours(tmp_path: Path) -> None:
    vectors = clustered(4000)
    sizes = Compression.of(*vectors.shape)
    index = compressed_index(vectors[: sizes.sample], [vectors[:1000], vectors[1000:]], sizes)
    write_index(index, tmp_path / "index")
    written = (tmp_path / "index").stat().st_size
    assert 0.95 * sizes.memory < written < 1.1 * sizes.memory < exact_memory(*vectors.shape)
    rows, _ = search(read_index(tmp_path / "index"), vectors[:50], 100, probes=sizes.cells)
    assert recall(rows, nearest(vectors, vectors[:50], 10)) > 0.95


def test_the_same_vectors_give_the_same_compressed_index(tmp_path: Path) -> None:
    vectors = clustered(LEAST_COMPRESSED)
    for name in "ab":
        sizes = Compression.of(*vectors.shape)
        write_index(compressed_index(vectors, [vectors], sizes, seed=3), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_few_vectors_are_not_compressed_and_other_files_are_no_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least 1,024 images, and there are 1,023"):
        Compression.of(LEAST_COMPRESSED - 1, 8)
    (tmp_path / "index").write_bytes(b"no index at all")
    with pytest.raises(ValueError, match="is no index"):
        read_index(tmp_path / "index")


def test_the_best_come_first_then_the_first_rows_and_what_was_not_found_last() -> None:
    rows, cosines = np.array([[4, -1, 2, 7]]), np.array([[0.5, 0.9, 0.5, 0.8]], dtype=np.float32)
    assert best(rows, cosines, 4)[0].tolist() == [[7, 2, 4, -1]]
