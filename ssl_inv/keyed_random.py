"""Random numbers that depend on a key and on nothing else.

A view is reproducible when its random numbers are a pure function of (seed, epoch, sample): not of the batch it stands in, of the number of
workers or processes, or of what was drawn before. So nothing here has a state; a key goes in, numbers come out. The generator is SplitMix64
(Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), chained once per part of the key.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    mixed: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed


def bits(*key: ArrayLike, count: int) -> NDArray[np.uint64]:
    """64 random bits for every key and every position.

    Args:
        key: integers or integer arrays of shapes that broadcast together, to `(B,)` at most; their order matters.
        count: numbers drawn per key.

    Returns:
        Array of shape `(B, count)`; `B` is 1 when every part of the key is a single number.
    """
    state = np.zeros(1, dtype=np.uint64)
    for part in key:
        state = _mix((state ^ np.atleast_1d(np.asarray(part)).astype(np.uint64)) + _GOLDEN)
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return _mix(state[:, None] + steps)


def uniform(*key: ArrayLike, count: int, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
    """Numbers from `[low, high)`, shape `(B, count)`; see `bits` for the key."""
    unit: NDArray[np.float64] = (bits(*key, count=count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    scaled: NDArray[np.float64] = low + (high - low) * unit
    return scaled


def permutation(*key: ArrayLike, length: int) -> NDArray[np.int64]:
    """A random order of `0 .. length - 1`, shape `(length,)`, for a key of single numbers."""
    return np.argsort(bits(*key, count=length)[0], kind="stable")


def distinct(*key: ArrayLike, population: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` different integers below `population[b]` for every key `b`, uniformly, shape `(B, count)`.

    Raises:
        ValueError: if some population is smaller than `count`.
    """
    population = np.asarray(population, dtype=np.int64)
    if population.size and population.min() < count:
        raise ValueError(f"cannot draw {count} different views from {population.min()}")
    draws = uniform(*key, count=count)
    chosen = np.empty((len(draws), count), dtype=np.int64)
    for position in range(count):
        # The candidate counts only the numbers not chosen so far; stepping over the chosen ones in ascending order makes it one of all.
        candidate = np.minimum((draws[:, position] * (population - position)).astype(np.int64), population - position - 1)
        for taken in np.sort(chosen[:, :position], axis=1).T:
            candidate = candidate + (candidate >= taken)
        chosen[:, position] = candidate
    return chosen
