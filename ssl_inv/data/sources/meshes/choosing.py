"""Which meshes of a collection are trained on, and which are held out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssl_inv.catalogue import SettingError, suggest
from ssl_inv.data.source import Indices
from ssl_inv.data.sources.meshes.collection import Collection
from ssl_inv.transforms.keyed_random import permutation

_TAKE, _SPLIT = range(2)
"""Last part of a key, so that the choice of objects and their split draw from different streams."""


def chosen_rows(collection: Collection, classes: Sequence[str], objects: int | None, seed: int) -> Indices:
    """The meshes of some classes, ascending.

    Args:
        collection: all meshes.
        classes: names; empty takes all usual meshes.
        objects: the most meshes, as many of each class as of others, as far as there are; a smaller number takes some
            of those that a larger one takes. None: all.
        seed: which are taken.

    Raises:
        SettingError: if there is no such class, a class is named twice, or there are fewer than two meshes.
    """
    known = sorted(set(collection.classes.tolist()) - {""})
    for place, name in enumerate(classes):
        if name not in known:
            problem = (
                f"no mesh has the class {name!r}; {suggest(name, known)}" if known else "the meshes have no classes"
            )
            raise SettingError("classes", problem)
        if name in classes[:place]:
            raise SettingError("classes", f"{name!r} is named twice")
    rows = np.flatnonzero(np.isin(collection.classes, list(classes)) if classes else collection.usual)
    if objects is None:
        return rows
    if objects < 2:
        raise SettingError("objects", f"must be at least 2, one to train on and one to judge by, got {objects}")
    return fewer(rows, collection.classes[rows], objects, seed)


def fewer(rows: Indices, classes: NDArray[np.str_], most: int, seed: int) -> Indices:
    """At most so many of some rows, ascending, of all classes `(len(rows),)` alike."""
    rank = np.empty(len(rows), dtype=np.int64)
    order = permutation(seed, _TAKE, length=len(rows))
    for name in np.unique(classes):
        own = order[classes[order] == name]
        rank[own] = np.arange(len(own))
    return np.sort(rows[np.lexsort((order.argsort(), rank))[:most]])


def held_out(collection: Collection, rows: Indices, share: float, seed: int) -> tuple[Indices, Indices, str]:
    """Some meshes to train on, others to judge by, both ascending, and how they were parted.

    All meshes of a group are on one side. Of every class with two groups or more, about the same share of groups is
    held out.

    Args:
        collection: all meshes.
        rows: those to part.
        share: of the groups to hold out, above 0 and below 1.
        seed: which are held out.

    Raises:
        SettingError: if the share is out of its range, or all meshes are of one group.
        ValueError: if the data's own split has no meshes on one side, or parts a group.
    """
    if not 0 < share < 1:
        raise SettingError("validation_share", f"must be above 0 and below 1, got {share}")
    if collection.splits:
        return _own_split(collection, rows)
    groups, first, of_row = np.unique(collection.groups[rows], return_index=True, return_inverse=True)
    of_row = of_row.reshape(-1)
    if len(groups) < 2:
        what = f"{len(rows)} mesh(es) of one group cannot be split into train and validation"
        advice = "add a mesh of another group" if len(rows) > 1 else "add a mesh"
        # Views depend on the name, so those of a copy are others.
        alone = "; to render one model alone, lay a copy of its file beside it under another name"
        raise SettingError("path", f"{collection.where}: {what}; {advice}{alone if len(rows) == 1 else ''}")
    classes, order = collection.classes[rows][first], permutation(seed, _SPLIT, length=len(groups))
    out = np.zeros(len(groups), dtype=np.bool_)
    for name in np.unique(classes):
        own = order[classes[order] == name]
        if len(own) > 1:
            out[own[: min(max(round(len(own) * share), 1), len(own) - 1)]] = True
    if not out.any():
        out[order[0]] = True
    judged = out[of_row]
    what = f"{int(judged.sum())} of {len(rows)} objects held out at random by group"
    note = f"{what} ({int(out.sum())} of {len(groups)} groups, the same share of every class), seed {seed}"
    return rows[~judged], rows[judged], note


def _own_split(collection: Collection, rows: Indices) -> tuple[Indices, Indices, str]:
    splits = {name: np.intersect1d(rows, found) for name, found in collection.splits.items()}
    other = "validation" if "validation" in splits else "test"
    for name in ("train", other):
        if not len(splits.get(name, ())):
            there = ", ".join(sorted(collection.splits))
            raise ValueError(f"{collection.where}: its split, {there}, has no mesh of these classes in {name}")
    train, judged = splits["train"], splits[other]
    if len(both := np.intersect1d(collection.groups[train], collection.groups[judged])):
        problem = f"its split has meshes of the group {str(both[0])!r} in train and in {other}"
        raise ValueError(f"{collection.where}: {problem}")
    return train, judged, f"the data's own train and {other} splits"
