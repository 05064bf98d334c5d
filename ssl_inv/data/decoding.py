"""Decodes image files into 8-bit RGB pixels, turned upright; whole, or as centre squares."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from kornia_rs.io import ImageDecoder, decode_image_jpegturbo
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

Pixels = NDArray[np.uint8]

_REDUCED_DECODE_MARGIN = 1.5
"""Large photographs then differ by 0.3 to 0.7 of 255 on average from a full decode, at up to twice its speed."""

_APP1 = b"\xff\xe1"
"""Begins the metadata of a JPEG that can give an orientation, EXIF or XMP; never occurs in encoded pixels."""

_TIFF_BITS, _TIFF_READING = 258, 262
"""Tags of a TIFF: BitsPerSample, and PhotometricInterpretation, which says whether 0 is black."""

_BLACK_IS_ZERO = 1


class UnreadableImageError(ValueError):
    """One image cannot be decoded; the message is the reason, without the name."""


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB.

    Grey is repeated. 16-bit grey is scaled so that 65535 becomes 255, in a TIFF as its tags say. Palettes are looked
    up. Transparent pixels are laid over black.

    Raises:
        ValueError: for 32-bit integers or floats, because no value is known to be white.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        dark, bright = _ends_of_wide_grey(image)
        share = (np.asarray(image).astype(np.float32) - dark) / (bright - dark)
        return Image.fromarray(np.rint(255 * share.clip(0, 1)).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} (32 bit) have no known white; convert them to 8 or 16 bit")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(layer, mask=layer.getchannel("A"))
        return black
    return image.convert("RGB")


def _ends_of_wide_grey(image: Image.Image) -> tuple[int, int]:
    """The values of black and white in a grey image of over 8 bits; a TIFF can have fewer than 16, or exchange them."""
    if not isinstance(image, TiffImageFile):
        return 0, 65535
    (bits, *_), reading = image.tag_v2.get(_TIFF_BITS, (16,)), image.tag_v2.get(_TIFF_READING, _BLACK_IS_ZERO)
    white = 2**bits - 1
    return (0, white) if reading == _BLACK_IS_ZERO else (white, 0)


def to_square(pixels: Pixels, size: int) -> Pixels:
    """The centre square of an image `(H, W, 3)` at `size` pixels a side.

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


def decode(content: bytes, size: int | None) -> Pixels:
    """The pixels of an encoded image, `(H, W, 3)`, turned upright as its EXIF orientation says.

    Plain JPEG is decoded by libjpeg-turbo in kornia, everything else by Pillow. Both give the same pixels. On one
    thread, an image of 32x32 pixels (CIFAR-10) takes 11 us here, 188 us with Pillow and 44 us with torchvision; an
    image of 96x96 cut to 64 takes 189, 461 and 232 us (`benchmarks/decoding.py`).

    Args:
        content: the file, in any format that Pillow reads; of an animation the first frame is taken.
        size: side of the centre square in pixels; None leaves the image as it is.

    Raises:
        UnreadableImageError: with the reason.
    """
    with named_reasons():
        sides = plain_jpeg_sides(content)
        # Pillow can decode at a reduced size.
        reduced = size is not None and sides is not None and min(sides) >= 2 * _REDUCED_DECODE_MARGIN * size
        pixels = None if sides is None or reduced else plain_jpeg(content)
        if pixels is None:
            with Image.open(io.BytesIO(content)) as image:
                if size is not None and min(image.size) >= 2 * _REDUCED_DECODE_MARGIN * size:
                    # A JPEG decodes at 1/2, 1/4 or 1/8 for a fraction of the cost, and enough is left to resize well.
                    enough = _REDUCED_DECODE_MARGIN * size / min(image.size)
                    image.draft("RGB", (int(image.width * enough), int(image.height * enough)))
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                pixels = np.asarray(to_rgb(image))
        return pixels if size is None else to_square(pixels, size)


@contextmanager
def named_reasons() -> Iterator[None]:
    """Raise an `UnreadableImageError` with the reason for whatever a decoder raises."""
    try:
        yield
    except (MemoryError, UnreadableImageError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image in a known format") from error
    except (
        Exception
    ) as error:  # Pillow raises OSError, SyntaxError, struct.error, IndexError and more on damaged files.
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def plain_jpeg_sides(content: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG that is stored upright; None of any other file."""
    if not content.startswith(b"\xff\xd8"):
        return None
    try:
        if _APP1 in content:
            with Image.open(io.BytesIO(content)) as image:
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
