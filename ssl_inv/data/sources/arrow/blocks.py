"""Rows of Parquet and Arrow files: whole columns, and single cells of one column by row number."""

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from ssl_inv.data.source import Indices
from ssl_inv.data.sources.arrow.layout import ColumnFile

KEPT_BYTES = 256 * 2**20
"""Bytes of decoded blocks of one column that a process keeps, besides the newest block, which may be larger."""

_PARQUET, _ARROW, _STREAM, _OLD_FEATHER = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff", b"FEA1"


class OpenColumns(ABC):
    """An open file. Its rows come in blocks that are read as a whole: row groups, or record batches."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def schema(self) -> pyarrow.Schema: ...

    @property
    @abstractmethod
    def lengths(self) -> list[int]:
        """Rows of every block."""

    @abstractmethod
    def column(self, name: str) -> pyarrow.ChunkedArray:
        """All cells of a column."""

    @abstractmethod
    def block(self, number: int, name: str) -> pyarrow.ChunkedArray:
        """The cells of a column in one block."""

    @abstractmethod
    def sizes(self, name: str) -> list[int] | None:
        """Bytes that a column takes in memory in every block: 0 where the file itself is mapped; None if unknown."""

    def nulls(self, number: int, name: str, field: str) -> int | None:
        """How many values of a field of a column of structures are missing in one block; None if unknown."""
        return None


class _Parquet(OpenColumns):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        # Threads of Arrow's own would compete with the loader processes, and do not survive a fork.
        self._file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)
        self._groups = [self._file.metadata.row_group(group) for group in range(self._file.metadata.num_row_groups)]

    @property
    def schema(self) -> pyarrow.Schema:
        return self._file.schema_arrow

    @property
    def lengths(self) -> list[int]:
        return [group.num_rows for group in self._groups]

    def column(self, name: str) -> pyarrow.ChunkedArray:
        return self._file.read(columns=[name], use_threads=False).column(0)

    def block(self, number: int, name: str) -> pyarrow.ChunkedArray:
        return self._file.read_row_group(number, columns=[name], use_threads=False).column(0)

    def _chunks(self, number: int) -> dict[str, Any]:
        group = self._groups[number]
        return {(one := group.column(column)).path_in_schema: one for column in range(group.num_columns)}

    def sizes(self, name: str) -> list[int] | None:
        return [
            sum(
                chunk.total_uncompressed_size
                for path, chunk in self._chunks(number).items()
                if path == name or path.startswith(f"{name}.")
            )
            for number in range(len(self._groups))
        ]

    def nulls(self, number: int, name: str, field: str) -> int | None:
        chunk = self._chunks(number).get(f"{name}.{field}")
        found = None if chunk is None else chunk.statistics
        return int(found.null_count) if found is not None and found.has_null_count else None


class _Arrow(OpenColumns):
    """A file of record batches that is mapped into memory. Without compression, cells are where the file is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._map = pyarrow.memory_map(str(path))
        whole = self._map.read_buffer()
        self._map.seek(0)
        self._first, self._last = whole.address, whole.address + whole.size

    def _is_mapped(self, cells: pyarrow.Array) -> bool:
        buffers = [one for one in cells.buffers() if one is not None and one.size]
        return all(self._first <= one.address < self._last for one in buffers)


class _ArrowFile(_Arrow):
    """Arrow's file format, which Feather is too."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._whole = pyarrow.ipc.open_file(self._map, options=pyarrow.ipc.IpcReadOptions(use_threads=False))
        batches = self._whole.num_record_batches
        self._mapped = not batches or all(map(self._is_mapped, self._whole.get_batch(0).columns))
        self._readers: dict[str, pyarrow.ipc.RecordBatchFileReader] = {}

    @property
    def schema(self) -> pyarrow.Schema:
        return self._whole.schema

    def _cells(self, number: int, name: str) -> pyarrow.Array:
        index = self.schema.get_field_index(name)
        if self._mapped:
            return self._whole.get_batch(number).column(index)
        # Alone, a column is copied, but the other columns of a compressed file are left as they are.
        if name not in self._readers:
            alone = pyarrow.ipc.IpcReadOptions(included_fields=[index], use_threads=False)
            self._readers[name] = pyarrow.ipc.open_file(self._map, options=alone)
        return self._readers[name].get_batch(number).column(0)

    @cached_property
    def lengths(self) -> list[int]:
        # A column of numbers costs least where the file is compressed.
        fixed = [field.name for field in self.schema if pyarrow.types.is_primitive(field.type)]
        if not self.schema.names:
            return []
        name = fixed[0] if fixed else self.schema.names[0]
        return [len(self._cells(number, name)) for number in range(self._whole.num_record_batches)]

    def column(self, name: str) -> pyarrow.ChunkedArray:
        kind = self.schema.field(name).type
        return pyarrow.chunked_array([self._cells(number, name) for number in range(len(self.lengths))], kind)

    def block(self, number: int, name: str) -> pyarrow.ChunkedArray:
        return pyarrow.chunked_array([self._cells(number, name)])

    def sizes(self, name: str) -> list[int] | None:
        return [0] * len(self.lengths) if self._mapped else None


class _ArrowStream(_Arrow):
    """Arrow's stream format, which `datasets` saves. It has no index of its batches, so all are found at once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        options = pyarrow.ipc.IpcReadOptions(use_threads=False)
        reader = pyarrow.ipc.open_stream(self._map, options=options)
        self._schema, self._batches = reader.schema, []
        for batch in reader:
            if not all(map(self._is_mapped, batch.columns)):
                raise ValueError(f"{path} is a compressed stream, which has no single rows; save it as an Arrow file")
            self._batches.append(batch)

    @property
    def schema(self) -> pyarrow.Schema:
        return self._schema

    @property
    def lengths(self) -> list[int]:
        return [batch.num_rows for batch in self._batches]

    def column(self, name: str) -> pyarrow.ChunkedArray:
        index = self._schema.get_field_index(name)
        return pyarrow.chunked_array([one.column(index) for one in self._batches], self._schema.field(index).type)

    def block(self, number: int, name: str) -> pyarrow.ChunkedArray:
        return pyarrow.chunked_array([self._batches[number].column(self._schema.get_field_index(name))])

    def sizes(self, name: str) -> list[int] | None:
        return [0] * len(self._batches)


def opened(file: ColumnFile) -> OpenColumns:
    """A file whose format its first bytes say.

    Raises:
        ValueError: in one line, if it is another file or damaged.
    """
    with file.path.open("rb") as content:
        start = content.read(8)
    if start.startswith(_OLD_FEATHER):
        raise ValueError(f"{file.path} is Feather of version 1; write it as version 2, or as Parquet")
    kinds: dict[bytes, type[OpenColumns]] = {_PARQUET: _Parquet, _ARROW: _ArrowFile, _STREAM: _ArrowStream}
    kind = next((one for magic, one in kinds.items() if start.startswith(magic)), None)
    if kind is None:
        raise ValueError(f"{file.path} is neither Parquet nor Arrow, by its first bytes; is it whole?")
    try:
        return kind(file.path)
    except (pyarrow.ArrowException, OSError) as error:
        raise damaged(file, error) from error


def damaged(file: ColumnFile, error: Exception) -> ValueError:
    """An error of Arrow in one line."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"{file.path} is damaged, or no such file: {reason}")


class Rows:
    """The cells of one column of some files, by row number over all files.

    An instance is small: it holds where blocks begin. Every process opens the files for itself, at most 512 at once,
    and keeps blocks up to `KEPT_BYTES`, least recently used first to go. Blocks of files that are mapped into memory
    without compression take none.

    Args:
        files: the files, in the order of their rows.
        column: the column.
        lengths: rows of every block of every file.
        in_memory: whether blocks of a file take memory, for every file.
    """

    _MOST_OPEN = 512

    def __init__(
        self, files: Sequence[ColumnFile], column: str, lengths: Sequence[Sequence[int]], in_memory: Sequence[bool]
    ) -> None:
        self.files, self.column = tuple(files), column
        self._file_of_block = np.repeat(np.arange(len(files)), [len(one) for one in lengths])
        sizes = np.array([rows for one in lengths for rows in one], dtype=np.int64)
        self._starts = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(sizes)))
        self._first_block = np.cumsum([0, *[len(one) for one in lengths]])[:-1]
        self._in_memory = tuple(in_memory)
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._open: OrderedDict[int, OpenColumns] = OrderedDict()
        self._blocks: OrderedDict[int, pyarrow.ChunkedArray | Exception] = OrderedDict()
        self._kept = 0

    def __getstate__(self) -> dict[str, object]:
        own = ("_process", "_lock", "_open", "_blocks", "_kept")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def block_count(self) -> int:
        return len(self._file_of_block)

    def block_of(self, rows: Indices) -> Indices:
        """The block of every row."""
        found = np.searchsorted(self._starts, rows, side="right") - 1
        return found.astype(np.int64)

    def place(self, row: int) -> tuple[str, int]:
        """The name of a row's file, and its number in that file, from 0."""
        file = int(self._file_of_block[self.block_of(np.array([row]))[0]])
        return self.files[file].name, row - int(self._starts[self._first_block[file]])

    def cell(self, row: int) -> pyarrow.Scalar:
        """The cell of a row.

        Raises:
            ValueError: if its block cannot be read.
        """
        block = int(self.block_of(np.array([row]))[0])
        return self.block(block)[row - int(self._starts[block])]

    def block(self, block: int) -> pyarrow.ChunkedArray:
        """The cells of one block.

        Raises:
            ValueError: if it cannot be read, in one line.
        """
        if self._process != os.getpid():
            self._forget()
        with self._lock:
            if block not in self._blocks:
                self._keep(block)
            self._blocks.move_to_end(block)
            found = self._blocks[block]
        if isinstance(found, Exception):
            raise found
        return found

    def _keep(self, block: int) -> None:
        file = int(self._file_of_block[block])
        try:
            found = self._file(file).block(block - int(self._first_block[file]), self.column)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            # Remembered, because the images of a broken block would each try to read it again.
            own = isinstance(error, ValueError) and not isinstance(error, pyarrow.ArrowException)
            self._blocks[block] = error if own else damaged(self.files[file], error)
            return
        self._blocks[block] = found
        if not self._in_memory[file]:
            return
        self._kept += found.nbytes
        for other in [one for one in self._blocks if one != block]:
            if self._kept <= KEPT_BYTES:
                break
            cells = self._blocks[other]
            if self._in_memory[self._file_of_block[other]] and not isinstance(cells, Exception):
                self._kept -= cells.nbytes
                del self._blocks[other]

    def _file(self, number: int) -> OpenColumns:
        if number not in self._open:
            self._open[number] = opened(self.files[number])
            if len(self._open) > self._MOST_OPEN:
                closed, _ = self._open.popitem(last=False)
                # A block of a mapped file holds it open.
                mapped = [one for one in self._blocks if self._file_of_block[one] == closed]
                for one in [] if self._in_memory[closed] else mapped:
                    del self._blocks[one]
        self._open.move_to_end(number)
        return self._open[number]
