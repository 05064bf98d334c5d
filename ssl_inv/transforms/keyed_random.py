"""Random numbers that depend on a key alone.

A view is reproducible if its random numbers are a pure function of (seed, epoch, sample), and do not depend on the
batch, the number of workers or processes, or earlier draws. So nothing here has a state. The generator is SplitMix64
(Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), chained once for each part of the
key.
"""

import zlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""SplitMix64's increment and multipliers."""


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
    mixed: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed


def bits(*key: ArrayLike, count: int) -> NDArray[np.uint64]:
    """64 random bits for each key and each position.

    Args:
        key: integers or integer arrays of shapes that broadcast together, to `(B,)` at most; their order matters.
        count: numbers for each key.

    Returns:
        Array of shape `(B, count)`; B is 1 if every part of the key is a single number.
    """
    return _expanded(_chained(np.zeros(1, dtype=np.uint64), *key), count)


def _chained(state: NDArray[np.uint64], *key: ArrayLike) -> NDArray[np.uint64]:
    """The state of the generator after further parts of a key."""
    for part in key:
        state = _mix((state ^ np.atleast_1d(np.asarray(part)).astype(np.uint64)) + np.uint64(_GOLDEN))
    return state


def _expanded(state: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mix(state[:, None] + steps)


def _unit(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return unit


def uniform(*key: ArrayLike, count: int, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
    """Numbers from `[low, high)`, shape `(B, count)`; see `bits` for the key."""
    scaled: NDArray[np.float64] = low + (high - low) * _unit(bits(*key, count=count))
    return scaled


def permutation(*key: ArrayLike, length: int) -> NDArray[np.int64]:
    """A random order of `0 .. length - 1`, shape `(length,)`, for a key of single numbers."""
    return np.argsort(bits(*key, count=length)[0], kind="stable")


def distinct(*key: ArrayLike, population: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` different integers below `population[b]` for each key `b`, uniform, shape `(B, count)`.

    Raises:
        ValueError: if a population is smaller than `count`.
    """
    population = np.asarray(population, dtype=np.int64)
    if population.size and population.min() < count:
        raise ValueError(f"cannot draw {count} different views from {population.min()}")
    draws = uniform(*key, count=count)
    chosen = np.empty((len(draws), count), dtype=np.int64)
    for position in range(count):
        # The candidate counts only the numbers that are left. Stepping over the chosen ones in ascending order makes it
        # one of all numbers.
        candidate = np.minimum(
            (draws[:, position] * (population - position)).astype(np.int64), population - position - 1
        )
        for taken in np.sort(chosen[:, :position], axis=1).T:
            candidate = candidate + (candidate >= taken)
        chosen[:, position] = candidate
    return chosen


@dataclass(frozen=True)
class Key:
    """Everything that the random numbers of a view depend on.

    Attributes:
        seed: the run's seed.
        epoch: passes over the data before this one, a number or `(B,)`.
        index: numbers of the samples in the data set, `(B,)`.
        view: the number of the view within the sample. Views that share a draw have the same number.
        purpose: the use of the numbers; different purposes have independent numbers.
    """

    seed: int
    epoch: NDArray[np.int64] | int
    index: NDArray[np.int64]
    view: int
    purpose: str = ""
    _states: list[NDArray[np.uint64]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        """The batch size."""
        return len(self.index)

    def for_purpose(self, purpose: str) -> "Key":
        """The key of the same views with independent numbers."""
        key = replace(self, purpose=f"{self.purpose}/{purpose}")
        object.__setattr__(key, "_states", self._states)  # what all purposes share is hashed once
        return key

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Numbers from [0, 1), `(B, count)`."""
        return _unit(self._bits(count))

    def _bits(self, count: int) -> NDArray[np.uint64]:
        if not self._states:
            start = np.zeros(1, dtype=np.uint64)
            self._states.append(_chained(start, self.seed, self.epoch, self.index, self.view))
        return _expanded(_chained(self._states[0], zlib.crc32(self.purpose.encode())), count)

    def seeds(self) -> NDArray[np.int64]:
        """A whole number from [0, 2^62) for each view, `(B,)`: the seed of another generator."""
        seeds: NDArray[np.int64] = (self._bits(1)[:, 0] >> np.uint64(2)).astype(np.int64)
        return seeds

    def happens(self, probability: float) -> NDArray[np.bool_]:
        """Views for which an event of this probability happens, `(B,)`."""
        happening: NDArray[np.bool_] = self.for_purpose("happens").uniform(1)[:, 0] < probability
        return happening


def sample_keys(index: Tensor, device: torch.device, *key: int) -> Tensor:
    """A key, `(B,)` int64, for each sample of a batch, from its number and the other parts of the key."""
    drawn = bits(*key, index.cpu().numpy(), count=1)[:, 0]
    return torch.from_numpy(drawn.view("int64")).to(device, non_blocking=True)


def random_bits(keys: Tensor, count: int) -> Tensor:
    """`bits(keys, count=count)` as int64, `(B, count)`, on the keys' device."""
    steps = torch.arange(1, count + 1, device=keys.device) * _signed(_GOLDEN)
    return _mix_signed(_mix_signed(keys + _signed(_GOLDEN)).unsqueeze(1) + steps)


def _signed(constant: int) -> int:
    """The same 64 bits as a signed integer, because torch cannot multiply unsigned integers modulo 2^64."""
    return constant - 2**64


def _mix_signed(state: Tensor) -> Tensor:
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        state = (state ^ _shifted(state, shift)) * _signed(factor)
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, places: int) -> Tensor:
    """The bits moved to the right and filled with zeros; torch fills with the sign."""
    return (state >> places) & ((1 << (64 - places)) - 1)


def below(keys: Tensor, bounds: Tensor) -> Tensor:
    """Uniform whole numbers from 0 to below `bounds`, int64, n for each key; bounds `(B, n)` are at least 1."""
    unit = _shifted(random_bits(keys, bounds.shape[1]), 11).double() * 2.0**-53
    return torch.minimum((unit * bounds).long(), bounds - 1)
