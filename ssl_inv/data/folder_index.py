"""The names of the files below a folder; those of large folders are kept in an index, which all processes map."""

import hashlib
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from ssl_inv.atomic import write_text, written_aside
from ssl_inv.data.exclusion import kept
from ssl_inv.data.names import Names, packed
from ssl_inv.data.source import Indices
from ssl_inv.data.tree import Tree, state_of, walked

LEAST_KEPT = 50_000
"""Files of a folder from which on its index is kept."""

ALWAYS_ASKED = 200_000
"""Files whose size and time a stamp always looks at."""

SETTLED_NS = 2_000_000_000
"""An index of a folder that changed so shortly before is not kept. The clocks of file systems tick in steps, so that a
change within the same step would be missed."""

_FORM = "1"

_SCHEMA = pa.schema(
    [
        pa.field("names", pa.large_list(pa.large_binary())),
        pa.field("folders", pa.large_list(pa.large_binary())),
        pa.field("states", pa.large_list(pa.int64())),
    ]
)

_LOG = logging.getLogger("ssl_inv.data")


def names_below(top: Path, exclude: Sequence[str]) -> tuple[Names, list[str]]:
    """The files below a folder, ascending, and what was left out, in words.

    A folder is searched once: above `LEAST_KEPT` files, its names are kept in a file of the user's cache, which
    processes map into their memory. They are searched again if any folder has changed, by its number and its times: a
    file that is added, removed or renamed changes those of its folder. A link to a file that leads to a folder later
    is not noticed.

    Args:
        top: the folder.
        exclude: see `Files`.
    """
    file = place_of(top, exclude)
    if file is not None and (found := _opened(file, top)) is not None and found.holds(top):
        _LOG.debug("%s: %d names from %s", top, len(found.names), found.file)
        return found.names, found.left_out
    begun = time.time_ns()
    tree = walked(top)
    names = tree.names()
    files = len(names)
    mask, words = kept(names, exclude)
    names, left_out = names[mask], tree.left_out + words
    if file is not None and files >= LEAST_KEPT:
        # Not by the time of the content, which people can set.
        if int(tree.states[:, 2].max()) > begun - SETTLED_NS:
            _LOG.debug("%s: changed a moment ago, so its names are not kept", top)
        else:
            found = write(file, top, tree, names, left_out)
            names = names if found is None else found.names
    return names, left_out


