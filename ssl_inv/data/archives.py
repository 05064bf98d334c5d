"""A folder, a zip or a tar archive, read the same way."""

import bisect
import hashlib
import os
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_inv.data.source import Indices

Names = NDArray[np.bytes_]
"""File names relative to the top, UTF-8, parts separated by `/`.

Loader processes share one array at no cost. A list of str would be copied into each of them.
"""

_ZIP_HEADER = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x1
_TAR = -1
"""Stands in the index where a zip member has its method of compression."""


class Files:
    """The files below a folder, or in a zip archive (stored or deflated) or an uncompressed tar archive.

    Hidden files, and files that macOS adds to archives, are left out. If everything in an archive lies in one folder,
    names begin below that folder, because archivers add it. A folder is read as it is. Of a name that is twice in an
    archive, the later file counts. Hard links in a tar are read, symbolic links are left out.

    An archive is indexed once: every member is a name, an offset and a size in two arrays. Members are read by `pread`,
    which moves no shared file position, so threads and forked processes share one instance without locks. A pickled
    copy opens the archive again but does not index it again. Python's `zipfile` locks, keeps an object for every
    member, and reads no tar. It takes three times as long for a member: 38 against 13 us (`python -m timeit`, 2,000
    members spread over a zip of CIFAR-10), or 61 against 43 us with decoding.

    A link to a folder is followed, unless its files have names already: those of the tree itself, or of another link.

    Args:
        path: the folder or the archive.
        exclude: patterns of names to leave out, such as `masks/*` or `*_thumb.jpg`; one without a `/` also matches
            the last part of a name, or any folder on the way. `*` stands for any characters.

    Attributes:
        left_out: what is not among the names although it is there, in words; of a folder, after the first use of
            `names`.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: if it is neither a folder nor a readable archive.
    """

    def __init__(self, path: str | Path, exclude: Sequence[str] = ()) -> None:
        self.path = Path(path).expanduser()
        self.left_out: list[str] = []
        self._exclude = tuple(exclude)
        self._names: Names | None = None
        self._places: Indices | None = None
        """Of an archive, `(N, 4)`: for a zip the offset of the header, the stored size, the method of compression and
        the checksum; for a tar the offset of the content, its size, `_TAR` and the time of the last change.
        """
        if self.path.is_dir():
            return
        if not self.path.exists():
            raise FileNotFoundError(f"no such folder, zip or tar file: {self.path}")
        try:
            is_zip = zipfile.is_zipfile(self.path)
            members = dict(_zip_members(self.path) if is_zip else _tar_members(self.path))
        except (zipfile.BadZipFile, tarfile.TarError, OSError) as error:
            what = "neither a folder nor a readable zip or uncompressed tar archive"
            raise ValueError(f"{self.path} is {what}: {error}") from error
        names = sorted((name for name in members if not _hidden(name)), key=os.fsencode)
        top = names[0].split("/")[0] + "/" if names else "/"
        top = top if all(name.startswith(top) for name in names) else ""
        # Patterns mean the same for a folder and for an archive of it.
        names = [top + name for name in self._kept([name.removeprefix(top) for name in names])]
        self._names = packed(name.removeprefix(top) for name in names)
        self._places = np.array([members[name] for name in names], dtype=np.int64).reshape(-1, 4)
        self._open()

    def __str__(self) -> str:
        return str(self.path)

    def _open(self) -> None:
        if self._places is not None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._open()

    @property
    def names(self) -> Names:
        """All files in ascending order. A folder is searched at the first use."""
        if self._names is None:
            below, self.left_out = _below(self.path)
            self._names = packed(self._kept(below))
        return self._names

    def _kept(self, names: list[str]) -> list[str]:
        """The names that are not excluded."""
        if not self._exclude:
            return names
        counts = dict.fromkeys(self._exclude, 0)
        kept = []
        for name in names:
            pattern = next((one for one in self._exclude if _matches(name, one)), None)
            if pattern is None:
                kept.append(name)
            else:
                counts[pattern] += 1
        self.left_out.append(f"{len(names) - len(kept)} excluded")
        if idle := [pattern for pattern, count in counts.items() if not count]:
            self.left_out.append(f"nothing more is left out by {', '.join(map(repr, idle))}")
        return kept

    def read(self, name: str | bytes) -> bytes:
        """The content of one file; bytes are an element of `names`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the archive is damaged there.
        """
        if self._places is None:
            return (self.path / os.fsdecode(name)).read_bytes()
        if (row := self._row(name)) is None:
            raise FileNotFoundError(f"no file {os.fsdecode(name)!r} in {self.path}")
        offset, size, method, checksum = self._places[row].tolist()
        if method != _TAR:
            header = _ZIP_HEADER.unpack(os.pread(self._descriptor, _ZIP_HEADER.size, offset))
            offset += _ZIP_HEADER.size + header[9] + header[10]
        content = os.pread(self._descriptor, size, offset)
        if len(content) < size:
            raise ValueError("the archive ends within it")
        if method == zipfile.ZIP_DEFLATED:
            content = zlib.decompress(content, wbits=-zlib.MAX_WBITS)
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
            return (self.path / name).is_file()
        return self._row(name) is not None

    def _row(self, name: str | bytes) -> int | None:
        row = bisect.bisect_left(self.names, key := os.fsencode(name))
        return row if row < len(self.names) and self.names[row] == key else None

    def inside(self, folder: str) -> Iterator[str]:
        """The names of the files directly in `folder`, without the folder. On disk, only this folder is listed."""
        if self._places is None:
            top = self.path / folder
            yield from sorted(entry.name for entry in os.scandir(top) if entry.is_file()) if top.is_dir() else ()
            return
        prefix = f"{folder.strip('/')}/".encode().lstrip(b"/")
        first, last = np.searchsorted(self.names, np.array([prefix, prefix + b"\xff"]))
        tails = (bytes(name).removeprefix(prefix) for name in self.names[first:last])
        yield from (unpacked(tail) for tail in tails if b"/" not in tail)

    @property
    def stamp(self) -> str:
        """A digest that changes when a file is added, removed or written: from the sizes and times of files in a folder
        or a tar, from the checksums in a zip.
        """
        digest = hashlib.sha256(self.names.tobytes())
        if self._places is None:
            found = [size_and_time(self.path / unpacked(name)) for name in self.names]
            digest.update(np.array(found, dtype=np.int64).tobytes())
            return digest.hexdigest()
        digest.update(self._places.tobytes())
        if (self._places[:, 2] == _TAR).any():
            # Tools that make tars often write one fixed time for all members.
            digest.update(np.array(size_and_time(self.path), dtype=np.int64).tobytes())
        return digest.hexdigest()

    def with_suffix(self, suffixes: frozenset[str]) -> Names:
        """The files whose name ends, in upper or lower case, with one of the suffixes."""
        chosen: Names = self.names[self._ends(suffixes)]
        return chosen

    def without_suffix(self, suffixes: frozenset[str]) -> Names:
        """The files whose name ends otherwise."""
        chosen: Names = self.names[~self._ends(suffixes)]
        return chosen

    def _ends(self, suffixes: frozenset[str]) -> NDArray[np.bool_]:
        ends = tuple(suffix.encode() for suffix in suffixes)
        return np.array([bytes(name).lower().endswith(ends) for name in self.names], dtype=bool)


