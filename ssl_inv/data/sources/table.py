"""A table of views: a CSV file that gives the object and the latents of every image.

Turntables, pose sets and video frames are tables of views. For video frames, an object is a sequence, and the frame
number or time is a latent.
"""

import hashlib
import math
import posixpath
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_inv.catalogue import suggest
from ssl_inv.data.archives import Files, Names, find, packed, size_and_time, unpacked
from ssl_inv.data.decoding import PLAIN, Reading
from ssl_inv.data.images import ImageFiles, Photographs
from ssl_inv.data.latents import UNITS, Latent, column_name, latents_from_header, latents_from_settings
from ssl_inv.data.pages import unread_pages
from ssl_inv.data.roots import refuse_links, refuse_links_to, relative, require_other_files
from ssl_inv.data.sheets import SHEET_SUFFIXES, is_sheet, read_sheet
from ssl_inv.data.source import Data, Indices, Labels, Subset
from ssl_inv.data.splits import SPLIT_NAMES, labels_from_names, part, split_of, splits_of
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
        white: the value that becomes 255 in grey images of 16 bits or of floats; None takes 65535, or in a TIFF what
            its tags say, and refuses 32 bits and floats. Colours of 16 bits are read by their upper 8 bits.
        bands: the bands of the file that are taken, counted from 1: one, or those of red, green and blue; empty takes
            the file's own colours.
        max_pixels: of an image in memory. A JPEG that is reduced while it is decoded may have more in its file.
    """
    reading = Reading(background, white, tuple(bands), max_pixels)
    columns = Columns(path_column, object_column, class_column, split_column, outside, links)
    source = ViewTable(
        path, size, csv_file, latents, columns, cache, max_broken, photographs=photographs, reading=reading
    )
    if validation is None:
        found = part(source, source.splits, None, validation_share, split_seed, source.notes)
        source.require_apart(found)
        return found
    require_other_files(source.files, validation)
    names = None if source.labels is None else source.labels.names
    judged = ViewTable(validation, size, csv_file, latents, columns, cache, max_broken, names, photographs, reading)
    return part(source, source.splits, judged, validation_share, split_seed, source.notes)


@dataclass(frozen=True)
class Columns:
    """The names of columns; see `table` for the meaning and the default of each."""

    path: str = "path"
    objects: str | None = None
    classes: str | None = None
    split: str | None = None
    outside: bool = False
    links: Literal["follow", "refuse"] = "follow"


class ViewTable(ImageFiles):
    """Objects and views of a CSV file: objects in the order of their first rows, views of an object in the order of
    their rows.

    Args:
        path: see `table`.
        size: see `table`.
        csv_file: see `table`.
        latents: see `table`.
        columns: the columns' names.
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
        cache: bool | None = None,
        max_broken: float = 0.01,
        classes: Sequence[str] | None = None,
        photographs: Photographs = "whole",
        reading: Reading = PLAIN,
    ) -> None:
        columns = Columns() if columns is None else columns
        self.files = files = Files(path)
        if columns.links == "refuse":
            refuse_links(files)
        sheet = _Sheet(files, csv_file)
        keys = sheet.keys(columns.objects)
        objects, order = _by_object(keys)
        counts = np.bincount(objects)
        first = order[np.cumsum(counts) - counts]
        path = "file_name" if columns.path == "path" and "path" not in sheet and "file_name" in sheet else columns.path
        names = _found(files, sheet.column(path), sheet.where, columns.outside)
        if columns.links == "refuse":
            refuse_links_to(files, names)
        described = latents_from_header(sheet.header) if latents is None else latents_from_settings(latents)
        self._record = Transform(
            {one.name: one.values(sheet.numbers(one), sheet.where)[order] for one in described},
            {one.name: one.group for one in described},
        )
        labels = _labels(sheet, columns.classes, objects, first, classes)
        self.splits = _splits(sheet, columns.split, objects, first)
        super().__init__(files, names[order], counts, size, cache, max_broken, photographs, reading)
        self._labels, self._sheet = labels, sheet.where
        self.notes = {
            "views": f"{len(names)} views of {len(first)} objects from {files.path}",
            "latents": ", ".join(self._record.names) or "none",
            "unused columns": ", ".join(sheet.unused) or "none",
            **_not_used(_without_unit(sheet, latents is None), unread_pages(files, names)),
        }

    def require_apart(self, data: Data) -> None:
        """Raise a `ValueError` if an image is in both parts of `data`, which are subsets of this table."""
        parts = [one.objects for one in (data.train, data.validation) if isinstance(one, Subset)]
        names, objects = np.asarray(self._names), np.repeat(np.arange(len(self)), self.view_counts)
        first, second = (names[np.isin(objects, one)] for one in parts)
        if len(both := np.intersect1d(first, second)):
            advice = "name the column that says which rows show one object (object_column), or mend the split"
            raise ValueError(
                f"{self._sheet}: {unpacked(both[0])!r} is listed both to train on and to judge by; {advice}"
            )

    @property
    def stamp(self) -> str:
        """See `Files.stamp`; also of the files outside."""
        inside = super().stamp
        outside = sorted({bytes(name) for name in np.asarray(self._names) if bytes(name).startswith(b"../")})
        if not outside:
            return inside
        found = [(name, size_and_time(self.files.path / unpacked(name))) for name in outside]
        return hashlib.sha256(repr((inside, found)).encode()).hexdigest()

    @property
    def groups(self) -> dict[str, Group]:
        return dict(self._record.groups)

    def _transform(self, images: Indices) -> Transform:
        return self._record.select(torch.from_numpy(images))


