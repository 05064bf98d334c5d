"""Images in numpy's files: an `.npy`, or an `.npz` with labels, splits and latents beside the images."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_inv.catalogue import SettingError, suggest
from ssl_inv.data.array_files import IMAGE_NAMES, StoredArray, name_and_split, stored_arrays
from ssl_inv.data.array_images import array_pixels
from ssl_inv.data.decoding import to_square
from ssl_inv.data.folder_index import size_and_time
from ssl_inv.data.images import Photographs, StoredImages
from ssl_inv.data.latents import Latent
from ssl_inv.data.listings import Columns, Sheet, listing, numeric
from ssl_inv.data.reading import PLAIN, Pixels, Reading, reading_of
from ssl_inv.data.source import Data, Indices
from ssl_inv.data.sources.meshes.reading import NEEDED
from ssl_inv.data.splits import part
from ssl_inv.transforms import Group, Transform

_LABELS = ("labels", "label", "y", "targets", "target", "classes", "class")

_MOST_COLUMNS = 64
"""Columns of an array that are listed one by one, as `values.3`."""


def arrays(
    *,
    path: str,
    size: int | None = None,
    images: str | None = None,
    labels: str | None = None,
    objects: str | None = None,
    latents: dict[str, str] | None = None,
    split: str | None = None,
    validation: str | None = None,
    validation_share: float = 0.1,
    split_seed: int = 0,
    cache: bool | None = None,
    max_broken: float = 0.01,
    photographs: Literal["whole", "squares"] = "whole",
    background: Literal["black", "white", "drop"] = "black",
    white: float | None = None,
    bands: list[int] = [],
    range: list[float | list[float]] = [],  # noqa: A002 - the name of the setting
    channels: int | None = None,
) -> Data:
    """Images in numpy's files, and what arrays beside them say of them.

    Args:
        path: an `.npy` of images `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`; an `.npz`; or a folder of `.npy` files,
            which then are its arrays. `x_train` and `x_test`, or `train_images` and `val_images`, are its split.
        size: side in pixels; the shorter side of every image is resized to it and the centre square cut out. None keeps
            the images as they are; they must then be squares of one size.
        images: name of the array of images, with or without the split in it; None: by its name, such as `x` or
            `images`, else the only array that can be.
        labels: name of the array of classes, numbers or names, negative or empty where unknown; `none` for no classes.
            None: by its name, such as `y`, `labels` or `targets`.
        objects: name of the array that is equal for images of one object, or several joined by `+`. None: `object` if
            there is one, else every image is an object.
        latents: arrays and what they hold, such as `{azimuth: circle deg}`, or `values.3` for a column of an array; see
            `ssl_inv.data.latents` for all words. A rotation is one array `(N, 4)` or `(N, 3)`. None takes the arrays
            with words in their name, such as `azimuth[deg]`.
        split: name of an array with train, val or test; `none` to split at random. None: by the names of the arrays if
            they say so, else the array `split` if there is one.
        validation: another path of the same form, with the validation images; all of it is used.
        validation_share: share of the objects held out for validation when neither `validation` nor a split is there.
        split_seed: which objects are held out.
        cache: whether 8-bit images stay in memory; None: if all of them fit in 2 GB.
        max_broken: share of the images that may be unreadable.
        photographs: whether views are cut out of the `whole` images, of any size and shape, or out of the centre
            `squares`; the same without a `size`. Evaluations take the squares.
        background: what transparent pixels are laid over; `drop` shows what the image has under them.
        white: the value that becomes 255, where 0 becomes 0; None takes 255 of bytes, 65535 of 16 bits and 1 of floats.
        bands: the bands of the image that are taken, counted from 1, any number of them; a single one is grey. Empty
            takes its own colours, or all bands if `channels` says how many.
        range: the values that become 0 and 255, `[0, 4095]`, or such a pair for each band; values beyond are cut off,
            and NaN becomes 0. Empty: as `white` says.
        channels: of the images; None: as many as `bands`, or 3, where grey is repeated. 1 makes or keeps a single
            channel of grey, 4 also takes opacity as a channel.
    """
    reading = reading_of(background, white, bands, range, channels, PLAIN.most_pixels)
    options = size, images, Columns(objects, labels, split), latents, cache, max_broken
    source = ImageArrays(path, *options, photographs=photographs, reading=reading)
    if validation is None:
        return part(source, source.splits, None, validation_share, split_seed, source.notes)
    if Path(validation).expanduser().resolve() == Path(path).expanduser().resolve():
        problem = f"{validation!r} is the training data itself"
        raise SettingError("validation", f"{problem}; leave it out, and a share is held out")
    names = None if source.labels is None else source.labels.names
    judged = ImageArrays(validation, *options, names, photographs, reading, all_of_it=True)
    return part(source, source.splits, judged, validation_share, split_seed, source.notes)


class ImageArrays(StoredImages):
    """The images of one array, or of one for each split: objects in the order of their first images, views of an object
    in the order of theirs.

    Arrays are mapped into memory, those of an `.npz` too unless they are compressed. A pickled copy opens the files
    again.

    Args:
        path: see `arrays`.
        size: see `arrays`.
        images: see `arrays`.
        columns: the names of the arrays with objects, classes and splits.
        latents: see `arrays`.
        cache: see `StoredImages`.
        max_broken: see `StoredImages`.
        classes: the class names in index order, for example from the train set; None takes those of the data.
        photographs: see `StoredImages`.
        reading: how numbers become pixels.
        all_of_it: whether the arrays of all splits are used.

    Attributes:
        splits: the objects of every split by its name; empty if there is no split.
        notes: facts for the run's record, such as unused arrays.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if a file is damaged, or arrays are missing or do not fit.
    """

    def __init__(
        self,
        path: str,
        size: int | None = None,
        images: str | None = None,
        columns: Columns | None = None,
        latents: Mapping[str, str] | None = None,
        cache: bool | None = None,
        max_broken: float = 0.01,
        classes: Sequence[str] | None = None,
        photographs: Photographs = "whole",
        reading: Reading = PLAIN,
        all_of_it: bool = False,
    ) -> None:
        columns, self.reading = columns or Columns(), reading
        stored = stored_arrays(Path(path).expanduser())
        self._paths = list(dict.fromkeys(one.path for one in stored))
        name, groups = _image_group(_groups(stored, path), images, path)
        self._images = tuple(groups[name].values())
        for one in self._images:
            _require_images(one)
            one.require_all()
        self._open: list[NDArray[Any]] | None = None
        self._starts_of_arrays = np.cumsum([0, *[one.shape[0] for one in self._images]])
        sheet = _ArraySheet(path, groups, name)
        by_names = columns.split is None and not all_of_it and "" not in groups[name]
        told = np.repeat(list(groups[name]), np.diff(self._starts_of_arrays)).tolist() if by_names else None
        found = listing(sheet, columns, latents, classes, told)
        self._row, self.splits = found.rows, {} if all_of_it else found.splits
        # Names of parameters are names of attributes elsewhere.
        plain = {name: name.replace(".", "_") for name in found.record.names}
        self._record = Transform(
            {plain[one]: value for one, value in found.record.values.items()},
            {plain[one]: group for one, group in found.record.groups.items()},
        )
        super().__init__(path, found.counts, size, cache, max_broken, photographs)
        self._labels = found.labels
        views = f"{len(sheet)} views of {len(found.counts)} objects from {path}"
        packed = [one.name for one in self._images if one.offset is None]
        notes = {key.replace("columns", "arrays"): text for key, text in found.notes.items()}
        if sheet.others:
            other = f"arrays of other lengths or shapes: {', '.join(sheet.others)}"
            notes["not used"] = "; ".join([other, *([notes["not used"]] if "not used" in notes else [])])
        self.notes = {
            "views": f"{views}, {', '.join(one.name for one in self._images)}",
            **({"memory": f"compressed, so in memory as a whole: {', '.join(packed)}"} if packed else {}),
            **notes,
        }

    @property
    def stamp(self) -> str:
        """A digest that changes when a file is written, from the sizes and times of the files."""
        found = [(path.name, *size_and_time(path)) for path in self._paths]
        return hashlib.sha256(repr(found).encode()).hexdigest()

    @property
    def groups(self) -> dict[str, Group]:
        return dict(self._record.groups)

    @property
    def preferred_workers(self) -> int | None:
        # Each loader process would unpack all images for itself.
        return 0 if any(one.offset is None for one in self._images) else super().preferred_workers

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_open": None}

    def _transform(self, images: Indices) -> Transform:
        return self._record.select(torch.from_numpy(images))

    def _place(self, image: int) -> tuple[int, int]:
        """The array of an image, and its number there."""
        row = int(self._row[image])
        array = int(np.searchsorted(self._starts_of_arrays, row, side="right")) - 1
        return array, row - int(self._starts_of_arrays[array])

    def _name(self, image: int) -> str:
        array, number = self._place(image)
        return f"{self._images[array].name}[{number}]"

    def _decode(self, image: int, size: int | None) -> Pixels:
        if self._open is None:
            self._open = [one.read() for one in self._images]
        array, number = self._place(image)
        pixels = array_pixels(np.asarray(self._open[array][number]), self.reading)
        return pixels if size is None else to_square(pixels, size)


Groups = dict[str, dict[str, StoredArray]]
"""The arrays by their name without the split, then by the split, empty where the name has none."""


def _groups(stored: Sequence[StoredArray], where: str) -> Groups:
    if len(stored) == 1:
        return {stored[0].name: {"": stored[0]}}
    groups: Groups = {}
    for one in stored:
        name, split = name_and_split(one.name)
        if split in groups.setdefault(name, {}):
            raise ValueError(
                f"{where}: {groups[name][split].name} and {one.name} are both the {split} part of {name!r}"
            )
        groups[name][split] = one
    return {name: {split: parts[split] for split in _ordered(parts)} for name, parts in groups.items()}


def _ordered(splits: Mapping[str, StoredArray]) -> list[str]:
    return [one for one in ("", "train", "validation", "test") if one in splits]


def _image_group(groups: Groups, setting: str | None, where: str) -> tuple[str, Groups]:
    """The name of the images, and the arrays that go with them: of one split, if the setting names that one."""
    if setting in groups:
        return setting, groups
    if setting is not None:
        for name, parts in groups.items():
            for split, one in parts.items():
                if one.name == setting:
                    return name, {other: {"": own[split]} for other, own in groups.items() if split in own}
        known = [*groups, *(one.name for parts in groups.values() for one in parts.values())]
        raise SettingError("images", f"{where} has no array {setting!r}; {suggest(setting, known)}")
    able = [name for name, parts in groups.items() if all(len(one.shape) in (3, 4) for one in parts.values())]
    usual = [name for name in able if name.lower() in IMAGE_NAMES] or able
    if len(usual) == 1:
        return usual[0], groups
    if usual:
        several = f"{where} has several arrays that can be images, {', '.join(usual)}"
        raise SettingError("images", f"{several}; name one")
    if set(NEEDED) <= groups.keys():
        raise SettingError("name", f"{where} holds meshes, not images; 'meshes' renders them: --data.name meshes")
    shapes = ", ".join(f"{one.name} {one.shape}" for parts in groups.values() for one in parts.values())
    raise SettingError("images", f"{where} has no array (N, H, W), (N, H, W, C) or (N, C, H, W); it has {shapes}")


def _require_images(one: StoredArray) -> None:
    where = f"{one.path}: {one.name}"
    if len(one.shape) not in (3, 4):
        raise ValueError(f"{where} has shape {one.shape}; images have (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if one.dtype.hasobject:
        raise ValueError(f"{where} holds pickled Python objects, which are not read")
    if one.dtype.kind not in "biuf":
        raise ValueError(f"{where} holds {one.dtype}, and images are real numbers")
    if len(one.shape) == 3 and one.shape[2] in (3, 4) and one.shape[1] > one.shape[2]:
        raise ValueError(f"{where} is one image, {one.shape}; several have one axis more")


class _ArraySheet(Sheet):
    """Arrays beside the images as columns: `(N,)` and `(N, 1)` by name, those of `(N, K)` as `name.0` and so on.

    Attributes:
        others: the arrays that are no columns.
    """

    def __init__(self, where: str, groups: Groups, images: str) -> None:
        self._images = groups[images]
        lengths = {split: one.shape[:1] for split, one in self._images.items()}
        self._columns: list[tuple[tuple[StoredArray, ...], int | None]] = []
        self._tables: dict[str, tuple[StoredArray, ...]] = {}
        header, self.others = [], list[str]()
        for name, parts in groups.items():
            if name == images:
                continue
            if {split: one.shape[:1] for split, one in parts.items()} != lengths:
                self.others += [one.name for one in parts.values()]
                continue
            stored, widths = tuple(parts.values()), {one.shape[1:] for one in parts.values()}
            if widths <= {(), (1,)}:
                header.append(name)
                self._columns.append((stored, None))
            elif len(widths) == 1 and len(shape := next(iter(widths))) == 1 and shape[0] <= _MOST_COLUMNS:
                self._tables[name] = stored
                header += [f"{name}.{column}" for column in range(shape[0])]
                self._columns += [(stored, column) for column in range(shape[0])]
            else:
                self.others += [one.name for one in stored]
        super().__init__(where, header, sum(count for (count,) in lengths.values()))
        usual = {name.lower(): name for name in self._index}
        self.class_column = next((usual[name] for name in _LABELS if name in usual), "class")

    def row(self, row: int) -> str:
        for one in self._images.values():
            if row < one.shape[0]:
                return f"{one.name}[{row}]"
            row -= one.shape[0]
        raise IndexError(row)

    def _array(self, column: int) -> NDArray[Any]:
        stored, number = self._columns[column]
        parts = [one.read() for one in stored]
        return np.concatenate([one.reshape(len(one)) if number is None else one[:, number] for one in parts])

    def _texts(self, column: int) -> list[str]:
        cells = self._array(column)
        if cells.dtype.kind == "S":
            cells = np.char.decode(cells, "utf-8")
        if cells.dtype.kind not in "biufU":
            raise ValueError(f"{self.where}: {self.header[column]} holds {cells.dtype}; texts or numbers are needed")
        if cells.dtype.kind == "b":
            cells = cells.astype(np.uint8)
        return [str(cell).strip() for cell in cells.tolist()]

    def _numbers(self, column: int) -> NDArray[np.float64]:
        cells = self._array(column)
        return cells.astype(np.float64) if cells.dtype.kind in "biuf" else numeric(self._texts(column))

    def numbers(self, latent: Latent) -> NDArray[np.float64]:
        table = self._tables.get(latent.name)
        if table is None or table[0].shape[1] != len(latent.columns) or latent.columns[0] in self:
            return super().numbers(latent)
        return np.stack([self._all_numbers(f"{latent.name}.{one}") for one in range(len(latent.columns))], axis=1)

    def is_number(self, name: str) -> bool:
        return self._columns[self._index[name]][0][0].dtype.kind in "iuf"

    def is_whole(self, name: str) -> bool:
        return self._columns[self._index[name]][0][0].dtype.kind in "iu"
