"""What the columns of a table say of views: their objects, classes, splits and latents, whatever form the table has."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import suggest
from ssl_inv.data.latents import UNITS, Latent, column_name, latents_from_header, latents_from_settings
from ssl_inv.data.source import Indices, Labels
from ssl_inv.data.splits import SPLIT_NAMES, labels_from_names, split_of, splits_of
from ssl_inv.transforms import Category, Group, Transform


class Sheet(ABC):
    """Rows with named columns, one row for each view. It remembers which columns were used.

    Args:
        where: the table, for messages.
        header: the columns, perhaps with the words of a latent in brackets.
        rows: their number.

    Attributes:
        class_column: the column of the classes if no setting names one.
    """

    class_column = "class"

    def __init__(self, where: str, header: Sequence[str], rows: int) -> None:
        self.where, self.header, self._length = where, list(header), rows
        self._index = {column_name(column): number for number, column in enumerate(header)}
        self._used: set[str] = set()

    @abstractmethod
    def _texts(self, column: int) -> list[str]:
        """The cells of a column as texts, empty where nothing is known."""

    @abstractmethod
    def _numbers(self, column: int) -> NDArray[np.float64]:
        """The cells of a column as numbers, NaN where a cell is none."""

    @abstractmethod
    def is_number(self, name: str) -> bool:
        """Whether all cells of a column are numbers."""

    def is_whole(self, name: str) -> bool:
        """Whether the table says that a column has whole numbers, without names for them."""
        return False

    def classes(self, name: str) -> list[str]:
        """The cells of a column of classes, empty where the class is unknown: of whole numbers, below 0."""
        cells = self.column(name)
        return ["" if cell.startswith("-") else cell for cell in cells] if self.is_whole(name) else cells

    def class_names(self, name: str) -> Sequence[str] | None:
        """The class names of a column in index order, if the table says more than its cells: the order of numbers."""
        return sorted(set(self.classes(name)) - {""}, key=int) if self.is_whole(name) else None

    def row(self, row: int) -> str:
        """Which row it is of the table, for messages."""
        return f"row {row + 1}"

    def at(self, row: int) -> str:
        """Where a row is, for messages."""
        return f"{self.where}, {self.row(row)}"

    def __len__(self) -> int:
        return self._length

    def __contains__(self, column: str) -> bool:
        return column in self._index

    @property
    def unused(self) -> list[str]:
        """The columns that nothing was taken from so far."""
        return [column for column in self._index if column not in self._used]

    def use(self, name: str) -> int:
        """The number of a column, which counts as used from now on.

        Raises:
            ValueError: if there is no such column.
        """
        if name not in self._index:
            raise ValueError(f"{self.where} has no column {name!r}; {suggest(name, self._index)}")
        self._used.add(name)
        return self._index[name]

    def column(self, name: str) -> list[str]:
        """The cells of a column as texts."""
        return self._texts(self.use(name))

    def chosen(self, setting: str | None, default: str) -> str | None:
        """The column that a setting names; None if it is `none`, or None without a default column."""
        if setting == "none" or (setting is None and default not in self):
            return None
        return default if setting is None else setting

    def keys(self, names: str | None) -> list[tuple[str, ...]]:
        """The key of the object of every row: the cells of the columns joined by `+` in the setting, or row numbers.

        Raises:
            ValueError: if a cell is empty.
        """
        if names is None and "object" not in self:
            return [(str(number),) for number in range(len(self))]
        columns = {name.strip(): self.column(name.strip()) for name in (names or "object").split("+")}
        for name, cells in columns.items():
            if empty := [number for number, cell in enumerate(cells) if not cell]:
                raise ValueError(f"{self.at(empty[0])}: {name} is empty, so the object is unknown")
        return list(zip(*columns.values(), strict=True))

    def numbers(self, latent: Latent) -> NDArray[np.float64]:
        """The cells of a latent's columns, `(rows, columns)`.

        Raises:
            ValueError: if a cell is no number.
        """
        return np.stack([self._all_numbers(name) for name in latent.columns], axis=1)

    def _all_numbers(self, name: str) -> NDArray[np.float64]:
        values = self._numbers(self.use(name))
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise ValueError(f"{self.at(row)}: {name} is {self.column(name)[row]!r}, which is not a number")
        return values


@dataclass(frozen=True)
class Columns:
    """The names of columns; None takes the usual one if it is there, `none` takes none. Those of an object may be
    joined by `+`.
    """

    objects: str | None = None
    classes: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Listing:
    """The views of a table, object by object: objects in the order of their first rows, views in the order of theirs.

    Attributes:
        counts: how many views each object has, `(N,)`.
        rows: the row of every view, `(V,)`.
        record: the latents of every view.
        labels: the classes of the objects; None if there are none.
        splits: the objects of every split by its name; empty without a split.
        notes: facts for the run's record.
    """

    counts: Indices
    rows: Indices
    record: Transform
    labels: Labels | None
    splits: dict[str, Indices]
    notes: dict[str, str]


def listing(
    sheet: Sheet,
    columns: Columns,
    latents: Mapping[str, str] | None,
    classes: Sequence[str] | None,
    split: Sequence[str] | None = None,
) -> Listing:
    """Read a table.

    Args:
        sheet: the table.
        columns: the names of its columns.
        latents: columns and what they hold; None takes the columns with words in the header.
        classes: the class names in index order, for example from the train set; None takes those of the table.
        split: the split of every row by other means than a column; a column that the setting names goes before it.

    Raises:
        ValueError: if a column is missing, a latent's cell is not a number, or rows of one object disagree on its class
            or split.
    """
    objects, rows = _by_object(sheet.keys(columns.objects))
    counts = np.bincount(objects)
    first = rows[np.cumsum(counts) - counts]
    described = latents_from_header(sheet.header) if latents is None else latents_from_settings(latents)
    read = {one.name: _recorded(sheet, one) for one in described}
    record = Transform(
        {name: values[rows] for name, (values, _) in read.items()}, {name: group for name, (_, group) in read.items()}
    )
    labels = _labels(sheet, columns.classes, objects, first, classes)
    splits = _splits(sheet, columns.split, split, objects, first)
    notes = {
        "latents": ", ".join(record.names) or "none",
        "unused columns": ", ".join(sheet.unused) or "none",
        **_without_unit(sheet, latents is None),
    }
    return Listing(counts, rows, record, labels, splits, notes)


def _recorded(sheet: Sheet, latent: Latent) -> tuple[Tensor, Group]:
    """The values of a latent in every row, and its group.

    Raises:
        ValueError: if a cell does not fit, or a column of names has fewer than two of them.
    """
    if latent.kind != "names":
        return latent.values(sheet.numbers(latent), sheet.where), latent.group
    cells = sheet.column(latent.name)
    names = sorted(set(cells) - {""})
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "no names"
        raise ValueError(f"{sheet.where}: the category {latent.name!r} has {found}; two or more are needed")
    numbers = {"": -1, **{name: number for number, name in enumerate(names)}}
    return torch.tensor([numbers[cell] for cell in cells]), Category(len(names))


def numeric(cells: Iterable[str]) -> NDArray[np.float64]:
    """Cells as numbers, NaN where a cell is none."""
    cells = list(cells)
    try:
        return np.array(cells).astype(np.float64)
    except ValueError:
        return np.array([_number_or_nan(cell) for cell in cells])


def _number_or_nan(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _by_object(keys: Sequence[tuple[str, ...]]) -> tuple[Indices, Indices]:
    """The object of every row, numbered by first appearance, and the rows sorted by object, else in their order."""
    numbers: dict[tuple[str, ...], int] = {}
    objects = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    return objects, np.argsort(objects, kind="stable")


def _one_per_object(sheet: Sheet, cells: Sequence[str], objects: Indices, first: Indices, what: str) -> list[str]:
    """The cell of every object's first row; an error if another row of the object has another cell."""
    for row, cell in enumerate(cells):
        if cell != cells[first[objects[row]]]:
            other = int(first[objects[row]])
            both = f"{sheet.row(other)} ({cells[other]!r}) and {sheet.row(row)} ({cell!r})"
            raise ValueError(f"{sheet.where}: {both} show one object but differ in their {what}")
    return [cells[row] for row in first]


