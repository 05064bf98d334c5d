"""Plain images in folders, archives and text files of paths, with or without class folders."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_inv.catalogue import SettingError
from ssl_inv.data.archives import Files
from ssl_inv.data.image_files import ImageFiles
from ssl_inv.data.images import ARRAY_SUFFIXES, IMAGE_SUFFIXES, Photographs
from ssl_inv.data.layout import Choice, LabelsFrom, Layout
from ssl_inv.data.names import utf8_name
from ssl_inv.data.pages import pages_of, repeated, unread_pages
from ssl_inv.data.reading import PLAIN, Reading, reading_of
from ssl_inv.data.roots import open_files, refuse_links, require_no_shared_file, require_other_files
from ssl_inv.data.shards.samples import are_samples
from ssl_inv.data.sheets import is_sheet
from ssl_inv.data.source import Data
from ssl_inv.data.sources.arrow.layout import COLUMN_SUFFIXES, is_column_file
from ssl_inv.data.sources.meshes.reading import MESH_SUFFIXES
from ssl_inv.data.splits import part, split_of


def folder(
    *,
    path: str | list[str],
    size: int | None = None,
    labels: Literal["folders", "list", "none"] | None = None,
    label_level: int = 1,
    split: Literal["folders", "top", "none"] | None = None,
    exclude: list[str] = [],
    links: Literal["follow", "refuse"] = "follow",
    outside: bool = False,
    pages: Literal["first", "views"] = "first",
    validation: str | list[str] | None = None,
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
    """Plain images in a folder, in a zip or tar archive, or in a text file of paths.

    Args:
        path: the folder, the archive, or a text file with one path a line, `.txt` or `.lst`; or a list of these, read
            as if they were one folder. Top folders called train and val, valid, validation or test are its split.
        size: side in pixels; the shorter side of every image is resized to it and the centre square cut out. None keeps
            the images as they are; they must then be squares of one size.
        labels: `folders`: the first folder (below the folder of the split) names the class; `list`: the word behind
            each path in a text file; `none`: no classes; None: `list` if there are such words, else `folders` if there
            are at least two class folders, else `none`.
        label_level: which folder names the class, counted from the top or from the folder of the split: 2 for
            `animals/cat/1.jpg`.
        split: `folders`: the top folders are the split; `none`: they are not, whatever their names; None: they are if
            their names say so. Folders around all images are passed over, but not with `top`, which is None otherwise.
        exclude: patterns of images to leave out, such as `masks/*` or `*_thumb.jpg`; one without a `/` also matches
            the name of any folder on the way.
        links: whether to follow symbolic links to files and folders, or to refuse data that have some.
        outside: whether the paths in a text file may lead out of its folder.
        pages: of a TIFF with several, or frames of an animation: the `first` alone, or all as `views` of one object.
            With `bands`, or `channels` other than 1 and 3, `first` takes the pages of one band each as the bands of
            one image.
        validation: another one like `path`, with the validation images; all of it is used.
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
        range: the values that become 0 and 255, `[0, 4095]`, or such a pair for each band; values beyond are cut off,
            and NaN becomes 0. Empty: as `white` says, and bytes as they are.
        channels: of the images; None: as many as `bands`, or 3, where grey is repeated. 1 makes or keeps a single
            channel of grey, 4 also takes opacity as a channel.
        max_pixels: of an image in memory. A JPEG that is reduced while it is decoded may have more in its file.
    """
    if label_level < 1:
        raise SettingError("label_level", f"must be at least 1, got {label_level}")
    choice = Choice(labels, label_level, split, tuple(exclude), links, outside, pages)
    if not isinstance(path, str) and split != "none":
        _require_no_split(path)
    reading = reading_of(background, white, bands, range, channels, max_pixels)
    source = ImageFolder(path, size, choice, cache, max_broken, photographs=photographs, reading=reading)
    if source.splits and "train" not in source.splits:
        found = f"a split called {', '.join(source.splits)} but nothing to train on"
        raise ValueError(f"{source.files}: the data has {found}; if this is no split, set `split: none`")
    if validation is None:
        return part(source, source.splits, None, validation_share, split_seed, source.notes)
    require_other_files(source.files, validation)
    names = None if source.labels is None else source.labels.names
    # All of it is used, with folders of a split or without.
    same = replace(choice, labels=source.labels_from, split=None if choice.split == "folders" else choice.split)
    judged = ImageFolder(validation, size, same, cache, max_broken, names, photographs, reading, "validation")
    require_no_shared_file(source.files, judged.files)
    return part(source, source.splits, judged, validation_share, split_seed, source.notes)


def _require_no_split(paths: Sequence[str]) -> None:
    """Refuse a list of folders of which some are called train and others val or test."""
    meanings = {split_of(Path(one).name): one for one in paths}
    if "train" in meanings and (held_out := meanings.get("validation") or meanings.get("test")):
        both = f"{meanings['train']!r} and {held_out!r} are parts of a split by their names"
        raise SettingError("path", f"{both}; name the latter in `validation`, or set `split: none`")


class ImageFolder(ImageFiles):
    """Image files in the order of their names, one object each.

    With classes by folders, the class of an image outside all class folders is unknown.

    Args:
        path: see `folder`.
        size: see `folder`.
        choice: which images, and what their folders mean; or only `labels` of `folder`.
        cache: see `StoredImages`.
        max_broken: see `StoredImages`.
        classes: the class names in index order, for example from the train set; None takes the names that occur in
            ascending order.
        photographs: see `StoredImages`.
        reading: how the numbers of a file become colours.
        setting: the name of the setting of `path`, for messages.

    Attributes:
        splits: the objects of every split by its name, if the folders are splits; empty otherwise.
        labels_from: what gives the classes.
        notes: facts for the run's record.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if there are no images, the folders are a split only in part, classes are asked for and there are
            none, or a class is not in `classes`.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        size: int | None = None,
        choice: Choice | LabelsFrom | None = None,
        cache: bool | None = None,
        max_broken: float = 0.01,
        classes: Sequence[str] | None = None,
        photographs: Photographs = "whole",
        reading: Reading = PLAIN,
        setting: str = "path",
    ) -> None:
        choice = choice if isinstance(choice, Choice) else Choice(choice)
        for one in [path] if isinstance(path, str) else path:
            _require_other_kind(Path(one), setting)
        self.files = files = open_files(path, choice.exclude, choice.outside, setting)
        if choice.links == "refuse":
            refuse_links(files, choice.exclude)
        suffixes, other = IMAGE_SUFFIXES, "name" if setting == "path" else setting
        names = files.with_suffix(suffixes)
        if not len(names):
            suffixes = ARRAY_SUFFIXES
            names = files.with_suffix(suffixes)
        if not len(names) and (columns := len(files.with_suffix(COLUMN_SUFFIXES))):
            raise SettingError(other, f"{files} has no images, but {columns} file(s) with columns; 'arrow' reads them")
        if not len(names) and (tars := len(files.with_suffix(frozenset((".tar",))))):
            raise SettingError(other, f"{files} has no images, but {tars} tar file(s); 'shards' reads them")
        if not len(names) and (meshes := len(files.with_suffix(MESH_SUFFIXES))):
            what = f"{files} has no images, but {meshes} mesh(es); 'meshes' renders them: --data.name meshes"
            raise SettingError(other, what)
        if not len(names) and files.left_out:
            raise ValueError(f"{files} has no images; not used: {'; '.join(files.left_out)}")
        images, counts, numbers, more = names, np.broadcast_to(np.int64(1), len(names)), None, None
        if choice.pages == "views":
            counts, numbers = repeated(pages_of(files, names))
            images = names[np.repeat(np.arange(len(names)), counts)]
        else:
            more = unread_pages(files, names, reading)
        super().__init__(files, images, counts, size, cache, max_broken, photographs, reading, numbers)
        layout = Layout(files, names, choice)
        self.splits = layout.splits
        self.labels_from, self._labels = layout.labels(classes)
        known = 0 if self._labels is None else int(self._labels.known.sum())
        classes_found = "no classes" if self._labels is None else f"{len(self._labels.names)} classes"
        several = "" if numbers is None else f" with {len(numbers)} pages"
        self.notes = {
            "images": f"{len(names)}{several} from {files}, {known} with a class",
            "classes": classes_found,
            **_not_used(files, len(names), suffixes, layout.unused, more),
        }


