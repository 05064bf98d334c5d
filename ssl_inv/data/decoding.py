"""Decodes image files into 8-bit pixels, turned upright; whole, or as centre squares."""

import importlib
import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from kornia_rs.io import ImageDecoder, decode_image_jpegturbo
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ssl_inv.data.reading import MOST_PIXELS, PLAIN, Background, Pixels, Reading, UnreadableImageError, spread
from ssl_inv.data.wide_files import wide_pixels

__all__ = ["MOST_PIXELS", "PLAIN", "Background", "Pixels", "Reading", "UnreadableImageError"]

_REDUCED_DECODE_MARGIN = 1.5
"""Large photographs then differ by 0.3 to 0.7 of 255 on average from a full decode, at up to twice its speed."""

_APP1 = b"\xff\xe1"
"""Begins the metadata of a JPEG that can give an orientation, EXIF or XMP; never occurs in encoded pixels."""

_WIDE = ("I", "F")
"""Modes of Pillow with more than 8 bits begin so."""

_TIFF_BITS, _TIFF_READING = 258, 262
"""Tags of a TIFF: BitsPerSample, and PhotometricInterpretation, which says whether 0 is black."""

_BLACK_IS_ZERO = 1

_JPEG = b"\xff\xd8"

_HEIC = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"))
"""Bytes 4 to 12 of an image from a recent telephone."""

_KINDS = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"\x89PNG": "PNG", b"GIF8": "GIF", _JPEG: "JPEG"}

_TIFF_LIMITS = "; of more than 4 bands, choose some with `bands`; else it may have an unusual compression"


def to_rgb(image: Image.Image, reading: Reading = PLAIN) -> Image.Image:
    """An image of any mode as 8-bit RGB.

    Grey is repeated. 16-bit grey is scaled so that 65535 becomes 255, in a TIFF as its tags say. Palettes are looked
    up. Transparent pixels are laid over black. `reading` changes that.

    Raises:
        ValueError: for 32-bit integers or floats, if no value is known to be white; or if there is no such band.
    """
    if reading.bands:
        image = _bands(image, reading.bands)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if reading.limits and image.mode.startswith(_WIDE):
        if len(reading.limits) > 1:
            raise ValueError(f"`range` has {len(reading.limits)} pairs, and the image has one band")
        low, high = reading.limits[0]
        share = np.nan_to_num((np.asarray(image).astype(np.float32) - low) / (high - low))
        return Image.fromarray(np.rint(255 * share.clip(0, 1)).astype(np.uint8)).convert("RGB")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        dark, bright = _ends_of_wide_grey(image)
        share = (np.asarray(image).astype(np.float32) - dark) / (bright - dark)
        return Image.fromarray(np.rint(255 * share.clip(0, 1)).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        what = f"pixels of mode {image.mode} (32 bit) have no known white"
        raise ValueError(f"{what}; name it with `white`, or what they span with `range`")
    if image.has_transparency_data and reading.background != "drop":
        layer = image.convert("RGBA")
        over = Image.new("RGB", image.size, reading.background)
        over.paste(layer, mask=layer.getchannel("A"))
        return over
    return image.convert("RGB")


def _bands(image: Image.Image, bands: Sequence[int]) -> Image.Image:
    channels = _channels(image)
    if max(bands) > len(channels):
        raise ValueError(f"there is no band {max(bands)}: the image has {len(channels)}")
    chosen = [channels[band - 1] for band in bands]
    return chosen[0] if len(chosen) == 1 else Image.merge("RGB", chosen)


def _channels(image: Image.Image) -> tuple[Image.Image, ...]:
    return (image.convert("RGBA") if image.mode in ("P", "PA") else image).split()


def to_pixels(image: Image.Image, reading: Reading = PLAIN) -> Pixels:
    """The pixels `(H, W, C)` of an image of any mode, with the channels that a reading wants.

    Raises:
        ValueError: as `to_rgb`; or if the image has not so many channels.
    """
    if reading.count in (1, 3):
        shown = to_rgb(image, reading)
        pixels = np.asarray(shown) if reading.count == 3 else np.asarray(shown.convert("L"))[..., None]
        # Wider numbers are spread before they become bytes.
        return spread(pixels, reading.ends) if reading.ends and not image.mode.startswith(_WIDE) else pixels
    channels = _channels(image)
    bands = reading.bands or tuple(range(1, len(channels) + 1))
    if len(bands) != reading.count:
        raise ValueError(f"it has {len(bands)} band(s), and `channels` is {reading.count}; choose some with `bands`")
    if max(bands) > len(channels):
        raise ValueError(f"there is no band {max(bands)}: the image has {len(channels)}")
    ends = reading.ends if len(reading.ends) == len(bands) else reading.ends[:1] * len(bands)
    of_each = [(band, ends[number : number + 1]) for number, band in enumerate(bands)]
    grey = [to_pixels(channels[band - 1], replace(reading, bands=(), channels=1, ends=one)) for band, one in of_each]
    return np.concatenate(grey, axis=2)


def opened_image(content: bytes, page: int | None = None) -> Image.Image:
    """A file as Pillow opens it, at one of its pages, with its header read. A JPEG may have any number of pixels: it
    can be decoded at a fraction of its size. Of other files, Pillow refuses those that would take gigabytes.
    """
    if content.startswith(_JPEG):
        return JpegImageFile(io.BytesIO(content))
    if content[4:12] in _HEIC:
        register_heic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(content))
    if page:
        image.seek(page)
    return image