class _Sheet:
    """The cells of the CSV file by column, and the columns used so far."""

    def __init__(self, files: Files, csv_file: str | None) -> None:
        name = _only_csv(files) if csv_file is None else csv_file
        if name not in files:
            tables = filter(is_sheet, files.inside(""))
            raise FileNotFoundError(f"{files.path}: no file {name!r}; {suggest(name, tables)}")
        self.where = f"{files.path}: {name}"
        columns, self._rows = read_sheet(files, name)
        if not self._rows:
            raise ValueError(f"{self.where} has a header but no rows")
        self.header = columns
        self._index = {column_name(column): number for number, column in enumerate(columns)}
        self._used: set[str] = set()

    @property
    def unused(self) -> list[str]:
        return [column for column in self._index if column not in self._used]

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, column: str) -> bool:
        return column in self._index

    def column(self, name: str) -> list[str]:
        if name not in self._index:
            raise ValueError(f"{self.where} has no column {name!r}; {suggest(name, self._index)}")
        self._used.add(name)
        return [row[self._index[name]] for row in self._rows]

    def optional(self, name: str | None, default: str) -> list[str] | None:
        """The cells of the column that a setting names; None if the setting is `none`, or None without a default
        column.
        """
        if name == "none" or (name is None and default not in self):
            return None
        return self.column(default if name is None else name)

    def keys(self, names: str | None) -> list[tuple[str, ...]]:
        """The key of the object of every row: the cells of the columns joined by `+` in the setting, or row numbers."""
        if names is None and "object" not in self:
            return [(str(number),) for number in range(len(self))]
        columns = {name.strip(): self.column(name.strip()) for name in (names or "object").split("+")}
        for name, cells in columns.items():
            if empty := [number for number, cell in enumerate(cells, start=1) if not cell]:
                raise ValueError(f"{self.where}, row {empty[0]}: {name} is empty, so the object is unknown")
        return list(zip(*columns.values(), strict=True))

    def numbers(self, latent: Latent) -> NDArray[np.float64]:
        """The cells of a latent's columns, `(rows, columns)`."""
        return np.stack([self._numbers(name) for name in latent.columns], axis=1)

    def is_number(self, name: str) -> bool:
        """Whether all cells of a column are numbers."""
        if not math.isfinite(_number_or_nan(self._rows[0][self._index[name]])):
            return False
        try:
            return bool(np.isfinite(np.array([row[self._index[name]] for row in self._rows]).astype(np.float64)).all())
        except ValueError:
            return False

    def _numbers(self, name: str) -> NDArray[np.float64]:
        cells = self.column(name)
        try:
            values = np.array(cells).astype(np.float64)
        except ValueError:
            values = np.array([_number_or_nan(cell) for cell in cells])
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise ValueError(f"{self.where}, row {row + 1}: {name} is {cells[row]!r}, which is not a number")
        return values


def _not_used(*notes: str | None) -> dict[str, str]:
    return {"not used": "; ".join(found)} if (found := [*filter(None, notes)]) else {}


