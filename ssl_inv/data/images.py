"""Decoding of image files into square uint8 pixels, with a memory cache and a tolerance for broken files."""

import io
import logging
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from kornia_rs.io import decode_image_jpegturbo
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from ssl_inv.catalogue import SettingError
from ssl_inv.data.archives import Files, Names, unpacked
from ssl_inv.data.source import Indices

Pixels = NDArray[np.uint8]


IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"))


MAX_CACHE_BYTES = 2_000_000_000
"""Decoded pixels are kept in memory without being asked for when all of them take no more than this."""


_ALWAYS_TOLERATED = 10


_REDUCED_DECODE_MARGIN = 1.5
"""Large photographs then differ by 0.3 to 0.7 of 255 on average from a full decode, at up to twice its speed."""


_FRAME_HEADERS = frozenset((0xC0, 0xC1, 0xC2))
"""Markers of baseline, extended and progressive JPEG; others are lossless or coded arithmetically."""


_APP1 = 0xE1
"""Marker of the metadata that may say how a JPEG is to be turned: EXIF or XMP."""


_TIFF_BITS, _TIFF_READING = 258, 262
"""Tags of a TIFF: BitsPerSample, and PhotometricInterpretation, which says whether 0 is black."""


_BLACK_IS_ZERO = 1


_THREADED_BYTES = 20_000


_FEWEST_THREADS, _MOST_THREADS = 3, 16
"""Several threads decode with Pillow (see `_decode_plain_jpeg`). Two of them are no faster than one with libjpeg-turbo
even on files of 400 kB, and a quarter as fast on files of 4 kB."""


_UNREAD, _READABLE, _BROKEN = 0, 1, 2


_LOG = logging.getLogger("ssl_inv.data")


class BrokenImagesError(ValueError):
    """More image files cannot be decoded than the data set is allowed to have."""


class UnreadableImageError(ValueError):
    """One image cannot be decoded; the message is the reason, without the name."""


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB.

    Grey is repeated; 16-bit grey is scaled so that 65535 becomes 255, and that of a TIFF as its tags say; palettes are
    looked up; transparent pixels are laid over black.

    Raises:
        ValueError: for 32-bit integers or floats, of which nobody knows what is white.
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
    """Black and white of a grey image of more than 8 bits; those of a TIFF may be fewer than 16, and exchanged."""
    if not isinstance(image, TiffImageFile):
        return 0, 65535
    (bits, *_), reading = image.tag_v2.get(_TIFF_BITS, (16,)), image.tag_v2.get(_TIFF_READING, _BLACK_IS_ZERO)
    white = 2**bits - 1
    return (0, white) if reading == _BLACK_IS_ZERO else (white, 0)