def register_heic() -> None:
    """Let Pillow open HEIC."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        raise UnreadableImageError("HEIC needs pillow-heif: pip install 'ssl-inv[heic]'") from None


def upright_pixels(image: Image.Image, reading: Reading = PLAIN) -> Pixels:
    """The pixels `(H, W, C)` of an opened image, turned upright as its EXIF orientation says.

    Raises:
        UnreadableImageError: if there are too many of them.
    """
    if image.width * image.height > reading.most_pixels:
        sides = f"{image.width}x{image.height} pixels"
        raise UnreadableImageError(f"{sides} are more than {reading.most_pixels:,}, which `max_pixels` allows")
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return to_pixels(image, reading)


def _ends_of_wide_grey(image: Image.Image) -> tuple[int, int]:
    """The values of black and white in a grey image of over 8 bits; a TIFF can have fewer than 16, or exchange them."""
    if not isinstance(image, TiffImageFile):
        return 0, 65535
    (bits, *_), reading = image.tag_v2.get(_TIFF_BITS, (16,)), image.tag_v2.get(_TIFF_READING, _BLACK_IS_ZERO)
    white = 2**bits - 1
    return (0, white) if reading == _BLACK_IS_ZERO else (white, 0)


def to_square(pixels: Pixels, size: int) -> Pixels:
    """The centre square of an image `(H, W, C)` at `size` pixels a side.

    The shorter side is resized to `size`, up or down, bicubic and antialiased: within one level of Pillow's resize, at
    several times its speed.
    """
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side == size:
        return square
    # torch would copy pixels that are not contiguous, but on threads of its own for every thread that decodes.
    dense = torch.from_numpy(np.require(square, requirements=("C", "W")))
    resized = F.interpolate(dense.unsqueeze(0).permute(0, 3, 1, 2), size=(size, size), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def decode(content: bytes, size: int | None, reading: Reading = PLAIN, page: int | None = None) -> Pixels:
    """The pixels of an encoded image, `(H, W, C)`, turned upright as its EXIF orientation says.

    Plain JPEG is decoded by libjpeg-turbo in kornia, everything else by Pillow. Both give the same pixels. On one
    thread, an image of 32x32 pixels (CIFAR-10) takes 11 us here, 188 us with Pillow and 44 us with torchvision; an
    image of 96x96 cut to 64 takes 189, 461 and 232 us (`benchmarks/decoding.py`).

    Args:
        content: the file, in any format that Pillow reads, a TIFF of any kind, or `.npy`.
        size: side of the centre square in pixels; None leaves the image as it is.
        reading: how numbers become pixels.
        page: of a file with several, or the frame of an animation, counted from 0; None takes the first, or all pages
            of a TIFF as the bands of one image; see `Reading.pages_are_bands`.

    Raises:
        UnreadableImageError: with the reason.
    """
    with named_reasons(content):
        sides = plain_jpeg_sides(content)
        # Pillow can decode at a reduced size.
        reduced = size is not None and sides is not None and min(sides) >= 2 * _REDUCED_DECODE_MARGIN * size
        fits = sides is not None and not reduced and sides[0] * sides[1] <= reading.most_pixels and reading.as_stored
        pixels = plain_jpeg(content) if fits else wide_pixels(content, reading, page)
        if pixels is None:
            with opened_image(content, page) as image:
                if size is not None and min(image.size) >= 2 * _REDUCED_DECODE_MARGIN * size:
                    # A JPEG decodes at 1/2, 1/4 or 1/8 for a fraction of the cost, and enough is left to resize well.
                    enough = _REDUCED_DECODE_MARGIN * size / min(image.size)
                    image.draft("RGB", (int(image.width * enough), int(image.height * enough)))
                pixels = upright_pixels(image, reading)
        return pixels if size is None else to_square(pixels, size)


@contextmanager
def named_reasons(content: bytes) -> Iterator[None]:
    """Raise an `UnreadableImageError` with the reason for whatever a decoder raises on a file."""
    try:
        yield
    except (MemoryError, UnreadableImageError):
        raise
    except UnidentifiedImageError as error:
        known = next((kind for start, kind in _KINDS.items() if content.startswith(start)), None)
        why = "not an image in a known format" if known is None else f"a {known} in a form that Pillow does not read"
        raise UnreadableImageError(f"{why}{_TIFF_LIMITS if known == 'TIFF' else ''}") from error
    except (
        Exception
    ) as error:  # Pillow raises OSError, SyntaxError, struct.error, IndexError and more on damaged files.
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def plain_jpeg_sides(content: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG that is stored upright; None of any other file."""
    if not content.startswith(_JPEG):
        return None
    try:
        if _APP1 in content:
            with opened_image(content) as image:
                if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                    return None
        # A decoder that has met a broken file reads no other file any more.
        header = ImageDecoder().read_header(content)
    except Exception:  # Pillow gives the reason.
        return None
    return int(header.height), int(header.width)


def plain_jpeg(content: bytes) -> Pixels | None:
    """The pixels of a JPEG that is stored upright; None where Pillow is needed."""
    # kornia keeps the interpreter's lock, so only Pillow lets several threads decode at once.
    if threading.current_thread() is not threading.main_thread():
        return None
    try:
        pixels: Pixels = decode_image_jpegturbo(content, "rgb")
    except Exception:  # CMYK, or broken: Pillow reads the former and gives the reason for the latter.
        return None
    return pixels