def packed(names: Iterable[str | bytes]) -> Names:
    """Names as one array, in their order. Surrogates in a str stand for bytes of a file name that are not UTF-8."""
    return np.array([os.fsencode(name) for name in names] or np.empty(0, dtype="S1"), dtype=np.bytes_)


def unpacked(name: bytes) -> str:
    """One name of such an array."""
    return os.fsdecode(bytes(name))


def printable(name: bytes | str) -> str:
    """A name for people and files: a byte that is not UTF-8 is written as `udcff` behind a backslash."""
    return os.fsdecode(name).encode("utf-8", "backslashreplace").decode()


def find(names: Names, wanted: Names) -> Indices:
    """The places of `wanted` in the ascending `names`, -1 for a name that is not there; both of shape `(n,)`."""
    if not len(names):
        return np.full(len(wanted), -1, dtype=np.int64)
    rows = np.minimum(np.searchsorted(names, wanted), len(names) - 1).astype(np.int64)
    return np.where(names[rows] == wanted, rows, -1)


def leaves_out(name: str, exclude: Sequence[str] = ()) -> bool:
    """Whether a file or folder is left out because it is hidden, or by a pattern; see `Files`."""
    return _hidden(name) or any(_matches(name, one) for one in exclude)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def size_and_time(path: Path) -> tuple[int, int]:
    """Bytes, and time of the last change in ns; (-1, -1) if there is no file, because a link can lead nowhere."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _matches(name: str, pattern: str) -> bool:
    parts = name.split("/")
    if "/" in pattern:
        return any(fnmatchcase("/".join(parts[:depth]), pattern.strip("/")) for depth in range(1, len(parts) + 1))
    return any(fnmatchcase(part, pattern) for part in parts)


def _below(top: Path) -> tuple[list[str], list[str]]:
    """The files below a folder, ascending, and what was left out, in words."""
    found: list[str] = []
    closed: list[str] = []
    back: list[str] = []
    own, followed = os.path.realpath(top), set[str]()

    def known(place: Path) -> bool:
        # Files that are found under two names would be trained on, and judged, as two images.
        if not place.is_symlink():
            return False
        real = os.path.realpath(place)
        inside = os.path.commonpath((own, real)) in (own, real)
        again = any(os.path.commonpath((one, real)) in (one, real) for one in followed)
        followed.add(real)
        return inside or again

    def cannot(error: OSError) -> None:
        closed.append(f"{Path(error.filename).relative_to(top).as_posix()}: {error.strerror}")

    for folder, folders, names in os.walk(top, followlinks=True, onerror=cannot):
        again = [name for name in sorted(folders) if not _hidden(name) and known(Path(folder, name))]
        prefix = "" if folder == str(top) else Path(folder).relative_to(top).as_posix() + "/"
        back += [prefix + name for name in again]
        folders[:] = [name for name in sorted(folders) if not _hidden(name) and name not in again]
        found += [prefix + name for name in names if not _hidden(name)]
    left_out = []
    if closed:
        left_out.append(f"{len(closed)} folder(s) that cannot be read, the first {closed[0]}")
    if back:
        left_out.append(f"{len(back)} link(s) to folders that are read already, the first {back[0]}")
    return sorted(found, key=os.fsencode), left_out


def _zip_members(path: Path) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    with zipfile.ZipFile(path) as archive:
        for one in archive.infolist():
            if one.is_dir():
                continue
            if one.flag_bits & _ENCRYPTED or one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                advice = "is encrypted or compressed in an unusual way; make the zip with store or deflate"
                raise ValueError(f"{path}: {one.filename} {advice}")
            yield one.filename, (one.header_offset, one.compress_size, one.compress_type, one.CRC)


def _tar_members(path: Path) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    found: dict[str, tuple[int, int, int, int]] = {}
    with tarfile.open(path, "r:") as archive:
        for one in archive:
            if one.issparse():
                raise ValueError(f"{path}: {one.name} is stored with holes; make the tar without --sparse")
            if one.isreg():
                found[one.name] = (one.offset_data, one.size, _TAR, int(one.mtime))
            elif one.islnk() and one.linkname in found:
                found[one.name] = found[one.linkname]
            archive.members = []  # type: ignore[attr-defined]  # it would keep an object for every member
    return ((name.removeprefix("./"), place) for name, place in found.items())
