"""What the columns of Parquet and Arrow files hold: images, classes, numbers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import compute, types

from ssl_inv.catalogue import SettingError, suggest
from ssl_inv.data.listings import Sheet, numeric
from ssl_inv.data.sources.arrow.blocks import damaged, opened
from ssl_inv.data.sources.arrow.layout import ColumnFile

Held = Literal["struct", "bytes", "numbers", "path"]
"""What the cells of an image column are: Hugging Face's bytes and path, encoded files, arrays, or paths."""

_IMAGE_NAMES = (
    *("image", "img", "images", "picture", "photo", "photograph", "pixels", "jpg", "jpeg", "png", "webp"),
    *("bytes", "content", "data"),
)

_PATH_NAMES = (*_IMAGE_NAMES, "path", "file_name", "filename", "file", "image_path", "img_path")

_CLASS_NAMES = ("label", "labels")
"""Columns that are the class where `datasets` says that they hold class names."""


def features_of(schema: pyarrow.Schema) -> dict[str, Any]:
    """What `datasets` has written of the columns into a file; empty if it has not."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def plain_type(kind: pyarrow.DataType) -> pyarrow.DataType:
    """A type without dictionaries and extensions."""
    if isinstance(kind, pyarrow.BaseExtensionType):
        return plain_type(kind.storage_type)
    return plain_type(kind.value_type) if types.is_dictionary(kind) else kind


def held(kind: pyarrow.DataType) -> Held | None:
    """What cells of a type are, taken as images; None if they are none."""
    if isinstance(kind, pyarrow.FixedShapeTensorType):
        return "numbers" if _is_number(kind.value_type) and len(kind.shape) in (2, 3) else None
    kind = plain_type(kind)
    if types.is_struct(kind):
        names = {kind.field(number).name for number in range(kind.num_fields)}
        return "struct" if "bytes" in names and held(kind.field("bytes").type) == "bytes" else None
    if _is_binary(kind):
        return "bytes"
    if _is_text(kind):
        return "path"
    depth = 0
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return "numbers" if depth in (2, 3) and _is_number(kind) else None


def image_column(schema: pyarrow.Schema, features: Mapping[str, Any], setting: str | None, where: str) -> str:
    """The column with the images: the one that the setting names, that `datasets` calls an image, with a usual name,
    or the only one that can hold images.

    Raises:
        SettingError: if the setting names another column, or there are none or several.
    """
    kinds = {field.name: held(field.type) for field in schema}
    if setting is not None:
        if setting not in kinds:
            raise SettingError("image_column", f"{where} has no column {setting!r}; {suggest(setting, kinds)}")
        if kinds[setting] is None:
            found = f"{setting!r} in {where} has {schema.field(setting).type}"
            raise SettingError("image_column", f"{found}, which are no images, bytes or paths")
        return setting
    told = [name for name in kinds if kinds[name] and _feature(features, name) == "Image"]
    stored = [name for name, kind in kinds.items() if kind in ("struct", "bytes", "numbers")]
    paths = [name for name, kind in kinds.items() if kind == "path"]
    usual = [name for name in stored if name.lower() in _IMAGE_NAMES]
    usual_paths = [name for wanted in _PATH_NAMES for name in paths if name.lower() == wanted]
    encoded = [name for name in stored if kinds[name] != "numbers"]
    # The first group that has any decides. Of paths, the first usual name: a table has other texts too.
    candidates: list[str]
    for candidates in (told, usual, encoded, stored, usual_paths[:1]):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            several = f"{where} has several columns that can be images, {', '.join(candidates)}"
            raise SettingError("image_column", f"{several}; name one")
    raise SettingError("image_column", f"{where} has no column of images; its columns are {', '.join(kinds) or 'none'}")


class ColumnSheet(Sheet):
    """The columns beside the images. Each is read when it is asked for.

    Args:
        where: the data, for messages.
        files: the files, in the order of their rows.
        schema: their columns.
        rows: rows of every file.
        features: what `datasets` says of the columns.

    Attributes:
        class_columns: the columns that hold classes, as `datasets` says.
    """

    def __init__(
        self,
        where: str,
        files: Sequence[ColumnFile],
        schema: pyarrow.Schema,
        rows: Sequence[int],
        features: Mapping[str, Any],
    ) -> None:
        self._schema, self._features = schema, features
        super().__init__(where, self._schema.names, sum(rows))
        self._files, self._rows = files, rows
        self.class_columns = [name for name in self._schema.names if self._names_in_metadata(name)]
        usual = [name for name in self.class_columns if name in _CLASS_NAMES] or self.class_columns
        if "class" not in self and len(usual) == 1:
            self.class_column = usual[0]

    def _place(self, row: int) -> tuple[ColumnFile, int]:
        ends = np.cumsum(self._rows)
        file = int(np.searchsorted(ends, row, side="right"))
        return self._files[file], row - int(ends[file]) + self._rows[file] + 1

    def row(self, row: int) -> str:
        file, number = self._place(row)
        return f"{file.name}, row {number}" if len(self._files) > 1 else f"row {number}"

    def at(self, row: int) -> str:
        file, number = self._place(row)
        return f"{file.path}, row {number}"

    def _names_in_metadata(self, name: str) -> list[str]:
        feature = self._features.get(name)
        names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
        whole = name in self._schema.names and types.is_integer(plain_type(self._schema.field(name).type))
        return [str(one) for one in names] if isinstance(names, list) and whole else []

    def class_names(self, name: str) -> Sequence[str] | None:
        """See `Sheet.class_names`: those that `datasets` names."""
        return self._names_in_metadata(self.header[self._index[name]]) or super().class_names(name)

    def _cells(self, column: int) -> pyarrow.ChunkedArray:
        name = self.header[column]
        parts = []
        for file in self._files:
            try:
                cells = opened(file).column(name)
            except (pyarrow.ArrowException, OSError) as error:
                raise damaged(file, error) from error
            parts += [_decoded(chunk) for chunk in cells.chunks]
        return pyarrow.chunked_array(parts, plain_type(self._schema.field(column).type))

    def _texts(self, column: int) -> list[str]:
        cells, name = self._cells(column), self.header[column]
        if names := self._names_in_metadata(name):
            named = dict(enumerate(names))
            return [named.get(cell, "") for cell in cells.to_pylist()]
        known = _is_text(cells.type) or _is_number(cells.type) or types.is_boolean(cells.type)
        if not (known or types.is_null(cells.type)):
            raise ValueError(f"{self.where}: {name} holds {cells.type}; texts or numbers are needed")
        return ["" if cell is None else _text(cell) for cell in cells.to_pylist()]

    def _numbers(self, column: int) -> NDArray[np.float64]:
        cells = self._cells(column)
        if not (_is_number(cells.type) or types.is_boolean(cells.type)):
            return numeric(self._texts(column))
        return np.array([np.nan if cell is None else float(cell) for cell in cells.to_pylist()])

    def is_number(self, name: str) -> bool:
        return _is_number(self._type(name)) and not self._names_in_metadata(self.header[self._index[name]])

    def is_whole(self, name: str) -> bool:
        return types.is_integer(self._type(name)) and not self._names_in_metadata(self.header[self._index[name]])

    def _type(self, name: str) -> pyarrow.DataType:
        return plain_type(self._schema.field(self._index[name]).type)


def array_of(cell: pyarrow.Scalar) -> NDArray[Any]:
    """The numbers of a cell that holds lists of lists, or a tensor.

    Raises:
        ValueError: if lists beside each other have different lengths.
    """
    if isinstance(cell, pyarrow.ExtensionScalar):
        kind, cell = cell.type, cell.value
        if isinstance(kind, pyarrow.FixedShapeTensorType):
            stored = np.asarray(cell.values.to_numpy(zero_copy_only=False)).reshape(kind.shape)
            return stored if kind.permutation is None else stored.transpose(kind.permutation)
    values = cell.values
    shape = [len(values)]
    while not types.is_primitive(values.type):
        lengths = compute.list_value_length(values).to_numpy(zero_copy_only=False)
        if not len(lengths) or not (lengths == lengths[0]).all():
            raise ValueError("its lists have different lengths")
        shape.append(int(lengths[0]))
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)


def _decoded(cells: pyarrow.Array) -> pyarrow.Array:
    """Cells without dictionaries and extensions."""
    if isinstance(cells, pyarrow.ExtensionArray):
        return _decoded(cells.storage)
    return cells.dictionary_decode() if types.is_dictionary(cells.type) else cells


def _feature(features: Mapping[str, Any], name: str) -> str:
    feature = features.get(name)
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""


def _text(cell: Any) -> str:
    return str(int(cell)) if isinstance(cell, bool) else str(cell).strip()


def _is_number(kind: pyarrow.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind))


def _is_text(kind: pyarrow.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view"


def _is_binary(kind: pyarrow.DataType) -> bool:
    any_length = types.is_binary(kind) or types.is_large_binary(kind) or str(kind) == "binary_view"
    return bool(any_length or types.is_fixed_size_binary(kind))
