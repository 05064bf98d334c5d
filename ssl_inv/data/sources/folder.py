"""Plain images in a folder or an archive, with or without class folders."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_inv.catalogue import SettingError
from ssl_inv.data.archives import Files
from ssl_inv.data.image_files import ImageFiles
from ssl_inv.data.images import ARRAY_SUFFIXES, IMAGE_SUFFIXES, Photographs
from ssl_inv.data.names import Names, printable, unpacked
from ssl_inv.data.reading import PLAIN, Reading, reading_of
from ssl_inv.data.source import Data, Indices, Labels
from ssl_inv.data.sources.arrow.layout import COLUMN_SUFFIXES, is_column_file
from ssl_inv.data.splits import SPLIT_NAMES, labels_from_numbers, part, require_other_files, split_of

LabelsFrom = Literal["folders", "none"]

SplitFrom = Literal["folders", "top", "none"]


def folder(
    *,
    path: str,
    size: int | None = None,
    labels: LabelsFrom | None = None,
    label_level: int = 1,
    split: SplitFrom | None = None,
    exclude: list[str] = [],
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
    max_pixels: int = 178_956_970,
) -> Data:
    """Plain images in a folder, or in a zip or tar archive.

    Args:
        path: the folder or archive. Top folders called train and val, valid, validation or test are its split.
        size: side in pixels; the shorter side of every image is resized to it and the centre square cut out. None keeps
            the images as they are; they must then be squares of one size.
        labels: `folders`: the first folder (below the folder of the split) names the class; `none`: no classes; None:
            `folders` if there are at least two class folders, else `none`.
        label_level: which folder names the class, counted from the top or from the folder of the split: 2 for
            `animals/cat/1.jpg`.
        split: `folders`: the top folders are the split; `none`: they are not, whatever their names; None: they are if
            their names say so. A single folder around them is passed over, but not with `top`, which is None otherwise.
        exclude: patterns of images to leave out, such as `masks/*` or `*_thumb.jpg`; one without a `/` also matches
            the name of any folder on the way.
        validation: another folder or archive, with the validation images; all of it is used.
        validation_share: share of the images held out for validation when neither `validation` nor a split is there.
        split_seed: which images are held out.
        cache: whether decoded images stay in memory; None: if all of them fit in 2 GB.
        max_broken: share of the images that may be unreadable.
        photographs: whether views are cut out of the `whole` images, of any size and shape, or out of the centre
            `squares`, which small machines decode and keep more cheaply; the same without a `size`. Evaluations take
            the squares.
        background: what transparent pixels are laid over; `drop` shows what the file has under them.
        white: the value that becomes 255 in images of 16 bits or of floats, where 0 becomes 0; None takes 65535, or in
            a grey TIFF what its tags say, and refuses 32 bits and floats.
        bands: the bands of the file that are taken, counted from 1, any number of them; a single one is grey. Empty
            takes the file's own colours, or all bands if `channels` says how many.
        range: the values that become 0 and 255 in images of more than 8 bits or of floats, `[0, 4095]`, or such a pair
            for each band; values beyond are cut off, and NaN becomes 0. Empty: as `white` says.
        channels: of the images; None: as many as `bands`, or 3, where grey is repeated. 1 makes or keeps a single
            channel of grey, 4 also takes opacity as a channel.
        max_pixels: of an image in memory. A JPEG that is reduced while it is decoded may have more in its file.
    """
    if label_level < 1:
        raise SettingError("label_level", f"must be at least 1, got {label_level}")
    choice = Choice(labels, label_level, split, tuple(exclude))
    reading = reading_of(background, white, bands, range, channels, max_pixels)
    source = ImageFolder(path, size, choice, cache, max_broken, photographs=photographs, reading=reading)
    if validation is None:
        return part(source, source.splits, None, validation_share, split_seed, source.notes)
    require_other_files(source.files, validation)
    names = None if source.labels is None else source.labels.names
    # All of it is used, with folders of a split or without.
    found = None if choice.split == "folders" else choice.split
    same = replace(choice, labels="none" if names is None else "folders", split=found)
    judged = ImageFolder(validation, size, same, cache, max_broken, names, photographs, reading)
    return part(source, source.splits, judged, validation_share, split_seed, source.notes)


@dataclass(frozen=True)
class Choice:
    """Which images are read, and what their folders mean; see `folder`."""

    labels: LabelsFrom | None = None
    label_level: int = 1
    split: SplitFrom | None = None
    exclude: tuple[str, ...] = ()


class ImageFolder(ImageFiles):
    """Image files below a folder or in an archive, one view each, in the order of their names.

    With classes by folders, the class of an image outside all class folders is unknown.

    Args:
        path: see `folder`.
        size: see `folder`.
        choice: which images, and what their folders mean; or only `labels` of `folder`.
        cache: see `StoredImages`.
        max_broken: see `StoredImages`.
        classes: the class names in index order, for example from the train set; None takes the folders' names in
            ascending order.
        photographs: see `StoredImages`.
        reading: how the numbers of a file become colours.

    Attributes:
        splits: the objects of every split by its name, if the top folders are splits; empty otherwise.
        notes: facts for the run's record.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if there are no images, only some of the top folders are splits, `labels` is `folders` but there are
            no class folders, or a class folder is not in `classes`.
    """

    def __init__(
        self,
        path: str,
        size: int | None = None,
        choice: Choice | LabelsFrom | None = None,
        cache: bool | None = None,
        max_broken: float = 0.01,
        classes: Sequence[str] | None = None,
        photographs: Photographs = "whole",
        reading: Reading = PLAIN,
    ) -> None:
        choice = choice if isinstance(choice, Choice) else Choice(choice)
        _require_other_kind(Path(path))
        self.files = files = Files(path, choice.exclude)
        suffixes = IMAGE_SUFFIXES
        names = files.with_suffix(suffixes)
        if not len(names):
            suffixes = ARRAY_SUFFIXES
            names = files.with_suffix(suffixes)
        if not len(names) and (columns := len(files.with_suffix(COLUMN_SUFFIXES))):
            raise SettingError(
                "name", f"{files.path} has no images, but {columns} file(s) with columns; 'arrow' reads them"
            )
        if not len(names) and files.left_out:
            raise ValueError(f"{files.path} has no images; not used: {'; '.join(files.left_out)}")
        super().__init__(
            files, names, np.broadcast_to(np.int64(1), len(names)), size, cache, max_broken, photographs, reading
        )
        outer = names.folders(0)
        depth = 0 if choice.split in ("none", "top") else _depth_of_split(names, outer[1])
        tops = names.folders(depth) if depth else outer
        self.splits = {} if choice.split == "none" else _splits(*tops, path, choice.split == "folders")
        level = choice.label_level - 1 + (depth + 1 if self.splits else 0)
        self._labels = _labels(*(names.folders(level) if level else outer), choice, classes, path)
        known = 0 if self._labels is None else int(self._labels.known.sum())
        classes_found = "no classes" if self._labels is None else f"{len(self._labels.names)} classes"
        self.notes = {
            "images": f"{len(names)} from {files.path}, {known} with a class",
            "classes": classes_found,
            **_not_used(files, len(names), suffixes),
        }


def _require_other_kind(path: Path) -> None:
    """Refuse a file that data of another kind are made of."""
    kind = "arrow" if is_column_file(path) else "arrays" if path.suffix.lower() in (".npy", ".npz") else None
    if kind is not None and path.is_file():
        raise SettingError("name", f"{path.name} is no folder or archive; {kind!r} reads it")


def _not_used(files: Files, images: int, suffixes: frozenset[str]) -> dict[str, str]:
    """A note on what is there and is no image of the data; none if nothing is."""
    left = list(files.left_out)
    if len(files.names) > images:
        others: Counter[str] = Counter()
        for suffix, count in Counter(map(_suffix, files.without_suffix(suffixes))).items():
            others[printable(suffix).lower() or "no suffix"] += count
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        left.insert(0, f"{len(files.names) - images} file(s) with other endings ({kinds})")
    return {"not used": "; ".join(left)} if left else {}


def _suffix(name: bytes) -> bytes:
    stem, dot, suffix = name.rpartition(b"/")[2].rpartition(b".")
    return dot + suffix if stem and suffix else b""


def _depth_of_split(names: Names, outer: list[bytes]) -> int:
    """How many folders stand around the folders of a split: 1 if all images lie in one folder and its folders are
    splits, else 0.
    """
    if len(outer) != 1 or not outer[0] or split_of(unpacked(outer[0])):
        return 0
    return int(all(split_of(unpacked(one)) for one in names.folders(1)[1]))


def _splits(numbers: NDArray[np.int32], tops: Sequence[bytes], path: str, required: bool) -> dict[str, Indices]:
    """The images of every split, from the number of the top folder of every image; none if they are no splits."""
    found = {top: split_of(unpacked(top)) for top in tops}
    if not any(found.values()):
        if required:
            raise ValueError(f"{path}: split is 'folders', but no top folder is called {SPLIT_NAMES}")
        return {}
    if others := [unpacked(top) or "." for top, split in found.items() if split is None]:
        other = f"but images lie in {others[0]!r} too; move or rename it, name it in `exclude`, or set `split: none`"
        raise ValueError(f"{path}: some top folders are splits ({SPLIT_NAMES}), {other}")
    splits = np.array([found[top] for top in tops], dtype=np.str_)
    return {str(name): np.flatnonzero(np.isin(numbers, np.flatnonzero(splits == name))) for name in np.unique(splits)}


def _labels(
    numbers: NDArray[np.int32], folders: Sequence[bytes], choice: Choice, classes: Sequence[str] | None, path: str
) -> Labels | None:
    labels, level = choice.labels, choice.label_level
    if labels not in ("folders", "none", None):
        raise SettingError("labels", f"must be 'folders', 'none' or null, got {labels!r}")
    present = sum(name != b"" for name in folders)
    if labels != "none" and level > 1 and not present:
        raise SettingError("label_level", f"no image of {path} lies {level} folders deep")
    if labels == "none" or (labels is None and present < 2):
        return None
    if not present:
        raise ValueError(f"{path}: labels is 'folders', but no image lies in a class folder")
    return labels_from_numbers(numbers, [printable(name) for name in folders], classes, path)