def to_square(pixels: Pixels, size: int) -> Pixels:
    """The centre square of an image `(H, W, 3)` at `size` pixels a side.

    Its shorter side is resized to `size`, up or down, bicubic and antialiased: what Pillow's resize gives, to a level,
    at several times its speed.
    """
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side == size:
        return square
    # torch would copy what is not contiguous itself, but on threads of its own for every thread that decodes.
    dense = torch.from_numpy(np.require(square, requirements=("C", "W")))
    resized = F.interpolate(dense.unsqueeze(0).permute(0, 3, 1, 2), size=(size, size), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def decode(content: bytes, size: int | None) -> Pixels:
    """The pixels of an encoded image, `(H, W, 3)`, turned upright as its EXIF orientation says.

    Plain JPEG is decoded by libjpeg-turbo as it comes with kornia, everything else by Pillow, which gives the same
    pixels in more time (`benchmarks/decoding.py`).

    Args:
        content: the file, in any format that Pillow reads; of an animation the first frame is taken.
        size: side of the centre square in pixels; None leaves the image as it is.

    Raises:
        UnreadableImageError: with the reason.
    """
    try:
        pixels = _decode_plain_jpeg(content, size)
        if pixels is None:
            pixels = _decode_any(content, size)
        return pixels if size is None else to_square(pixels, size)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image in a known format") from error
    except (
        Exception
    ) as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, IndexError and more on damaged files.
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def _decode_any(content: bytes, size: int | None) -> Pixels:
    """The pixels of an image that is to be cut to `size`, as Pillow reads it."""
    with Image.open(io.BytesIO(content)) as image:
        if size is not None and min(image.size) >= 2 * _REDUCED_DECODE_MARGIN * size:
            # A JPEG decodes at 1/2, 1/4 or 1/8 for a fraction of the cost; what is left is enough for a good resize.
            enough = _REDUCED_DECODE_MARGIN * size / min(image.size)
            image.draft("RGB", (int(image.width * enough), int(image.height * enough)))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(to_rgb(image))


def _decode_plain_jpeg(content: bytes, size: int | None) -> Pixels | None:
    """The pixels of an upright JPEG; None where Pillow is needed or faster."""
    # libjpeg-turbo is called with the interpreter's lock held, so only Pillow lets several threads decode at once.
    if threading.current_thread() is not threading.main_thread():
        return None
    shorter = _shorter_side_of_upright_jpeg(content)
    # Pillow can decode at a reduced size.
    if shorter is None or (size is not None and shorter >= 2 * _REDUCED_DECODE_MARGIN * size):
        return None
    try:
        pixels: Pixels = decode_image_jpegturbo(content, "rgb")
    except Exception:  # It is in CMYK or broken; Pillow reads the one, and has the last word on the other.
        return None
    return pixels


def _shorter_side_of_upright_jpeg(content: bytes) -> int | None:
    """Read from the header, in a twentieth of the time that Pillow takes to open the file; None for all other files."""
    if not content.startswith(b"\xff\xd8"):
        return None
    start = 2
    while start + 9 <= len(content) and content[start] == 0xFF:
        marker, length = struct.unpack_from(">BH", content, start + 1)
        if marker in _FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", content, start + 5)
            return int(min(height, width))
        if marker == _APP1 and not _says_upright(content[start + 4 : start + 2 + length]):
            return None
        start += 2 + length
    return None


def _says_upright(metadata: bytes) -> bool:
    if not metadata.startswith(b"Exif\0\0"):
        return b"Orientation" not in metadata
    exif = Image.Exif()
    try:
        exif.load(metadata)
        return bool(exif.get(ExifTags.Base.Orientation, 1) == 1)
    except Exception:  # What is wrong with it, and whether it matters, is for Pillow to say.
        return False


class Decoder(Protocol):
    """What an `ImageStore` reads from: rows, each an image with a name. Picklable."""

    def __len__(self) -> int:
        """How many images there are."""

    def name(self, row: int) -> str:
        """What to call an image in a message."""

    def decode(self, row: int, size: int | None) -> Pixels:
        """The pixels `(H, W, 3)` of an image, or an `UnreadableImageError`."""

    def worth_threads(self, row: int) -> bool:
        """Whether decoding an image takes long enough that threads gain by it."""


class ImageFiles:
    """Image files by their names, one a row.

    Args:
        files: the folder or archive.
        names: the files, in the order of the rows.
    """

    def __init__(self, files: Files, names: Names) -> None:
        self.files = files
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        return unpacked(self.names[row])

    def decode(self, row: int, size: int | None) -> Pixels:
        return decode(read_image(self.files, self.name(row)), size)

    def worth_threads(self, row: int) -> bool:
        return len(read_image(self.files, self.name(row))) >= _THREADED_BYTES


def read_image(files: Files, name: str) -> bytes:
    """The content of an image file; whatever goes wrong makes this one image unreadable."""
    try:
        return files.read(name)
    except Exception as error:  # Besides OSError, a damaged archive gives zlib.error, struct.error and ValueError.
        raise UnreadableImageError(str(error)) from error


class ImageStore:
    """Square images by row, decoded when they are asked for.

    A broken image has zero pixels, is logged once and stands in `broken`. Each loader process counts what it has met
    itself; whoever reads with several has to add up, and to compare with `allowed`.

    Args:
        decoder: the images.
        where: the folder, archive or data set, for messages.
        size: side of the images in pixels; None takes that of the first readable image, and all images must then be
        squares of this size.
        cache: whether decoded pixels stay in memory; None: if all of them fit in `MAX_CACHE_BYTES`.
        max_broken: share of the images that may be broken. Ten broken images are tolerated in any case, unless they are
            over half of all.

    Attributes:
        allowed: how many images may be broken.

    Raises:
        ValueError: if there are no images, or `size` is None and the first image is not square.
        BrokenImagesError: if none of the first images is readable.
    """

    def __init__(self, decoder: Decoder, where: str, size: int | None, cache: bool | None, max_broken: float) -> None:
        if not len(decoder):
            raise ValueError(f"{where} has no images; files end with one of {', '.join(sorted(IMAGE_SUFFIXES))}")
        if size is not None and size < 1:
            raise SettingError("size", f"must be at least 1 pixel, got {size}")
        if not 0 <= max_broken <= 1:
            raise SettingError("max_broken", f"must be a share and must lie between 0 and 1, got {max_broken}")
        self.decoder = decoder
        self.where = where
        self.allowed = max(int(max_broken * len(decoder)), min(_ALWAYS_TOLERATED, len(decoder) // 2))
        self.broken: dict[str, str] = {}
        self._size = size
        self._state = np.zeros(len(decoder), dtype=np.uint8)
        first = self._first_readable()
        self.image_size = self._size_of(first) if size is None else size
        self._threaded = decoder.worth_threads(first)
        self.cached = self._bytes <= MAX_CACHE_BYTES if cache is None else cache
        self._cache: Pixels | None = None

    @property
    def preferred_workers(self) -> int | None:
        """No loader processes where pixels stay in memory: each would decode and keep its own."""
        return 0 if self.cached else None

    @property
    def _bytes(self) -> int:
        return len(self.decoder) * 3 * self.image_size**2

    def __getstate__(self) -> dict[str, object]:
        # A copy for another process starts with an empty cache: gigabytes through a pipe cost more than decoding.
        return {**vars(self), "_cache": None, "_state": np.where(self._state == _BROKEN, self._state, _UNREAD)}

    def _first_readable(self) -> int:
        for row in range(len(self.decoder)):
            try:
                self.decoder.decode(row, self._size)
                return row
            except UnreadableImageError as error:
                self._note_broken(row, str(error))
        raise BrokenImagesError(f"{self.where}: no image is readable; {self._example()}")

    def _size_of(self, row: int) -> int:
        height, width, _ = self.decoder.decode(row, None).shape
        if height != width:
            raise ValueError(
                f"{self.where}: {self.decoder.name(row)} has {width}x{height} pixels; images that are not square need a `size`"
            )
        return int(height)

    def load(self, rows: Indices) -> tuple[Tensor, Tensor]:
        """Pixels `(B, 3, S, S)`, uint8, with channels last in memory, and whether each image is readable `(B,)`, bool.

        Raises:
            BrokenImagesError: if too many images are broken.
            ValueError: if `size` is None and an image has another size than the first.
        """
        if self.cached:
            if self._cache is None:
                self._cache = self._blank(len(self.decoder))
            new = np.unique(rows[self._state[rows] == _UNREAD])
            self._decode_into(self._cache, new, new)
            pixels = self._cache[rows]
        else:
            pixels = self._blank(len(rows))
            self._decode_into(pixels, np.arange(len(rows)), rows)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(self._state[rows] == _READABLE)

    def _blank(self, images: int) -> Pixels:
        # As decoders give them: the copy is straight, and resampling and convolutions are faster with channels last.
        return np.zeros((images, self.image_size, self.image_size, 3), dtype=np.uint8)

    def _decode_into(self, target: Pixels, places: Indices, rows: Indices) -> None:
        def one(place: int, row: int) -> None:
            if self._state[row] != _BROKEN:
                self._decode_row(target[place], row)

        _run(one, places.tolist(), rows.tolist(), min(torch.get_num_threads(), _MOST_THREADS) if self._threaded else 1)

    def _decode_row(self, target: Pixels, row: int) -> None:
        try:
            pixels = self.decoder.decode(row, self._size)
        except UnreadableImageError as error:
            self._note_broken(row, str(error))
            return
        if pixels.shape != (self.image_size, self.image_size, 3):
            height, width, _ = pixels.shape
            found = f"{self.decoder.name(row)} has {width}x{height} pixels but the first image {self.image_size}x{self.image_size}"
            raise ValueError(f"{self.where}: {found}; images of different sizes need a `size`")
        target[:] = pixels
        self._state[row] = _READABLE

    def _note_broken(self, row: int, reason: str) -> None:
        if self._state[row] == _BROKEN:
            return
        self._state[row] = _BROKEN
        self.broken[self.decoder.name(row)] = reason
        _LOG.warning("%s: cannot read %s: %s", self.where, self.decoder.name(row), reason)
        if len(self.broken) > self.allowed:
            counts = f"more than {self.allowed} of {len(self.decoder)} images cannot be read"
            raise BrokenImagesError(
                f"{self.where}: {counts} (raise `max_broken` to go on without them); {self._example()}"
            )

    def _example(self) -> str:
        name, reason = next(iter(self.broken.items()))
        return f"the first is {name}: {reason}"


def _run(one: Callable[[int, int], None], places: list[int], rows: list[int], threads: int) -> None:
    """Call `one` on every pair, on several threads if there is enough to do; loader workers have a single torch thread
    and stay on it.
    """
    if threads < _FEWEST_THREADS or len(rows) < 4 * threads:
        for place, row in zip(places, rows, strict=True):
            one(place, row)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, places, rows))
