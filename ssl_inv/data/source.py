"""Where pixels come from: objects, each seen in one or more views."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import SettingError
from ssl_inv.transforms import Group, Transform

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """Some views of some objects.

    Attributes:
        pixels: `(B, 3, H, W)`, uint8.
        transform: how each view was made, B rows; without parameters when nothing is known.
        readable: `(B,)`, bool; False where the file could not be decoded and the pixels are zero.
    """

    pixels: Tensor
    transform: Transform
    readable: Tensor


@dataclass(frozen=True)
class Labels:
    """The classes of objects, of all or of some.

    Attributes:
        classes: `(N,)`, int64, an index into `names`; its value has no meaning where `known` is False.
        known: `(N,)`, bool.
        names: the class names in index order.
    """

    classes: Tensor
    known: Tensor
    names: tuple[str, ...]


class Source(ABC):
    """Objects, each seen in one or more views, in a fixed order.

    A plain image is an object with one view. Sources are picklable (loader workers hold a copy) and have no random
    state: what `load` returns depends on its arguments alone.
    """

    @property
    @abstractmethod
    def view_counts(self) -> Indices:
        """How many views each object has, shape `(N,)`; its length is the number of objects."""

    @property
    @abstractmethod
    def groups(self) -> dict[str, Group]:
        """The parameters that `load` records for every view, by name; empty for plain images."""

    @property
    @abstractmethod
    def labels(self) -> Labels | None:
        """The classes of the objects, or None when the data has none."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the square images in pixels."""

    @abstractmethod
    def load(self, objects: Indices, views: Indices) -> Images:
        """View `views[b]` of object `objects[b]` for every b, in that order."""

    @property
    def renders(self) -> bool:
        """Whether `render` makes images that are none of the objects' views."""
        return False

    def render(self, objects: Indices, transform: Transform) -> Images:
        """Object `objects[b]` as row b of `transform` tells of it, for every b; all that is in `groups` has to be told.

        Raises:
            TypeError: if the source has stored images only.
        """
        raise TypeError(f"{type(self).__name__} has stored images and renders none")

    @property
    def preferred_workers(self) -> int | None:
        """Loader processes that suit this source: 0 when pixels are in memory or on the device, None for the engine's
        default.
        """
        return None

    @property
    def tolerated_images(self) -> int | None:
        """How many images may be broken before a run has to stop; None where nothing can break."""
        return None

    @property
    def turned(self) -> bool:
        """Whether views are turned in their plane by augmentation, so that their corners show by how much: judged on a
        disk.
        """
        return False

    @property
    def stamp(self) -> str:
        """Another one when a file that `load` reads has changed; empty where there are no files to look at."""
        return ""

    def describe(self, object_index: int, view: int) -> str:
        """What to call a view in a message or an embedding table: its file where it has one."""
        return f"object {object_index}, view {view}"

    def __len__(self) -> int:
        return len(self.view_counts)


class Subset(Source):
    """Some objects of another source.

    Args:
        source: where the views come from.
        objects: indices into `source`, in the order they shall have here.
    """

    def __init__(self, source: Source, objects: Indices) -> None:
        self.source = source
        self.objects = np.asarray(objects, dtype=np.int64)

    @property
    def view_counts(self) -> Indices:
        return self.source.view_counts[self.objects]

    @property
    def groups(self) -> dict[str, Group]:
        return self.source.groups

    @property
    def labels(self) -> Labels | None:
        labels = self.source.labels
        if labels is None:
            return None
        rows = torch.from_numpy(self.objects)
        return Labels(labels.classes[rows], labels.known[rows], labels.names)

    @property
    def image_size(self) -> int:
        return self.source.image_size

    @property
    def preferred_workers(self) -> int | None:
        return self.source.preferred_workers

    @property
    def tolerated_images(self) -> int | None:
        return self.source.tolerated_images

    @property
    def turned(self) -> bool:
        return self.source.turned

    @property
    def stamp(self) -> str:
        return self.source.stamp

    def describe(self, object_index: int, view: int) -> str:
        return self.source.describe(int(self.objects[object_index]), view)

    def load(self, objects: Indices, views: Indices) -> Images:
        return self.source.load(self.objects[objects], views)

    @property
    def renders(self) -> bool:
        return self.source.renders

    def render(self, objects: Indices, transform: Transform) -> Images:
        return self.source.render(self.objects[objects], transform)


@dataclass(frozen=True)
class Data:
    """What a run learns from and is judged on. No object stands in both.

    Attributes:
        train: objects for pretraining, and for fitting the probes.
        validation: objects that only the evaluation sees.
        notes: facts about the data for the run's record, such as how the split was made.
    """

    train: Source
    validation: Source
    notes: dict[str, str] = field(default_factory=dict)


def split_objects(count: int, validation_share: float, seed: int) -> tuple[Indices, Indices]:
    """Train and validation indices, both ascending, that part `count` objects at random; at least one object stands in
    each.

    Raises:
        ValueError: if there are fewer than two objects or the share is not between 0 and 1.
    """
    from ssl_inv.transforms.keyed_random import permutation

    if count < 2:
        raise ValueError(f"{count} object(s) cannot be split into train and validation")
    if not 0 < validation_share < 1:
        raise SettingError("validation_share", f"must be above 0 and below 1, got {validation_share}")
    order = permutation(seed, length=count)
    held_out = min(max(round(count * validation_share), 1), count - 1)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def with_enough_views(source: Source, wanted: int) -> Source:
    """The objects that have at least `wanted` views, if any object has more than one; all objects otherwise."""
    import numpy as np

    counts = source.view_counts
    if counts.max() == 1 or counts.min() >= wanted:
        return source
    enough = np.flatnonzero(counts >= wanted)
    if not len(enough):
        raise ValueError(f"no object has the {wanted} views that the objective needs")
    return Subset(source, enough)


@dataclass(frozen=True)
class Way:
    """Where images lie that the data shall render between its own views 0 and 1 of an object.

    Attributes:
        parameters: what changes on the way from view 0 to view 1; everything else is as in view 1.
        fractions: how far along the images are.
    """

    parameters: tuple[str, ...]
    fractions: tuple[float, ...]

    def between(self, start: Transform, end: Transform) -> list[Transform]:
        """The transforms of the images on the way from the views that `start` tells of to those of `end`."""
        names = list(self.parameters)
        steps = [start.only(names).path(end.only(names), fraction) for fraction in self.fractions]
        return [Transform({**end.values, **step.values}, end.groups) for step in steps]


class Links(Protocol):
    """Which image stands beside which; handed to loader processes, so it can be pickled."""

    def partners(
        self, objects: NDArray[np.int64], views: NDArray[np.int64], epoch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The object and the view number of the image beside view `views[b]` of object `objects[b]`, for every b.

        A function of its arguments and of the state of the objective when the epoch began.
        """
        ...
