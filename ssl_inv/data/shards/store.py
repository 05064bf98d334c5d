"""Some shards with their indices, opened once and read at any place."""

import functools
import hashlib
import io
import logging
import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ssl_inv.data.archives import require_size
from ssl_inv.data.folder_index import cache_folder, size_and_time
from ssl_inv.data.shards.addresses import Address
from ssl_inv.data.shards.index import (
    BrokenShardError,
    Index,
    cached_name,
    make_index,
    matches,
    parse_index,
    read_index,
    shard_stamp,
    stamped_size,
    write_index,
)
from ssl_inv.data.shards.remote import (
    Copies,
    Ranges,
    UnreachableError,
    read_range,
    remote_stamp,
    whole_file,
)

INDEX_SUFFIX = ".index"

_OPEN_FILES = 128
"""Local shards that a process keeps open: more than the blocks of a window of training."""

_AT_A_TIME, _READAHEAD = 16, 1 << 20

_LOG = logging.getLogger("ssl_inv.data")


@dataclass(frozen=True)
class Shard:
    """A shard that can be read.

    Attributes:
        address: where it is.
        index: its members.
        gone: why it cannot be reached now, although its index is known; empty if it can.
    """

    address: Address
    index: Index
    gone: str = ""


class Store:
    """Shards, read by shard and member. Threads and processes share it without locks, and copies can be pickled.

    Args:
        addresses: of the shards.
        copies: keeps whole remote shards; None reads them by ranges.

    Attributes:
        copies: see above.
        shards: those that could be indexed, in their order.
        broken: by name, why other shards could not be, or why one has lost its end.
    """

    def __init__(self, addresses: Sequence[Address], copies: Copies | None = None) -> None:
        self.copies = copies
        self.broken: dict[str, str] = {}
        self.shards: list[Shard] = []
        for address, found in zip(addresses, self._all(addresses), strict=True):
            if isinstance(found, str):
                self.broken[address.name] = found
                continue
            self.shards.append(found)
            if reason := found.gone or found.index.cut:
                self.broken[address.name] = reason
        self._keep_open()

    def _all(self, addresses: Sequence[Address]) -> list[Shard | str]:
        def opened(address: Address) -> Shard | str:
            try:
                return _remote_shard(address, self.copies) if address.remote else _local_shard(address)
            except BrokenShardError as error:
                return str(error)

        if not any(address.remote for address in addresses):
            return [opened(address) for address in addresses]
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            return list(pool.map(opened, addresses))

    def _keep_open(self) -> None:
        # The cache of functools can be used by several threads. A file that falls out of it is closed when the last
        # thread has read from it.
        self._opened: Callable[[int], _Descriptor] = functools.lru_cache(_OPEN_FILES)(self._open)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_opened"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._keep_open()

    def _open(self, shard: int) -> "_Descriptor":
        chosen = self.shards[shard]
        opened = _Descriptor(chosen.address.place)
        found = os.fstat(opened.number)
        if shard_stamp(found.st_size, found.st_mtime_ns) != chosen.index.stamp:
            raise ValueError("the shard has changed since it was indexed")
        return opened

    def size(self, shard: int, member: int) -> int:
        """Bytes of a member."""
        return int(self.shards[shard].index.members["size"][member])

    def name(self, shard: int, member: int) -> bytes:
        """The name of a shard and of a member in it, as if the shard were a folder."""
        chosen = self.shards[shard]
        return os.fsencode(chosen.address.name) + b"/" + bytes(chosen.index.members["name"][member])

    def read(self, shard: int, member: int) -> bytes:
        """The content of a member.

        Raises:
            OSError: if the shard cannot be read.
            ValueError: if it has changed since it was indexed, ends within the member, or that is too large.
        """
        chosen = self.shards[shard]
        _, offset, size = chosen.index.members[member].tolist()
        require_size(size, size)
        if not chosen.address.remote:
            content = os.pread(self._opened(shard).number, size, offset)
            if len(content) < size:
                raise ValueError("the shard ends within it")
            return content
        place = chosen.address.place
        copied = None if self.copies is None else self.copies.read(place, chosen.index.stamp, offset, size)
        return read_range(place, offset, size) if copied is None else copied

    @property
    def stamp(self) -> str:
        """A digest of the names, sizes and times or tags of all shards."""
        digest = hashlib.sha256()
        for one in self.shards:
            digest.update(os.fsencode(f"{one.address.name} {one.index.stamp}\n"))
        return digest.hexdigest()


class _Descriptor:
    """An open file, closed when nothing refers to it any more."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)


def _local_shard(address: Address) -> Shard | str:
    path = Path(address.place)
    beside = path.with_name(path.name + INDEX_SUFFIX)
    cached = cache_folder() / "indices" / cached_name(os.path.abspath(path))
    known = [one for one in (read_index(beside), read_index(cached)) if one is not None]
    size, time = size_and_time(path)
    if size < 0:
        reason = "there is no such file"
        return reason if not known else Shard(address, known[0], reason)
    stamp = shard_stamp(size, time)
    if (fresh := next((one for one in known if one.stamp == stamp), None)) is not None:
        return Shard(address, fresh)
    if known and stamped_size(known[0].stamp) != size:
        _LOG.warning("shard %s has changed since it was indexed, and is indexed again", address.name)
    try:
        with path.open("rb") as content:
            index = make_index(content, stamp)
    except OSError as error:
        return f"{error.strerror}"
    if not _kept(index, beside):
        _kept(index, cached)
    return Shard(address, index)


def _remote_shard(address: Address, copies: Copies | None) -> Shard | str:
    place = address.place
    cached = cache_folder() / "indices" / cached_name(place)
    known = read_index(cached)
    try:
        stamp = remote_stamp(place)
    except UnreachableError as error:
        return str(error) if known is None else Shard(address, known, str(error))
    if known is not None:
        if known.stamp == stamp:
            return Shard(address, known)
        _LOG.warning("shard %s has changed since it was indexed, and is indexed again", address.name)
    try:
        index = _index_beside(place, stamp)
        if index is None and copies is not None and (copy := copies.fetch(place, stamp)) is not None:
            with copy.open("rb") as content:
                index = make_index(content, stamp)
        if index is None:
            with io.BufferedReader(Ranges(place, stamped_size(stamp)), _READAHEAD) as ranges:
                index = make_index(ranges, stamp)
    except OSError as error:
        return str(error)
    _kept(index, cached)
    return Shard(address, index)


def _index_beside(place: str, stamp: str) -> Index | None:
    """The index that lies beside a remote shard, if it is of this very shard."""
    before, mark, after = place.partition("?")
    try:
        index = parse_index(whole_file(before + INDEX_SUFFIX + mark + after))
    except UnreachableError:
        return None
    if index is None or stamped_size(index.stamp) != stamped_size(stamp):
        return None
    # Its stamp has the time of another disk.
    with io.BufferedReader(Ranges(place, stamped_size(stamp)), 1024) as ranges:
        return Index(stamp, index.members, index.texts, index.cut) if matches(ranges, index) else None


def _kept(index: Index, path: Path) -> bool:
    """Write an index; False if it cannot be written there."""
    try:
        write_index(index, path)
    except OSError:
        return False
    return True
