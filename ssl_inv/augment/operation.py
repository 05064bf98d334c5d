"""What an operation is: it draws the parameters of every view of a batch, on the host, from a key."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_inv.catalogue import OPERATIONS, SettingError, require_at_least
from ssl_inv.transforms import Flag, Group
from ssl_inv.transforms.keyed_random import Key

Draws = NDArray[np.float64] | NDArray[np.int64]


class Operation(ABC):
    """One step of a policy. Constructors take keyword-only settings, which recipes check.

    An operation names the parameters that it records and draws them. What they do to pixels is decided by their names
    alone, in `ssl_inv.augment.render`, so that a view can be made again from its record.
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
        raise SettingError(name, f"must be a probability between 0 and 1, got {value}")


def check_strength(strength: float) -> None:
    """Raise a `ValueError` unless a policy's strength is one."""
    require_at_least(0, strength=strength)


def check_range(
    name: str, value: list[float], low: float = -float("inf"), high: float = float("inf")
) -> tuple[float, float]:
    """The two ends of a range.

    Raises:
        ValueError: unless these are two numbers in ascending order between `low` and `high`.
    """
    if len(value) != 2 or value[0] > value[1]:
        raise SettingError(name, f"must be a range [lowest, highest], got {value}")
    if value[0] < low or value[1] > high:
        raise SettingError(name, f"must lie between {low:g} and {high:g}, got {value}")
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