def _require_other_kind(path: Path, setting: str) -> None:
    """Refuse a file that data of another kind are made of."""
    kind = "arrow" if is_column_file(path) else "arrays" if path.suffix.lower() in (".npy", ".npz") else None
    reads = f"{kind!r} reads it"
    if is_sheet(path.name):
        kind, reads = "table", f"'table' reads it: `path: {path.parent}`, `csv_file: {path.name}`"
    if kind is not None and path.is_file():
        where = "name" if setting == "path" else setting
        raise SettingError(where, f"{path.name} is no folder or archive; {reads}")


def _not_used(
    files: Files, images: int, suffixes: frozenset[str], no_split: str | None, pages: str | None
) -> dict[str, str]:
    """A note on what is there and is not used; none if all is."""
    left = list(files.left_out)
    if len(files.names) > images:
        others: Counter[str] = Counter()
        for suffix, count in Counter(map(_suffix, files.without_suffix(suffixes))).items():
            others[utf8_name(suffix).lower() or "no suffix"] += count
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        left.insert(0, f"{len(files.names) - images} file(s) with other endings ({kinds})")
    if are_samples(files):
        left.append("what stands beside images in the tar; `data.name: shards` reads classes and numbers there")
    left += [pages] if pages is not None else []
    left += [f"the name of {no_split!r}, which is no split here"] if no_split is not None else []
    return {"not used": "; ".join(left)} if left else {}


def _suffix(name: bytes) -> bytes:
    stem, dot, suffix = name.rpartition(b"/")[2].rpartition(b".")
    return dot + suffix if stem and suffix else b""
