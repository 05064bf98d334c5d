"""A folder, a zip or a tar archive, read the same way."""

import hashlib
import os
import stat
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ssl_inv.data.exclusion import hidden, kept
from ssl_inv.data.folder_index import folder_stamp, names_below, size_and_time
from ssl_inv.data.names import Names, packed, unpacked
from ssl_inv.data.source import Indices

MOST_BYTES = 2**31
"""Of one file that is read into memory."""

MOST_GROWTH, ALWAYS_BYTES = 200, 2**28
"""How many times as large as in the zip a file may be that has more than 256 MiB. Blank images grow a thousand times,
and bombs too."""

_ZIP_HEADER = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x1
_TAR = -1
"""Stands in the index where a zip member has its method of compression."""

_HOW_TO_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""To open a pipe that no one writes to would wait for ever."""


DAMAGED_ARCHIVE: tuple[type[Exception], ...] = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError, OverflowError, LookupError),
    RuntimeError,  # of an unknown version, or encrypted
    OSError,
)
"""What Python raises for a zip or a tar that is damaged, beside `ValueError`."""

_FURTHEST = 2**62

Member = tuple[int, int, int, int, int]
"""Offset, stored size, method of compression or `_TAR`, checksum or time, and size of a file in an archive."""


class Files:
    """The files below a folder, or in a zip archive (stored or deflated) or an uncompressed tar archive.

    Hidden files, and files that macOS adds to archives, are left out. If everything in an archive lies in one folder,
    names begin below that folder, because archivers add it. A folder is read as it is. Of a name that is twice in an
    archive, the later file counts. Hard links in a tar are read, symbolic links are left out.

    An archive is indexed once: every member is a name, an offset and a size in two arrays. Members are read by `pread`,
    which moves no shared file position, so threads and forked processes share one instance without locks. A pickled
    copy opens the archive again but does not index it again. Python's `zipfile` locks, keeps an object for every
    member, and reads no tar. It takes 1.5 times as long for a member (2,000 members spread over a zip of CIFAR-10, the
    median of 7 alternating rounds).

    A link to a folder is followed, unless its files have names already: those of the tree itself, or of another link.
    Pipes, sockets and devices have names but cannot be read, and neither can files above `MOST_BYTES`.

    Args:
        path: the folder or the archive.
        exclude: patterns of names to leave out, such as `masks/*` or `*_thumb.jpg`; one without a `/` also matches
            the last part of a name, or any folder on the way. `*` stands for any characters.
        outside: whether `read` takes names that lead out of the folder.

    Attributes:
        left_out: what is not among the names although it is there, in words; of a folder, after the first use of
            `names`.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: if it is neither a folder nor a readable archive.
    """

    def __init__(self, path: str | Path, exclude: Sequence[str] = (), outside: bool = False) -> None:
        self.path, self.outside = Path(path).expanduser(), outside
        self.left_out: list[str] = []
        self._exclude = tuple(exclude)
        self._names: Names | None = None
        self._sizes: Indices = np.empty(0, dtype=np.int64)
        """Of the members of an archive when they are unpacked, `(N,)`."""
        self._places: Indices | None = None
        """Of an archive, `(N, 4)`: for a zip the offset of the header, the stored size, the method of compression and
        the checksum; for a tar the offset of the content, its size, `_TAR` and the time of the last change.
        """
        if self.path.is_dir():
            return
        if not self.path.exists():
            raise FileNotFoundError(f"no such folder, zip or tar file: {self.path}")
        if not self.path.is_file():
            raise ValueError(f"{self.path} is neither a folder nor a regular file")
        try:
            is_zip = zipfile.is_zipfile(self.path)
            members = dict(_zip_members(self.path) if is_zip else _tar_members(self.path))
        except DAMAGED_ARCHIVE as error:
            what = "neither a folder nor a readable zip or uncompressed tar archive"
            raise ValueError(f"{self.path} is {what}: {error}") from error
        names = sorted((name for name in members if not hidden(name)), key=os.fsencode)
        top = names[0].split("/")[0] + "/" if names else "/"
        top = top if all(name.startswith(top) for name in names) else ""
        # Patterns mean the same for a folder and for an archive of it.
        found = packed(name.removeprefix(top) for name in names)
        mask, self.left_out = kept(found, self._exclude)
        self._names = found[mask]
        places = np.array([members[name] for name in names], dtype=np.int64).reshape(-1, 5)[mask]
        self._places, self._sizes = np.ascontiguousarray(places[:, :4]), places[:, 4].copy()
        self._open()

    def __str__(self) -> str:
        return str(self.path)

    def _open(self) -> None:
        if self._places is not None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            self._end = os.fstat(self._descriptor).st_size
            weakref.finalize(self, os.close, self._descriptor)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._open()

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar archive with files in it."""
        return self._places is not None and bool((self._places[:, 2] == _TAR).any())

    @property
    def names(self) -> Names:
        """All files in ascending order. A folder is searched at the first use."""
        if self._names is None:
            self._names, self.left_out = names_below(self.path, self._exclude)
        return self._names

    def read(self, name: str | bytes) -> bytes:
        """The content of one file; bytes are an element of `names`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the archive is damaged there, the file is too large or no regular file, or its name leads out
                of the folder.
        """
        key = os.fsencode(name)
        if self._places is None:
            if not self.outside and _leads_out(key):
                raise ValueError(f"{os.fsdecode(name)!r} leads out of {self.path}")
            return _content(os.path.join(self.path, os.fsdecode(key)))
        if (row := self.names.place(key)) is None:
            raise FileNotFoundError(f"no file {os.fsdecode(name)!r} in {self.path}")
        offset, stored, method, checksum = self._places[row].tolist()
        size = int(self._sizes[row])
        require_size(size, stored)
        if method != _TAR:
            header = _ZIP_HEADER.unpack(os.pread(self._descriptor, _ZIP_HEADER.size, offset))
            offset += _ZIP_HEADER.size + header[9] + header[10]
        content = os.pread(self._descriptor, stored, offset) if offset + stored <= self._end else b""
        if len(content) < stored:
            raise ValueError("the archive ends within it")
        if method == zipfile.ZIP_DEFLATED:
            content = _inflated(content, size)
        if method != _TAR and zlib.crc32(content) != checksum:
            raise ValueError("its checksum in the zip archive is wrong")
        return content

    def path_of(self, name: str | bytes) -> Path | None:
        """Where a file lies on disk; None in an archive."""
        return self.path / os.fsdecode(name) if self._places is None else None

    def below(self, names: Names) -> Names:
        """The names whose folders tell classes and splits."""
        return names

    def class_of(self, name: bytes) -> str | None:
        """The class that something else than a folder gives a file, empty if it is unknown; None if nothing does."""
        return None

    def __contains__(self, name: str) -> bool:
        if self._places is None:
            return (self.outside or not _leads_out(os.fsencode(name))) and (self.path / name).is_file()
        return self.names.place(os.fsencode(name)) is not None

    def inside(self, folder: str) -> Iterator[str]:
        """The names of the files directly in `folder`, without the folder. On disk, only this folder is listed."""
        if self._places is None:
            top = self.path / folder
            there = top.is_dir() and not _leads_out(os.fsencode(folder))
            yield from sorted(entry.name for entry in os.scandir(top) if entry.is_file()) if there else ()
            return
        key = os.fsencode(folder.strip("/"))
        found = self.names.below(key).with_slashes(key.count(b"/") + 1 if key else 0)
        yield from (unpacked(name.rpartition(b"/")[2]) for name in found)

    @property
    def stamp(self) -> str:
        """A digest that changes when a file is added, removed or written: from the sizes and times of files in a folder
        or a tar, from the checksums in a zip. Of a large folder, see `folder_index.folder_stamp`.
        """
        if self._places is None:
            return folder_stamp(self.path, self.names)
        digest = hashlib.sha256()
        for part in self.names.padded():
            digest.update(part)
        digest.update(self._places.tobytes())
        if self.is_tar:
            # Tools that make tars often write one fixed time for all members.
            digest.update(np.array(size_and_time(self.path), dtype=np.int64).tobytes())
        return digest.hexdigest()

    def with_suffix(self, suffixes: frozenset[str]) -> Names:
        """The files whose name ends, in upper or lower case, with one of the suffixes."""
        return self.names[self.names.ending(suffixes)]

    def without_suffix(self, suffixes: frozenset[str]) -> Names:
        """The files whose name ends otherwise."""
        return self.names[~self.names.ending(suffixes)]


