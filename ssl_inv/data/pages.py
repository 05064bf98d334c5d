"""Files with several images: pages of a TIFF, frames of a GIF, WebP, PNG, AVIF or HEIC."""

import io
import warnings
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from ssl_inv.data.archives import Files
from ssl_inv.data.decoding import register_heic
from ssl_inv.data.names import Names
from ssl_inv.data.reading import PLAIN, Reading
from ssl_inv.data.source import Indices

Pages = Literal["first", "views"]

_PAGED = (".tif", ".tiff", ".gif", ".webp", ".png", ".avif", ".heic", ".heif")
_HEIF = (b".heic", b".heif")

_LOOKED_AT = 64
"""Files that are opened to say that there are more pages, where only the first is read."""

_KIND, _COPIES = 254, 0b101
"""Tag of a TIFF: NewSubfileType, and its bits for reduced copies of another page, and for masks."""

_SAMPLES = 277
"""Tag of a TIFF: SamplesPerPixel."""


def pages_of(files: Files, names: Names) -> list[list[int]]:
    """The pages of every file, counted from 0. Only headers are read, and only of formats that can have several; a file
    that cannot be opened has one.
    """
    able = names.ending(_PAGED).tolist()
    return [_numbers(files, name) if several else [0] for name, several in zip(names, able, strict=True)]


def unread_pages(files: Files, names: Names, reading: Reading = PLAIN) -> str | None:
    """Says of some files, spread over all, how many have more pages than those that are read; None if none has."""
    able = np.flatnonzero(names.ending(_PAGED))
    if not len(able):
        return None
    chosen = names[able[np.unique(np.linspace(0, len(able) - 1, _LOOKED_AT).astype(np.int64))]]
    more = sum(len(_numbers(files, name, as_bands=reading.pages_are_bands)) > 1 for name in chosen)
    which = "files" if len(chosen) == len(names) else f"files that were looked at, of {len(able)} that can have some,"
    return f"{more} of {len(chosen)} {which} have more pages; only the first is read" if more else None


def repeated(pages: list[list[int]]) -> tuple[Indices, Indices]:
    """How many pages each file has, `(N,)`, and the number of every page, file by file."""
    counts = np.array([len(one) for one in pages], dtype=np.int64)
    return counts, np.array([number for one in pages for number in one], dtype=np.int64)


def _numbers(files: Files, name: bytes, as_bands: bool = False) -> list[int]:
    try:
        if name.lower().endswith(_HEIF):
            register_heic()
        path = files.path_of(name)
        if path is not None and not path.is_file():  # To open a pipe would wait for ever.
            return [0]
        with io.BytesIO(files.read(name)) if path is None else path.open("rb") as opened:
            return _numbers_in(opened, as_bands)
    except Exception:  # Pillow raises OSError, SyntaxError, struct.error and more; the file is counted when it is read.
        return [0]


def _numbers_in(opened: BinaryIO, as_bands: bool) -> list[int]:
    """The pages of a file that are images. Those of a TIFF with one band each can be the bands of a single one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(opened)
    count = getattr(image, "n_frames", 1)
    if count == 1 or not isinstance(image, TiffImageFile):
        return [*range(count)]
    if as_bands and image.tag_v2.get(_SAMPLES, 1) == 1:
        return [0]
    kept = []
    for number in range(count):
        image.seek(number)
        if not image.tag_v2.get(_KIND, 0) & _COPIES:
            kept.append(number)
    return kept or [0]
