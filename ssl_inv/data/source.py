"""Where pixels come from: objects, each with one or more views."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import SettingError
from ssl_inv.transforms import Group, Transform
from ssl_inv.transforms.annotations import Annotated, Boxes, Surface, Video
from ssl_inv.transforms.keyed_random import permutation
from ssl_inv.transforms.regions import Regions

Indices = NDArray[np.int64]

Cuts = Callable[[Indices], Sequence[tuple[Indices, Regions]]]
"""From height and width of some photographs, `(n, 2)`, to the pieces that are wanted of them: the places of some of
them among the n, and a region of each.
"""


@dataclass(frozen=True)
class Piece:
    """A region of every photograph of a batch.

    Attributes:
        pixels: `(B, C, S, S)`, uint8.
        regions: where they lie.
    """

    pixels: Tensor
    regions: Regions


@dataclass(frozen=True)
class Images:
    """Some views of some objects.

    Attributes:
        pixels: `(B, C, H, W)`, uint8; without any, `(B, C, 0, 0)`, where pieces of photographs take their place.
        transform: how each view was made, B rows; without parameters if nothing is known.
        readable: `(B,)`, bool; False where the file could not be decoded and the pixels are zero.
        pieces: the regions that views need, of photographs of any sizes; empty for images of one size.
        sides: height and width of the photographs in pixels, `(B, 2)`; None for images of one size.
    """

    pixels: Tensor
    transform: Transform
    readable: Tensor
    pieces: tuple[Piece, ...] = ()
    sides: Indices | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Images":
        """The images with `change` applied to their pixels, once to those that several pieces share."""
        made = {id(one.pixels): one.pixels for one in self.pieces}
        made = {number: change(pixels) for number, pixels in made.items()}
        pieces = tuple(replace(one, pixels=made[id(one.pixels)]) for one in self.pieces)
        return replace(self, pixels=change(self.pixels), pieces=pieces)


@dataclass(frozen=True)
class Labels:
    """The classes of all objects, or of some.

    Attributes:
        classes: `(N,)`, int64, an index into `names`; its value has no meaning where `known` is False.
        known: `(N,)`, bool.
        names: the class names in index order.

    Raises:
        ValueError: if one of them has another type or length, or a known class has no name.
    """

    classes: Tensor
    known: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, dtype in (("classes", torch.int64), ("known", torch.bool)):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.dtype != dtype or value.shape != (len(self.classes),):
                raise ValueError(f"Labels.{name} must be a tensor (N,) of {dtype}, got {_kind(value)}")
        if not isinstance(self.names, tuple):
            raise ValueError(f"Labels.names must be a tuple of class names, got {_kind(self.names)}")
        known = self.classes[self.known]
        if len(known) and not 0 <= int(known.min()) <= int(known.max()) < len(self.names):
            least, most = int(known.min()), int(known.max())
            raise ValueError(f"Labels.classes has {least} to {most}, but Labels.names has {len(self.names)} name(s)")


def _kind(value: object) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    return type(value).__name__


class Source(Annotated, ABC):
    """Objects, each with one or more views, in a fixed order.

    A plain image is an object with one view. Sources are picklable (loader processes hold a copy) and have no random
    state: the result of `load` depends on its arguments alone.
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
        """The classes of the objects; None if the data has no classes."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the square images in pixels."""

    @property
    def channels(self) -> int:
        """How many channels pixels have: 3 for red, green and blue."""
        return 3

    @property
    def blocks(self) -> Indices | None:
        """The block of every object, `(N,)`, where neighbours are read together, such as the rows of a Parquet group
        or the images of a shard; None where any order costs the same. Training then takes the blocks in the order of
        a key, and the objects of some blocks at a time in the order of another.
        """
        return None

    @abstractmethod
    def load(self, objects: Indices, views: Indices) -> Images:
        """View `views[b]` of object `objects[b]` for every b, in that order."""

    def record(self, objects: Indices, views: Indices) -> Transform:
        """How views were made, as `load` records it; sources that know it without an image override this."""
        return self.load(objects, views).transform

    def masks(self, objects: Indices, views: Indices) -> Tensor | None:
        """The region that every pixel of `load` belongs to, `(B, H, W)`, int64: 0 is the ground, and 255 counts for
        nothing; None if nothing is known of regions.
        """
        return None

    @property
    def photographs(self) -> bool:
        """Whether training cuts views out of whole images of any shape, by `load_pieces`, and not out of squares."""
        return False

    def load_pieces(self, objects: Indices, views: Indices, cuts: Cuts) -> tuple[Images, list[Tensor]]:
        """Pieces of the whole images of some views; each file is decoded once.

        Args:
            objects: as for `load`.
            views: as for `load`.
            cuts: called once with the sides of all images, of one pixel where a file is broken.

        Returns:
            The images without pixels, and the pixels `(n, C, S, S)`, uint8, of everything that `cuts` asked for.

        Raises:
            TypeError: if the source has no photographs.
        """
        raise TypeError(f"{type(self).__name__} has no photographs to cut")

    @property
    def renders(self) -> bool:
        """Whether `render` can make images other than the objects' views."""
        return False

    def render(self, objects: Indices, transform: Transform) -> Images:
        """Object `objects[b]` rendered as row b of `transform` says, for every b; `transform` has all of `groups`.

        Raises:
            TypeError: if the source has stored images only.
        """
        raise TypeError(f"{type(self).__name__} has stored images and cannot render")

    @property
    def preferred_workers(self) -> int | None:
        """Loader processes that suit this source: 0 if pixels are in memory or on the device; None: the engine's
        default.
        """
        return None

    @property
    def tolerated_images(self) -> int | None:
        """How many images may be broken before a run stops; None if no image can be broken."""
        return None

    @property
    def turned(self) -> bool:
        """Whether augmentation rotates views in their plane. Their corners then show the angle, so views are judged on
        a disk.
        """
        return False

    @property
    def stamp(self) -> str:
        """A text that changes when a file that `load` reads has changed; empty if there are no files."""
        return ""

    def describe(self, object_index: int, view: int) -> str:
        """The name of a view in a message or an embedding table: its file, if it has one."""
        return f"object {object_index}, view {view}"

    def __len__(self) -> int:
        return len(self.view_counts)

    def check(self) -> None:
        """Check the types of `view_counts` and `labels`, because users write sources too; `Data` calls it.

        Raises:
            ValueError: naming the class and the property.
        """
        kind, counts, labels = type(self).__name__, cast(object, self.view_counts), cast(object, self.labels)
        if not isinstance(counts, np.ndarray) or counts.ndim != 1 or counts.dtype.kind not in "iu":
            what = f"{kind}.view_counts must be a numpy array of integers, one for each object"
            raise ValueError(f"{what}, got {_kind(counts)}")
        if labels is not None and not isinstance(labels, Labels):
            raise ValueError(f"{kind}.labels must be Labels or None, got {_kind(labels)}")
        if labels is not None and len(labels.classes) != len(counts):
            raise ValueError(f"{kind}.labels has {len(labels.classes)} classes for {len(counts)} objects")


