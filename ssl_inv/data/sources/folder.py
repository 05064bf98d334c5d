"""Plain images in a folder or an archive, with or without class folders."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_inv.catalogue import SettingError
from ssl_inv.data.archives import Files, Names, unpacked
from ssl_inv.data.images import IMAGE_SUFFIXES, ImageFiles, Photographs
from ssl_inv.data.source import Data, Labels
from ssl_inv.data.splits import SPLIT_NAMES, labels_from_names, part, split_of, splits_of

LabelsFrom = Literal["folders", "none"]


def folder(
    *,
    path: str,
    size: int | None = None,
    labels: LabelsFrom | None = None,
    validation: str | None = None,
    validation_share: float = 0.1,
    split_seed: int = 0,
    cache: bool | None = None,
    max_broken: float = 0.01,
    photographs: Literal["whole", "squares"] = "whole",
) -> Data:
    """Plain images in a folder, or in a zip or tar archive.

    Args:
        path: the folder or archive. Top folders called train and val, valid, validation or test are its split.
        size: side in pixels; the shorter side of every image is resized to it and the centre square cut out. None keeps
            the images as they are; they must then be squares of one size.
        labels: `folders`: the first folder (below the folder of the split) names the class; `none`: no classes; None:
            `folders` if there are at least two class folders, else `none`.
        validation: another folder or archive, with the validation images; all of it is used.
        validation_share: share of the images held out for validation when neither `validation` nor a split is there.
        split_seed: which images are held out.
        cache: whether decoded images stay in memory; None: if all of them fit in 2 GB.
        max_broken: share of the images that may be unreadable.
        photographs: whether views are cut out of the `whole` images, of any size and shape, or out of the centre
            `squares`, which small machines decode and keep more cheaply; the same without a `size`. Evaluations take
            the squares.
    """
    source = ImageFolder(path, size, labels, cache, max_broken, photographs=photographs)
    if validation is None:
        return part(source, source.splits, None, validation_share, split_seed, source.notes)
    names = None if source.labels is None else source.labels.names
    same: LabelsFrom = "none" if names is None else "folders"
    judged = ImageFolder(validation, size, same, cache, max_broken, names, photographs)
    return part(source, source.splits, judged, validation_share, split_seed, source.notes)


class ImageFolder(ImageFiles):
    """Image files below a folder or in an archive, one view each, in the order of their names.

    With classes by folders, the class of an image outside all class folders is unknown.

    Args:
        path: see `folder`.
        size: see `folder`.
        labels: see `folder`.
        cache: see `StoredImages`.
        max_broken: see `StoredImages`.
        classes: the class names in index order, for example from the train set; None takes the folders' names in
            ascending order.
        photographs: see `StoredImages`.

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
        labels: LabelsFrom | None = None,
        cache: bool | None = None,
        max_broken: float = 0.01,
        classes: Sequence[str] | None = None,
        photographs: Photographs = "whole",
    ) -> None:
        files = Files(path)
        names = files.with_suffix(IMAGE_SUFFIXES)
        super().__init__(files, names, np.ones(len(names), dtype=np.int64), size, cache, max_broken, photographs)
        tops = _part_of_path(names, 0)
        self.splits = splits_of(_splits(tops, path))
        folders = _part_of_path(names, 1) if self.splits else tops
        self._labels = _labels(folders, labels, classes, path)
        known = 0 if self._labels is None else int(self._labels.known.sum())
        self.notes = {"images": f"{len(names)} from {files.path}, {known} with a class"}


def _part_of_path(names: Names, depth: int) -> Names:
    """The folder at a depth of every file `(N,)`, empty where the file itself stands at that depth."""
    parts = (bytes(name).split(b"/") for name in names)
    return np.array([part[depth] if len(part) > depth + 1 else b"" for part in parts], dtype=np.bytes_)


def _splits(tops: Names, path: str) -> NDArray[np.str_]:
    """The split of every image `(N,)`; empty if the top folders are not splits."""
    found = {top: split_of(unpacked(top)) for top in np.unique(tops)}
    if not any(found.values()):
        return np.empty(0, dtype=np.str_)
    if others := [unpacked(top) or "." for top, split in found.items() if split is None]:
        other = f"but images lie in {others[0]!r} too; move or rename it"
        raise ValueError(f"{path}: some top folders are splits ({SPLIT_NAMES}), {other}")
    return np.array([found[top] for top in tops], dtype=np.str_)


def _labels(folders: Names, labels: LabelsFrom | None, classes: Sequence[str] | None, path: str) -> Labels | None:
    if labels not in ("folders", "none", None):
        raise SettingError("labels", f"must be 'folders', 'none' or null, got {labels!r}")
    present = np.count_nonzero(np.unique(folders) != b"")
    if labels == "none" or (labels is None and present < 2):
        return None
    if not present:
        raise ValueError(f"{path}: labels is 'folders', but no image lies in a class folder")
    return labels_from_names([unpacked(name) for name in folders], classes, path)
