"""The record of how each view of a batch was made.

A `Transform` holds named parameters (rotation, hue, crop box, ...). Each is a tensor with a leading batch dimension and
has a group that knows how two of its values relate. An `Action` is the relative transform of two views:
`a.compose(a.relative(b)) == b`. The groups are in `ssl_inv.transforms.groups`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from ssl_inv.transforms.group import Group

Convention = Literal["canonical", "sie", "seq-jepa"]
"""How an action is written as a vector.

`canonical`: quaternions with w >= 0, circular values as cosine and sine of the difference, others divided by the
constant scale of their group. `sie`, `seq-jepa`: as the authors' code feeds the predictor: quaternions with the sign of
the product, circular values as the plain difference of the two numbers, no scaling. The two papers agree on this.
"""


@dataclass(frozen=True)
class _Parameters:
    values: Mapping[str, Tensor]
    groups: Mapping[str, Group]

    def __post_init__(self) -> None:
        if set(self.values) != set(self.groups):
            raise ValueError(f"values are given for {sorted(self.values)} but groups for {sorted(self.groups)}")
        lengths = {name: len(value) for name, value in self.values.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"parameters of one batch have different lengths: {lengths}")

    @property
    def names(self) -> list[str]:
        return list(self.values)

    def __len__(self) -> int:
        """The batch size; 0 if there are no parameters."""
        return len(next(iter(self.values.values()), ()))

    def __getitem__(self, name: str) -> Tensor:
        return self.values[require(name, self.values)]

    def _chosen(self, names: list[str] | None) -> list[str]:
        return self.names if names is None else [require(name, self.values) for name in names]


def require(name: str, known: Mapping[str, object]) -> str:
    """`name` itself if it is known; otherwise a `ValueError` that lists the known names."""
    if name not in known:
        raise ValueError(f"no transform parameter is called {name!r}; this data has {', '.join(known) or 'none'}")
    return name


@dataclass(frozen=True)
class Action(_Parameters):
    """The relative transform from one view to another, one row for each pair."""

    source: Mapping[str, Tensor]
    target: Mapping[str, Tensor]

    def as_vector(self, names: list[str] | None = None, convention: Convention = "canonical") -> Tensor:
        """The steps of the named parameters (all by default) side by side, shape `(B, n)`."""
        chosen = self._chosen(names)
        if convention == "canonical":
            columns = [self.groups[name].step_vector(self.values[name]) for name in chosen]
        elif convention in ("sie", "seq-jepa"):
            columns = [self.groups[name].plain_step_vector(self.source[name], self.target[name]) for name in chosen]
        else:
            raise ValueError(f"no convention is called {convention!r}; there are canonical, sie and seq-jepa")
        return torch.cat(columns, dim=-1)

    def to(self, device: torch.device | str) -> "Action":
        """The action with its tensors on `device`."""
        moved = (
            {name: value.to(device) for name, value in part.items()} for part in (self.values, self.source, self.target)
        )
        values, source, target = moved
        return Action(values, self.groups, source, target)

    def fraction(self, fraction: float) -> "dict[str, Tensor]":
        """The given fraction of every step: slerp for rotations, a straight line for the rest."""
        return {name: self.groups[name].scale_step(step, fraction) for name, step in self.values.items()}


def _is_on(value: Tensor, device: torch.device) -> bool:
    return value.device.type == device.type and device.index in (None, value.device.index)


def _ends(values: Mapping[str, Tensor]) -> list[int]:
    """The end of every tensor but the last, if all numbers stand in one row."""
    return list(accumulate(value.numel() for value in values.values()))[:-1]


@dataclass(frozen=True)
class Transform(_Parameters):
    """How every view of a batch was made: named parameters `(B, ...)` and the group of each."""

    @classmethod
    def empty(cls) -> "Transform":
        """The transform of views without any record."""
        return cls({}, {})

    def map(self, change: Callable[[Tensor], Tensor]) -> "Transform":
        """The transform with `change` applied to every tensor."""
        return Transform({name: change(value) for name, value in self.values.items()}, self.groups)

    def select(self, rows: Tensor) -> "Transform":
        """The transforms of some rows."""
        return self.map(lambda value: value[rows])

    def to(self, device: torch.device | str) -> "Transform":
        """The transform with its tensors on `device`. All tensors of one dtype are copied at once, because a small copy
        takes as long as a large one.
        """
        target, moved = torch.device(device), dict(self.values)
        away = {name: value for name, value in self.values.items() if not _is_on(value, target)}
        for dtype in {value.dtype for value in away.values()}:
            some = {name: value for name, value in away.items() if value.dtype == dtype}
            packed = torch.cat([value.reshape(-1) for value in some.values()])
            if packed.device.type == "cpu" and target.type == "cuda":
                packed = packed.pin_memory()  # a copy from pinned memory does not wait for the device
            parts = packed.to(target, non_blocking=target.type == "cuda").tensor_split(_ends(some))
            moved.update(
                {name: part.view(value.shape) for (name, value), part in zip(some.items(), parts, strict=True)}
            )
        return Transform(moved, self.groups)

    def only(self, names: list[str]) -> "Transform":
        """The record of some parameters."""
        return Transform({name: self[name] for name in names}, {name: self.groups[name] for name in names})

    def merge(self, other: "Transform") -> "Transform":
        """Both records of the same views. A name in both is an error."""
        if both := set(self.values) & set(other.values):
            raise ValueError(f"both transforms have a parameter called {sorted(both)}")
        return Transform({**self.values, **other.values}, {**self.groups, **other.groups})

    def relative(self, other: "Transform") -> Action:
        """The action from these views to `other`, row by row."""
        steps = {name: self.groups[name].relative(value, other[name]) for name, value in self.values.items()}
        return Action(steps, self.groups, self.values, other.values)

    def compose(self, action: Action) -> "Transform":
        """The transform that `action` leads to: `a.compose(a.relative(b))` equals `b`, rotations up to the sign of the
        quaternion.
        """
        return Transform(
            {name: self.groups[name].compose(value, action[name]) for name, value in self.values.items()}, self.groups
        )

    def path(self, other: "Transform", fraction: float) -> "Transform":
        """The transform at a fraction of the way to `other`: along the shorter arc for rotations and hues, straight for
        boxes and numbers.
        """
        steps = self.relative(other).fraction(fraction)
        return Transform(
            {name: self.groups[name].compose(value, steps[name]) for name, value in self.values.items()}, self.groups
        )

    def as_vector(self, names: list[str] | None = None) -> Tensor:
        """The named parameters (all by default) side by side as regression targets, `(B, n)`."""
        return torch.cat([self.groups[name].value_vector(self.values[name]) for name in self._chosen(names)], dim=-1)

    @staticmethod
    def concatenate(parts: "list[Transform]") -> "Transform":
        """The rows of all parts, one part after the other. All have the same parameters."""
        first = parts[0]
        return Transform({name: torch.cat([part[name] for part in parts]) for name in first.values}, first.groups)
