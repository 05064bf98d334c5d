"""Data that a Python program has: arrays, tensors, torch datasets, and sources of its own."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ssl_inv.catalogue import DATA, SettingError, suggest
from ssl_inv.data.images import Photographs
from ssl_inv.data.pixels import as_bytes, channels_first
from ssl_inv.data.source import Data, Images, Indices, Labels, Source, Subset
from ssl_inv.data.sources.torchvision import DatasetSource
from ssl_inv.data.splits import SPLIT_NAMES, labels_from_names, part, split_of
from ssl_inv.transforms import Group, Transform

_HELD: ContextVar[Any] = ContextVar("data of the caller", default=None)

_PRINTED = 64
"""Images that enter a fingerprint."""

_READ_TWICE = 8


@contextmanager
def holding(value: Any) -> Iterator[None]:
    """Let `given` find the data of the caller while the block runs."""
    token = _HELD.set(value)
    try:
        yield
    finally:
        _HELD.reset(token)


def given(
    *,
    training_objects: int | None = None,
    validation_objects: int | None = None,
    fingerprint: str | None = None,
    size: int | None = None,
    validation_share: float = 0.1,
    split_seed: int = 0,
    cache: bool | None = None,
    max_broken: float = 0.01,
    photographs: Literal["whole", "squares"] = "whole",
    channels: int | None = None,
) -> Data:
    """Data that a Python program hands over, as `ssl_inv.pretrain(recipe, data=...)`. A run folder does not keep them.

    Args:
        training_objects: their number. Runs record it.
        validation_objects: their number. Runs record it.
        fingerprint: of the numbers of objects and views, their size and classes, and some images. Runs record it, and
            refuse other data when they continue.
        size: side in pixels; the shorter side of every image is resized to it and the centre square cut out. None keeps
            the images as they are; they must then be squares of one size.
        validation_share: share of the objects held out for validation if the data have no split.
        split_seed: which objects are held out.
        cache: whether the images of a dataset stay in memory once they are read; None: if all of them fit in 2 GB.
        max_broken: share of the images of a dataset that may be unreadable.
        photographs: whether views are cut out of the `whole` images, of any size and shape, or out of the centre
            `squares`; the same without a `size`. Evaluations take the squares.
        channels: of the images, which says which axis is theirs. None: 3, where grey is repeated, or as many as there
            are entries on an axis shorter than both sides; 4 must be said, as the fourth may be opacity.
    """
    value = _HELD.get()
    if value is None:
        numbers = f" ({training_objects} objects to train on, {validation_objects} to judge by)"
        known = "" if training_objects is None else numbers
        raise SettingError("name", f"'given' is data in the memory of a Python program{known}; give data=... there")
    data = data_of(value, size, validation_share, split_seed, cache, max_broken, photographs, channels)
    if fingerprint is not None and fingerprint != (now := fingerprint_of(data)):
        raise SettingError(
            "fingerprint",
            f"the run was given other data: {training_objects} objects to train on and {validation_objects} to judge "
            f"by, fingerprint {fingerprint}; these are {len(data.train)} and {len(data.validation)}, fingerprint {now}",
        )
    return data


def dataset(
    *,
    dataset: str,
    arguments: dict[str, Any] = {},
    size: int | None = None,
    validation_share: float = 0.1,
    split_seed: int = 0,
    cache: bool | None = None,
    max_broken: float = 0.01,
    photographs: Literal["whole", "squares"] = "whole",
    channels: int | None = None,
) -> Data:
    """Whatever a class or function gives: a torch dataset, an array or a tensor of images, or a source.

    Args:
        dataset: where it is, `package.module:attribute`; also in files of the current folder.
        arguments: its arguments by name.
        size: side in pixels; the shorter side of every image is resized to it and the centre square cut out. None keeps
            the images as they are; they must then be squares of one size.
        validation_share: share of the objects held out for validation if the data have no split.
        split_seed: which objects are held out.
        cache: whether the images of a dataset stay in memory once they are read; None: if all of them fit in 2 GB.
        max_broken: share of the images of a dataset that may be unreadable.
        photographs: whether views are cut out of the `whole` images, of any size and shape, or out of the centre
            `squares`; the same without a `size`. Evaluations take the squares.
        channels: of the images, which says which axis is theirs. None: 3, where grey is repeated, or as many as there
            are entries on an axis shorter than both sides; 4 must be said, as the fourth may be opacity.
    """
    path = dataset.replace(":", ".")
    if "." not in path:
        raise SettingError("dataset", f"must be a dotted path such as package.module:{dataset}, got {dataset!r}")
    try:
        make = DATA.find(path).load()
    except SettingError as error:
        raise SettingError("dataset", error.problem) from error
    try:
        value = make(**arguments)
    except TypeError as error:
        raise SettingError("arguments", f"{dataset} refuses {arguments}: {error}") from error
    data = data_of(value, size, validation_share, split_seed, cache, max_broken, photographs, channels)
    return Data(data.train, data.validation, {"dataset": dataset, **data.notes})


def data_of(
    value: Any,
    size: int | None = None,
    validation_share: float = 0.1,
    split_seed: int = 0,
    cache: bool | None = None,
    max_broken: float = 0.01,
    photographs: Photographs = "whole",
    channels: int | None = None,
) -> Data:
    """Training and validation objects of what a user has.

    Args:
        value: `Data`, a `Source`, or anything that `source_of` takes; or a mapping of two of these, `train` and
            `validation`.
        size: see `given`.
        validation_share: see `given`.
        split_seed: see `given`.
        cache: see `given`.
        max_broken: see `given`.
        photographs: see `given`.
        channels: see `given`.

    Raises:
        ValueError: in one line, if it is something else.
    """
    options = size, cache, max_broken, photographs, channels
    if isinstance(value, Data):
        require_images(value.train)
        return value
    if not isinstance(value, Mapping):
        source = source_of(value, *options)
        notes = {"images": f"{int(source.view_counts.sum())} given"}
        return part(source, {}, None, validation_share, split_seed, notes)
    meanings = {str(name): split_of(str(name)) for name in value}
    if odd := [name for name, meaning in meanings.items() if meaning is None]:
        raise ValueError(f"{odd[0]!r} is no split; {suggest(odd[0], SPLIT_NAMES.split(', '))}")
    splits = {meaning: value[name] for name, meaning in meanings.items()}
    if "train" not in splits:
        raise ValueError(f"there is a split called {', '.join(meanings)} but nothing to train on")
    source = source_of(splits["train"], *options)
    held_out = splits.get("validation", splits.get("test"))
    names = None if source.labels is None else source.labels.names
    judged = None if held_out is None else source_of(held_out, *options, names)
    notes = {"images": f"{int(source.view_counts.sum())} given"}
    return part(source, {}, judged, validation_share, split_seed, notes)


def source_of(
    value: Any,
    size: int | None = None,
    cache: bool | None = None,
    max_broken: float = 0.01,
    photographs: Photographs = "whole",
    channels: int | None = None,
    names: Sequence[str] | None = None,
) -> Source:
    """One source of what a user has, its objects in the order given.

    Args:
        value: a `Source`; a tensor or array of images; a torch dataset or a list of images, or of images with a class;
            or a pair of images and their classes, numbers or names.
        size: see `given`.
        cache: see `given`.
        max_broken: see `given`.
        photographs: see `given`.
        channels: see `given`.
        names: of the classes in index order, for classes that are given by name; None takes those that occur.

    Raises:
        ValueError: in one line, if it is something else.
    """
    if isinstance(value, Source):
        require_images(value)
        return value
    images, classes = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    if isinstance(images, Tensor | np.ndarray):
        pixels = as_bytes(channels_first(images, channels=channels).detach().cpu())
        labels = None if classes is None else _labels(classes, len(pixels), names)
        height, width = pixels.shape[-2:]
        if height == width and size in (None, height):
            return Arrays(pixels, labels)
        return _Sized(pixels, labels, size, cache, max_broken, photographs, pixels.shape[1])
    if classes is not None:
        raise ValueError(
            f"a pair must be an array or a tensor of images and their classes, got {_kind(images)} and "
            f"{_kind(classes)}; the items of a dataset are pairs of an image and a class themselves"
        )
    _require_dataset(images)
    source = DatasetSource(images, size, cache, max_broken, photographs=photographs, channels=channels)
    _require_same_items(images)
    return source


class Arrays(Source):
    """Square images in memory, one view each.

    Args:
        pixels: `(N, C, S, S)`, uint8.
        labels: their classes, or None.

    Raises:
        ValueError: if there are no images.
    """

    def __init__(self, pixels: Tensor, labels: Labels | None = None) -> None:
        if not len(pixels):
            raise ValueError("there are no images in these data")
        self._pixels, self._labels = pixels, labels

    @property
    def view_counts(self) -> Indices:
        return np.ones(len(self._pixels), dtype=np.int64)

    @property
    def groups(self) -> dict[str, Group]:
        return {}

    @property
    def labels(self) -> Labels | None:
        return self._labels

    @property
    def image_size(self) -> int:
        return int(self._pixels.shape[-1])

    @property
    def channels(self) -> int:
        return int(self._pixels.shape[1])

    @property
    def preferred_workers(self) -> int | None:
        return 0

    def load(self, objects: Indices, views: Indices) -> Images:
        objects, views = np.asarray(objects, dtype=np.int64), np.asarray(views, dtype=np.int64)
        if wrong := objects[(objects < 0) | (objects >= len(self._pixels))].tolist():
            raise ValueError(f"there is no object {wrong[0]}; the last one is {len(self._pixels) - 1}")
        if wrong := views[views != 0].tolist():
            raise ValueError(f"object {objects[views != 0][0]} has no view {wrong[0]}; its last one is 0")
        pixels = self._pixels[torch.from_numpy(objects)].contiguous(memory_format=torch.channels_last)
        return Images(pixels, Transform.empty(), torch.ones(len(objects), dtype=torch.bool))

    def describe(self, object_index: int, view: int) -> str:
        return f"image {object_index}"


class _Sized(DatasetSource):
    """Images in memory that are resized, or cut to squares."""

    def __init__(self, pixels: Tensor, labels: Labels | None, *options: Any) -> None:
        size, cache, max_broken, photographs, channels = options
        super().__init__(_Rows(pixels), size, cache, max_broken, "images", photographs, channels)
        self._labels, self._labels_read = labels, True


class _Rows:
    """The images of a tensor one by one."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[index]