def _labels(
    sheet: Sheet, column: str | None, objects: Indices, first: Indices, classes: Sequence[str] | None
) -> Labels | None:
    name = sheet.chosen(column, sheet.class_column)
    if name is None:
        return None
    cells = _one_per_object(sheet, sheet.classes(name), objects, first, "class")
    return labels_from_names(cells, sheet.class_names(name) if classes is None else classes, sheet.where)


def _splits(
    sheet: Sheet, column: str | None, split: Sequence[str] | None, objects: Indices, first: Indices
) -> dict[str, Indices]:
    name = None if column is None and split is not None else sheet.chosen(column, "split")
    if name is None and (split is None or column == "none"):
        return {}
    cells = split if name is None else sheet.column(name)
    assert cells is not None
    names = _one_per_object(sheet, cells, objects, first, "split")
    splits = [split_of(name) for name in names]
    if None in splits:
        row = int(first[splits.index(None)])
        raise ValueError(f"{sheet.at(row)}: {names[splits.index(None)]!r} is not a split ({SPLIT_NAMES})")
    return splits_of(np.array(splits, dtype=np.str_))


def _without_unit(sheet: Sheet, by_header: bool) -> dict[str, str]:
    """A note on columns of numbers that are no latents because their header gives no unit; none if there is none."""
    bare = [name for name in sheet.unused if by_header and sheet.is_number(name)]
    if not bare:
        return {}
    first = next((name for name in bare if name.lower().endswith(tuple(f"_{unit}" for unit in UNITS))), bare[0])
    unit = next((unit for unit in UNITS if first.lower().endswith(f"_{unit}")), "real")
    what = f"columns of numbers without a unit: {', '.join(bare)}"
    return {"not used": f"{what}; for a latent, write {first}[{unit}] in the header, or name it in `latents`"}
