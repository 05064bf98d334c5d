"""Arrays in numpy's files: which there are, and their numbers, mapped into memory where that is possible."""

import io
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ssl_inv.data.archives import DAMAGED_ARCHIVE, require_growth
from ssl_inv.data.splits import split_of
from ssl_inv.plain import require_file

IMAGE_NAMES = ("images", "image", "imgs", "img", "x", "pixels", "data", "frames")
"""Names of arrays of images, in lower case and without their split."""

_LOCAL_HEADER, _LENGTHS = 30, slice(26, 30)
"""Bytes of a zip member's own header, and where it has the lengths of name and extra field that follow."""


_DAMAGED: tuple[type[Exception], ...] = (ValueError, *DAMAGED_ARCHIVE)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file.

    Attributes:
        path: the file.
        name: of the array: the name in an `.npz`, or that of an `.npy` without its ending.
        shape: its shape.
        dtype: its type.
        columns_first: whether the first axis varies fastest.
        offset: where its numbers begin in the file; None if they are compressed.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    columns_first: bool
    offset: int | None

    def read(self) -> NDArray[Any]:
        """The numbers: mapped into memory, or in memory where they are compressed.

        Raises:
            ValueError: if they are pickled objects or the file is cut, in one line.
        """
        if self.dtype.hasobject:
            raise ValueError(f"{self.path}: {self.name} holds pickled Python objects, which are not read")
        try:
            if self.offset is not None and np.prod(self.shape, dtype=np.int64):
                order: Any = "F" if self.columns_first else "C"
                return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, order)
            with np.load(self.path, allow_pickle=False) as archive:
                found: NDArray[Any] = archive[self.name]
                return found
        except _DAMAGED as error:
            raise ValueError(f"{self.path}: {self.name} cannot be read: {_first_line(error)}") from error

    def require_all(self) -> None:
        """Raise a `ValueError` if the header promises more than there is, before memory is taken for it."""
        if self.dtype.hasobject:
            return
        try:
            if self.offset is not None:
                _require_numbers(self.shape, self.dtype, self.path.stat().st_size - self.offset)
                return
            with zipfile.ZipFile(self.path) as archive:
                member = archive.getinfo(f"{self.name}.npy")
            require_growth(member.file_size, member.compress_size)
            _require_numbers(self.shape, self.dtype, member.file_size)
        except _DAMAGED as error:
            raise ValueError(f"{self.path}: {self.name} cannot be read: {_first_line(error)}") from None


def stored_arrays(path: Path) -> list[StoredArray]:
    """The arrays of an `.npy`, an `.npz`, or all `.npy` of a folder, in ascending order of names.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: if there is no array, or a file is none of these.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if path.is_dir():
        found = [_npy(one) for one in sorted(path.iterdir()) if one.suffix.lower() == ".npy" and one.is_file()]
    else:
        try:
            require_file(path)  # A pipe would be waited for.
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        found = _npz(path) if zipfile.is_zipfile(path) else [_npy(path)]
    if not found:
        raise ValueError(f"{path} has no arrays in numpy's format")
    return found


def array_of_file(content: bytes) -> NDArray[Any]:
    """The array in the content of an `.npy`.

    Raises:
        ValueError: if it is none, holds pickled objects, or has fewer numbers than its header says, in one line.
    """
    file = io.BytesIO(content)
    try:
        shape, dtype, _ = _header(file)
        if not dtype.hasobject:
            _require_numbers(shape, dtype, len(content) - file.tell())
        found: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(_first_line(error)) from error
    return found


def name_and_split(name: str) -> tuple[str, str]:
    """The name of an array without the split in it, and that split, or an empty text: `x_train` is `x` and `train`."""
    words = re.split(r"[_\-. ]+", name)
    meanings = [meaning for word in words if (meaning := split_of(word)) is not None]
    if len(meanings) != 1 or len(words) < 2:
        return name, ""
    return "_".join(word for word in words if split_of(word) is None), meanings[0]


def is_array_of_images(file: str) -> bool:
    """Whether a file is an array with a usual name for images, such as `x_train.npy`."""
    path = Path(file)
    return path.suffix.lower() == ".npy" and name_and_split(path.stem)[0].lower() in IMAGE_NAMES


def _npy(path: Path) -> StoredArray:
    try:
        with path.open("rb") as file:
            return StoredArray(path, path.stem, *_header(file), file.tell())
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no array in numpy's format: {_first_line(error)}") from error


def _npz(path: Path) -> list[StoredArray]:
    found = []
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as whole:
            for one in sorted(archive.infolist(), key=lambda one: one.filename):
                if not one.filename.endswith(".npy"):
                    continue
                offset = None
                with archive.open(one) as file:
                    header = _header(file)
                    if one.compress_type == zipfile.ZIP_STORED:
                        whole.seek(one.header_offset + _LENGTHS.start)
                        lengths = np.frombuffer(whole.read(4), dtype="<u2")
                        offset = one.header_offset + _LOCAL_HEADER + int(lengths.sum()) + file.tell()
                found.append(StoredArray(path, one.filename.removesuffix(".npy"), *header, offset))
    except _DAMAGED as error:
        raise ValueError(f"{path} is no archive of numpy: {_first_line(error)}") from error
    return found


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _require_numbers(shape: tuple[int, ...], dtype: np.dtype[Any], there: int) -> None:
    if (wanted := math.prod(shape) * dtype.itemsize) > there:
        raise ValueError(f"its header says {wanted:,} bytes of numbers, and there are {there:,}")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, type, and whether the first axis varies fastest; the file then stands where the numbers begin."""
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not read")
    try:
        shape, columns_first, dtype = readers[version](file)
    except Exception as error:  # The header is a text of Python, whose reader raises many kinds of errors.
        raise ValueError(f"its header cannot be read: {_first_line(error)}") from error
    if min(shape, default=0) < 0:
        raise ValueError(f"its header has the shape {shape}")
    return shape, dtype, columns_first
