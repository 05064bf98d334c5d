"""Reads ranges of remote files, with retries, and keeps whole shards on the disk, within a bound."""

import contextlib
import fcntl
import io
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ssl_inv.data.shards.addresses import filesystem
from ssl_inv.data.shards.index import cached_name, shard_stamp, stamped_size

WAITS = (0.5, 2.0)
"""Seconds before the second and the third try."""

_CHANGES = (
    *("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "mtime"),
    *("LastModified", "Last-Modified", "last_modified", "modified", "created"),
)
"""What file systems call the tag or the time of a file; the first that there is tells whether it has changed."""

_FINAL = (401, 403, 404, 410)
"""Answers of an HTTP server that another try would not change."""

_CHUNK = 8 << 20

_WORTH_A_COPY = 16
"""A shard is copied when a process has read so many of its images. Random single images are not worth it."""

_FRESH = 60.0
"""Seconds in which a use of a copy is not noted again."""

Result = TypeVar("Result")

_LOG = logging.getLogger("ssl_inv.data")


class UnreachableError(OSError):
    """A remote file that cannot be read; the message is the reason, after all tries."""


def retried(work: Callable[[], Result]) -> Result:
    """The result of some work on a remote file, tried three times.

    Raises:
        UnreachableError: if all tries fail, or at once if there is no such file or no permission.
    """
    for wait in (*WAITS, None):
        try:
            return work()
        except Exception as error:  # Every protocol has errors of its own.
            # fsspec calls whatever an HTTP server answers a file that is not found, and keeps the answer as the cause.
            cause = error.__cause__ or error
            status = getattr(cause, "status", None)
            final = isinstance(cause, FileNotFoundError | PermissionError) or status in _FINAL
            if final or wait is None:
                tries = "" if final else f", after {len(WAITS) + 1} tries"
                raise UnreachableError(f"{type(cause).__name__}: {cause}{tries}") from error
            time.sleep(wait)
    raise AssertionError


def remote_stamp(place: str) -> str:
    """The stamp of a remote file: its size, and its tag or time if its server tells one.

    Raises:
        UnreachableError: if it cannot be reached, or its server does not tell its size.
    """

    def asked() -> str:
        files, inside = filesystem(place)
        found = files.info(inside)
        if found.get("size") is None:
            raise PermissionError("the server does not tell the size of the file")
        return shard_stamp(int(found["size"]), next((found[one] for one in _CHANGES if found.get(one)), "-"))

    return retried(asked)


def read_range(place: str, offset: int, size: int) -> bytes:
    """A part of a remote file.

    Raises:
        UnreachableError: if it cannot be read.
    """

    def asked() -> bytes:
        files, inside = filesystem(place)
        content: bytes = files.cat_file(inside, start=offset, end=offset + size) if size else b""
        if len(content) > size:
            raise PermissionError("the server does not give ranges of files")
        if len(content) < size:
            raise OSError(f"the server gave {len(content):,} of {size:,} bytes")
        return content

    return retried(asked)


def whole_file(place: str) -> bytes:
    """All of a small remote file.

    Raises:
        UnreachableError: if it cannot be read.
    """

    def asked() -> bytes:
        files, inside = filesystem(place)
        content: bytes = files.cat_file(inside)
        return content

    return retried(asked)


class Ranges(io.RawIOBase):
    """A remote file as a file that is open for reading.

    Args:
        place: its address.
        size: in bytes.
    """

    def __init__(self, place: str, size: int) -> None:
        self._place, self._size, self._at = place, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read as much as fits, or is left."""
        wanted = max(min(len(buffer), self._size - self._at), 0)
        buffer[:wanted] = read_range(self._place, self._at, wanted)
        self._at += wanted
        return wanted


class Copies:
    """Copies of whole remote shards on the disk.

    Several processes share one folder. A copy appears at once, by renaming, and one process at a time makes it. The
    copies together, those in the making among them, never take more than the bound: the one that was used longest ago
    is removed first.

    Args:
        folder: where they lie.
        most: bytes that they may take together.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self._reads: Counter[str] = Counter()

    def read(self, place: str, stamp: str, offset: int, size: int) -> bytes | None:
        """A part of a shard from its copy; None if there is none, or none yet."""
        copy = self._of(place, stamp)
        if (content := _part(copy, offset, size)) is not None:
            return content
        self._reads[place] += 1
        if self._reads[place] < _WORTH_A_COPY:
            return None
        del self._reads[place]
        # Another process may have removed it already.
        return None if self.fetch(place, stamp) is None else _part(copy, offset, size)

    def fetch(self, place: str, stamp: str) -> Path | None:
        """Copy a shard, unless there is a copy; None if there is no room for it, or it cannot be copied."""
        copy = self._of(place, stamp)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(copy.with_suffix(".lock")):
                if copy.exists():
                    return copy
                aside = copy.with_suffix(".part")
                try:
                    return copy if self._copied(place, stamp, aside, copy) else None
                finally:
                    aside.unlink(missing_ok=True)
        except OSError as error:
            _LOG.warning("%s is read without a copy: %s", place, error)
            return None

    def _copied(self, place: str, stamp: str, aside: Path, copy: Path) -> bool:
        size = stamped_size(stamp)
        if not self._reserved(aside, size):
            return False
        with aside.open("r+b") as file:
            for begin in range(0, size, _CHUNK):
                file.write(read_range(place, begin, min(_CHUNK, size - begin)))
        if remote_stamp(place) != stamp:
            raise UnreachableError("it has changed since it was indexed")
        os.replace(aside, copy)
        return True

    def _of(self, place: str, stamp: str) -> Path:
        return self.folder / f"{cached_name(f'{place} {stamp}')}.tar"

    def _reserved(self, aside: Path, size: int) -> bool:
        """Make room for a copy, and take it; False if others need it now."""
        with _locked(self.folder / "room.lock"):
            aside.unlink(missing_ok=True)
            held = sorted((found.st_mtime, found.st_size, path) for path, found in _files(self.folder))
            taken = sum(one for _, one, _ in held)
            for _, one, path in held:
                if taken + size <= self.most:
                    break
                if path.suffix == ".tar" or _abandoned(path):
                    path.unlink(missing_ok=True)
                    taken -= one
            if taken + size > self.most:
                return False
            with aside.open("wb") as file:
                file.truncate(size)
        return True


def _part(copy: Path, offset: int, size: int) -> bytes | None:
    """A part of a copy; None if there is none."""
    try:
        descriptor = os.open(copy, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if time.time() - os.fstat(descriptor).st_mtime > _FRESH:
            os.utime(descriptor)
        return os.pread(descriptor, size, offset)
    finally:
        # An open copy that another process removes would take room that nobody counts.
        os.close(descriptor)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        if path.suffix in (".tar", ".part"):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()


def _abandoned(part: Path) -> bool:
    """Whether nobody makes the copy any more whose part this is."""
    try:
        with _locked(part.with_suffix(".lock"), wait=False):
            return True
    except BlockingIOError:
        return False


@contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Keep other processes and threads out. The lock ends with the process, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
