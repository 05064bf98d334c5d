"""A folder or a zip archive, read the same way."""

import csv
import hashlib
import io
import os
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_inv.data.source import Indices

Names = NDArray[np.bytes_]
"""File names relative to the top, UTF-8, parts separated by `/`.

One array costs a worker nothing to share; a list of str is copied.
"""


_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


_ENCRYPTED = 0x1


class Files:
    """The files below a folder or in a zip archive (stored or deflated).

    Hidden files and what archivers of macOS add are left out. An archive in which everything lies in one folder is read
    from inside that folder, because archivers put it there; a folder is read as it is. A zip is indexed when this is
    made and read without locks, so threads and forked processes share one instance; a pickled copy opens the archive
    anew but does not index it again.

    Args:
        path: the folder or the zip archive.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: if it is neither a folder nor a readable zip archive.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._names: Names | None = None
        self._archive: _Archive | None = None
        if self.path.is_dir():
            return
        if not self.path.exists():
            raise FileNotFoundError(f"no such folder or zip file: {self.path}")
        self._archive = _Archive(self.path)
        self._names = self._archive.names

    @property
    def names(self) -> Names:
        """All files in ascending order; a folder is searched at the first use."""
        if self._names is None:
            self._names = packed(_below(self.path))
        return self._names

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the archive is damaged there.
        """
        if self._archive is None:
            return (self.path / name).read_bytes()
        row = int(find(self.names, packed([name]))[0])
        if row < 0:
            raise FileNotFoundError(f"no file {name!r} in {self.path}")
        return self._archive.read(row)

    def __contains__(self, name: str) -> bool:
        if self._archive is None:
            return (self.path / name).is_file()
        return bool(find(self.names, packed([name]))[0] >= 0)

    def inside(self, folder: str) -> Iterator[str]:
        """The names of the files directly in `folder`, without the folder; a folder on disk is listed and nothing below
        it.
        """
        if self._archive is None:
            top = self.path / folder
            yield from sorted(entry.name for entry in os.scandir(top) if entry.is_file()) if top.is_dir() else ()
            return
        prefix = f"{folder.strip('/')}/".encode().lstrip(b"/")
        first, last = np.searchsorted(self.names, np.array([prefix, prefix + b"\xff"]))
        tails = (bytes(name).removeprefix(prefix) for name in self.names[first:last])
        yield from (unpacked(tail) for tail in tails if b"/" not in tail)

    @property
    def stamp(self) -> str:
        """Another one when a file came, went or was written: a folder's by sizes and times, an archive's by its
        checksums.
        """
        digest = hashlib.sha256(self.names.tobytes())
        if self._archive is not None:
            digest.update(self._archive.places.tobytes())
        else:
            found = (_size_and_time(self.path / unpacked(name)) for name in self.names)
            digest.update(np.array(list(found), dtype=np.int64).tobytes())
        return digest.hexdigest()

    def with_suffix(self, suffixes: frozenset[str]) -> Names:
        """The files whose name ends, in any case, with one of the suffixes."""
        ends = tuple(suffix.encode() for suffix in suffixes)
        chosen: Names = self.names[[bytes(name).lower().endswith(ends) for name in self.names]]
        return chosen

    def read_csv(self, name: str) -> tuple[list[str], list[list[str]]]:
        """The header and the rows of a CSV file in UTF-8, cells stripped of blanks at both ends, empty lines left out.

        Raises:
            ValueError: if it is no CSV, or has no header, a column twice, or a row of another length than the header.
        """
        try:
            text = io.StringIO(self.read(name).decode("utf-8-sig"), newline="")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from None
        try:
            lines = [[cell.strip() for cell in line] for line in csv.reader(text) if line]
        except csv.Error as error:
            raise ValueError(f"{self.path}: {name} cannot be read as CSV: {error}; is a quote not closed?") from None
        if not lines:
            raise ValueError(f"{self.path}: {name} is empty")
        header, rows = lines[0], lines[1:]
        if twice := [column for column in header if header.count(column) > 1]:
            raise ValueError(f"{self.path}: {name} has two columns called {twice[0]!r}")
        for number, row in enumerate(rows, start=1):
            if len(row) != len(header):
                raise ValueError(
                    f"{self.path}: {name}, row {number} has {len(row)} cells, but the header has {len(header)}"
                )
        return header, rows