class Subset(Source):
    """Some objects of another source.

    Args:
        source: where the views come from.
        objects: indices into `source`, in the order of this source.
    """

    def __init__(self, source: Source, objects: Indices) -> None:
        self.source = source
        # torch shares a tensor with loader processes that do not begin as a copy of this one, and sends an array.
        self._objects = torch.from_numpy(np.require(objects, dtype=np.int64, requirements=("C", "W")))

    @property
    def objects(self) -> Indices:
        """See `Args`."""
        return cast(Indices, self._objects.numpy())

    @property
    def view_counts(self) -> Indices:
        counts = self.source.view_counts
        if counts.strides == (0,) and len(counts):  # one number for all
            return np.broadcast_to(counts[0], self.objects.shape)
        return counts[self.objects]

    @property
    def groups(self) -> dict[str, Group]:
        return self.source.groups

    @property
    def labels(self) -> Labels | None:
        labels = self.source.labels
        if labels is None:
            return None
        rows = self._objects
        return Labels(labels.classes[rows], labels.known[rows], labels.names)

    @property
    def image_size(self) -> int:
        return self.source.image_size

    @property
    def channels(self) -> int:
        return self.source.channels

    @property
    def blocks(self) -> Indices | None:
        blocks = self.source.blocks
        return None if blocks is None else blocks[self.objects]

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
        (item,), (number,) = self.inside(np.array([object_index]), np.array([view]))
        return self.source.describe(int(item), int(number))

    def check(self) -> None:
        self.source.check()

    def inside(self, objects: Indices, views: Indices) -> tuple[Indices, Indices]:
        """The objects and the views of `source` that some of this source are."""
        return self.objects[objects], views

    def load(self, objects: Indices, views: Indices) -> Images:
        return self.source.load(*self.inside(objects, views))

    def record(self, objects: Indices, views: Indices) -> Transform:
        return self.source.record(*self.inside(objects, views))

    def masks(self, objects: Indices, views: Indices) -> Tensor | None:
        return self.source.masks(*self.inside(objects, views))

    def video(self, number: int) -> Video | None:
        return self.source.video(int(self.objects[number]))

    def boxes(self, number: int) -> Boxes | None:
        return self.source.boxes(int(self.objects[number]))

    def surface(self, objects: Tensor, views: Tensor, side: int) -> Surface | None:
        return self.source.surface(self._objects[objects], views, side)

    @property
    def photographs(self) -> bool:
        return self.source.photographs

    def load_pieces(self, objects: Indices, views: Indices, cuts: Cuts) -> tuple[Images, list[Tensor]]:
        return self.source.load_pieces(*self.inside(objects, views), cuts)

    @property
    def renders(self) -> bool:
        return self.source.renders

    def render(self, objects: Indices, transform: Transform) -> Images:
        return self.source.render(self.objects[objects], transform)


