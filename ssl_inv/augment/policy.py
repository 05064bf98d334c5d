"""Policies and augmentations: draw how a view is made, then make it.

key -> draw -> Transform -> render(source, Transform) -> view

Drawing happens on the host and depends on the key alone. Rendering is a function of the source and the record, so every
view can be made again.

Rendering has a fixed order, that of the table `ssl_inv.augment.OPERATIONS`: one resampling for everything geometric,
then colours. Operations that leave a view as it is cost nothing. The host, where the records are drawn, decides which
rows each operation changes, so no device is waited for.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment.colour import Jitter
from ssl_inv.augment.geometry import Crop, centre_squares
from ssl_inv.augment.local import RandomField
from ssl_inv.augment.maps import PROJECTIVE, applied, framed, in_order, maps
from ssl_inv.augment.operation import (
    Following,
    Geometric,
    Normalisation,
    Operation,
    Photometric,
    Side,
    Style,
    groups_of,
)
from ssl_inv.augment.portions import Portion, make, views_at_once
from ssl_inv.augment.regions import growth, windows
from ssl_inv.augment.warp import changed
from ssl_inv.catalogue import require, within
from ssl_inv.transforms import Group, Projective, Transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.transforms.projective import matrix_values
from ssl_inv.transforms.regions import Regions


@dataclass(frozen=True)
class Policy:
    """Operations with random parameters, and what their views have in common.

    Attributes:
        operations: what may happen to a view; their order here does not matter.
        size: side of the views in pixels; None is that of the source.
        style: settings of all views.

    Raises:
        ValueError: if two operations record the same parameter, or the size is below 1.
    """

    operations: tuple[Operation, ...]
    size: int | None = None
    style: Style = field(default_factory=Style)

    def __post_init__(self) -> None:
        require(self.size is None or self.size >= 1, "size", f"must be at least 1 pixel, got {self.size}")
        groups_of(self.operations)
        for one in self.operations:
            if isinstance(one, (Geometric, Photometric)) and not one.neutral:
                raise ValueError(f"{type(one).__name__} declares no `neutral` values, so it would never be applied")
            if lost := sorted({*one.groups} - {*one.marks} - applied((one, *one.operations))):
                kinds = "Geometric, Photometric or Following of ssl_inv.augment.operation"
                unknown = f"{type(one).__name__} records {', '.join(lost)}, which no operation applies"
                raise ValueError(f"{unknown}; derive it from {kinds}")

    @cached_property
    def groups(self) -> dict[str, Group]:
        """The parameters that are recorded of every view, by name.

        Where an operation of kornia moves pixels, one of them is `projective`: the whole map from the view to its
        source, of all operations that crop, flip, turn or slant.
        """
        moves = any(one.projective for one in self.following)
        return groups_of(self.operations) | ({PROJECTIVE: Projective()} if moves else {})

    @cached_property
    def following(self) -> tuple[Following, ...]:
        """The operations that change finished views, in their order."""
        every = [inner for one in self.operations for inner in (one, *one.operations)]
        return tuple(one for one in every if isinstance(one, Following))

    def projective(self, values: Mapping[str, Tensor], rows: int, size: int) -> Tensor:
        """The whole map from each view to its source, `(B, 9)`; see `Projective`."""
        record = {name: value.numpy() for name, value in values.items()}
        found, _ = maps(record, rows, self.operations)
        for operation in self.following:
            found = found @ operation.maps(record, rows, size, size)
        return matrix_values(torch.from_numpy(found)).float()

    def regions(self, transform: Transform, sides: NDArray[np.int64]) -> Regions:
        """The part of every photograph that the views show, and the size at which they need it.

        Where the policy only crops and flips, it is the crop at the size of the view. Else it is a window around all
        that the view can touch, with margin.

        Args:
            transform: how each view is made, B rows, on the host, with a crop; see `framed`.
            sides: height and width of the photographs in pixels, `(B, 2)`.

        Raises:
            ValueError: if the policy has no size.
        """
        if self.size is None:
            raise ValueError("regions of photographs need a policy with a size")
        record = {name: value.numpy() for name, value in transform.values.items()}
        matrices, _ = maps(record, len(sides), self.operations)
        moving = {name for one in in_order(Geometric, self.operations) if not one.upright for name in one.groups}  # type: ignore[type-abstract]
        turned = bool(moving & {*self.groups})
        fields = [name for name in RandomField.still if name in self.groups]
        if not turned and not fields:
            return windows(matrices, sides, self.size)
        detailed = growth(self.size, turned, fields)
        return windows(matrices, sides, self.size, detailed, RandomField.reach(record, len(sides)), self.style.padding)

    def render(
        self,
        pixels: Tensor,
        transform: Transform,
        regions: Regions | None = None,
        normalisation: Normalisation | None = None,
    ) -> Tensor:
        """Make views from their record.

        Args:
            pixels: sources `(B, C, H, W)`, uint8, or float in [0, 1]; on any device.
            transform: how each view is made, B rows; parameters that no operation of this package records are ignored.
            regions: of the photographs, if the sources are pieces of them; None if they are whole images.
            normalisation: what is done last; None leaves the colours as they are.

        Returns:
            Views `(B, C, size, size)`, float in [0, 1] before they are normalised, with channels last in memory, on the
            device of the sources.
        """
        size, count = self.size or min(pixels.shape[-2:]), len(pixels)
        record = {name: value.numpy() for name, value in transform.to("cpu").values.items()}
        if "field_seed" in record:
            record |= RandomField.modes(record, count, size)
        matrices, upright = maps(record, count, self.operations)
        moved = changed(record, count, RandomField.still)
        if regions is not None:
            cropped = upright & ~moved
            matrices[cropped] = regions.maps()[cropped] @ matrices[cropped]
        photometric = in_order(Photometric, self.operations)  # type: ignore[type-abstract]
        recoloured = [(operation, changed(record, count, operation.neutral)) for operation in photometric]
        every, most = Jitter.sorted_rows(record, count), views_at_once(count, size, pixels.device, pixels.shape[1])
        shape = count, pixels.shape[1], size, size
        views = torch.empty(shape, device=pixels.device, memory_format=torch.channels_last)
        # Calls cost less without autograd's bookkeeping. As `views` was made before, it can be trained on.
        with torch.inference_mode():
            for rows in (every[start : start + most] for start in range(0, count, most)):
                changes = [(operation, np.flatnonzero(active[rows])) for operation, active in recoloured]
                portion = Portion(
                    rows,
                    {name: value[rows] for name, value in record.items()},
                    matrices[rows],
                    np.flatnonzero(upright[rows] & ~moved[rows]),
                    np.flatnonzero(~upright[rows] & ~moved[rows]),
                    np.flatnonzero(moved[rows]),
                    [(operation, some) for operation, some in changes if len(some)],
                    None if self.following else normalisation,
                    regions,
                )
                make(views, pixels, portion, self.style)
        with torch.no_grad():
            for last in self.following:
                views = last.follow(views, record)
                _require_size(last, views, size)
            if self.following:
                views = views.clamp_(0, 1).contiguous(memory_format=torch.channels_last)
                views = normalisation.apply(views) if normalisation else views
        return views

    def check(self, size: int, channels: int = 3) -> None:
        """Try operations on views of this side and number of channels.

        Raises:
            ValueError: unless every operation of kornia changes such views and keeps their size, and every other one
                takes their channels.
        """
        side = self.size or size
        if channels != 3:
            for operation in self.operations:
                with within(operation.place) if operation.place else nullcontext():
                    operation.require_channels(channels)
        for operation in self.following:
            with within(operation.place) if operation.place and channels != 3 else nullcontext():
                made = operation.tried(torch.full((1, channels, side, side), 0.5))
                _require_size(operation, made, side)
                _require_channels(operation, made, channels)

    def with_crop(self, size: int | None, scale: tuple[float, float] | None) -> "Policy":
        """The same policy with views of another size, or crops of another share of the area; None keeps either.

        Raises:
            ValueError: if a scale is given and the policy does not crop.
        """
        operations = self.operations
        if scale is not None:
            if not any(isinstance(one, Crop) for one in operations):
                raise ValueError(
                    "crops of a certain scale are needed, but the augmentation does not crop; choose one that does"
                )
            operations = tuple(one.with_scale(scale) if isinstance(one, Crop) else one for one in operations)
        return replace(self, operations=operations, size=size or self.size)


def _require_size(operation: Following, views: Tensor, side: int) -> None:
    height, width = views.shape[-2:]
    if (height, width) != (side, side):
        name = getattr(operation, "label", type(operation).__name__)
        raise ValueError(f"{name} makes {width}x{height} of views of {side}x{side} pixels; it must keep their size")


def _require_channels(operation: Following, views: Tensor, channels: int) -> None:
    if views.shape[1] != channels:
        name = getattr(operation, "label", type(operation).__name__)
        raise ValueError(f"{name} makes {views.shape[1]} channels of {channels}; it must keep their number")


@dataclass(frozen=True)
class Augmentation:
    """The policies of the views of a sample: the first view's, the second's, and so on. The last policy also makes all
    further views.

    All views record the same parameters. Parameters that a view's policy does not draw are neutral in this view.

    Attributes:
        policies: at least one.
    """

    policies: tuple[Policy, ...]

    @cached_property
    def groups(self) -> dict[str, Group]:
        """The parameters that are recorded of every view, by name; empty if views are left as they are."""
        return {name: group for policy in self.policies for name, group in policy.groups.items()}

    def sized(self, size: int) -> "Augmentation":
        """The same policies, with `size` where one has the size of its source."""
        return Augmentation(tuple(one.with_crop(one.size or size, None) for one in self.policies))

    def view_size(self, image_size: int) -> int:
        """Side of the first view of an image with sides of `image_size`, both in pixels."""
        return self.policies[0].size or image_size

    def policy(self, number: int | Literal["plain"]) -> Policy:
        """The policy of view `number` of a sample. `plain` is a policy that does nothing, with the size and style of
        the first one.
        """
        if number == "plain":
            return replace(self.policies[0], operations=())
        return self.policies[min(number, len(self.policies) - 1)]

    def require_views(self, count: int) -> None:
        """Raise a `RecipeError` unless this many views of a sample can be made; by default any number can."""

    def draw(self, key: Key, height: Side, width: Side, policy: Policy | None = None) -> Transform:
        """How each view is to be made, on the host.

        Args:
            key: decides every random choice.
            height: of the sources, in pixels: one number, or one for each view, `(B,)`.
            width: as `height`.
            policy: draws the parameters; None is the policy of the key's view.
        """
        policy, drawn = policy or self.policy(key.view), dict[str, NDArray[Any]]()
        size = policy.size or int(np.minimum(height, width).min())
        for operation in policy.operations:
            found = operation.draw_for_view(key, height, width, size)
            if unknown := sorted(set(found) - set(self.groups)):
                what = f"{type(operation).__name__}.draw gives {', '.join(unknown)}"
                raise ValueError(f"{what}, which its `groups` do not name, so nobody would apply it")
            drawn.update(found)
        values = {}
        for name, group in self.groups.items():
            value = torch.from_numpy(drawn[name]) if name in drawn else group.neutral(len(key))
            if name == "crop" and name not in drawn:
                value = torch.from_numpy(centre_squares(height, width, len(key)))
            values[name] = value.float() if value.is_floating_point() else value
        made = Transform(values, self.groups)
        if not isinstance(height, int) and not isinstance(width, int):
            made = framed(made, np.stack((height, width), axis=1))
        return self.with_projective(made, policy, size)

    def with_projective(self, transform: Transform, policy: Policy, size: int) -> Transform:
        """The record with the map that its other parameters make, if the augmentation records one.

        Args:
            transform: the record.
            policy: makes the views.
            size: side of the views in pixels.
        """
        if PROJECTIVE not in self.groups:
            return transform
        whole = policy.projective(transform.values, len(transform), size)
        return Transform({**transform.values, PROJECTIVE: whole}, transform.groups)

    def __call__(self, pixels: Tensor, key: Key) -> tuple[Tensor, Transform]:
        """One view of every source, and how it was made.

        Args:
            pixels: `(B, C, H, W)`, uint8, or float in [0, 1].
            key: decides every random choice.

        Returns:
            Views `(B, C, size, size)` in [0, 1], and the record on the host.
        """
        transform = self.draw(key, *pixels.shape[-2:])
        return self.render(pixels, transform, key.view), transform

    def render(self, pixels: Tensor, transform: Transform, view: int = 0) -> Tensor:
        """Make views from their record, equal to the views that the record was made with.

        Args:
            pixels: the sources of the views.
            transform: their record; parameters of other origin are ignored.
            view: which view of the sample it is.
        """
        return self.policy(view).render(pixels, transform)
