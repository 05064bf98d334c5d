"""What an operation is: it draws parameters for the views of a batch, and applies what a record says.

Parameters are drawn on the host, from a key. A view can be made again from its record, so operations apply whatever
parameters a record has, whoever drew them.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment.warp import Neutral, Padding, Record, Rows, changed, chosen, column
from ssl_inv.catalogue import OPERATIONS, require, within
from ssl_inv.transforms import Group
from ssl_inv.transforms.keyed_random import Key

Draws = NDArray[np.float64] | NDArray[np.int64]

_TRIED, _TRIED_SIDE = 64, 8
"""How many views of which side are changed to see whether an operation takes images of some number of channels."""

Side = int | NDArray[np.int64]
"""The height or the width of the sources in pixels, one for all or one each, `(B,)`."""


@dataclass(frozen=True)
class Style:
    """Settings that all views of a policy share.

    Attributes:
        padding: what a view shows beyond the border of its source.
        hue: `hsv` turns hues exactly as torchvision does. `linear` turns colours about the grey axis: faster, but not
            the same.
    """

    padding: Padding = "reflection"
    hue: Literal["hsv", "linear"] = "hsv"


@dataclass(frozen=True)
class Normalisation:
    """What is done to the colours of finished views: the mean is subtracted, and the standard deviation divides.

    Attributes:
        mean: of each channel, for pixels in [0, 1].
        deviation: of each channel.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def numbers(self) -> NDArray[np.float32]:
        """Both, `(2, 1, C, 1, 1)`."""
        return np.array((self.mean, self.deviation), np.float32).reshape(2, 1, -1, 1, 1)

    def apply(self, pixels: Tensor) -> Tensor:
        """The pixels `(B, C, H, W)`, with channels last in memory, normalised in place."""
        # Row by row of pixels: channel by channel takes eight times as long where channels are last in memory.
        width = pixels.shape[-1]
        mean, deviation = torch.from_numpy(np.tile(self.numbers().reshape(2, -1), width)).to(pixels.device)
        pixels.permute(0, 2, 3, 1).view(-1, mean.numel()).sub_(mean).div_(deviation)
        return pixels


class Operation(ABC):
    """One step of a policy. Constructors take keyword-only settings, which recipes check.

    Attributes:
        groups: the parameters that it records, by name. The class names all that any of its objects may record.
        neutral: the parameters that decide whether a view is changed, with the values that leave it as it is.
        probability: of being applied.
        operations: the operations within it, if it consists of others.
        marks: recorded parameters that tell something of a view and change nothing in it.
        place: where a recipe has it, for messages; empty if a policy brings it.
    """

    groups: Mapping[str, Group]
    operations: tuple["Operation", ...] = ()
    neutral: Mapping[str, Neutral] = {}
    marks: Sequence[str] = ()
    place = ""

    def __init__(self, probability: float) -> None:
        check_probability(probability=probability)
        self.probability = probability

    @abstractmethod
    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        """Values of all parameters for every view, `(B,)` or `(B, d)`; neutral where the operation is not applied.

        Args:
            key: decides every random choice.
            height: of the source images, in pixels: one number, or one for each view, `(B,)`.
            width: as `height`.
        """

    def draw_for_view(self, key: Key, height: Side, width: Side, size: int) -> dict[str, Draws]:
        """`draw`, with the side of the views in pixels too."""
        return self.draw(key, height, width)

    def require_channels(self, channels: int) -> None:
        """Refuse views of this number of channels, if they are not red, green and blue and it needs these.

        Raises:
            SettingError: naming what can be used in its place.
        """
        for one in self.operations:
            with within(one.place) if one.place else nullcontext():
                one.require_channels(channels)


class Geometric(Operation):
    """An operation that moves pixels. All of them become one resampling.

    Attributes:
        upright: whether it only crops and flips.
    """

    upright = False

    @staticmethod
    @abstractmethod
    def matrices(record: Record) -> NDArray[np.float64]:
        """Homographies `(n, 3, 3)` on (x, y, 1), from where pixels are after the operation to where they were before.

        Args:
            record: of the n views that it changes.
        """


class Photometric(Operation):
    """An operation that changes colours.

    Views of other channels than red, green and blue are tried before a run, if `require_channels` is not there. `apply`
    is enough. `numbers` and `apply_at_once` save calls on a GPU; a class that brings an `apply` of its own does
    not inherit them.
    """

    def __init_subclass__(cls) -> None:
        if "apply" in vars(cls) and "apply_at_once" not in vars(cls):
            for name in ("numbers", "apply_at_once"):
                setattr(cls, name, vars(Photometric)[name])

    def require_channels(self, channels: int) -> None:
        key = Key(0, np.zeros(_TRIED, np.int64), np.arange(_TRIED), 0)
        record = {name: np.asarray(one) for name, one in self.draw(key, _TRIED_SIDE, _TRIED_SIDE).items()}
        record = {name: one.astype(np.float32) if one.dtype.kind == "f" else one for name, one in record.items()}
        if not len(rows := np.flatnonzero(changed(record, _TRIED, self.neutral))):
            return
        views = torch.linspace(0, 1, _TRIED * channels * _TRIED_SIDE**2).view(_TRIED, channels, _TRIED_SIDE, -1)
        try:
            self.apply(views, rows, record, Style())
        except Exception as error:  # Somebody else's class can raise anything.
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{type(self).__name__} fails on images of {channels} channels: {reason}") from error

    @staticmethod
    @abstractmethod
    def apply(views: Tensor, rows: Rows, record: Record, style: Style) -> None:
        """Change some views in place.

        Args:
            views: `(B, C, H, W)`, float in [0, 1].
            rows: the views to change, in ascending order.
            record: the parameters of all B views.
            style: settings of the policy.
        """

    @staticmethod
    def numbers(rows: Rows, record: Record, side: int, style: Style) -> Mapping[str, NDArray[Any]]:
        """What `apply_at_once` needs on the device besides the views, by name.

        Args:
            rows: the views to change, in ascending order.
            record: the parameters of all B views.
            side: of the views in pixels.
            style: settings of the policy.
        """
        return {}

    @classmethod
    def apply_at_once(
        cls, views: Tensor, rows: Rows, record: Record, style: Style, numbers: Mapping[str, Tensor]
    ) -> None:
        """As `apply`, in few calls, with `numbers` on the device of the views, among them "rows" itself."""
        cls.apply(views, rows, record, style)