def fingerprint_of(data: Data) -> str:
    """A hash of what is known of data without reading all of them: numbers of objects and views, size, parameters, and
    the pixels of at most 64 images of each part, evenly spread.
    """
    digest = hashlib.sha256()
    for source in (data.train, data.validation):
        counts = source.view_counts.astype(np.int64)
        chosen = np.unique(np.linspace(0, len(counts) - 1, min(_PRINTED, len(counts))).astype(np.int64))
        images = source.load(chosen, np.zeros_like(chosen))
        digest.update(repr((source.image_size, list(source.groups))).encode())
        digest.update(counts.tobytes())
        digest.update(images.pixels.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def require_images(source: Source) -> None:
    """Load the first image of a user's source, to raise now what would fail in a loader process.

    Raises:
        ValueError: in one line, naming the class, if `load` gives something else than square uint8 `Images`.
    """
    while isinstance(source, Subset):
        source = source.source
    source.check()
    kind, first = type(source).__name__, np.zeros(1, dtype=np.int64)
    images: Any = source.load(first, first)
    if not isinstance(images, Images):
        raise ValueError(f"{kind}.load must return Images, got {_kind(images)}")
    side, channels = source.image_size, source.channels
    found: Any = images.pixels
    if not isinstance(found, Tensor) or found.dtype != torch.uint8 or found.shape != (1, channels, side, side):
        many = "" if channels == 3 else f" and {channels} channels"
        what = f"uint8 pixels (1, {channels}, {side}, {side}) for one view of image_size {side}{many}"
        raise ValueError(f"{kind}.load must return {what}, got {_kind(found)}")


def _labels(classes: Any, count: int, names: Sequence[str] | None) -> Labels | None:
    """Labels from a class, a number or a name, for every image; negative numbers and None are unknown."""
    values = classes.cpu().numpy() if isinstance(classes, Tensor) else classes
    if not isinstance(values, np.ndarray | Sequence) or isinstance(values, str):
        raise ValueError(f"classes must be one number or name for each image, got {_kind(classes)}")
    if len(values) != count or np.ndim(values) != 1:
        shape = np.shape(values)
        advice = ""
        if len(shape) > 1:
            advice = '; two sets of images are given as {"train": ..., "validation": ...}'
        raise ValueError(f"there are {count} images, but classes of shape {shape}{advice}")
    if all(one is None or isinstance(one, str) for one in values):
        return labels_from_names([one or "" for one in values], names, "classes")
    numbers = np.asarray([-1 if one is None else one for one in values])
    if numbers.dtype.kind not in "iu":
        raise ValueError(f"classes must be whole numbers or names, got {numbers.dtype}")
    known = torch.from_numpy(numbers >= 0)
    if not known.any():
        return None
    numbered = tuple(str(number) for number in range(int(numbers.max()) + 1))
    return Labels(torch.from_numpy(numbers.astype(np.int64).clip(0)), known, numbered)


def _require_dataset(value: Any) -> None:
    """Raise a `ValueError` unless a value has numbered items."""
    if isinstance(value, torch.utils.data.DataLoader):
        raise ValueError("a DataLoader gives batches, and these are made here; give its dataset, loader.dataset")
    if isinstance(value, torch.utils.data.IterableDataset):
        raise ValueError(f"{_kind(value)} has no numbered items; a dataset needs len() and [number]")
    if isinstance(value, str | bytes) or not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        takes = "an array, a tensor, a torch dataset, a list of images, a pair of images and classes, or a Source"
        raise ValueError(f"data must be {takes}, got {_kind(value)}")
    if not len(value):
        raise ValueError(f"there are no images in this {_kind(value)}")


def _require_same_items(dataset: Any) -> None:
    """Raise a `ValueError` if a dataset gives another image each time that it is asked."""
    for number in range(min(_READ_TWICE, len(dataset))):
        try:
            first, second = (_bytes_of(dataset[number]) for _ in range(2))
        except (OSError, SyntaxError):  # A broken file, which the source counts.
            continue
        if first != second:
            advice = "leave out its random transforms, views are made here"
            raise ValueError(f"{_kind(dataset)} gives another image each time for item {number}; {advice}")


def _bytes_of(item: Any) -> bytes:
    image = item[0] if isinstance(item, Sequence) else item
    return (image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)).tobytes()


def _kind(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    return type(value).__name__
