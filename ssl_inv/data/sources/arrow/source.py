"""Images and views in the columns of Parquet and Arrow files."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow
import torch

from ssl_inv.catalogue import SettingError
from ssl_inv.data.archives import Files
from ssl_inv.data.array_images import array_pixels
from ssl_inv.data.decoding import to_square
from ssl_inv.data.folder_index import size_and_time
from ssl_inv.data.image_files import EncodedImages
from ssl_inv.data.images import Photographs
from ssl_inv.data.listings import Columns, listing
from ssl_inv.data.named_files import named_files, stamp_with_outside
from ssl_inv.data.names import Names, packed, unpacked, utf8_name
from ssl_inv.data.photographs import Photograph
from ssl_inv.data.reading import PLAIN, Pixels, Reading, UnreadableImageError, reading_of
from ssl_inv.data.source import Data, Indices
from ssl_inv.data.sources.arrow.blocks import KEPT_BYTES, Rows, opened
from ssl_inv.data.sources.arrow.layout import ColumnFile, Layout, find_columns
from ssl_inv.data.sources.arrow.schema import ColumnSheet, array_of, features_of, held, image_column
from ssl_inv.data.splits import part, split_of
from ssl_inv.transforms import Group, Transform

_MB = 2**20


def arrow(
    *,
    path: str,
    size: int | None = None,
    image_column: str | None = None,
    latents: dict[str, str] | None = None,
    object_column: str | None = None,
    class_column: str | None = None,
    split_column: str | None = None,
    outside: bool = False,
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
    """Images or views in columns: Parquet, Arrow and Feather files, and what `datasets` has saved to disk.

    Args:
        path: a file; a folder with files, of which the names or the folders may say the split; or a folder that
            `save_to_disk` has written.
        size: side in pixels; the shorter side of every image is resized to it and the centre square cut out. None keeps
            the images as they are; they must then be squares of one size.
        image_column: column of the images: structures of bytes and path, encoded images, lists of lists of numbers, or
            paths relative to `path`. None: the one that `datasets` calls an image, else by its name, else the only
            one that can be.
        latents: columns and what they hold, such as `{azimuth: circle deg, zoom: real scale=0.5}`; see
            `ssl_inv.data.latents` for all words. None takes the columns with words in their name, such as
            `azimuth[deg]`.
        object_column: column that is equal for rows with the same object, or several joined by `+`, such as
            `object+axis`. None: the column `object` if there is one, else every row is an object.
        class_column: column of the classes, by name or number, empty or negative where unknown; `none` for no classes.
            None: the column `class` if there is one, else `label`, `labels` or the only other one that `datasets`
            calls classes.
        split_column: column with train, val or test; `none` to split at random. None: by the names of files or
            folders if they say so, else the column `split` if there is one.
        outside: whether paths may lead out of `path`: absolute ones, and those that begin with `..`.
        validation: another path of the same form, with the validation images; all of it is used.
        validation_share: share of the objects held out for validation when neither `validation` nor a split is there.
        split_seed: which objects are held out.
        cache: whether decoded images stay in memory; None: if all of them fit in 2 GB.
        max_broken: share of the images that may be unreadable.
        photographs: whether views are cut out of the `whole` images, of any size and shape, or out of the centre
            `squares`, which small machines decode and keep more cheaply; the same without a `size`. Evaluations take
            the squares.
        background: what transparent pixels are laid over; `drop` shows what the image has under them.
        white: the value that becomes 255 in images of 16 bits or of floats, where 0 becomes 0; None takes 65535, or in
            a grey TIFF what its tags say, and refuses 32 bits and floats.
        bands: the bands of the image that are taken, counted from 1, any number of them; a single one is grey. Empty
            takes its own colours, or all bands if `channels` says how many.
        range: the values that become 0 and 255, `[0, 4095]`, or such a pair for each band; values beyond are cut off,
            and NaN becomes 0. Empty: as `white` says, and bytes as they are.
        channels: of the images; None: as many as `bands`, or 3, where grey is repeated. 1 makes or keeps a single
            channel of grey, 4 also takes opacity as a channel.
        max_pixels: of an image in memory. A JPEG that is reduced while it is decoded may have more in its file.
    """
    reading = reading_of(background, white, bands, range, channels, max_pixels)
    columns = Columns(object_column, class_column, split_column)
    options = size, image_column, outside, latents, columns, cache, max_broken
    source = ImageColumn(path, *options, photographs=photographs, reading=reading)
    if validation is None:
        return part(source, source.splits, None, validation_share, split_seed, source.notes)
    names = None if source.labels is None else source.labels.names
    judged = ImageColumn(validation, *options, names, photographs, reading, all_of_it=True)
    if both := {one.path.resolve() for one in source.files} & {one.path.resolve() for one in judged.files}:
        raise SettingError("validation", f"{min(both).name} is a file of `path` too; leave `validation` out")
    return part(source, source.splits, judged, validation_share, split_seed, source.notes)


class ImageColumn(EncodedImages):
    """The images of one column, with what the columns beside it say: objects in the order of their first rows, views of
    an object in the order of their rows.

    A pickled copy is small and opens the files again. Of Parquet and of compressed Arrow files, every process keeps
    blocks (row groups, record batches) of up to `KEPT_BYTES`, and the newest one whatever its size; `blocks` says which
    object lies where, unless everything fits. Other Arrow files are mapped into memory.

    Args:
        path: see `arrow`.
        size: see `arrow`.
        column: see `arrow`.
        outside: see `arrow`.
        latents: see `arrow`.
        columns: the other columns' names.
        cache: see `StoredImages`.
        max_broken: see `StoredImages`.
        classes: the class names in index order, for example from the train set; None takes those of the data.
        photographs: see `StoredImages`.
        reading: how the numbers of an image become colours.
        all_of_it: whether all files are used, whatever their split.

    Attributes:
        files: the files with the images.
        splits: the objects of every split by its name; empty if there is no split.
        notes: facts for the run's record, such as unused columns.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, columns are missing or do not fit, or rows of one object disagree on its class
            or split.
    """

    def __init__(
        self,
        path: str,
        size: int | None = None,
        column: str | None = None,
        outside: bool = False,
        latents: Mapping[str, str] | None = None,
        columns: Columns | None = None,
        cache: bool | None = None,
        max_broken: float = 0.01,
        classes: Sequence[str] | None = None,
        photographs: Photographs = "whole",
        reading: Reading = PLAIN,
        all_of_it: bool = False,
    ) -> None:
        columns = columns or Columns()
        layout = find_columns(path)
        by_files = columns.split is None and not all_of_it
        self.files, others = _by_split(layout.files) if by_files else (layout.files, ())
        # Which paths may lead out was decided when they were found.
        self._beside, where = Files(layout.folder, outside=True), str(path)
        schema, lengths = _surveyed(self.files)
        features = features_of(schema) or layout.features
        column = image_column(schema, features, column, where)
        sheet = ColumnSheet(where, self.files, schema, [sum(one) for one in lengths], features)
        if not len(sheet):
            raise ValueError(f"{where} has columns but no rows")
        sheet.use(column)
        self._held = held(schema.field(column).type)
        sizes = [one.sizes(column) for one in map(opened, self.files)]
        self._rows = Rows(self.files, column, lengths, [one is None or any(one) for one in sizes])
        self._paths = _paths(self._rows, self._held, sheet, layout, outside)
        told = np.repeat([one.split for one in self.files], [sum(one) for one in lengths]).tolist()
        found = listing(sheet, columns, latents, classes, told if by_files and any(told) else None)
        self._row, self._record, self.splits = found.rows, found.record, {} if all_of_it else found.splits
        self._in_blocks, memory = _memory(sizes)
        super().__init__(where, found.counts, size, cache, max_broken, photographs, reading)
        self._labels = found.labels
        views = f"{len(sheet)} views of {len(found.counts)} objects from {where}"
        self.notes = {
            "views": f"{views}, the column {column} of {len(self.files)} file(s)",
            **memory,
            **found.notes,
            **_not_used(sheet, found.notes, others),
        }

    @property
    def stamp(self) -> str:
        """A digest that changes when a file is written, from the sizes and times of the files with the columns, and of
        the images that paths lead to.
        """
        found = [(one.name, *size_and_time(one.path)) for one in self.files]
        stamp = hashlib.sha256(repr(found).encode()).hexdigest()
        if self._paths is None:
            return stamp
        names = packed(one for one in self._paths if one)
        folder = self._beside.path
        inside = [(name, *size_and_time(folder / unpacked(name))) for name in names if name[:3] != b"../"]
        stamp = hashlib.sha256(repr((stamp, inside)).encode()).hexdigest()
        return stamp_with_outside(stamp, self._beside, names)

    @property
    def groups(self) -> dict[str, Group]:
        return dict(self._record.groups)

    @property
    def blocks(self) -> Indices | None:
        """See `Source.blocks`: the row group or record batch of the first view of every object."""
        return self._rows.block_of(self._row[self._counts.first_images]) if self._in_blocks else None

    def _transform(self, images: Indices) -> Transform:
        return self._record.select(torch.from_numpy(images))

    def _reading_order(self, images: Sequence[int]) -> Sequence[int]:
        order: list[int] = np.argsort(self._row[np.asarray(images, dtype=np.int64)], kind="stable").tolist()
        return order

    def _name(self, image: int) -> str:
        number = int(self._row[image])
        if self._paths is not None and self._paths[number]:
            return utf8_name(self._paths[number])
        file, row = self._rows.place(number)
        return f"{file}, row {row + 1}"

    def _read(self, image: int) -> bytes:
        row = int(self._row[image])
        if self._paths is not None and self._paths[row]:
            return self._beside.read(self._paths[row])
        cell = self._rows.cell(row)
        found = (cell["bytes"] if self._held == "struct" and cell.is_valid else cell).as_py()
        if not found:
            raise UnreadableImageError("there is no image in this row")
        return bytes(found)

    def _array(self, image: int) -> Pixels:
        try:
            cell = self._rows.cell(int(self._row[image]))
            if not cell.is_valid:
                raise UnreadableImageError("there is no image in this row")
            return array_pixels(array_of(cell), self.reading)
        except UnreadableImageError:
            raise
        except ValueError as error:
            raise UnreadableImageError(str(error)) from error

    def _decode(self, image: int, size: int | None) -> Pixels:
        if self._held != "numbers":
            return super()._decode(image, size)
        pixels = self._array(image)
        return pixels if size is None else to_square(pixels, size)

    def _photograph(self, image: int) -> Photograph:
        return Photograph(self._array(image)) if self._held == "numbers" else super()._photograph(image)

    def _stored(self, image: int) -> bytes | Pixels:
        return self._array(image) if self._held == "numbers" else super()._stored(image)

    def is_wide(self, image: int) -> bool:
        """See `EncodedImages.is_wide`; in arrays, `white` is for bytes too."""
        return self._held == "numbers" or super().is_wide(image)

    def _worth_threads(self, image: int) -> bool:
        return self._held != "numbers" and super()._worth_threads(image)


def _by_split(files: Sequence[ColumnFile]) -> tuple[tuple[ColumnFile, ...], tuple[str, ...]]:
    """The files of the known splits, and the names of other splits; all files if no name of a split is known."""
    known = tuple(one for one in files if split_of(one.split) is not None)
    if not known:
        return tuple(ColumnFile(one.path, one.name) for one in files), ()
    return known, tuple(sorted({one.split or one.name for one in files if one not in known}))


def _surveyed(files: Sequence[ColumnFile]) -> tuple[pyarrow.Schema, list[list[int]]]:
    """The columns that all files have, and the rows of every block of every file. No file stays open."""
    first, lengths = opened(files[0]).schema, []
    if twice := [name for name in first.names if first.names.count(name) > 1]:
        raise ValueError(f"{files[0].path} has two columns called {twice[0]!r}")
    for file in files:
        one = opened(file)
        if one.schema.remove_metadata() != first.remove_metadata():
            both = f"{', '.join(map(str, one.schema.names))}, and {files[0].name} {', '.join(map(str, first.names))}"
            kind = "other columns" if one.schema.names != first.names else "columns of other types"
            raise ValueError(f"{file.path} has {kind} than {files[0].name}: it has {both}")
        lengths.append(one.lengths)
    return first, lengths


def _paths(rows: Rows, kind: str | None, sheet: ColumnSheet, layout: Layout, outside: bool) -> Names | None:
    """The file of every row whose image is not in the column, else empty; None if all images are in the column."""
    if kind == "path":
        cells = sheet.column(rows.column)
    elif kind == "struct":
        cells = _paths_beside(rows)
    else:
        return None
    wanted = np.flatnonzero([cell != "" for cell in cells])
    if not len(wanted):
        return None

    def at(row: int) -> str:
        return sheet.at(int(wanted[row]))

    found = named_files(Files(layout.folder), [cells[row] for row in wanted.tolist()], at, outside)
    names = [b""] * len(cells)
    for row, name in zip(wanted.tolist(), found, strict=True):
        names[row] = name
    return packed(names)


def _paths_beside(rows: Rows) -> list[str]:
    """The paths in the rows of a column of structures that have no bytes; empty in other rows."""
    paths, block = list[str](), 0
    for file in rows.files:
        one = opened(file)
        for number, length in enumerate(one.lengths):
            full = one.nulls(number, rows.column, "bytes") == 0
            paths += [""] * length if full else _paths_of(rows.block(block))
            block += 1
    return paths


def _paths_of(cells: pyarrow.ChunkedArray) -> list[str]:
    fields = [cells.type.field(number).name for number in range(cells.type.num_fields)]
    found: list[str] = []
    for chunk in cells.chunks:
        if "path" not in fields or not chunk.field("bytes").null_count:
            found += [""] * len(chunk)
            continue
        empty = chunk.field("bytes").is_null().to_pylist()
        paths = chunk.field("path").to_pylist()
        found += [path or "" if lacks else "" for path, lacks in zip(paths, empty, strict=True)]
    return found


def _memory(sizes: Sequence[Sequence[int] | None]) -> tuple[bool, dict[str, str]]:
    """Whether blocks are read as a whole and do not all stay in memory, and a note on what a process keeps."""
    known = [size for one in sizes for size in one or ()]
    if None not in sizes and not any(known):
        return False, {"memory": "files are mapped; their cells take no memory of a process"}
    if None not in sizes and sum(known) <= KEPT_BYTES:
        return False, {"memory": f"{sum(known) / _MB:.1f} MB of encoded images in every process that reads them"}
    largest = f"{max(known) / _MB:.0f} MB" if known and None not in sizes else "unknown size"
    kept = f"blocks of up to {largest}, of which every process that reads keeps {KEPT_BYTES // _MB} MB, or one"
    return True, {"memory": kept}


def _not_used(sheet: ColumnSheet, notes: Mapping[str, str], others: Sequence[str]) -> dict[str, str]:
    """A note on what is there and was not used; none if nothing is."""
    classes = [name for name in sheet.class_columns if name in sheet.unused]
    left = [f"other splits: {', '.join(others)}"] if others else []
    if classes:
        left.append(f"columns of classes: {', '.join(classes)}; name the one to judge by with `class_column`")
    left += [notes["not used"]] if "not used" in notes else []
    return {"not used": "; ".join(left)} if left else {}