def _leads_out(name: bytes) -> bool:
    return os.path.isabs(name) or (b".." in name and b".." in name.split(b"/"))


def require_size(size: int, stored: int) -> None:
    """Raise a `ValueError` if a file is too large to be read into memory, or grows too much; see `MOST_GROWTH`."""
    if max(size, stored) > MOST_BYTES:
        raise ValueError(f"it has {max(size, stored):,} bytes; at most {MOST_BYTES:,} are read")
    require_growth(size, stored)


def require_growth(size: int, stored: int) -> None:
    """Raise a `ValueError` if `stored` bytes would grow to more than they may; see `MOST_GROWTH`."""
    if size > ALWAYS_BYTES and size > MOST_GROWTH * stored:
        raise ValueError(f"{stored:,} bytes in the archive would grow to {size:,}")


def _content(path: str) -> bytes:
    """The content of a regular file."""
    descriptor = os.open(path, _HOW_TO_OPEN)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        require_size(found.st_size, found.st_size)
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _inflated(content: bytes, size: int) -> bytes:
    """What was deflated, which must have the size that the zip gives."""
    stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    made = stream.decompress(content, size + 1)
    if len(made) != size or not stream.eof:
        raise ValueError("its size in the zip archive is wrong")
    return made


def _zip_members(path: Path) -> Iterator[tuple[str, Member]]:
    with zipfile.ZipFile(path) as archive:
        for one in archive.infolist():
            if one.is_dir():
                continue
            if one.flag_bits & _ENCRYPTED or one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                advice = "is encrypted or compressed in an unusual way; make the zip with store or deflate"
                raise ValueError(f"{path}: {one.filename} {advice}")
            if not all(0 <= number < _FURTHEST for number in (one.header_offset, one.compress_size, one.file_size)):
                raise zipfile.BadZipFile(f"its directory has {one.filename} at a place that no file has")
            yield one.filename, (one.header_offset, one.compress_size, one.compress_type, one.CRC, one.file_size)


def _tar_members(path: Path) -> Iterator[tuple[str, Member]]:
    found: dict[str, Member] = {}
    with tarfile.open(path, "r:") as archive:
        for one in archive:
            if one.issparse():
                raise ValueError(f"{path}: {one.name} is stored with holes; make the tar without --sparse")
            if one.isreg():
                found[one.name] = (one.offset_data, one.size, _TAR, int(one.mtime), one.size)
            elif one.islnk() and one.linkname in found:
                found[one.name] = found[one.linkname]
            archive.members = []  # type: ignore[attr-defined]  # it would keep an object for every member
    return ((name.removeprefix("./"), place) for name, place in found.items())