def _without_unit(sheet: _Sheet, by_header: bool) -> str | None:
    """Says which columns of numbers are no latents because their header gives no unit; None if there is none."""
    bare = [name for name in sheet.unused if by_header and sheet.is_number(name)]
    if not bare:
        return None
    first = next((name for name in bare if name.lower().endswith(tuple(f"_{unit}" for unit in UNITS))), bare[0])
    unit = next((unit for unit in UNITS if first.lower().endswith(f"_{unit}")), "real")
    what = f"columns of numbers without a unit: {', '.join(bare)}"
    return f"{what}; for a latent, write {first}[{unit}] in the header, or name it in `latents`"


def _number_or_nan(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _only_csv(files: Files) -> str:
    tables = [name for name in files.inside("") if is_sheet(name)]
    if len(tables) == 1:
        return tables[0]
    if not tables:
        kinds = f"no {', '.join(SHEET_SUFFIXES)} file at the top"
        raise FileNotFoundError(f"{files.path}: there is {kinds}; name a CSV file with `csv_file`")
    raise ValueError(f"{files.path}: there are several CSV files, {', '.join(tables)}; choose one with `csv_file`")


def _by_object(keys: Sequence[tuple[str, ...]]) -> tuple[Indices, Indices]:
    """The object of every row, numbered by first appearance, and the rows sorted by object, else in their order."""
    numbers: dict[tuple[str, ...], int] = {}
    objects = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    return objects, np.argsort(objects, kind="stable")


def _found(files: Files, cells: Sequence[str], where: str, outside: bool) -> Names:
    """The file of every row.

    Cells may begin with `./`, have backslashes, pass `..`, and be written with other bytes for the same letters, as
    macOS and Linux do.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a path leads out of the data and `outside` is false.
    """
    names = packed(cells)
    missing = np.flatnonzero(find(files.names, names) < 0).tolist()
    if not missing:
        return names
    known = {unicodedata.normalize("NFC", unpacked(name)): unpacked(name) for name in files.names}
    top = str(files.path) if files.path.is_dir() else None
    mended, lost = list(cells), []
    for row in missing:
        cell = cells[row]
        plain = posixpath.normpath(cell.replace("\\", "/"))
        if top is not None and plain.startswith(("/", "../")):
            plain = relative(plain, top)
        if (name := known.get(unicodedata.normalize("NFC", plain))) is not None:
            mended[row] = name
            continue
        above = plain.startswith(("/", "../")) or PureWindowsPath(cell).drive != ""
        if above and not outside:
            advice = "move the files there" if top is None else "`outside: true` allows it"
            place = "folder" if top is not None else "archive"
            raise ValueError(f"{where}, row {row + 1}: {cell!r} leads out of the {place} of the data; {advice}")
        if above and top is not None and (files.path / plain).is_file():
            mended[row] = plain
        else:
            lost.append(row)
    if lost:
        name, count = cells[lost[0]], f"{len(lost)} of {len(names)} are missing"
        close = suggest(name, map(unpacked, files.names[:10_000]))
        raise FileNotFoundError(f"{where}, row {lost[0] + 1}: no file {name!r} ({count}); {close}")
    return packed(mended)


def _one_per_object(cells: Sequence[str], objects: Indices, first: Indices, where: str, what: str) -> list[str]:
    """The cell of every object's first row; an error if another row of the object has another cell."""
    for row, cell in enumerate(cells):
        if cell != cells[first[objects[row]]]:
            other = first[objects[row]]
            both = f"row {other + 1} ({cells[other]!r}) and row {row + 1} ({cell!r})"
            raise ValueError(f"{where}: {both} show one object but differ in their {what}")
    return [cells[row] for row in first]


def _labels(
    sheet: _Sheet, column: str | None, objects: Indices, first: Indices, classes: Sequence[str] | None
) -> Labels | None:
    cells = sheet.optional(column, "class")
    if cells is None:
        return None
    return labels_from_names(_one_per_object(cells, objects, first, sheet.where, "class"), classes, sheet.where)


def _splits(sheet: _Sheet, column: str | None, objects: Indices, first: Indices) -> dict[str, Indices]:
    cells = sheet.optional(column, "split")
    if cells is None:
        return {}
    names = _one_per_object(cells, objects, first, sheet.where, "split")
    splits = [split_of(name) for name in names]
    if None in splits:
        row = first[splits.index(None)] + 1
        raise ValueError(f"{sheet.where}, row {row}: {names[splits.index(None)]!r} is not a split ({SPLIT_NAMES})")
    return splits_of(np.array(splits, dtype=np.str_))