def packed(names: Iterable[str]) -> Names:
    """Names as one array, in their order; str with surrogates stands for bytes of a file name that are not UTF-8."""
    return np.array([os.fsencode(name) for name in names] or np.empty(0, dtype="S1"), dtype=np.bytes_)


def unpacked(name: bytes) -> str:
    """One name of such an array."""
    return os.fsdecode(bytes(name))


def find(names: Names, wanted: Names) -> Indices:
    """Where each of `wanted` stands in the ascending `names`, -1 where it does not; both of shape `(n,)`."""
    if not len(names):
        return np.full(len(wanted), -1, dtype=np.int64)
    rows = np.minimum(np.searchsorted(names, wanted), len(names) - 1).astype(np.int64)
    return np.where(names[rows] == wanted, rows, -1)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _size_and_time(path: Path) -> tuple[int, int]:
    """Of a file; (-1, -1) if it is gone, as a link may lead nowhere."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _below(top: Path) -> list[str]:
    found = []
    for folder, folders, names in os.walk(top, followlinks=True):
        folders[:] = [name for name in folders if not _hidden(name) and not _leads_back(Path(folder, name))]
        prefix = "" if folder == str(top) else Path(folder).relative_to(top).as_posix() + "/"
        found += [prefix + name for name in names if not _hidden(name)]
    return sorted(found, key=os.fsencode)


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in, in which every file would be found again and again."""
    return folder.is_symlink() and folder.resolve() in (folder.parent.resolve(), *folder.parent.resolve().parents)


class _Archive:
    """Names and places of the members of a zip archive, in ascending order of their names.

    The index of Python's `zipfile` holds an object for every member, which each worker would copy, and it locks while
    reading.
    """

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                # A name may stand in an archive twice: the later file has replaced the earlier.
                latest = {member.filename: member for member in archive.infolist()}
                members = [member for member in latest.values() if not member.is_dir() and not _hidden(member.filename)]
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{path} is neither a folder nor a readable zip archive: {error}") from error
        members.sort(key=lambda member: os.fsencode(member.filename))
        for member in members:
            if member.flag_bits & _ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(
                    f"{path}: {member.filename} is encrypted or compressed in an unusual way; make the zip with store or deflate"
                )
        self.path = path
        self.names = _without_common_folder([member.filename for member in members])
        places = [(member.header_offset, member.compress_size, member.compress_type, member.CRC) for member in members]
        self.places: Indices = np.array(places, dtype=np.int64).reshape(-1, 4)
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._open()

    def read(self, row: int) -> bytes:
        offset, size, method, checksum = self.places[row].tolist()
        # A read at a position does not move a shared file pointer, so neither threads nor forked processes disturb each
        # other.
        header = _LOCAL_HEADER.unpack(os.pread(self._descriptor, _LOCAL_HEADER.size, offset))
        raw = os.pread(self._descriptor, size, offset + _LOCAL_HEADER.size + header[9] + header[10])
        content = zlib.decompress(raw, wbits=-zlib.MAX_WBITS) if method == zipfile.ZIP_DEFLATED else raw
        if zlib.crc32(content) != checksum:
            raise ValueError("its checksum in the zip archive is wrong")
        return content


def _without_common_folder(names: list[str]) -> Names:
    top = names[0].split("/")[0] + "/" if names else "/"
    common = all(name.startswith(top) for name in names)
    return packed(name.removeprefix(top) if common else name for name in names)
