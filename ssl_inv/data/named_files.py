"""Files that the cells of a table name: which they are, and which of them lie outside the data."""

import hashlib
import os
import posixpath
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import PureWindowsPath

import numpy as np

from ssl_inv.catalogue import suggest
from ssl_inv.data.archives import Files
from ssl_inv.data.folder_index import size_and_time
from ssl_inv.data.names import Names, packed, unpacked


def named_files(files: Files, cells: Sequence[str], at: Callable[[int], str], outside: bool) -> Names:
    """The file of every row.

    Cells may begin with `./`, have backslashes, pass `..`, and be written with other bytes for the same letters, as
    macOS and Linux do.

    Args:
        files: the folder or archive that paths are relative to.
        cells: the path in every row.
        at: says where a row is, for messages.
        outside: whether paths may lead out of the folder.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a path leads out of the data and `outside` is false.
    """
    names = packed(cells)
    missing = np.flatnonzero(files.names.find(names) < 0).tolist()
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
            raise ValueError(f"{at(row)}: {cell!r} leads out of the {place} of the data; {advice}")
        if above and top is not None and (files.path / plain).is_file():
            mended[row] = plain
        else:
            lost.append(row)
    if lost:
        name, count = cells[lost[0]], f"{len(lost)} of {len(names)} are missing"
        close = suggest(name, map(unpacked, files.names[:10_000]))
        raise FileNotFoundError(f"{at(lost[0])}: no file {name!r} ({count}); {close}")
    return packed(mended)


def stamp_with_outside(stamp: str, files: Files, names: Names) -> str:
    """The stamp of files, and of those among `names` that lie outside their folder."""
    outside = sorted(set(names[names.beginning(b"../")]))
    if not outside:
        return stamp
    found = [(name, size_and_time(files.path / unpacked(name))) for name in outside]
    return hashlib.sha256(repr((stamp, found)).encode()).hexdigest()


def relative(path: str, top: str) -> str:
    """A path from a folder on, so that no file has two names; an absolute one may lead into the folder."""
    real = os.path.realpath(top)
    if path.startswith(f"{(told := os.path.abspath(top))}/"):
        return posixpath.relpath(path, told)
    return posixpath.relpath(posixpath.join(real, path), real)
