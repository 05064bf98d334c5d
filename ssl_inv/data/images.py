"""Decodes image files into square uint8 pixels; the base class of all sources with stored images."""

import io
import logging
import os
import threading
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from kornia_rs.io import ImageDecoder, decode_image_jpegturbo
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from ssl_inv.catalogue import SettingError
from ssl_inv.data.archives import Files, Names
from ssl_inv.data.source import Images, Indices, Labels, Source
from ssl_inv.transforms import Group, Transform

Pixels = NDArray[np.uint8]


IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"))

MAX_CACHE_BYTES = 2_000_000_000
"""By default, decoded pixels stay in memory if all of them take no more than this."""

_ALWAYS_TOLERATED = 10

_REDUCED_DECODE_MARGIN = 1.5
"""Large photographs then differ by 0.3 to 0.7 of 255 on average from a full decode, at up to twice its speed."""

_JPEG = ImageDecoder()

_APP1 = b"\xff\xe1"
"""Begins the metadata of a JPEG that can give an orientation, EXIF or XMP; never occurs in encoded pixels."""

_TIFF_BITS, _TIFF_READING = 258, 262
"""Tags of a TIFF: BitsPerSample, and PhotometricInterpretation, which says whether 0 is black."""

_BLACK_IS_ZERO = 1

_THREADED_BYTES = 20_000

_FEWEST_THREADS, _MOST_THREADS = 3, 16
"""Several threads decode with Pillow (see `_decode_plain_jpeg`). Two of them are no faster than one with libjpeg-turbo
even on files of 400 kB, and a quarter as fast on files of 4 kB."""

_UNREAD, _READABLE, _BROKEN = 0, 1, 2

_NOTHING_RECORDED = Transform.empty()

_LOG = logging.getLogger("ssl_inv.data")


class BrokenImagesError(ValueError):
    """More image files cannot be decoded than the data set is allowed to have."""


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
    try:
        pixels = _decode_plain_jpeg(content, size)
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
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image in a known format") from error
    except (
        Exception
    ) as error:  # Pillow raises OSError, SyntaxError, struct.error, IndexError and more on damaged files.
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def _decode_plain_jpeg(content: bytes, size: int | None) -> Pixels | None:
    """The pixels of an upright JPEG; None where Pillow is needed or faster."""
    # kornia keeps the interpreter's lock, so only Pillow lets several threads decode at once.
    if not content.startswith(b"\xff\xd8") or threading.current_thread() is not threading.main_thread():
        return None
    try:
        if _APP1 in content:
            with Image.open(io.BytesIO(content)) as image:
                if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                    return None
        header = _JPEG.read_header(content)
        # Pillow can decode at a reduced size.
        if size is not None and min(header.width, header.height) >= 2 * _REDUCED_DECODE_MARGIN * size:
            return None
        pixels: Pixels = decode_image_jpegturbo(content, "rgb")
    except Exception:  # CMYK, or broken: Pillow reads the former and gives the reason for the latter.
        return None
    return pixels


