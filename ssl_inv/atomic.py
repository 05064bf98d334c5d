"""Writes files and folders whole or not at all, and finds out when what is read is not what was written.

Files are written aside first, then synced to the disk, then renamed. Every file of tensors carries its own checksum, a
CRC-32: archives of `torch.save` have one for each record, which torch does not look at; safetensors files have one of
everything in their metadata, which `seal` writes. Files without one are read as they are. For other files the record
beside them holds what `checksum` gives. To check 1 GB takes about half a second on one core.
"""

import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

SEAL = {"crc32": "00000000"}
"""An entry of the metadata of a safetensors file, in which `seal` writes the checksum."""

_SEALED = re.compile(rb'"crc32":"([0-9a-f]{8})"')
_ARCHIVE = b"PK\x03\x04"
_BLOCK = 1 << 20
_DISK = re.compile("os error|no space left|write failed|failed writing|requested and .* written", re.IGNORECASE)
"""What libraries say that write files by themselves, when they cannot."""


class DamagedFileError(ValueError):
    """A file is not what was written."""


class CannotWriteError(OSError):
    """A file cannot be written, as on a full disk. What was there before stays."""

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raises what goes wrong with the disk in the block as a `CannotWriteError`, in one line with the free space."""
    try:
        yield
    except CannotWriteError:
        raise
    except Exception as error:
        cause = _of_system(error)
        of_disk = isinstance(cause, OSError) and _is_of(cause, target)
        if not of_disk and not _DISK.search(str(error)):
            raise
        raise CannotWriteError(f"{target} cannot be written: {_reason(cause, target)}") from error


def _of_system(error: BaseException) -> BaseException:
    """The error of the system that an error has come of, such as torch's about an archive that it could not end."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return error if cause is None else cause


def _is_of(error: OSError, target: Path) -> bool:
    """Whether an error is about the target or what is beside it, and not about another file that the block reads."""
    return error.filename is None or str(target.parent) in str(error.filename)


def _reason(error: BaseException, target: Path) -> str:
    if not target.parent.is_dir():
        return "its folder is gone"
    free = shutil.disk_usage(target.parent).free / 1e9
    said = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())[:200]
    return f"{said} ({free:.3g} GB are free there)"


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A path beside `target` for a new file or folder, which replaces `target` if the block raises nothing.

    If the block raises, the new file or folder is removed and `target` stays. While a folder is replaced, it is missing
    for an instant; a file never is.

    Raises:
        CannotWriteError: if the disk is full, or the folder is gone or cannot be written.
    """
    aside = _aside(target)
    try:
        with writing(target):
            yield aside
            for one in [aside, *aside.rglob("*")] if aside.is_dir() else [aside]:
                _sync(one)
            if target.is_dir():
                old = target.with_name(f"{aside.name}.old")
                os.replace(target, old)
                os.replace(aside, target)
                shutil.rmtree(old)
            else:
                os.replace(aside, target)
            _sync(target.parent)
    finally:
        _remove(aside)


def seal(path: Path) -> None:
    """Write the checksum of a safetensors file whose metadata hold `SEAL` into them."""
    header, start = _header(path)
    found = _SEALED.search(header)
    if found is None:
        raise ValueError(f"{path}: its metadata have no place for a checksum")
    with path.open("r+b") as file:
        file.seek(start + found.start(1))
        file.write(f"{_sealed_content(path, header):08x}".encode())


def require_sound(path: Path) -> None:
    """Check a file against the checksums that it carries: an archive of `torch.save`, or a safetensors file.

    Raises:
        DamagedFileError: if it is not what was written. Files without checksums pass.
    """
    with path.open("rb") as file:
        is_archive = file.read(len(_ARCHIVE)) == _ARCHIVE
    if is_archive:
        try:
            with zipfile.ZipFile(path) as archive:
                odd = archive.testzip()
        except Exception as error:  # A damaged directory of the archive raises many kinds of errors.
            raise DamagedFileError(f"{path} is damaged: {' '.join(str(error).split())}") from None
        if odd is not None:
            raise DamagedFileError(f"{path} is damaged: {odd} in it does not fit its checksum")
    elif path.suffix == ".safetensors":
        header = _header(path)[0]
        found = _SEALED.search(header)
        if found is not None and int(found[1], 16) != _sealed_content(path, header):
            raise DamagedFileError(f"{path} is damaged: it does not fit its checksum")


def checksum(path: Path) -> str:
    """The CRC-32 of a file, for a record beside it."""
    with path.open("rb") as file:
        return f"{_crc(file, 0):08x}"


def _crc(file: BinaryIO, before: int) -> int:
    while block := file.read(_BLOCK):
        before = zlib.crc32(block, before)
    return before


def _header(path: Path) -> tuple[bytes, int]:
    """The header of a safetensors file, a JSON object, and where it begins."""
    with path.open("rb") as file:
        length = file.read(8)
        if len(length) < 8 or (size := struct.unpack("<Q", length)[0]) > path.stat().st_size:
            raise DamagedFileError(f"{path} is damaged: it is no safetensors file")
        return file.read(size), 8


def _sealed_content(path: Path, header: bytes) -> int:
    """The checksum of everything, with zeros in place of the checksum itself."""
    blank = _SEALED.sub(b'"crc32":"00000000"', header, count=1)
    with path.open("rb") as file:
        before = zlib.crc32(blank, zlib.crc32(file.read(8)))
        file.seek(8 + len(header))
        return _crc(file, before)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, or replace one."""
    with written_aside(path) as aside:
        # Names of files that are not UTF-8 are written with their bytes as `\udcff`.
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the file system has no links."""
    with written_aside(target) as aside:
        try:
            os.link(source, aside)
        except OSError:
            shutil.copyfile(source, aside)


def keep_before(path: Path, before: Path) -> None:
    """Give a file that is about to be replaced a second name, or another one where the file system has no links."""
    try:
        with written_aside(before) as aside:
            os.link(path, aside)
    except OSError:
        os.replace(path, before)


def remove_leftovers(path: Path) -> None:
    """Remove what a killed process was writing aside for `path`."""
    for aside in path.parent.glob(f".{path.name}.*"):
        _remove(aside)


def _aside(target: Path) -> Path:
    # The process number separates two writers of one file.
    return target.with_name(f".{target.name}.{os.getpid()}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):  # Windows cannot sync folders.
        return
    # Windows can sync only files that are open for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
