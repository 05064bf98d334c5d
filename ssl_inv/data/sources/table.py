"""A table of views: a CSV file that gives the object and the latents of every image.

Turntables, pose sets and video frames are tables of views. For video frames, an object is a sequence, and the frame
number or time is a latent.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_inv.catalogue import suggest
from ssl_inv.data.archives import Files
from ssl_inv.data.folder_index import size_and_time
from ssl_inv.data.image_files import ImageFiles
from ssl_inv.data.images import Photographs
from ssl_inv.data.listings import Columns, Sheet, listing, numeric
from ssl_inv.data.named_files import named_files, stamp_with_outside
from ssl_inv.data.names import unpacked
from ssl_inv.data.pages import unread_pages
from ssl_inv.data.reading import PLAIN, Reading, reading_of
from ssl_inv.data.roots import Links, refuse_links, refuse_links_to, require_other_files
from ssl_inv.data.sheets import SHEET_SUFFIXES, is_sheet, read_sheet
from ssl_inv.data.source import Data, Indices, Subset
from ssl_inv.data.splits import part
from ssl_inv.transforms import Group, Transform


def table(
    *,
    path: str,
    size: int | None = None,
    csv_file: str | None = None,
    latents: dict[str, str] | None = None,
    path_column: str = "path",
    object_column: str | None = None,
    class_column: str | None = None,
    split_column: str | None = None,
    outside: bool = False,
    links: Literal["follow", "refuse"] = "follow",
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
    """Views of objects, listed in a CSV file with one row a view.

    Args:
        path: the folder or archive with the images and the CSV file.
        size: side in pixels; the shorter side of every image is resized to it and the centre square cut out. None keeps
            the images as they are; they must then be squares of one size.
        csv_file: the table in `path`: CSV with commas, semicolons, tabs or bars, or JSON lines; None takes the only one
            at its top.
        latents: columns and what they hold, such as `{azimuth: circle deg, zoom: real scale=0.5}`; see
            `ssl_inv.data.latents` for all words. None takes the columns with words in the header, such as
            `azimuth[deg]`.
        path_column: column of the image files, relative to `path`; if there is no column `path`, `file_name` is one.
        object_column: column that is equal for rows with the same object, or several joined by `+`, such as
            `object+axis`. None: the column `object` if there is one, else every row is an object.
        class_column: column of the class names, with empty cells for unknown classes; `none` for no classes. None: the
            column `class` if there is one.
        split_column: column with train, val or test; `none` to split at random. None: the column `split` if there is
            one.
        outside: whether paths may lead out of `path`: absolute ones, and those that begin with `..`.
        links: whether to follow symbolic links to files and folders, or to refuse data that have some.
        validation: another folder or archive of the same form, with the validation views; all of it is used.
        validation_share: share of the objects held out for validation when neither `validation` nor a split is there.
        split_seed: which objects are held out.
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
    reading = reading_of(background, white, bands, range, channels, max_pixels)
    columns, paths = Columns(object_column, class_column, split_column), Paths(path_column, outside, links)
    options = size, csv_file, latents, columns, paths, cache, max_broken
    source = ViewTable(path, *options, photographs=photographs, reading=reading)
    if validation is None:
        found = part(source, source.splits, None, validation_share, split_seed, source.notes)
        source.require_apart(found)
        return found
    require_other_files(source.files, validation)
    names = None if source.labels is None else source.labels.names
    judged = ViewTable(validation, *options, names, photographs, reading)
    return part(source, source.splits, judged, validation_share, split_seed, source.notes)


@dataclass(frozen=True)
class Paths:
    """Where a table names its images; see `table`."""

    column: str = "path"
    outside: bool = False
    links: Links = "follow"


