"""Policies and augmentations: draw how a view shall be made, then make it.

    key -> draw -> Transform -> render(source, Transform) -> view

Drawing is done on the host and depends on the key alone; rendering is a function of the source and the record, so every
view can be made again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ssl_inv.augment.geometric import Crop
from ssl_inv.augment.operation import Operation
from ssl_inv.augment.render import Style, render
from ssl_inv.catalogue import SettingError
from ssl_inv.transforms import Group, Transform
from ssl_inv.transforms.keyed_random import Key


@dataclass(frozen=True)
class Policy:
    """Operations with random parameters, and what their views have in common.

    Attributes:
        operations: what may happen to a view. In which order is not theirs to say: see `ssl_inv.augment.render`.
        style: of all views; without a size they are as large as their sources.

    Raises:
        ValueError: if two operations record the same parameter, or the size is no size.
    """

    operations: tuple[Operation, ...]
    size: int | None = None
    style: Style = field(default_factory=Style)

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise SettingError("size", f"must be at least 1 pixel, got {self.size}")
        names = [name for operation in self.operations for name in operation.groups]
        if len(twice := sorted({name for name in names if names.count(name) > 1})):
            raise ValueError(f"two operations of one policy draw {twice[0]!r}; a view has one value of it")

    @property
    def groups(self) -> dict[str, Group]:
        """The parameters that are recorded of every view, by name."""
        return {name: group for operation in self.operations for name, group in operation.groups.items()}

    def draw(self, key: Key, height: int, width: int) -> Transform:
        """How each view shall be made, on the host.

        Args:
            key: decides every random choice.
            height: of the sources, in pixels.
            width: of the sources, in pixels.
        """
        values = {
            name: value for operation in self.operations for name, value in operation.draw(key, height, width).items()
        }
        return Transform({name: torch.from_numpy(_single(value)) for name, value in values.items()}, self.groups)

    def render(self, pixels: Tensor, transform: Transform, finish: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The views that `transform` tells of, of sources `(B, 3, H, W)`; see `ssl_inv.augment.render.render`."""
        return render(pixels, transform, self.size or min(pixels.shape[-2:]), self.style, finish)

    def with_crop(self, size: int | None, scale: tuple[float, float] | None) -> "Policy":
        """The same policy with views of another size, or crops of another share of the area; None leaves either as it
        is.

        Raises:
            ValueError: if a scale is given and the policy does not crop.
        """
        if scale is None:
            return replace(self, size=size or self.size)
        if not any(isinstance(one, Crop) for one in self.operations):
            raise ValueError(
                "crops of a certain scale are wanted, but the augmentation does not crop; choose one that does"
            )
        cropped = [one.with_scale(scale) if isinstance(one, Crop) else one for one in self.operations]
        return replace(self, operations=tuple(cropped), size=size or self.size)


def _single(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.astype(np.float32) if values.dtype == np.float64 else values


@dataclass(frozen=True)
class Augmentation:
    """The policies of the views of a sample: the first view's, the second's, ...; the last one's is also that of all
    further views.

    All views record the same parameters; what a policy does not draw is neutral in its views.

    Attributes:
        policies: at least one.
    """

    policies: tuple[Policy, ...]

    @property
    def groups(self) -> dict[str, Group]:
        """The parameters that are recorded of every view, by name; empty if views are left as they are."""
        return {name: group for policy in self.policies for name, group in policy.groups.items()}

    def view_size(self, image_size: int) -> int:
        """Side of the first view of an image with sides of `image_size`, both in pixels."""
        return self.policies[0].size or image_size

    def policy(self, number: int | Literal["plain"]) -> Policy:
        """The policy of view `number` of a sample; or one by which nothing is done, in the first one's size and style."""
        if number == "plain":
            return replace(self.policies[0], operations=())
        return self.policies[min(number, len(self.policies) - 1)]

    def draw(self, key: Key, height: int, width: int, policy: Policy | None = None) -> Transform:
        """How each view shall be made, by `policy`, or by the policy of the key's view."""
        drawn = (policy or self.policy(key.view)).draw(key, height, width)
        missing = {name: group.neutral(len(key)) for name, group in self.groups.items() if name not in drawn.values}
        values = {**drawn.values, **missing}
        return Transform({name: values[name] for name in self.groups}, self.groups)

    def __call__(self, pixels: Tensor, key: Key) -> tuple[Tensor, Transform]:
        """One view of every source, and how it was made.

        Args:
            pixels: `(B, 3, H, W)`, uint8, or float in [0, 1].
            key: decides every random choice.

        Returns:
            Views `(B, 3, size, size)` in [0, 1], and the record on the host.
        """
        transform = self.draw(key, *pixels.shape[-2:])
        return self.policy(key.view).render(pixels, transform), transform

    def replay(self, pixels: Tensor, transform: Transform, view: int = 0) -> Tensor:
        """Make views again from their record: equal to those that the record was made with.

        Args:
            pixels: the sources of the views.
            transform: their record; parameters of other origin are passed over.
            view: which view of the sample it is.
        """
        return self.policy(view).render(pixels, transform)
