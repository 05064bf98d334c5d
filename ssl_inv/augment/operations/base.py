"""What an operation is: it draws the parameters of every view of a batch, on the host, from a key."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_inv import keyed_random
from ssl_inv.registry import OPERATIONS
from ssl_inv.transforms import Flag, Group

Draws = NDArray[np.float64] | NDArray[np.int64]


@dataclass(frozen=True)
class Key:
    """What the random numbers of a view depend on, and all that they depend on.

    Attributes:
        seed: the run's seed.
        epoch: passes over the data so far, one number or `(B,)`.
        index: numbers of the samples in the data set, `(B,)`.
        view: which view of the sample, a single number. Views that share a draw have the same number.
        purpose: what the numbers are for; different purposes have independent numbers.
    """

    seed: int
    epoch: NDArray[np.int64] | int
    index: NDArray[np.int64]
    view: int
    purpose: str = ""

    def __len__(self) -> int:
        """The batch size."""
        return len(self.index)

    def for_purpose(self, purpose: str) -> "Key":
        """The key of the same views with other, independent numbers."""
        return replace(self, purpose=f"{self.purpose}/{purpose}")

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Numbers from [0, 1), `(B, count)`."""
        return keyed_random.uniform(*self._parts, count=count)

    def seeds(self) -> NDArray[np.int64]:
        """One whole number from [0, 2^62) a view, `(B,)`, to seed what has a generator of its own."""
        seeds: NDArray[np.int64] = (keyed_random.bits(*self._parts, count=1)[:, 0] >> np.uint64(2)).astype(np.int64)
        return seeds

    def happens(self, probability: float) -> NDArray[np.bool_]:
        """Which views something of this probability happens to, `(B,)`."""
        happening: NDArray[np.bool_] = self.for_purpose("happens").uniform(1)[:, 0] < probability
        return happening

    @property
    def _parts(self) -> tuple[int, NDArray[np.int64] | int, NDArray[np.int64], int, int]:
        return self.seed, self.epoch, self.index, self.view, zlib.crc32(self.purpose.encode())


class Operation(ABC):
    """One step of a policy. Constructors take keyword-only settings, which recipes check.

    An operation names the parameters that it records and draws them. What they do to pixels is decided by their names alone, in
    `ssl_inv.augment.render`, so that a view can be made again from its record.
    """

    @property
    @abstractmethod
    def groups(self) -> Mapping[str, Group]:
        """The parameters that it records, by name."""

    @abstractmethod
    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        """Values of all parameters for every view, `(B,)` or `(B, d)`; neutral where the operation is not applied.

        Args:
            key: decides every random choice.
            height: of the source images, in pixels.
            width: of the source images, in pixels.
        """


class Happening(Operation):
    """Something that is either done to a view or not, and has no other parameter.

    Args:
        name: of the parameter that is recorded.
        probability: of being applied.
    """

    def __init__(self, name: str, probability: float) -> None:
        check_probability("probability", probability)
        self.name, self.probability = name, probability

    @property
    def groups(self) -> Mapping[str, Group]:
        return {self.name: Flag()}

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        return {self.name: key.for_purpose(self.name).happens(self.probability).astype(np.float64)}


def where_applied(applied: NDArray[np.bool_], values: NDArray[np.float64], neutral: float = 0.0) -> NDArray[np.float64]:
    """`values`, `(B,)` or `(B, d)`, in the rows where `applied`, and `neutral` in the others."""
    return np.where(applied.reshape(-1, *[1] * (values.ndim - 1)), values, neutral)


def between(low: float, high: float, unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers from [low, high) out of numbers from [0, 1)."""
    return low + (high - low) * unit


def check_probability(name: str, value: float) -> None:
    """Raise a `ValueError` unless the setting is a probability."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability between 0 and 1, got {value}")


def check_strength(strength: float) -> None:
    """Raise a `ValueError` unless a policy's strength is one."""
    if strength < 0:
        raise ValueError(f"strength must be at least 0, got {strength}")


def check_range(name: str, value: list[float], low: float = -float("inf"), high: float = float("inf")) -> tuple[float, float]:
    """The two ends of a range.

    Raises:
        ValueError: unless these are two numbers in ascending order between `low` and `high`.
    """
    if len(value) != 2 or value[0] > value[1]:
        raise ValueError(f"{name} is a range [lowest, highest], got {value}")
    if value[0] < low or value[1] > high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, got {value}")
    return value[0], value[1]


def operations_of(settings: Sequence[Mapping[str, Any]]) -> tuple[Operation, ...]:
    """The operations that a recipe lists, each a mapping with its `name` and its settings.

    Raises:
        ValueError: if a name or a setting is not known, or a setting's value is refused.
    """
    return tuple(_operation(**one) for one in settings)


def _operation(*, name: str, **settings: Any) -> Operation:
    try:
        operation: Operation = OPERATIONS.find(name).load()(**settings)
    except ValueError as error:
        raise ValueError(f"operation {name!r}: {error}") from error
    return operation