@dataclass(frozen=True)
class Data:
    """The data of a run. No view is in both parts.

    Attributes:
        train: objects for pretraining, and for fitting the probes.
        validation: objects for the evaluation alone, or with `held_out` "views" further views of the training objects.
        notes: facts about the data for the run's record, such as how the split was made.
        held_out: what validation is: `objects` that training never sees, or new `views` of its objects.

    Raises:
        ValueError: if a source has counts or labels of a wrong type, or the parts have other numbers of channels.
    """

    train: Source
    validation: Source
    notes: dict[str, str] = field(default_factory=dict)
    held_out: Literal["objects", "views"] = "objects"

    def __post_init__(self) -> None:
        self.train.check()
        self.validation.check()
        if (ours := self.train.channels) != (theirs := self.validation.channels):
            raise ValueError(f"the training images have {ours} channels, and the validation images {theirs}")


def split_objects(count: int, validation_share: float, seed: int) -> tuple[Indices, Indices]:
    """Train and validation indices, both ascending: a random split of `count` objects, at least one in each part.

    Raises:
        ValueError: if there are fewer than two objects or the share is not between 0 and 1.
    """
    if count < 2:
        raise ValueError(f"{count} object(s) cannot be split into train and validation")
    if not 0 < validation_share < 1:
        raise SettingError("validation_share", f"must be above 0 and below 1, got {validation_share}")
    order = permutation(seed, length=count)
    held_out = min(max(round(count * validation_share), 1), count - 1)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def with_enough_views(source: Source, wanted: int) -> Source:
    """The objects with at least `wanted` views, if any object has more than one view; all objects otherwise."""
    counts = source.view_counts
    if counts.max() == 1 or counts.min() >= wanted:
        return source
    enough = np.flatnonzero(counts >= wanted)
    if not len(enough):
        raise ValueError(f"no object has the {wanted} views that the objective needs")
    return Subset(source, enough)
