"""Torchvision's datasets by name, and any map-style torch dataset as a source."""

import contextlib
import inspect
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssl_inv.catalogue import require_at_least, suggest
from ssl_inv.data.decoding import to_pixels, to_square
from ssl_inv.data.images import Photographs, StoredImages
from ssl_inv.data.reading import Pixels, Reading, UnreadableImageError, band_axis
from ssl_inv.data.source import Data, Indices, Labels
from ssl_inv.data.splits import part

_CLASS_ATTRIBUTES = ("targets", "labels", "_labels")
"""Attributes of torchvision's and most other datasets with the class of every item: no image is decoded for it."""


class MapDataset(Protocol):
    """What a dataset must have; `torch.utils.data.Dataset` itself promises no length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def torchvision_dataset(
    *,
    dataset: str,
    root: str,
    size: int | None = None,
    download: bool = False,
    validation_share: float = 0.1,
    split_seed: int = 0,
    cache: bool | None = None,
    max_broken: float = 0.01,
    photographs: Literal["whole", "squares"] = "whole",
) -> Data:
    """A dataset of torchvision, with its own train and test split if it has one.

    Args:
        dataset: name of a class in `torchvision.datasets`, such as `FashionMNIST`.
        root: the folder that torchvision reads from and downloads to.
        size: side in pixels; the shorter side of every image is resized to it and the centre square cut out. None keeps
            the images as they are; they must then be squares of one size.
        download: whether to download or unpack missing files.
        validation_share: share of the images held out for validation when the dataset has no split.
        split_seed: which images are held out.
        cache: whether decoded images stay in memory; None: if all of them fit in 2 GB.
        max_broken: share of the images that may be unreadable.
        photographs: whether views are cut out of the `whole` images, of any size and shape, or out of the centre
            `squares`, which small machines decode and keep more cheaply; the same without a `size`. Evaluations take
            the squares.
    """
    parts = _torchvision_splits(dataset, root, download)
    train, *others = [
        DatasetSource(item, size, cache, max_broken, f"{dataset} in {root}", photographs) for item in parts
    ]
    notes = {"dataset": f"torchvision {dataset} in {root}"}
    return part(train, {}, others[0] if others else None, validation_share, split_seed, notes)


class DatasetSource(StoredImages):
    """The items of a map-style torch dataset, one view each.

    An item is an image, or a sequence with an image first and then, if it is an integer, the class. An image is a PIL
    image, or an array or tensor of uint8 or of floats in [0, 1], of shape `(H, W)`, or `(C, H, W)` for tensors and
    `(H, W, C)` for arrays. A single channel is repeated, and opacity laid over black. The dataset must give the same
    item every time, so it has no random transforms. It is never read by two threads at once.

    Classes are taken from an attribute `targets` or `labels`; without one, all items are read when `labels` is first
    asked for. A negative class means unknown.

    Args:
        dataset: the dataset; picklable if loader processes are used.
        size: side in pixels to which images are resized and cut; None keeps them as they are, squares of one size.
        cache: see `StoredImages`.
        max_broken: see `StoredImages`; an item is broken if reading it raises an `OSError`.
        name: name of the dataset in messages; None takes the name of its class.
        photographs: see `StoredImages`.
        channels: of the items; None: those of the items, where a single one is repeated and a fourth is opacity. 1
            makes or keeps a single channel of grey.

    Raises:
        ValueError: if the dataset is empty, or its first item is no image or has other channels.
    """

    def __init__(
        self,
        dataset: MapDataset,
        size: int | None = None,
        cache: bool | None = None,
        max_broken: float = 0.01,
        name: str | None = None,
        photographs: Photographs = "whole",
        channels: int | None = None,
    ) -> None:
        self.dataset, self._wanted = dataset, channels
        if channels is not None:
            require_at_least(1, channels=channels)
        where = type(dataset).__name__ if name is None else name
        super().__init__(where, np.ones(len(dataset), dtype=np.int64), size, cache, max_broken, photographs)
        self._labels_read = False

    @property
    def labels(self) -> Labels | None:
        if not self._labels_read:
            self._labels, self._labels_read = _labels(self.dataset), True
        return self._labels

    def _name(self, image: int) -> str:
        return f"item {image}"

    def _decode(self, image: int, size: int | None) -> Pixels:
        try:
            item = self.dataset[image]
            value = item[0] if isinstance(item, Sequence) else item
            pixels = _pixels(value, self._wanted)
            return pixels if size is None else to_square(pixels, size)
        except (OSError, SyntaxError) as error:  # Pillow calls a damaged PNG a SyntaxError.
            raise UnreadableImageError(str(error)) from error
        except ValueError as error:
            raise ValueError(f"{self._where}, item {image}: {error}") from error


def _pixels(value: object, channels: int | None) -> Pixels:
    """The pixels `(H, W, C)` of an item."""
    if not isinstance(value, Image.Image):
        array = _array(value)
        own = array.shape[2] if array.ndim == 3 else 1
        if channels == own or (channels is None and own not in (1, 3, 4)):
            return array.reshape(*array.shape[:2], own)
        if own not in (1, 3, 4):
            raise ValueError(f"an image must have {channels} channels, got an array of shape {array.shape}")
        value = Image.fromarray(array[..., 0] if array.ndim == 3 and own == 1 else array)
    return to_pixels(value, Reading(channels=channels))


def _array(value: object) -> Pixels:
    """An array `(H, W)` or `(H, W, C)` of bytes, of an array or a tensor."""
    if isinstance(value, Tensor):
        array = (value.movedim(0, -1) if value.ndim == 3 else value).cpu().numpy()
    elif isinstance(value, np.ndarray):
        array = value
    else:
        raise ValueError(f"an item must be an image or begin with one, got {type(value).__name__}")
    if array.ndim not in (2, 3):
        raise ValueError(f"an image must have 2 or 3 axes, got an array of shape {tuple(value.shape)}")
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and band_axis(array.shape) == 0:
        axes = "(C, H, W) for tensors and (H, W, C) for arrays"
        raise ValueError(f"an image must have the shape {axes}, got {type(value).__name__} {tuple(value.shape)}")
    if np.issubdtype(array.dtype, np.floating):
        # A resize can leave the interval by a rounding error; a normalised image leaves it by far.
        if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):
            found = f"{array.min():.3g} to {array.max():.3g}"
            raise ValueError(f"float images must lie in [0, 1], got {found}; leave out any normalisation")
        array = np.rint(array.clip(0, 1) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"an image must be uint8, or float in [0, 1], got {array.dtype}")
    return np.ascontiguousarray(array)


def _labels(dataset: MapDataset) -> Labels | None:
    values = _class_values(dataset)
    if values is None:
        return None
    known = values >= 0
    if not known.any():
        return None
    count = int(values.max()) + 1
    names = [str(name) for name in _root_of(dataset, "classes") or ()]
    if len(names) < count:
        names = [str(number) for number in range(count)]
    return Labels(torch.from_numpy(values.clip(0)), torch.from_numpy(known), tuple(names))


def _root_of(dataset: Any, attribute: str) -> Any:
    """An attribute of the dataset, or of the dataset below `torch.utils.data.Subset`; None if neither has it."""
    while not hasattr(dataset, attribute) and isinstance(dataset, torch.utils.data.Subset):
        dataset = dataset.dataset
    return getattr(dataset, attribute, None)


def _class_values(dataset: Any) -> Indices | None:
    """The class of every item `(N,)`, or None if the items have none."""
    if isinstance(dataset, torch.utils.data.Subset):
        values = _class_values(dataset.dataset)
        return None if values is None else values[np.asarray(dataset.indices, dtype=np.int64)]
    # A target transform changes the classes of the items, but not the stored ones.
    for attribute in _CLASS_ATTRIBUTES if getattr(dataset, "target_transform", None) is None else ():
        stored = getattr(dataset, attribute, None)
        if isinstance(stored, Sized) and len(stored) == len(dataset):
            return _integers(stored)
    if _class_of(dataset[0]) is None:
        return None
    return _integers([_class_of(dataset[row]) for row in range(len(dataset))])


def _class_of(item: object) -> object:
    """The class in an item, or None if it has none."""
    if not isinstance(item, Sequence) or len(item) < 2:
        return None
    value = item[1].item() if isinstance(item[1], Tensor | np.ndarray | np.generic) and item[1].ndim == 0 else item[1]
    return value if isinstance(value, int) else None


def _integers(values: object) -> Indices | None:
    array = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return array.astype(np.int64) if array.ndim == 1 and np.issubdtype(array.dtype, np.integer) else None


def _torchvision_splits(name: str, root: str, download: bool) -> list[MapDataset]:
    """The train part and, if the dataset has splits, the part to judge on."""
    import torchvision  # Takes a second, only for runs on such a dataset.

    if name not in torchvision.datasets.__all__:
        raise ValueError(f"torchvision has no dataset {name!r}; {suggest(name, torchvision.datasets.__all__)}")
    constructor = getattr(torchvision.datasets, name)
    parameters = inspect.signature(constructor).parameters
    options: dict[str, object] = {"root": str(Path(root).expanduser())}
    if "download" in parameters:
        options["download"] = download
    elif download:
        raise ValueError(f"torchvision cannot download {name}; fetch it yourself and leave `download` out")
    try:
        if "train" in parameters:
            return [constructor(train=train, **options) for train in (True, False)]
        if "split" in parameters:
            return [constructor(split="train", **options), _held_out(constructor, options)]
        return [constructor(**options)]
    except (RuntimeError, OSError) as error:
        advice = "" if download else " (`download: true` downloads or unpacks it)"
        reason = f"{str(error).splitlines()[0]}{advice}"
        raise FileNotFoundError(f"torchvision {name} cannot be read from {root}: {reason}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"torchvision {name} needs more than a name and a folder: {error}") from error


def _held_out(constructor: Callable[..., MapDataset], options: dict[str, object]) -> MapDataset:
    """The validation split by one of its names, else the test split."""
    for split in ("val", "valid"):
        with contextlib.suppress(ValueError):  # raised for a split that the dataset does not have
            return constructor(split=split, **options)
    return constructor(split="test", **options)
