"""What a group must do: how two values of a parameter relate, how they are vectors and words, and how it is saved."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssl_inv.transforms import phrases


class Group(ABC):
    """The set of values of one parameter. Values have shape `(B,)` or `(B, d)`.

    A new group is a frozen dataclass that derives from this class; nothing else has to know it.
    """

    continuous: ClassVar[bool] = True
    """Whether there are values between two others."""

    plain_is_scaled: ClassVar[bool] = False
    """Whether `plain_step_vector` and `step_vector` differ by a constant factor only."""

    @abstractmethod
    def neutral(self, batch: int) -> Tensor:
        """The value of a transform that was not applied, repeated `batch` times."""

    @abstractmethod
    def random(self, batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """`batch` random values from torch's global generator."""

    def relative(self, a: Tensor, b: Tensor) -> Tensor:
        """The step from `a` to `b`."""
        return b - a

    def compose(self, a: Tensor, step: Tensor) -> Tensor:
        """The value that `step` leads to from `a`."""
        return a + step

    def scale_step(self, step: Tensor, fraction: float) -> Tensor:
        """A fraction of a step: 0 is none, 1 the whole. A step without fractions is taken whole from 0.5 on."""
        if self.continuous:
            return step * fraction
        return step if fraction >= 0.5 else torch.zeros_like(step)

    @abstractmethod
    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance between `a` and `b`, shape `(B,)`, in a unit of the group's own."""

    def value_vector(self, value: Tensor) -> Tensor:
        """A value as a regression target, shape `(B, n)`."""
        return columns(value)

    def step_vector(self, step: Tensor) -> Tensor:
        """A step as a vector in the canonical convention, shape `(B, n)`."""
        return columns(step)

    def plain_step_vector(self, a: Tensor, b: Tensor) -> Tensor:
        """The step from `a` to `b` as the papers' code writes it: the plain difference by default."""
        return columns(b - a)

    @abstractmethod
    def words(self, label: str, value: Sequence[float]) -> str:
        """One value in words; empty for the neutral value. `label` is the parameter's name without underscores."""

    def step_words(self, label: str, step: Sequence[float], target: Sequence[float]) -> str:
        """One step, and the value that it leads to, in words; empty if the step is too small to be printed."""
        return phrases.shift(label, step)

    def record(self) -> tuple[str, dict[str, object]]:
        """The group as plain values, for files; `from_record` reads them.

        Raises:
            ValueError: if the group is not a dataclass of numbers, texts and truth values.
        """
        fields = dict(vars(self))
        plain = all(isinstance(value, bool | int | float | str) for value in fields.values())
        if not plain or not hasattr(self, "__dataclass_fields__"):
            raise ValueError(f"the group {type(self).__name__} cannot be saved: it is not a dataclass of plain values")
        return type(self).__name__, fields

    @staticmethod
    def from_record(record: Sequence[Any]) -> "Group":
        """The group that a `record` was made from.

        Raises:
            ValueError: if no group that has been imported has this name, or it has other fields.
        """
        try:
            name, fields = record
            kinds = [kind for kind in Group.__subclasses__() if kind.__name__ == name]
            if not kinds:
                raise ValueError(f"no group is called {name!r}; import the module that defines it")
            return kinds[0](**fields)
        except TypeError as error:
            raise ValueError(f"{record!r} describes no group: {error}") from error


def columns(value: Tensor) -> Tensor:
    """Values as rows of numbers, `(B, n)`."""
    return value.reshape(len(value), -1)
