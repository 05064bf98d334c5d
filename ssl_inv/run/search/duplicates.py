"""Near duplicates: groups of images whose vectors nearly have the same direction, and the exact copies among them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ssl_inv.catalogue import RecipeError
from ssl_inv.data.source import Indices
from ssl_inv.run.search import Index

_BLOCK = 2048
"""Rows that are compared with as many others at a time: 16 MB of cosines."""

_ASKED = 32
"""Neighbours of each image that a compressed index is asked for."""

_SUSPICIOUS_SHARE, _SUSPICIOUS_ROWS = 0.1, 20

_WAY_TO_ONE = 0.7
"""The threshold that is advised lies so far between the cosine of one random pair in a thousand and 1. It then has a
precision of 0.99 on photographs with known copies, both with trained and with random weights.
"""


@dataclass(frozen=True)
class Member:
    """An image of a group.

    Attributes:
        row: its number in the index.
        id: its name in the data.
        path: its file, if it is one that is there.
        score: the largest cosine to another image of the group.
        copy: images of a group with the same number have the same file, byte for byte (without files, the same pixels);
            None if there is no other such image in the group, or it cannot be read.
    """

    row: int
    id: str
    path: str | None
    score: float
    copy: int | None = None


@dataclass(frozen=True)
class Group:
    """Images of which each is a near duplicate of at least one other."""

    members: tuple[Member, ...]

    @property
    def exact(self) -> bool:
        """Whether all are copies of one file."""
        return {one.copy for one in self.members} == {0}

    @property
    def score(self) -> float:
        """The smallest of the members' scores."""
        return min(one.score for one in self.members)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        kind = "exact" if self.exact else "near"
        return {"kind": kind, "score": self.score, "images": [dict(vars(one)) for one in self.members]}


@dataclass(frozen=True)
class Duplicates:
    """The near duplicates of an index.

    Attributes:
        groups: exact copies first, then by descending score.
        threshold: the cosine from which two images are near duplicates.
        part: of the features that were compared.
        rows: images that were compared.
        complete: whether all pairs were compared; with a compressed index, each image was compared with its neighbours.
        random_pairs: percentiles of the cosines of random pairs of images, for comparison.
    """

    groups: tuple[Group, ...]
    threshold: float
    part: str
    rows: int
    complete: bool
    random_pairs: dict[str, float]

    @property
    def images(self) -> int:
        """Images in any group."""
        return sum(len(group.members) for group in self.groups)

    @property
    def surplus(self) -> int:
        """Images that could go if one of each group stays."""
        return self.images - len(self.groups)

    @property
    def advice(self) -> str:
        """Why the threshold may be too low for this encoder; empty otherwise."""
        largest = max((len(group.members) for group in self.groups), default=0)
        if largest < max(_SUSPICIOUS_ROWS, _SUSPICIOUS_SHARE * self.rows):
            return ""
        told = f"one group has {largest:,} of {self.rows:,} images, so the threshold is too low for this encoder"
        if (usual := self.random_pairs.get("99.9%")) is None:
            return told
        better = usual + _WAY_TO_ONE * (1 - usual)
        return f"{told}; one random pair in a thousand has a cosine above {usual:.3f}: try {better:.3f}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        facts = {name: getattr(self, name) for name in ("threshold", "part", "rows", "complete", "random_pairs")}
        return {**facts, "groups": [group.to_json() for group in self.groups]}


