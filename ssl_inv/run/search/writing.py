"""Indices beside the shards of embeddings: one for each part of the features, exact or compressed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_inv.atomic import checksum, written_aside
from ssl_inv.catalogue import RecipeError
from ssl_inv.data.source import Indices
from ssl_inv.engine.progress import Progress
from ssl_inv.engine.team import ALONE, Team
from ssl_inv.memories.indices import (
    Compression,
    Vectors,
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
from ssl_inv.nn.modes import frozen
from ssl_inv.run.embed import write_shards
from ssl_inv.run.encoders import LoadedModel, best_device, on
from ssl_inv.run.judging import parts_of as parts_of_features
from ssl_inv.run.shards import Shards, read_manifest, write_manifest
from ssl_inv.transforms.keyed_random import permutation

EXACT_ROWS = 200_000
"""Up to so many images, `auto` compresses nothing."""

CANDIDATES = 10
"""A compressed index is asked for this many times the neighbours that are wanted; their own vectors rank them."""

_LEAST_CANDIDATES = 100
_JUDGED, _JUDGED_AT = 256, 10
_PAIRS = 4096
_GOOD_RECALL, _SMALL_GAIN = 0.99, 0.002

Parts = dict[str, tuple[int, int]]
"""The first number and the end of each part within all features."""


def candidates(count: int) -> int:
    """How many rows a compressed index is asked for, where `count` are wanted."""
    return max(CANDIDATES * count, _LEAST_CANDIDATES)


def parts_of(model: LoadedModel) -> Parts:
    """Where the parts of the features lie within all of them.

    A part that an objective computes in another way than by taking features that stand side by side is left out.
    """
    side, channels = model.data.train.image_size, model.data.train.channels
    backbone, objective = model.model.trained()
    if objective is None:
        backbone = model.model.backbone.to(best_device())
        with frozen(backbone), torch.no_grad():
            features = parts_of_features(backbone(model.whole(torch.rand(2, channels, side, side)).to(best_device())))[
                "all"
            ]
        named = {name: (columns.start, columns.stop) for name, columns in model.model.parts.items()}
        return {"all": (0, features.shape[1]), **named}
    backbone, objective = on((backbone, objective), best_device())
    assert objective is not None
    pixels = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    with frozen(backbone), frozen(objective), torch.no_grad():
        encoded = objective.representations(backbone)(model.whole(pixels).to(best_device()))  # type: ignore[arg-type]
    features = encoded["all"]
    found: Parts = {"all": (0, features.shape[1])}
    for name, values in encoded.items():
        ends = (0, values.shape[1]), (features.shape[1] - values.shape[1], features.shape[1])
        for start, stop in ends:
            if name not in found and torch.equal(features[:, start:stop], values):
                found[name] = (start, stop)
    return found


def write_embeddings(
    model: LoadedModel,
    folder: Path,
    file_format: str,
    shard_size: int,
    index: str | None,
    team: Team = ALONE,
) -> int:
    """Write the features of every image, and an index of them if `index` names a kind.

    Args:
        model: the encoder and its data.
        folder: where to write.
        file_format: see `write_shards`.
        shard_size: see `write_shards`.
        index: see `write_indices`; None writes none.
        team: the processes that share the encoding; the first one makes the index.

    Returns:
        The number of images; 0 on all processes but the first.

    Raises:
        RecipeError: if the folder holds something else, or there are too few images for the index.
    """
    if index == "ivf-pq":
        _memory_told(index, _image_count(model), parts_of(model))
    progress = Progress(quiet=not team.first)
    try:
        rows = write_shards(model, folder, file_format, shard_size, progress.counting("embedding"), team)
        if index is not None and team.first:
            write_indices(model, folder, index, progress)
    finally:
        progress.close()
    return rows


def _image_count(model: LoadedModel) -> int:
    return sum(int(source.view_counts.sum()) for source in (model.data.train, model.data.validation))


def write_indices(model: LoadedModel, folder: Path, kind: str, show: Progress) -> None:
    """Write `_index/PART.faiss` for every part of the features, and what is known of them into the manifest.

    After an interruption, a second call writes what is missing. For a compressed index, `_index/vectors.npy` has the
    vectors in half precision.

    Args:
        model: the encoder of the shards.
        folder: with all shards.
        kind: `exact`, `ivf-pq` or `auto`.
        show: the progress display; the memory is told there before anything is made.

    Raises:
        RecipeError: if there are no images, or too few to compress.
    """
    manifest = read_manifest(folder)
    shards, parts = Shards(folder, manifest), parts_of(model)
    if not shards.rows:
        raise RecipeError(f"{str(folder)!r} has no embeddings to search in")
    if kind == "auto":
        kind = "exact" if shards.rows <= EXACT_ROWS else "ivf-pq"
    begun = {"kind": kind, "metric": "cosine", "rows": shards.rows, "parts": {k: list(v) for k, v in parts.items()}}
    known = manifest.get("index") or {}
    files: dict[str, Any] = dict(known.get("files", {})) if known.items() >= begun.items() else {}
    show.keep(_memory_told(kind, shards.rows, parts))
    (folder / "_index").mkdir(exist_ok=True)
    vectors = folder / "_index" / "vectors.npy"
    if kind == "ivf-pq" and not (files and vectors.is_file()):
        _write_vectors(shards, vectors)
    for part, (start, stop) in parts.items():
        path = folder / "_index" / f"{part}.faiss"
        if part in files and path.is_file() and files[part].get("crc32") in (None, checksum(path)):
            continue
        show.update(f"indexing {part}: {shards.rows:,} vectors of {stop - start}")
        facts = _Making(shards, slice(start, stop), path).write(kind == "ivf-pq", vectors)
        sums = {"crc32": checksum(path)} | ({"vectors_crc32": checksum(vectors)} if kind == "ivf-pq" else {})
        files[part] = {**facts, **sums}
        write_manifest(folder, {**manifest, "index": {**begun, "files": files}})


def _memory_told(kind: str, rows: int, parts: Parts) -> str:
    widths = [stop - start for start, stop in parts.values()]
    what = f"{kind} index of {rows:,} images, {', '.join(parts)}"
    if kind == "exact":
        return f"{what}: {_size(sum(exact_memory(rows, width) for width in widths))} of memory to search in all of it"
    try:
        sizes = [Compression.of(rows, width) for width in widths]
    except ValueError as error:
        raise RecipeError(f"--index: {error}; 'exact' suits them") from None
    disk = rows * max(widths) * 2
    return (
        f"{what}: {' + '.join(str(one.code) for one in sizes)} bytes an image, "
        f"{_size(sum(one.memory for one in sizes))} of memory to search in all of it, "
        f"{_size(max(one.training_memory for one in sizes))} at most to make it, and {_size(disk)} of vectors on disk"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _write_vectors(shards: Shards, path: Path) -> None:
    with written_aside(path) as aside:
        shape = (shards.rows, shards.width)
        kept: Any = np.lib.format.open_memmap(aside, "w+", dtype=np.float16, shape=shape)
        start = 0
        for block in shards.blocks():
            kept[start : start + len(block)] = unit(block)
            start += len(block)
        kept.flush()


@dataclass(frozen=True)
class _Making:
    """The making of one index: where the vectors are, which of their numbers count, and where it is written."""

    shards: Shards
    part: slice
    path: Path

    def _blocks(self) -> Iterator[Vectors]:
        return (block[:, self.part] for block in self.shards.blocks())

    def _sample(self, count: int, seed: int) -> tuple[Indices, Vectors]:
        """Random rows, ascending, and their vectors."""
        order = permutation(seed, length=self.shards.rows)[:count]
        rows = np.sort(order.astype(np.int64))
        return rows, self.shards.chosen(rows)[:, self.part]

    def write(self, compressed: bool, vectors: Path) -> dict[str, Any]:
        """Write the index; the result is what the manifest says of it."""
        facts: dict[str, Any] = {"width": self.part.stop - self.part.start, "random_pairs": self._random_pairs()}
        if not compressed:
            write_index(exact_index(self._blocks(), facts["width"]), self.path)
            return facts
        sizes = Compression.of(self.shards.rows, facts["width"])
        sample = self._sample(sizes.sample, 0)[1]
        write_index(compressed_index(sample, self._blocks(), sizes), self.path)
        probes, found = self._probes(sizes, vectors)
        return {
            **facts,
            **{"cells": sizes.cells, "code": sizes.code, "trained_on": sizes.sample, "memory": sizes.memory},
            **{"probes": probes, f"recall_at_{_JUDGED_AT}": round(found, 4), "recall_queries": _JUDGED},
        }

    def _random_pairs(self) -> dict[str, float]:
        """Cosines of random pairs: what a cosine means for this encoder."""
        if self.shards.rows < 2:
            return {}
        rows, vectors = self._sample(min(_PAIRS, self.shards.rows), 1)
        order = permutation(2, length=len(rows))
        directions = unit(vectors)[order]
        cosines = (directions * np.roll(directions, 1, axis=0)).sum(axis=1)
        return {f"{share:g}%": round(float(np.percentile(cosines, share)), 4) for share in (50, 99, 99.9)}

    def _probes(self, sizes: Compression, vectors: Path) -> tuple[int, float]:
        """The fewest cells to look into with which most true neighbours are found, and the share found."""
        rows, queries = self._sample(min(_JUDGED, sizes.rows), 3)
        true = self._true_neighbours(rows, queries)
        index, probes, before = read_index(self.path), 1, -1.0
        while True:
            near = search(index, queries, candidates(_JUDGED_AT) + 1, probes)[0]
            own = near == rows[:, None]
            found = recall(ranked(vectors, self.part, queries, np.where(own, -1, near), _JUDGED_AT)[0], true)
            if found - before < _SMALL_GAIN:
                return probes // 2, before
            if found >= _GOOD_RECALL or 2 * probes > sizes.cells:
                return probes, found
            probes, before = 2 * probes, found

    def _true_neighbours(self, rows: Indices, queries: Vectors) -> Indices:
        """The nearest rows besides themselves, by all vectors, `(Q, k)`."""
        near = np.full((len(rows), 0), -1, dtype=np.int64)
        cosines, start, wanted = np.zeros((len(rows), 0), dtype=np.float32), 0, unit(queries)
        for block in self._blocks():
            products = wanted @ unit(block).T
            numbers = np.broadcast_to(np.arange(start, start + len(block)), products.shape)
            products[numbers == rows[:, None]] = -np.inf
            both = np.concatenate((near, numbers), axis=1), np.concatenate((cosines, products), axis=1)
            near, cosines = best(*both, _JUDGED_AT)
            start += len(block)
        return near


def ranked(
    vectors: Path, part: slice, queries: Vectors, rows: Indices, count: int
) -> tuple[Indices, NDArray[np.float32]]:
    """The `count` best of some candidates `(Q, n)` by their own vectors, and their cosines; rows of -1 are none."""
    kept = np.load(vectors, mmap_mode="r")
    wanted = unit(queries)
    cosines = np.empty(rows.shape, dtype=np.float32)
    for place, some in enumerate(rows):
        near = unit(np.asarray(kept[np.maximum(some, 0)][:, part], dtype=np.float32))
        cosines[place] = near @ wanted[place]
    return best(rows, cosines, count)
