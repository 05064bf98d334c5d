"""Which rows a measurement uses: one view of each object, folds and groups of objects, and the error from groups."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.transforms.keyed_random import permutation, uniform

_ONE_VIEW = 1
"""Separates the draws of this module from others with the same seed."""


def one_view_rows(table: FeatureTable, seed: int = 0) -> Tensor:
    """The row of a random view of each object of an ordered table, `(objects,)`.

    The view depends on the seed and the number of the object alone.
    """
    objects, counts = torch.unique_consecutive(table.objects, return_counts=True)
    draw = torch.from_numpy(uniform(seed, _ONE_VIEW, objects.numpy(), count=1)[:, 0])
    rows: Tensor = counts.cumsum(0) - counts + torch.minimum((draw * counts).long(), counts - 1)
    return rows


def one_view_each(table: FeatureTable, samples: int | None = None, seed: int = 0) -> FeatureTable:
    """A random view of each object, in ascending order of the objects; see `one_view_rows`.

    Args:
        table: rows in any order.
        samples: objects that are kept at most, drawn at random; None keeps all.
        seed: decides the draws.
    """
    table = table.ordered()
    return table.select(at_most(one_view_rows(table, seed), samples, seed)) if len(table) else table


def equal_views(table: FeatureTable) -> Tensor:
    """Rows of the first V views of every object that has so many, `(objects, V)`, with the V that keeps most rows.

    The table must be ordered.
    """
    counts = torch.unique_consecutive(table.objects, return_counts=True)[1]
    views = max(sorted(set(counts.tolist())), key=lambda number: number * int((counts >= number).sum()))
    starts = (counts.cumsum(0) - counts)[counts >= views]
    rows: Tensor = starts[:, None] + torch.arange(views)
    return rows


def at_most(rows: Tensor, samples: int | None, seed: int = 0) -> Tensor:
    """At most `samples` of the rows `(N,)`, drawn at random, in their order."""
    if samples is None or len(rows) <= samples:
        return rows
    return rows[torch.from_numpy(permutation(seed, length=len(rows))[:samples]).sort().values]


def object_groups(objects: Tensor, groups: int, seed: int = 0) -> Tensor:
    """The number of a random group for each row, `(N,)` from 0 to `groups` - 1.

    All rows of one object are in one group, and groups differ by one object at most.
    """
    ids, position = torch.unique(objects, return_inverse=True)
    of_object = torch.empty(len(ids), dtype=torch.int64)
    of_object[torch.from_numpy(permutation(seed, length=len(ids)))] = torch.arange(len(ids)) % groups
    return of_object[position]


def jackknife_error(values: Sequence[float]) -> float | None:
    """Standard error of a statistic from its values without one group of objects after the other.

    It suits statistics that resampling with replacement would bias, because a row that is drawn twice is its own
    neighbour (delete-a-group jackknife; Shao and Tu, 1995, section 2.3).

    Returns:
        The standard error, or None with fewer than three groups, or if a value is not finite.
    """
    found = np.array(values)
    if len(found) < 3 or not np.isfinite(found).all():
        return None
    return float(math.sqrt(len(found) - 1) * found.std())


def held_out_rows(objects: Tensor, share: float, seed: int = 0) -> Tensor:
    """Rows of a random share of the objects, `(N,)`, bool: one object at least, and not all.

    Raises:
        ValueError: if there is one object only.
    """
    ids, position = torch.unique(objects, return_inverse=True)
    if len(ids) < 2:
        raise ValueError("to hold out training objects, there must be labelled rows of two at least")
    count = min(max(round(len(ids) * share), 1), len(ids) - 1)
    chosen = torch.zeros(len(ids), dtype=torch.bool)
    chosen[torch.from_numpy(permutation(seed, length=len(ids))[:count])] = True
    return chosen[position]


def random_batches(rows: int, size: int, steps: int, seed: int = 0) -> Iterator[Tensor]:
    """Row numbers `(size,)` of every step: one random order of all rows after another. The size is cut to the rows."""
    size, waiting, epoch = min(size, rows), torch.zeros(0, dtype=torch.int64), 0
    for _ in range(steps):
        if len(waiting) < size:
            waiting = torch.cat((waiting, torch.from_numpy(permutation(seed, epoch, length=rows))))
            epoch += 1
        yield waiting[:size]
        waiting = waiting[size:]