def size_and_time(path: str | bytes | Path) -> tuple[int, int]:
    """Bytes, and time of the last change in ns; (-1, -1) if there is no file, because a link can lead nowhere."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def folder_stamp(top: Path, names: Names) -> str:
    """A digest that changes when a file is added, removed or written.

    It is of the names, sizes and times of all files, which takes minutes for millions. So the stamp of a folder whose
    index is kept is kept too, and used again while its folders and `ALWAYS_ASKED` of its files are as they were. What
    it does not notice then is that other files were written over in place; a file that is put in another's place, by
    moving or removing it, changes its folder.
    """
    index = names.origin
    if not isinstance(index, IndexFile) or len(names) <= ALWAYS_ASKED:
        return _whole_stamp(top, names)
    digest = hashlib.sha256()
    some = names[np.linspace(0, len(names) - 1, ALWAYS_ASKED).astype(np.int64)]
    digest.update(b"".join(_sizes_and_times(top, some)))
    known = {"mark": index.mark, "files": digest.hexdigest()}
    file = index.file.with_suffix(".json")
    try:
        told = json.loads(file.read_text())
        if {key: told[key] for key in known} == known:
            return str(told["stamp"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        _LOG.debug("%s: no stamp is kept: %s", top, error)
    stamp = _whole_stamp(top, names)
    try:
        write_text(file, json.dumps({**known, "stamp": stamp}))
    except OSError as error:
        _LOG.debug("%s: its stamp cannot be kept: %s", top, error)
    return stamp


def _whole_stamp(top: Path, names: Names) -> str:
    digest = hashlib.sha256()
    for part in chain(names.padded(), _sizes_and_times(top, names)):
        digest.update(part)
    return digest.hexdigest()


def _sizes_and_times(top: Path, names: Names) -> Iterator[bytes]:
    start = os.fsencode(top)
    following = iter(names)
    while some := list(islice(following, 1 << 16)):
        found = [size_and_time(os.path.join(start, name)) for name in some]
        yield np.array(found, dtype=np.int64).tobytes()


# The index.


def cache_folder() -> Path:
    """Where indexes are kept: the environment variable SSL_INV_CACHE, or the platform's place for caches. The folder
    can be deleted at any time.
    """
    if named := os.environ.get("SSL_INV_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ssl-inv"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssl-inv"


def place_of(top: Path, exclude: Sequence[str]) -> Path | None:
    """The file of a folder's index; None if it would be one of the folder's own files."""
    try:
        own, cache = top.resolve(), cache_folder().resolve()
    except (OSError, RuntimeError):  # There may be no home.
        return None
    if cache == own or (own in cache.parents and not any(one[0] == "." for one in cache.relative_to(own).parts)):
        return None
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    key = json.dumps([_FORM, os.fsencode(own).hex(), list(exclude), user])
    return cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"


@dataclass(frozen=True)
class Index:
    """An index of a folder as it is mapped.

    Attributes:
        file: where it is kept.
        mark: differs between any two that were written.
        names: see `names_below`.
        folders: see `Tree`.
        states: see `Tree`.
        left_out: see `names_below`.
    """

    file: Path
    mark: str
    names: Names
    folders: Names
    states: Indices
    left_out: list[str]

    def holds(self, top: Path) -> bool:
        """Whether every folder is as it was."""
        start = os.fsencode(top)
        try:
            for folder, state in zip(self.folders, self.states.tolist(), strict=True):
                if state != list(state_of(os.path.join(start, folder))):
                    return False
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class IndexFile:
    """Where names were mapped from, for a pickled copy."""

    file: Path
    mark: str

    def there(self) -> bool:
        """See `Origin`."""
        try:
            return _read(self.file).mark == self.mark
        except (OSError, ValueError, pa.ArrowException):
            return False

    def names(self) -> Names:
        """See `Origin`.

        Raises:
            RuntimeError: if the index was replaced in the meantime.
        """
        try:
            index = _read(self.file)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise RuntimeError(f"{self.file} was removed while a process started: {error}") from error
        if index.mark != self.mark:
            raise RuntimeError(f"{self.file} was replaced while a process started, because the data changed")
        return index.names


def _read(file: Path) -> Index:
    """An index, mapped.

    Raises:
        OSError, ValueError, ArrowException: if there is none, or it is no index.
    """
    with pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        if not reader.schema.equals(_SCHEMA) or reader.num_record_batches != 1:
            raise ValueError("no index of a folder")
        batch = reader.get_batch(0)
    batch.validate(full=True)
    told = {key.decode(): value.decode() for key, value in (reader.schema.metadata or {}).items()}
    names, folders, states = (column.values for column in batch.columns)
    if batch.num_rows != 1 or len(states) != 3 * len(folders) or told.get("form") != _FORM:
        raise ValueError("no index of a folder")
    return Index(
        file,
        told["mark"],
        _mapped(names, IndexFile(file, told["mark"])),
        _mapped(folders, None),
        states.to_numpy().reshape(-1, 3),
        json.loads(told["left_out"]),
    )


def _mapped(array: pa.LargeBinaryArray, origin: IndexFile | None) -> Names:
    _, bounds, text = array.buffers()
    letters = np.frombuffer(text, dtype=np.uint8) if text is not None else np.zeros(0, dtype=np.uint8)
    return Names(letters, np.frombuffer(bounds, dtype=np.int64, count=len(array) + 1), origin=origin)


def _opened(file: Path, top: Path) -> Index | None:
    """The index in a file; None if there is none, or it cannot be used."""
    try:
        return _read(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        _LOG.debug("%s: the index %s cannot be used: %s", top, file, error)
        return None


def write(file: Path, top: Path, tree: Tree, names: Names, left_out: list[str]) -> Index | None:
    """Keep an index; None if that cannot be done."""
    told = {"form": _FORM, "mark": uuid.uuid4().hex, "folder": os.fsdecode(top), "left_out": json.dumps(left_out)}
    metadata = {key: value.encode("utf-8", "backslashreplace") for key, value in told.items()}
    folders = packed(tree.folders)
    values = [names.arrow(), folders.arrow(), pa.array(tree.states.ravel())]
    columns = [pa.LargeListArray.from_arrays(pa.array([0, len(one)], type=pa.int64()), one) for one in values]
    batch = pa.record_batch(columns, schema=_SCHEMA.with_metadata(metadata))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            written_aside(file) as aside,
            pa.OSFile(str(aside), "wb") as sink,
            pa.ipc.new_file(sink, batch.schema) as to,
        ):
            to.write_batch(batch)
        _LOG.debug("%s: %d names are kept in %s", top, len(names), file)
        return _read(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        _LOG.debug("%s: its names cannot be kept: %s", top, error)
        return None
