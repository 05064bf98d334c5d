"""Files that Pillow does not read as they are: colours of more than 8 bits, more than four bands, and `.npy`."""

import importlib
import io
import logging
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from ssl_inv.data.array_files import array_of_file
from ssl_inv.data.reading import Pixels, Reading, UnreadableImageError, band_axis, spread

Numbers = NDArray[Any]
"""Numbers of an image as the file has them, `(H, W, C)`."""

NPY, PNG = b"\x93NUMPY", b"\x89PNG\r\n\x1a\n"

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_PNG_DEPTH, _PNG_COLOURS = 24, (2, 4, 6)
"""Where a PNG has its bits; the byte behind it says whether it has more than one band."""

_TIFF_BITS, _TIFF_ORIENTATION, _TIFF_SAMPLES = 258, 274, 277

_MOST_BANDS = 4
"""Pillow reads no more."""

_STACKS = {"Z": "slices", "T": "times"}
"""Axes of a TIFF that are no bands, by the letter of tifffile."""

# It writes a line about every file with more bands.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

_GREY = np.array([0.299, 0.587, 0.114])
"""Luma of ITU-R 601, as Pillow has it."""


def wide_pixels(content: bytes, reading: Reading, page: int | None = None) -> Pixels | None:
    """The upright pixels `(H, W, C)` of a file that Pillow does not read as they are; None of others.

    Args:
        content: the file.
        reading: how numbers become pixels.
        page: of a TIFF with several, counted from 0; None: those of one band are the bands of one image.

    Raises:
        UnreadableImageError: if the file cannot be read in this way.
    """
    opacity = False
    if content.startswith(NPY):
        numbers = _of_npy(content, reading)
    elif content.startswith(PNG) and reading.limits and _has_wide_colours(content):
        numbers = _of_png(content)
        opacity = numbers.shape[2] in (2, 4)
    elif content.startswith(TIFF) and _is_beyond_pillow(content, reading, page):
        numbers, opacity = _of_tiff(content, reading, page)
    else:
        return None
    return as_pixels(numbers, reading, opacity)


def has_wide_numbers(content: bytes) -> bool:
    """Whether a file has numbers of more than 8 bits, for which `white` is, or is an array, whose bytes it is for too.
    Only the header is read; True where that does not say.
    """
    if content.startswith(NPY) or (content.startswith(PNG) and content[_PNG_DEPTH : _PNG_DEPTH + 1] == b"\x10"):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
        with image:
            if isinstance(image, TiffImageFile):
                return bool(max(image.tag_v2.get(_TIFF_BITS, (1,))) > 8)
            return image.mode.startswith(("I", "F"))
    except Exception:  # Pillow reads no header of a TIFF of more than four bands, and raises many kinds of errors.
        return True


def as_pixels(numbers: Numbers, reading: Reading, opacity: bool = False) -> Pixels:
    """Pixels `(H, W, C)` from the numbers of a file.

    Args:
        numbers: `(H, W, C)`, of any type.
        reading: which bands are taken, and what becomes 0 and 255.
        opacity: whether the last band says how opaque the others are.

    Raises:
        UnreadableImageError: if there are other bands than wanted, or nobody says what is white.
    """
    found, wanted = numbers.shape[2], reading.count
    if reading.bands:
        if max(reading.bands) > found:
            raise UnreadableImageError(f"there is no band {max(reading.bands)}: the image has {found}")
        chosen = _bytes(numbers[..., [band - 1 for band in reading.bands]], reading)
    elif wanted == found and wanted not in (1, 3):
        chosen = _bytes(numbers, reading)
    elif wanted in (1, 3):
        chosen = _colours(numbers, reading, opacity)
    else:
        raise UnreadableImageError(f"it has {found} band(s), and `channels` is {wanted}; choose some with `bands`")
    if chosen.shape[2] == wanted:
        return chosen
    return np.repeat(chosen, wanted, axis=2)


def _colours(numbers: Numbers, reading: Reading, opacity: bool) -> Pixels:
    """The colours or the grey of a file, without its opacity, `(H, W, 1)` or `(H, W, 3)`."""
    own = numbers[..., :-1] if opacity else numbers
    if own.shape[2] not in (1, 3):
        many = own.shape[2]
        raise UnreadableImageError(f"it has {many} bands; choose some with `bands`, or all with `channels: {many}`")
    pixels = _bytes(own, reading)
    if opacity and reading.background != "drop":
        most = np.iinfo(numbers.dtype).max if numbers.dtype.kind in "iu" else 1.0
        share = (numbers[..., -1:] / most).clip(0, 1)
        ground = 255 if reading.background == "white" else 0
        pixels = np.rint(pixels * share + ground * (1 - share)).astype(np.uint8)
    if reading.count == 1 and pixels.shape[2] == 3:
        return np.asarray(np.rint(pixels @ _GREY[:, None]), dtype=np.uint8)
    return pixels


def _bytes(numbers: Numbers, reading: Reading) -> Pixels:
    """Numbers as bytes: as they are, or as the reading says."""
    limits = reading.limits
    if numbers.dtype == np.uint8 and not reading.ends:
        return numbers
    if numbers.dtype == np.bool_:
        return np.where(numbers, np.uint8(255), np.uint8(0))
    if not limits and numbers.dtype == np.uint16:
        limits = ((0.0, 65535.0),)
    if not limits:
        raise UnreadableImageError(f"numbers of {numbers.dtype} have no known white; name what they span with `range`")
    return spread(numbers, limits)