class StoredImages(Source):
    """Base of the sources whose images are stored: square images, decoded when they are asked for.

    Images are numbered object by object; image 0 is view 0 of object 0. A broken image has zero pixels, is logged once
    and stands in `broken`. Each loader process counts the broken images that it has met; a caller with several
    processes adds them up and compares with `tolerated_images`.

    Args:
        where: the folder, archive or data set, for messages.
        counts: how many views each object has, `(N,)`.
        size: side of the images in pixels; None takes the size of the first readable image, and then all images must be
            squares of this size.
        cache: whether decoded pixels stay in memory; None: if all of them fit in `MAX_CACHE_BYTES`.
        max_broken: share of the images that may be broken. Ten broken images are always tolerated, unless they are over
            half of all.

    Attributes:
        broken: the unreadable images met so far, with the reasons.

    Raises:
        ValueError: if there are no images, or `size` is None and the first image is not square.
        BrokenImagesError: if none of the first images is readable.
    """

    def __init__(self, where: str, counts: Indices, size: int | None, cache: bool | None, max_broken: float) -> None:
        self._starts = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)))
        self._where, self._size = where, size
        self._labels: Labels | None = None
        images = int(self._starts[-1])
        if not images:
            raise ValueError(f"{where} has no images; files end with one of {', '.join(sorted(IMAGE_SUFFIXES))}")
        if size is not None and size < 1:
            raise SettingError("size", f"must be at least 1 pixel, got {size}")
        if not 0 <= max_broken <= 1:
            raise SettingError("max_broken", f"must be a share and must lie between 0 and 1, got {max_broken}")
        self._tolerated = max(int(max_broken * images), min(_ALWAYS_TOLERATED, images // 2))
        self.broken: dict[str, str] = {}
        self._state = np.zeros(images, dtype=np.uint8)
        first, pixels = self._first_readable()
        height, width, _ = pixels.shape
        if height != width:
            found = f"{self._name(first)} has {width}x{height} pixels; images that are not square need a `size`"
            raise ValueError(f"{where}: {found}")
        self._image_size = int(height)
        self._threaded = self._worth_threads(first)
        self._cached = images * 3 * height**2 <= MAX_CACHE_BYTES if cache is None else cache
        self._cache: Pixels | None = None

    @abstractmethod
    def _name(self, image: int) -> str:
        """The name of an image in messages."""

    @abstractmethod
    def _decode(self, image: int, size: int | None) -> Pixels:
        """The pixels `(H, W, 3)` of an image, or an `UnreadableImageError`."""

    def _worth_threads(self, image: int) -> bool:
        """Whether decoding an image takes long enough that several threads are faster."""
        return False

    @property
    def view_counts(self) -> Indices:
        return np.diff(self._starts)

    @property
    def groups(self) -> dict[str, Group]:
        return {}

    @property
    def labels(self) -> Labels | None:
        return self._labels

    @property
    def image_size(self) -> int:
        return self._image_size

    @property
    def preferred_workers(self) -> int | None:
        # Each loader process would decode all images and keep its own pixels.
        return 0 if self._cached else None

    @property
    def tolerated_images(self) -> int | None:
        return self._tolerated

    def describe(self, object_index: int, view: int) -> str:
        return self._name(int(self._starts[object_index]) + view)

    def check(self) -> None:
        """Check nothing: counts and labels are made here, and to read the labels can take as long as all images."""

    def __getstate__(self) -> dict[str, object]:
        # A copy for another process starts with an empty cache: to send gigabytes through a pipe is slower than to
        # decode them.
        return {**vars(self), "_cache": None, "_state": np.where(self._state == _BROKEN, self._state, _UNREAD)}

    def _first_readable(self) -> tuple[int, Pixels]:
        for image in range(len(self._state)):
            try:
                return image, self._decode(image, self._size)
            except UnreadableImageError as error:
                self._note_broken(image, str(error))
        raise BrokenImagesError(f"{self._where}: no image is readable; {self._example()}")

    def load(self, objects: Indices, views: Indices) -> Images:
        """See `Source.load`. Pixels have channels last in memory.

        Raises:
            BrokenImagesError: if too many images are broken.
            ValueError: if an object or a view does not exist, or `size` is None and an image has another size than the
                first.
        """
        objects, views = np.asarray(objects, dtype=np.int64), np.asarray(views, dtype=np.int64)
        if wrong := ((objects < 0) | (objects >= len(self._starts) - 1)).nonzero()[0].tolist():
            raise ValueError(f"there is no object {objects[wrong[0]]}; the last one is {len(self._starts) - 2}")
        images, counts = self._starts[objects] + views, self._starts[objects + 1] - self._starts[objects]
        if wrong := ((views < 0) | (views >= counts)).nonzero()[0].tolist():
            last = f"its last one is {counts[wrong[0]] - 1}"
            raise ValueError(f"object {objects[wrong[0]]} has no view {views[wrong[0]]}; {last}")
        if self._cached and self._cache is None:
            self._cache = np.zeros((len(self._state), self._image_size, self._image_size, 3), dtype=np.uint8)
        if self._cache is not None:
            new = np.unique(images[self._state[images] == _UNREAD]).tolist()
            targets = [self._cache[image] for image in new]
        else:
            new = images.tolist()
            # Channels last, as decoders give them: the copy is straight, and resampling and convolutions are faster.
            pixels = np.zeros((len(new), self._image_size, self._image_size, 3), dtype=np.uint8)
            targets = list(pixels)
        # A loader process has a single torch thread and uses no other.
        threads = min(torch.get_num_threads(), _MOST_THREADS) if self._threaded else 1
        if threads < _FEWEST_THREADS or len(new) < 4 * threads:
            for target, image in zip(targets, new, strict=True):
                self._decode_into(target, image)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(self._decode_into, targets, new))
        if self._cache is not None:
            pixels = self._cache[images]
        readable = torch.from_numpy(self._state[images] == _READABLE)
        return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2), _NOTHING_RECORDED, readable)

    def _decode_into(self, target: Pixels, image: int) -> None:
        if self._state[image] == _BROKEN:
            return
        try:
            pixels = self._decode(image, self._size)
        except UnreadableImageError as error:
            self._note_broken(image, str(error))
            return
        if pixels.shape != target.shape:
            sizes = f"{pixels.shape[1]}x{pixels.shape[0]} pixels but the first image {len(target)}x{len(target)}"
            found = f"{self._name(image)} has {sizes}; images of different sizes need a `size`"
            raise ValueError(f"{self._where}: {found}")
        target[:] = pixels
        self._state[image] = _READABLE

    def _note_broken(self, image: int, reason: str) -> None:
        if self._state[image] == _BROKEN:
            return
        self._state[image] = _BROKEN
        self.broken[self._name(image)] = reason
        _LOG.warning("%s: cannot read %s: %s", self._where, self._name(image), reason)
        if len(self.broken) > self._tolerated:
            counts = f"more than {self._tolerated} of {len(self._state)} images cannot be read"
            advice = "raise `max_broken` to go on without them"
            raise BrokenImagesError(f"{self._where}: {counts} ({advice}); {self._example()}")

    def _example(self) -> str:
        name, reason = next(iter(self.broken.items()))
        return f"the first is {name}: {reason}"


class ImageFiles(StoredImages):
    """Base of the sources whose images are files.

    Args:
        files: the folder or archive.
        names: the file of every image, object by object.
        counts: see `StoredImages`.
        size: see `StoredImages`.
        cache: see `StoredImages`.
        max_broken: see `StoredImages`.
    """

    def __init__(
        self,
        files: Files,
        names: Names | Sequence[str],
        counts: Indices,
        size: int | None,
        cache: bool | None,
        max_broken: float,
    ) -> None:
        self._files, self._names = files, names
        super().__init__(str(files.path), counts, size, cache, max_broken)

    @property
    def stamp(self) -> str:
        return self._files.stamp

    def _name(self, image: int) -> str:
        return os.fsdecode(self._names[image])

    def _decode(self, image: int, size: int | None) -> Pixels:
        try:
            content = self._files.read(self._names[image])
        except Exception as error:  # Besides OSError, a damaged archive gives zlib.error, struct.error and ValueError.
            raise UnreadableImageError(str(error)) from error
        return decode(content, size)

    def _worth_threads(self, image: int) -> bool:
        return len(self._files.read(self._names[image])) >= _THREADED_BYTES
