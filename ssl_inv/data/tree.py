"""Searches a folder for files."""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_inv.data.names import Names, from_lengths
from ssl_inv.data.source import Indices


@dataclass
class Tree:
    """The files and folders below a folder.

    Attributes:
        folders: relative to the top, which is the first and empty; others end with a slash.
        states: of every folder, `(folders, 3)`: its number in the file system, and the times of its last changes of
            content and of any kind, in ns.
        files: the names in every folder, ascending, with a zero byte behind each.
        left_out: what was left out, in words.
    """

    folders: list[bytes]
    states: Indices
    files: list[bytes]
    left_out: list[str]

    def names(self) -> Names:
        """All files, ascending. The lists of names are used up."""
        files, self.files = dict(zip(self.folders, self.files, strict=True)), []
        within: dict[bytes, list[bytes]] = {}
        for folder in self.folders[1:]:
            within.setdefault(folder[: folder.rfind(b"/", 0, -1) + 1], []).append(folder)
        texts: list[NDArray[np.uint8]] = []
        lengths: list[Indices] = []
        waiting = bytearray()

        def flush() -> None:
            letters = np.frombuffer(bytes(waiting), dtype=np.uint8)
            ends = np.flatnonzero(letters == 0)
            texts.append(letters[letters != 0])
            lengths.append(np.diff(ends, prepend=-1) - 1)
            waiting.clear()

        for part in _ascending(b"", files, within):
            waiting += part
            if len(waiting) > 1 << 24:
                flush()
        flush()
        return from_lengths(texts, lengths)


def _ascending(folder: bytes, files: dict[bytes, bytes], within: dict[bytes, list[bytes]]) -> Iterator[bytes]:
    """The names below a folder in ascending order, in parts, with a zero byte behind each name."""
    own = files.pop(folder)
    inner = sorted(within.pop(folder, []))
    if not inner:
        yield _prefixed(folder, own)
        return
    names = own.split(b"\0")[:-1]
    first = 0
    for one in inner:
        last = first
        # A folder takes the place of its name with a slash among the files.
        while last < len(names) and names[last] < one[len(folder) :]:
            last += 1
        yield _prefixed(folder, b"".join(name + b"\0" for name in names[first:last]))
        yield from _ascending(one, files, within)
        first = last
    yield _prefixed(folder, b"".join(name + b"\0" for name in names[first:]))


def _prefixed(folder: bytes, names: bytes) -> bytes:
    return folder + names[:-1].replace(b"\0", b"\0" + folder) + b"\0" if names else b""


def walked(top: Path) -> Tree:
    """Search a folder. Links to folders are followed, unless their files have names already.

    One thread: several are no faster where folders are in the memory of the machine.
    """
    own, followed = os.path.realpath(os.fsencode(top)), set[bytes]()
    closed: list[str] = []
    back: list[str] = []
    folders: list[bytes] = []
    states: list[tuple[int, int, int]] = []
    files: list[bytes] = []

    def known(place: bytes) -> bool:
        # Files that are found under two names would be trained on, and judged, as two images.
        real = os.path.realpath(place)
        inside = os.path.commonpath((own, real)) in (own, real)
        again = any(os.path.commonpath((one, real)) in (one, real) for one in followed)
        followed.add(real)
        return inside or again

    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        path = os.path.join(os.fsencode(top), folder)
        inner: list[bytes] = []
        links: list[bytes] = []
        names: list[bytes] = []
        folders.append(folder)
        state = -1, -1, -1
        try:
            # The state comes first: what changes later makes another one.
            state = state_of(path)
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(b".") or name == b"__MACOSX":
                        continue
                    if not _is_folder(entry):
                        names.append(name)
                    else:
                        (links if entry.is_symlink() else inner).append(name)
        except OSError as error:
            closed.append(f"{os.fsdecode(folder.rstrip(b'/')) or '.'}: {error.strerror}")
            inner, links, names = [], [], []
        states.append(state)
        again = {name for name in sorted(links, key=os.fsdecode) if known(os.path.join(path, name))}
        back += [os.fsdecode(folder + name) for name in sorted(again, key=os.fsdecode)]
        inner += [name for name in links if name not in again]
        waiting += [folder + name + b"/" for name in sorted(inner, key=os.fsdecode, reverse=True)]
        names.sort()
        files.append(b"\0".join([*names, b""]))
    left_out = []
    if closed:
        left_out.append(f"{len(closed)} folder(s) that cannot be read, the first {closed[0]}")
    if back:
        left_out.append(f"{len(back)} link(s) to folders that are read already, the first {back[0]}")
    return Tree(folders, np.array(states, dtype=np.int64), files, left_out)


def _is_folder(entry: "os.DirEntry[bytes]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def state_of(path: bytes) -> tuple[int, int, int]:
    """See `Tree.states`."""
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path))
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns
