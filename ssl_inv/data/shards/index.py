"""The index of a shard: where its members lie, and what its small texts say.

The index of `train-000.tar` is the file `train-000.tar.index` beside it, or, where nothing can be written there, a file
in the cache. It holds four numpy arrays one after the other, each as `numpy.save` writes it:

- `stamp`, a text: the version of this form, the size of the tar in bytes, and its time of change in nanoseconds or the
  tag that its server gives it, separated by blanks;
- `members`, `(N,)`, in the order of the tar, with the fields `name`, `offset`, where the content begins, and `size`;
- `texts`, bytes: the contents of the members that end with `.cls` or `.json`, one after the other;
- `cut`, a text: why the rest of the tar is missing; empty if it is whole.

`members` and `texts` are mapped into memory, so that processes on a machine share them.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ssl_inv.atomic import written_aside
from ssl_inv.data.names import unpacked

_VERSION = "1"

TEXTS = (b".cls", b".json")
"""How members end whose contents are part of the index, in lower case."""

_LONGEST_TEXT = 1 << 20

_BLOCK = 512


class BrokenShardError(ValueError):
    """A shard that cannot be indexed; the message is the reason, without its name."""


@dataclass(frozen=True)
class Index:
    """The members of a shard.

    Attributes:
        stamp: size and change of the tar that was indexed.
        members: see the docstring of this module.
        texts: see there.
        cut: why the rest of the tar is missing; empty if it is whole.
    """

    stamp: str
    members: NDArray[np.void]
    texts: NDArray[np.uint8]
    cut: str = ""

    def text_places(self) -> NDArray[np.int64]:
        """Where the text of every member begins and ends, `(N + 1,)`; the two are equal for a member without text."""
        held = np.array([is_text(bytes(name)) for name in self.members["name"]], dtype=bool)
        sizes = np.where(held, self.members["size"], 0)
        return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)))


def is_text(name: bytes) -> bool:
    """Whether the content of a member is part of the index."""
    return name.lower().endswith(TEXTS)


def shard_stamp(size: int, change: object) -> str:
    """The stamp of a tar of a size, with its time of change or its server's tag."""
    return f"{_VERSION} {size} {str(change).replace(' ', '_')}"


def stamped_size(stamp: str) -> int:
    """The size of the tar in a stamp."""
    return int(stamp.split(" ")[1])


def make_index(content: IO[bytes], stamp: str) -> Index:
    """Read all headers of a tar. Of a tar that ends too early, the members before that are kept, and `cut` says why.

    Raises:
        BrokenShardError: if it is no uncompressed tar, or has no whole member.
    """
    names, places, texts, cut = list[bytes](), list[tuple[int, int]](), list[bytes](), ""
    size = stamped_size(stamp)
    try:
        with tarfile.open(fileobj=content, mode="r:") as archive:
            for one in _members(archive):
                name = os.fsencode(one.name.removeprefix("./"))
                if one.offset_data + one.size > size:
                    cut = f"it ends within {one.name}"
                    break
                names.append(name)
                places.append((one.offset_data, one.size))
                if is_text(name):
                    texts.append(_text(content, one))
            else:
                if not cut and _ends_early(content, archive.offset, size):
                    cut = "it ends without the mark of its end"
    except (tarfile.TarError, EOFError) as error:
        if not names:
            raise BrokenShardError(f"not an uncompressed tar: {error}") from error
        cut = f"it is damaged after {unpacked(names[-1])}: {error}"
    if not names:
        raise BrokenShardError(cut or "there is nothing in it")
    kind = np.dtype([("name", f"S{max(map(len, names), default=1)}"), ("offset", "<i8"), ("size", "<i8")])
    rows = [(name, *place) for name, place in zip(names, places, strict=True)]
    return Index(stamp, np.array(rows, dtype=kind), np.frombuffer(b"".join(texts), dtype=np.uint8), cut)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The regular members of a tar; hidden files, and what archivers add, are left out."""
    for one in archive:
        archive.members = []  # type: ignore[attr-defined]  # it would keep an object for every member
        if one.issparse():
            raise BrokenShardError(f"{one.name} is stored with holes; make the tar without --sparse")
        parts = one.name.removeprefix("./").split("/")
        if one.isreg() and not any(part.startswith(".") or part == "__MACOSX" for part in parts):
            yield one


def _text(content: IO[bytes], member: tarfile.TarInfo) -> bytes:
    if member.size > _LONGEST_TEXT:
        raise BrokenShardError(f"{member.name} has {member.size:,} bytes; a text may have {_LONGEST_TEXT:,}")
    back = content.tell()
    content.seek(member.offset_data)
    text = content.read(member.size)
    content.seek(back)
    return text


def _ends_early(content: IO[bytes], end: int, size: int) -> bool:
    """Whether the mark of the end, a block of zeros, is missing behind the last member; tarfile does not mind."""
    content.seek(min(end, size))
    return content.read(_BLOCK) != bytes(_BLOCK)


def write_index(index: Index, path: Path) -> None:
    """Write an index, or replace one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside, aside.open("wb") as file:
        for array in (np.array(index.stamp), index.members, index.texts, np.array(index.cut)):
            np.save(file, array, allow_pickle=False)


def read_index(path: Path) -> Index | None:
    """The index in a file, mapped into memory; None if there is none, or it is damaged."""
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except OSError:
        return None


def parse_index(content: bytes) -> Index | None:
    """The index in the bytes of a file; None if it is damaged."""
    return _read(io.BytesIO(content), None)


def _read(file: IO[bytes], mapped: Path | None) -> Index | None:
    try:
        stamp, members, texts = np.load(file, allow_pickle=False), _array(file, mapped), _array(file, mapped)
        cut = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError):  # A damaged header may say any shape.
        return None
    known = members.dtype.names == ("name", "offset", "size") and texts.dtype == np.uint8
    return Index(str(stamp), members, texts, str(cut)) if known and str(stamp).startswith(f"{_VERSION} ") else None


def _array(file: IO[bytes], mapped: Path | None) -> NDArray[Any]:
    """The array that begins where a file stands."""
    array: NDArray[Any] = np.load(file, allow_pickle=False)
    if mapped is None or not array.size:
        return array
    # numpy maps only files of a single array.
    begin = file.tell() - array.nbytes
    # As a plain array, whose elements are found at a third of the cost.
    return np.memmap(mapped, dtype=array.dtype, mode="r", offset=begin, shape=array.shape).view(np.ndarray)


def matches(content: IO[bytes], index: Index) -> bool:
    """Whether the last member of an index stands in a tar where the index says so.

    It tells an index that was copied with its tar to a place where times are others from the index of another tar.
    """
    if not len(index.members):
        return False
    last = index.members[-1]
    content.seek(int(last["offset"]) - _BLOCK)
    try:
        header = tarfile.TarInfo.frombuf(content.read(_BLOCK), "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    # A long name stands in a header of its own; what this one has is its beginning.
    begins = os.fsencode(PurePosixPath(header.name).name)[:64]
    return header.size == int(last["size"]) and begins in bytes(last["name"])


def cached_name(place: str) -> str:
    """A name in the cache for what belongs to a place."""
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:40]