class ViewTable(ImageFiles):
    """Objects and views of a CSV file: objects in the order of their first rows, views of an object in the order of
    their rows.

    Args:
        path: see `table`.
        size: see `table`.
        csv_file: see `table`.
        latents: see `table`.
        columns: the columns' names.
        paths: the column of the images, and whether it may lead out of `path`.
        cache: see `StoredImages`.
        max_broken: see `StoredImages`.
        classes: the class names in index order, for example from the train set; None takes the names in the table in
            ascending order.
        photographs: see `StoredImages`.
        reading: how the numbers of a file become colours.

    Attributes:
        splits: the objects of every split by its name; empty if the table has no split.
        notes: facts for the run's record, such as unused columns.

    Raises:
        FileNotFoundError: if the folder, the CSV file or an image in it is missing.
        ValueError: if a column is missing, a latent's cell is not a number, or rows of one object disagree on its class
            or split.
    """

    def __init__(
        self,
        path: str,
        size: int | None = None,
        csv_file: str | None = None,
        latents: Mapping[str, str] | None = None,
        columns: Columns | None = None,
        paths: Paths | None = None,
        cache: bool | None = None,
        max_broken: float = 0.01,
        classes: Sequence[str] | None = None,
        photographs: Photographs = "whole",
        reading: Reading = PLAIN,
    ) -> None:
        if is_sheet(path) and Path(path).is_file():
            both = f"`path: {Path(path).parent}`, `csv_file: {Path(path).name}`"
            raise ValueError(f"{path} is a table; its folder is the path: {both}")
        paths = Paths() if paths is None else paths
        self.files = files = Files(path, outside=paths.outside)
        if paths.links == "refuse":
            refuse_links(files)
        # The setting may name a table elsewhere; what stands in a table may not, unless another setting says so.
        sheet = _TextSheet(Files(path, outside=True) if files.path.is_dir() else files, csv_file)
        place = None if csv_file is None or not files.path.is_dir() else files.path / csv_file
        outside = place is not None and os.path.relpath(place, files.path).startswith("..")
        self._elsewhere = place if outside else None
        usual = paths.column == "path" and "path" not in sheet and "file_name" in sheet
        names = named_files(files, sheet.column("file_name" if usual else paths.column), sheet.at, paths.outside)
        if paths.links == "refuse":
            refuse_links_to(files, names)
        found = listing(sheet, Columns() if columns is None else columns, latents, classes)
        self._views = names[found.rows]
        super().__init__(files, self._views, found.counts, size, cache, max_broken, photographs, reading)
        self._labels, self._record, self.splits, self._sheet = found.labels, found.record, found.splits, sheet.where
        unused = "; ".join(filter(None, (found.notes.get("not used"), unread_pages(files, names, reading))))
        self.notes = {
            "views": f"{len(names)} views of {len(found.counts)} objects from {files.path}",
            **found.notes,
            **({"not used": unused} if unused else {}),
        }

    def require_apart(self, data: Data) -> None:
        """Raise a `ValueError` if an image is in both parts of `data`, which are subsets of this table."""
        parts = [one.objects for one in (data.train, data.validation) if isinstance(one, Subset)]
        (numbers, names), objects = self._views.numbered(), np.repeat(np.arange(len(self)), self.view_counts)
        first, second = (numbers[np.isin(objects, one)] for one in parts)
        if len(both := np.intersect1d(first, second)):
            first_of_them = min(names[int(number)].as_py() for number in both)
            advice = "name the column that says which rows show one object (object_column), or mend the split"
            raise ValueError(
                f"{self._sheet}: {unpacked(first_of_them)!r} is listed both to train on and to judge by; {advice}"
            )

    @property
    def stamp(self) -> str:
        """See `Files.stamp`; also of the files outside, the table among them."""
        stamp = stamp_with_outside(super().stamp, self.files, self._views)
        if self._elsewhere is None:
            return stamp
        return hashlib.sha256(repr((stamp, size_and_time(self._elsewhere))).encode()).hexdigest()

    @property
    def groups(self) -> dict[str, Group]:
        return dict(self._record.groups)

    def _transform(self, images: Indices) -> Transform:
        return self._record.select(torch.from_numpy(images))


class _TextSheet(Sheet):
    """The cells of a CSV file by column."""

    def __init__(self, files: Files, csv_file: str | None) -> None:
        name = _only_csv(files) if csv_file is None else csv_file
        if name not in files:
            tables = filter(is_sheet, files.inside(""))
            raise FileNotFoundError(f"{files.path}: no file {name!r}; {suggest(name, tables)}")
        where = f"{files.path}: {name}"
        header, self._rows = read_sheet(files, name)
        if not self._rows:
            raise ValueError(f"{where} has a header but no rows")
        super().__init__(where, header, len(self._rows))

    def _texts(self, column: int) -> list[str]:
        return [row[column] for row in self._rows]

    def _numbers(self, column: int) -> NDArray[np.float64]:
        return numeric(row[column] for row in self._rows)

    def is_number(self, name: str) -> bool:
        column = self._index[name]
        if not np.isfinite(numeric([self._rows[0][column]])).all():
            return False
        return bool(np.isfinite(self._numbers(column)).all())


def _only_csv(files: Files) -> str:
    tables = [name for name in files.inside("") if is_sheet(name)]
    if len(tables) == 1:
        return tables[0]
    if not tables:
        kinds = f"no {', '.join(SHEET_SUFFIXES)} file at the top"
        raise FileNotFoundError(f"{files.path}: there is {kinds}; name a CSV file with `csv_file`")
    raise ValueError(f"{files.path}: there are several CSV files, {', '.join(tables)}; choose one with `csv_file`")