def find_duplicates(
    index: Index, threshold: float, part: str, progress: Callable[[int, int], None] | None = None
) -> Duplicates:
    """Groups of images whose cosine is at least `threshold`, each to at least one other of its group.

    All pairs are compared, block by block, in the memory of the index and some megabytes. With a compressed index, each
    image is compared with the 32 nearest that are found. Files are read only within groups, to tell exact copies.

    Raises:
        RecipeError: if the threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise RecipeError(f"--threshold: a cosine above 0 and at most 1, got {threshold:g}")
    pairs = _all_pairs if index.kind == "exact" else _near_pairs
    group, score = np.arange(index.rows), np.full(index.rows, -1.0, dtype=np.float32)
    for first, second, cosines in pairs(index, part, _least(threshold), progress or (lambda done, total: None)):
        np.maximum.at(score, first, cosines)
        np.maximum.at(score, second, cosines)
        group = _joined(group, first, second)
    found = [_with_copies(index, _group(index, rows, score)) for rows in _members(group)]
    found.sort(key=lambda one: (not one.exact, -one.score, one.members[0].row))
    facts = index.facts[part].get("random_pairs", {})
    return Duplicates(tuple(found), threshold, part, index.rows, index.kind == "exact", facts)


def _least(threshold: float) -> float:
    """The threshold less what single precision loses: equal vectors can have a cosine of 0.9999998."""
    return threshold - 1e-5


_Pairs = Iterator[tuple[Indices, Indices, NDArray[np.float32]]]


def _all_pairs(index: Index, part: str, least: float, progress: Callable[[int, int], None]) -> _Pairs:
    import torch

    starts = range(0, index.rows, _BLOCK)
    blocks = (len(starts) + 1) * len(starts) // 2
    done = 0
    for start in starts:
        here = torch.from_numpy(index.vectors(np.arange(start, min(start + _BLOCK, index.rows)), part))
        for other in range(start, index.rows, _BLOCK):
            there = torch.from_numpy(index.vectors(np.arange(other, min(other + _BLOCK, index.rows)), part))
            cosines = here @ there.T
            near = (cosines.triu(1) if other == start else cosines) >= least
            first, second = (one.numpy() for one in near.nonzero(as_tuple=True))
            done += 1
            progress(done, blocks)
            if len(first):
                yield start + first, other + second, cosines[near].numpy()


def _near_pairs(index: Index, part: str, least: float, progress: Callable[[int, int], None]) -> _Pairs:
    width = index.parts["all"].stop
    for start in range(0, index.rows, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, index.rows))
        whole = np.zeros((len(rows), width), dtype=np.float32)
        whole[:, index.parts[part]] = index.vectors(rows, part)
        near, cosines = index.search(whole[:, index.parts[part]], part, _ASKED)
        kept = (near >= 0) & (near != rows[:, None]) & (cosines >= least)
        progress(int(rows[-1]) + 1, index.rows)
        if kept.any():
            yield np.broadcast_to(rows[:, None], near.shape)[kept], near[kept], cosines[kept]


def _joined(group: Indices, first: Indices, second: Indices) -> Indices:
    """The group of every row after pairs of rows were joined."""
    ones = np.ones(len(first), dtype=np.bool_)
    edges = coo_matrix((ones, (group[first], group[second])), shape=(len(group), len(group)))
    label: Indices = connected_components(edges, directed=False)[1].astype(np.int64)
    return label[group]


def _members(group: Indices) -> list[Indices]:
    """The rows of every group of at least two."""
    order = np.argsort(group, kind="stable")
    pieces = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return [rows for rows in pieces if len(rows) > 1]


def _group(index: Index, rows: Indices, score: NDArray[np.float32]) -> Group:
    names = index.columns["id"]
    return Group(
        tuple(
            Member(row, names[row], index.pictures.path(row), round(min(float(score[row]), 1.0), 4))
            for row in rows.tolist()
        )
    )


def _with_copies(index: Index, group: Group) -> Group:
    # Copies have the same features, so they are never in different groups.
    digests = [index.pictures.digest(one.row) for one in group.members]
    shared = [one for one in dict.fromkeys(digests) if one is not None and digests.count(one) > 1]
    number = {digest: place for place, digest in enumerate(shared)}
    members = zip(group.members, digests, strict=True)
    return Group(tuple(replace(one, copy=number.get(digest or "")) for one, digest in members))
