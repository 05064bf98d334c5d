"""The order of the objects in an epoch: a function of the seed and the epoch alone."""

import numpy as np

from ssl_inv.data.source import Indices
from ssl_inv.transforms import keyed_random

WINDOW_BLOCKS, WINDOW_OBJECTS = 16, 8192
"""A window has at least so many blocks and so many objects.

Neighbours in a file are often alike: images of one class, frames of one video. A window has 16 blocks, however large
they are, so that few samples of a batch are neighbours. Blocks can be small, such as the groups of 100 rows in many
Parquet files; 8,192 objects are twice the largest usual batch, so that no batch is a window of its own. The price is
what is in use at a time: 16 shards of 256 MB are 4 GB of page cache, or of copies of remote shards.
"""

_ORDER, _BLOCKS, _WITHIN = 0x0D3, 0xB10C, 0xB10D


def epoch_order(blocks: Indices | None, objects: int, seed: int, epoch: int) -> Indices:
    """All objects in the order of an epoch, `(N,)`.

    Without blocks, any order is as likely as any other. With blocks, these are taken in a random order and cut into
    windows; the objects of a window are in random order. The last window has the blocks that are too few for one of
    their own, so a window has fewer than twice the blocks that it needs.

    Args:
        blocks: the block of every object, `(N,)`; None if any order costs the same.
        objects: N.
        seed: of the run.
        epoch: passes over the data before this one.
    """
    if blocks is None:
        return keyed_random.permutation(seed, epoch, _ORDER, length=objects)
    _, block, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    turn = keyed_random.permutation(seed, epoch, _BLOCKS, length=len(sizes))
    window_of_block = np.empty(len(sizes), dtype=np.int64)
    window_of_block[turn] = _windows(sizes[turn])
    # The objects in random order, then by their window: a stable sort keeps the former inside the latter.
    order = keyed_random.permutation(seed, epoch, _WITHIN, length=objects)
    return order[np.argsort(window_of_block[block[order]], kind="stable")]


def _windows(sizes: Indices) -> Indices:
    """The window of every block, from their sizes in their order."""
    windows = np.empty(len(sizes), dtype=np.int64)
    number, begun, held = 0, 0, 0
    for place, size in enumerate(sizes.tolist()):
        windows[place] = number
        held += size
        if place + 1 - begun >= WINDOW_BLOCKS and held >= WINDOW_OBJECTS:
            number, begun, held = number + 1, place + 1, 0
    if begun < len(sizes):
        windows[begun:] = max(number - 1, 0)
    return windows
