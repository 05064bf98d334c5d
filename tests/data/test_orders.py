"""Claims about the order of an epoch: all objects once, few blocks at a time, well mixed, and a function of seed and
epoch alone.
"""

import numpy as np
import pytest

from ssl_inv.data.orders import WINDOW_BLOCKS, WINDOW_OBJECTS, epoch_order
from ssl_inv.transforms import keyed_random

BLOCKS = {
    "large": np.repeat(np.arange(50), 2000),
    "small": np.repeat(np.arange(300), 100),
    "uneven": np.repeat(np.arange(90), np.random.default_rng(0).integers(1, 2500, 90)),
    "scattered": np.random.default_rng(1).integers(0, 40, 30_000) * 7 - 3,
    "one": np.zeros(500, dtype=np.int64),
    "alone": np.arange(20_000),
}


def open_at_once(blocks: np.ndarray) -> int:
    """The most blocks of which some objects were met and some are still to come."""
    _, number = np.unique(blocks, return_inverse=True)
    first, last = np.full(number.max() + 1, len(blocks)), np.zeros(number.max() + 1, dtype=np.int64)
    np.minimum.at(first, number, np.arange(len(blocks)))
    np.maximum.at(last, number, np.arange(len(blocks)))
    change = np.zeros(len(blocks) + 1, dtype=np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, last + 1, -1)
    return int(np.cumsum(change).max())


@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
def test_every_object_comes_once_and_few_blocks_are_in_use(blocks):
    order = epoch_order(blocks, len(blocks), 3, 5)
    assert np.array_equal(np.sort(order), np.arange(len(blocks)))
    sizes = np.unique(blocks, return_counts=True)[1]
    # A window is closed by the block that makes it large enough; the last one takes in what is left.
    needed = max(WINDOW_BLOCKS, int(np.ceil(WINDOW_OBJECTS / sizes.mean() * 1.5)) + 1)
    assert open_at_once(blocks[order]) <= min(2 * needed, len(sizes))


def test_without_blocks_the_order_is_what_it_always_was():
    expected = keyed_random.permutation(7, 2, 0x0D3, length=1000)
    assert np.array_equal(epoch_order(None, 1000, 7, 2), expected)


def test_no_two_epochs_or_seeds_are_alike_and_each_can_be_made_again():
    blocks = BLOCKS["large"]
    orders = [epoch_order(blocks, len(blocks), seed, epoch) for seed in (0, 1) for epoch in range(3)]
    assert len({order.tobytes() for order in orders}) == 6
    assert np.array_equal(orders[4], epoch_order(blocks, len(blocks), 1, 1))
    # A place in the epoch holds the same object as often as chance has it.
    assert np.mean([(orders[0] == other).mean() for other in orders[1:]]) < 1e-3


def test_neighbours_in_a_file_are_far_apart_in_an_epoch():
    blocks = BLOCKS["large"]
    place = np.argsort(epoch_order(blocks, len(blocks), 0, 0))
    apart = np.abs(np.diff(place))[np.diff(blocks) == 0]
    # Two random places among n are n / 3 apart on average; a window has 16 blocks of 2,000.
    assert abs(apart.mean() / (WINDOW_BLOCKS * 2000 / 3) - 1) < 0.15
    batches = blocks[epoch_order(blocks, len(blocks), 0, 0)][: 256 * 300].reshape(-1, 256)
    counts = np.array([np.unique(batch, return_counts=True)[1].max() for batch in batches])
    assert np.median(counts) < 3 * 256 / WINDOW_BLOCKS, "no block has much more than its share of a batch"


def test_blocks_meet_other_blocks_in_every_epoch():
    blocks = BLOCKS["large"]
    windows = [
        {tuple(np.unique(part)) for part in np.array_split(blocks[epoch_order(blocks, len(blocks), 0, epoch)], 3)}
        for epoch in range(4)
    ]
    assert not any(one & other for n, one in enumerate(windows) for other in windows[:n])