def _require_few(height: int, width: int, reading: Reading) -> None:
    if height * width > reading.most_pixels:
        problem = f"{width}x{height} pixels are more than {reading.most_pixels:,}"
        raise UnreadableImageError(f"{problem}, which `max_pixels` allows")


def numbers_of_array(array: Numbers, reading: Reading) -> Numbers:
    """The numbers `(H, W, C)` of an image that is an array `(H, W)`, `(H, W, C)` or `(C, H, W)`.

    Raises:
        UnreadableImageError: for another shape or type, or if it is not clear which axis is that of the bands.
    """
    if array.dtype.kind not in "biuf":
        raise UnreadableImageError(f"it holds {array.dtype}, and an image is an array of real numbers")
    numbers = array[..., None] if array.ndim == 2 else array
    if numbers.ndim != 3 or not numbers.size:
        raise UnreadableImageError(f"an array of shape {array.shape} is no image; it needs (H, W, C) or (C, H, W)")
    axis = 2 if numbers.shape[2] == 1 else band_axis(numbers.shape, None if reading.bands else reading.channels)
    if axis is None:
        problem = f"an array of shape {array.shape} may have its bands first or last"
        raise UnreadableImageError(f"{problem}; say how many there are with `channels`")
    numbers = np.moveaxis(numbers, axis, 2)
    if numbers.dtype == np.uint8 and reading.white is not None:
        return numbers.astype(np.uint16)  # In an array, `white` is for bytes too, as for masks of 0 and 1.
    return numbers


def _of_npy(content: bytes, reading: Reading) -> Numbers:
    numbers = numbers_of_array(array_of_file(content), reading)
    _require_few(numbers.shape[0], numbers.shape[1], reading)
    return numbers


def _has_wide_colours(content: bytes) -> bool:
    return content[_PNG_DEPTH : _PNG_DEPTH + 1] == b"\x10" and content[_PNG_DEPTH + 1] in _PNG_COLOURS


def _of_png(content: bytes) -> Numbers:
    from torchvision.io import ImageReadMode, decode_image

    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    numbers: Numbers = decode_image(encoded, ImageReadMode.UNCHANGED, apply_exif_orientation=True).numpy()
    return np.moveaxis(numbers, 0, 2)


def _is_beyond_pillow(content: bytes, reading: Reading, number: int | None) -> bool:
    """Whether Pillow would lose some of a TIFF that is wanted. What it reads by default, it always reads."""
    if reading.colours and not reading.limits:
        return False
    try:
        with Image.open(io.BytesIO(content)) as image:
            if not isinstance(image, TiffImageFile):
                return False
            image.seek(number or 0)
            samples, bits = int(image.tag_v2.get(_TIFF_SAMPLES, 1)), max(image.tag_v2.get(_TIFF_BITS, (1,)))
            shown = len(image.getbands())
            pages = image.n_frames if samples == 1 and reading.pages_are_bands and number is None else 1
    except Exception:  # Pillow names each of the forms that it does not read in another way.
        return True
    # Pillow leaves out bands of which a file does not say what they are.
    lost = reading.pages_are_bands and samples > shown
    return samples > _MOST_BANDS or lost or pages > 1 or (samples > 1 and bits > 8 and bool(reading.limits))


def _of_tiff(content: bytes, reading: Reading, number: int | None) -> tuple[Numbers, bool]:
    """The numbers of a TIFF, and whether the last band is opacity. Pages of one band are the bands of one image."""
    try:
        tifffile: Any = importlib.import_module("tifffile")
    except ImportError:
        raise UnreadableImageError("this TIFF needs tifffile: pip install 'ssl-inv[tiff]'") from None
    # It tells of every tag that it does not know.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages.first if number is None else file.pages[number]
        series = file.series[0] if number is None and reading.pages_are_bands else page
        _require_few(int(page.imagelength), int(page.imagewidth), reading)
        numbers, axes = series.asarray(), str(series.axes)
        tag = page.tags.get(_TIFF_ORIENTATION)
        opacity = bool(page.extrasamples) and int(page.extrasamples[-1]) in (1, 2) and len(page.extrasamples) == 1
    return _upright(_bands_last(numbers, axes), 1 if tag is None else int(tag.value)), opacity


def _bands_last(numbers: Numbers, axes: str) -> Numbers:
    """The numbers `(H, W, C)` of a series of tifffile, by the letters of its axes."""
    kept = "".join(letter for letter, size in zip(axes, numbers.shape, strict=True) if size > 1 or letter in "YX")
    numbers = numbers.reshape([n for letter, n in zip(axes, numbers.shape, strict=True) if n > 1 or letter in "YX"])
    if "S" in kept:  # of several pages in colours, the first
        for letter in kept.replace("S", ""):
            if letter not in "YX":
                numbers, kept = numbers.take(0, axis=kept.index(letter)), kept.replace(letter, "")
    others = kept.replace("Y", "").replace("X", "")
    if "Y" not in kept or "X" not in kept or len(others) > 1 or others in _STACKS:
        what = _STACKS.get(others, f"axes {axes}")
        raise UnreadableImageError(f"it is a stack of {what}, {numbers.shape}, and not one image")
    if not others:
        return numbers[..., None]
    return numbers.transpose([kept.index(letter) for letter in f"YX{others}"])


def _upright(numbers: Numbers, orientation: int) -> Numbers:
    """The image turned upright, by the orientation of EXIF and TIFF."""
    if orientation in (5, 6, 7, 8):
        numbers = numbers.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        numbers = numbers[:, ::-1]
    return numbers[::-1] if orientation in (3, 4, 7, 8) else numbers