class PerView(Photometric):
    """An operation that changes every view by its own parameters, as numbers `(n, 1, 1, 1)`."""

    @staticmethod
    @abstractmethod
    def change(pixels: Tensor, numbers: Mapping[str, Tensor]) -> None:
        """Change n views in place, `(n, C, H, W)`, by their parameters."""

    @classmethod
    def apply(cls, views: Tensor, rows: Rows, record: Record, style: Style) -> None:
        with chosen(views, rows) as pixels:
            cls.change(pixels, {name: column(record[name][rows], views.device) for name in cls.groups})

    @classmethod
    def numbers(cls, rows: Rows, record: Record, side: int, style: Style) -> Mapping[str, NDArray[Any]]:
        return {name: record[name][rows].reshape(-1, 1, 1, 1) for name in cls.groups}

    @classmethod
    def apply_at_once(
        cls, views: Tensor, rows: Rows, record: Record, style: Style, numbers: Mapping[str, Tensor]
    ) -> None:
        with chosen(views, rows, numbers["rows"]) as pixels:
            cls.change(pixels, numbers)


class Following(Operation):
    """An operation that changes finished views, after all others, in the order in which a policy lists it."""

    projective = False
    """Whether it moves pixels by a homography that `maps` gives."""

    moves = False
    """Whether it moves pixels at all."""

    @abstractmethod
    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        """See `Operation.draw`; but height and width are those of the views."""

    def draw_for_view(self, key: Key, height: Side, width: Side, size: int) -> dict[str, Draws]:
        return self.draw(key, size, size)

    @abstractmethod
    def follow(self, views: Tensor, record: Record) -> Tensor:
        """The changed views.

        Args:
            views: `(B, C, H, W)`, float in [0, 1]; they may be changed in place.
            record: the parameters of all B views.
        """

    def tried(self, views: Tensor) -> Tensor:
        """Views that were certainly changed, for a check before a run.

        Raises:
            ValueError: if views of this size cannot be changed.
        """
        return views

    def maps(self, record: Record, rows: int, height: int, width: int) -> NDArray[np.float64]:
        """The map from every changed view to the view before, `(B, 3, 3)`; see `Geometric.matrices`."""
        return np.tile(np.eye(3), (rows, 1, 1))


def require_colours(operation: Operation, channels: int, advice: str, setting: str = "") -> None:
    """Refuse images that are not red, green and blue, unless an operation is never applied.

    Args:
        operation: needs colours.
        channels: of the images.
        advice: what to do in its place.
        setting: which needs colours; empty for the operation itself.

    Raises:
        SettingError: if there are other channels.
    """
    if channels == 3 or operation.probability <= 0:
        return
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(operation).__name__).lower()
    what = f"{name} needs red, green and blue, and images have {channels} channel(s)"
    if not operation.place:
        raise ValueError(f"{what}; write the policy out as `custom`, and {advice}")
    require(not setting, setting, f"{what}; {advice}")
    raise ValueError(f"{what}; {advice}")


def check_probability(**settings: float) -> None:
    """Raise a `SettingError` for the first of some settings that is no probability."""
    for name, value in settings.items():
        require(0 <= value <= 1, name, f"must be a probability between 0 and 1, got {value}")


def check_range(
    name: str, value: Sequence[float], low: float = -float("inf"), high: float = float("inf")
) -> tuple[float, float]:
    """The two ends of a range.

    Raises:
        SettingError: unless the range is two numbers in ascending order between `low` and `high`.
    """
    require(len(value) == 2 and value[0] <= value[1], name, f"must be a range [lowest, highest], got {value}")
    require(low <= value[0] and value[1] <= high, name, f"must lie between {low:g} and {high:g}, got {value}")
    return value[0], value[1]


def groups_of(operations: Sequence[Operation]) -> dict[str, Group]:
    """The parameters that some operations record, by name.

    Raises:
        ValueError: if two operations record the same parameter.
    """
    names = [name for operation in operations for name in operation.groups]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        advice = ", so give one of them a `label`" if "." in twice[0] else ""
        raise ValueError(f"two operations draw {twice[0]!r}; a view has one value of it{advice}")
    return {name: group for operation in operations for name, group in operation.groups.items()}


def operations_of(settings: Sequence[Mapping[str, Any]], setting: str = "operations") -> tuple[Operation, ...]:
    """The operations that a recipe lists, each a mapping with its `name` and its settings.

    Args:
        settings: the mappings.
        setting: the name of the list, for errors.

    Raises:
        SettingError: if a name or a setting is unknown, or a value is refused; its path is `operations[0].scale`.
    """
    made = []
    for number, one in enumerate(settings):
        with within(f"{setting}[{number}]"):
            operation = OPERATIONS.find(one["name"]).load()(**{key: one[key] for key in one if key != "name"})
            fits = isinstance(operation, Operation)
            require(fits, "name", f"{one['name']!r} does not derive from ssl_inv.augment.operation.Operation")
        operation.place = f"{setting}[{number}]"
        made.append(operation)
    return tuple(made)
