"""Numbers follow from their key, and look random."""

import itertools

import numpy as np
import pytest
from scipy import stats

from ssl_inv.transforms import keyed_random


def test_a_key_gives_the_same_numbers_in_any_batch():
    index = np.arange(50)
    together = keyed_random.uniform(7, 3, index, count=4)
    alone = np.concatenate([keyed_random.uniform(7, 3, one, count=4) for one in index])
    shuffled = keyed_random.uniform(7, np.full(50, 3), index[::-1], count=4)[::-1]
    assert np.array_equal(together, alone)
    assert np.array_equal(together, shuffled)
    fewer = keyed_random.uniform(7, 3, index, count=2)
    assert np.array_equal(together[:, :2], fewer), "asking for more numbers changes none"


@pytest.mark.parametrize("key", list(itertools.permutations((0, 1, 2))), ids=str)
def test_every_part_of_the_key_and_their_order_matter(key):
    others = [other for other in itertools.product(range(3), repeat=3) if other != key]
    own = keyed_random.bits(*key, count=1)
    assert all(keyed_random.bits(*other, count=1) != own for other in others)
    assert keyed_random.bits(*key, 0, count=1) != own


def test_large_and_negative_seeds_are_keys_too():
    values = {int(keyed_random.bits(seed, 1, count=1)[0, 0]) for seed in (0, 1, -1, 2**31, 2**32, 2**62)}
    assert len(values) == 6


def test_numbers_are_uniform_and_independent_of_each_other_and_of_neighbouring_keys():
    numbers = keyed_random.uniform(0, np.arange(20_000), count=3)
    assert 0 <= numbers.min() <= numbers.max() < 1
    for column in numbers.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlations = np.corrcoef(np.concatenate((numbers[1:].T, numbers[:-1].T)))
    assert np.abs(correlations - np.eye(6)).max() < 4 / np.sqrt(20_000)


def test_permutations_are_permutations_and_uniform():
    orders = [tuple(keyed_random.permutation(5, epoch, length=3).tolist()) for epoch in range(6000)]
    counts = [orders.count(order) for order in itertools.permutations(range(3))]
    assert sum(counts) == 6000
    assert stats.chisquare(counts).pvalue > 1e-3


def test_distinct_numbers_are_distinct_and_uniform_over_ordered_pairs():
    index = np.arange(24_000)
    drawn = keyed_random.distinct(3, index, population=np.full(24_000, 4), count=2)
    pairs, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(pairs) == 12, "every ordered pair of different numbers, and no other"
    assert stats.chisquare(counts).pvalue > 1e-3


def test_distinct_respects_each_population_and_refuses_too_small_ones():
    population = np.array([3, 5, 100] * 50)
    drawn = keyed_random.distinct(0, np.arange(150), population=population, count=3)
    assert (drawn < population[:, None]).all()
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    with pytest.raises(ValueError, match="cannot draw 3 different views from 2"):
        keyed_random.distinct(0, np.arange(2), population=np.array([3, 2]), count=3)
