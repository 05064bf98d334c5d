"""Square uint8 pixels of stored images, decoded when they are asked for; the base of all sources that have them."""

import logging
import math
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ssl_inv.catalogue import SettingError
from ssl_inv.data.counts import ViewCounts
from ssl_inv.data.decoding import Pixels, UnreadableImageError
from ssl_inv.data.photographs import Photograph, Wanted, cut, opened
from ssl_inv.data.source import Cuts, Images, Indices, Labels, Source
from ssl_inv.transforms import Group, Transform

_COMMON = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".tga", ".qoi")
_OTHERS = (".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpx", ".heic", ".heif")
IMAGE_SUFFIXES = frozenset((*_COMMON, *_OTHERS))
"""How names of image files end. HEIC needs the extra `heic`."""

ARRAY_SUFFIXES = frozenset((".npy",))
"""How names of arrays end. In a folder they are images where there are no others: beside images they are masks, depths
or features.
"""

MAX_CACHE_BYTES = 2_000_000_000
"""By default, decoded pixels stay in memory if all of them take no more than this."""

_ALWAYS_TOLERATED = 10

_FEWEST_THREADS, _MOST_THREADS = 3, 16
"""Several threads decode with Pillow (see `_decode_plain_jpeg`). Two of them are no faster than one with libjpeg-turbo
even on files of 400 kB, and a quarter as fast on files of 4 kB."""

_UNREAD, _READABLE, _BROKEN = 0, 1, 2

Photographs = Literal["whole", "squares"]

_LOG, _CANNOT = logging.getLogger("ssl_inv.data"), "%s: cannot read %s: %s"


class BrokenImagesError(ValueError):
    """More image files cannot be decoded than the data set is allowed to have."""


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
        photographs: whether training cuts views out of the `whole` images, or out of the `squares` that `load` gives.
            Without a size, they are the same.

    Attributes:
        broken: the unreadable images met so far, with the reasons.

    Raises:
        ValueError: if there are no images, or `size` is None and the first image is not square.
        BrokenImagesError: if none of the first images is readable.
    """

    def __init__(
        self,
        where: str,
        counts: Indices,
        size: int | None,
        cache: bool | None,
        max_broken: float,
        photographs: Photographs = "whole",
    ) -> None:
        self._counts = ViewCounts(counts)
        self._where, self.size = where, size
        self._labels: Labels | None = None
        images = self._counts.images
        if not images:
            raise ValueError(f"{where} has no images; files end with one of {', '.join(sorted(IMAGE_SUFFIXES))}")
        if size is not None and size < 1:
            raise SettingError("size", f"must be at least 1 pixel, got {size}")
        if not 0 <= max_broken <= 1:
            raise SettingError("max_broken", f"must be a share and must lie between 0 and 1, got {max_broken}")
        if photographs not in (known := get_args(Photographs)):
            raise SettingError("photographs", f"must be {' or '.join(known)}, got {photographs!r}")
        self._tolerated = max(int(max_broken * images), min(_ALWAYS_TOLERATED, images // 2))
        self.broken: dict[str, str] = {}
        self._state = np.zeros(images, dtype=np.uint8)
        first, pixels = self._first_readable()
        height, width = pixels.shape[:2]
        self._channels = int(pixels.shape[2])
        if height != width:
            found = f"{self._name(first)} has {width}x{height} pixels; images that are not square need a `size`"
            raise ValueError(f"{where}: {found}")
        self._image_size = int(height)
        self._threaded = self._worth_threads(first)
        squares = images * self._channels * height**2
        self._cached = squares <= MAX_CACHE_BYTES if cache is None else cache
        self._cache: Pixels | None = None
        self._whole: dict[int, Photograph] = {}
        self._whole_bytes_left = 0
        self._photographs = photographs == "whole" and size is not None
        if self._photographs and cache is not False:
            sides = self._photograph(first).sides
            left, needed = MAX_CACHE_BYTES - squares, images * self._channels * math.prod(sides)
            self._whole_bytes_left = sys.maxsize if cache else left if needed <= left else 0
        self._keeps_whole = self._whole_bytes_left > 0

    @abstractmethod
    def _name(self, image: int) -> str:
        """The name of an image in messages."""

    def _photograph(self, image: int) -> Photograph:
        """An image whose header has been read, or an `UnreadableImageError`."""
        return Photograph(self._decode(image, None))

    def sides_of(self, image: int) -> tuple[int, int]:
        """Height and width of an image as it is stored, upright, or an `UnreadableImageError`."""
        return self._photograph(image).sides

    def original(self, object_index: int, view: int) -> tuple[bytes | Pixels, Transform]:
        """The file of a view, or its whole pixels if it has none, and how it was made; or an `UnreadableImageError`."""
        image = self.image_of(object_index, view)
        return self._stored(image), self._transform(np.array([image]))

    def _stored(self, image: int) -> bytes | Pixels:
        """The file of an image whose header can be read, or its whole pixels."""
        return self._photograph(image).content

    def image_of(self, object_index: int, view: int = 0) -> int:
        """The number of a view among all images."""
        return self._counts.first_image(object_index) + view

    def pixels_of(self, image: int) -> Pixels:
        """The pixels `(H, W, C)` of an image, not kept, or an `UnreadableImageError`, not counted."""
        return self._decode(image, self.size)

    def _transform(self, images: Indices) -> Transform:
        """What is recorded of some images."""
        return Transform.empty()

    @abstractmethod
    def _decode(self, image: int, size: int | None) -> Pixels:
        """The pixels `(H, W, C)` of an image, or an `UnreadableImageError`."""

    def _worth_threads(self, image: int) -> bool:
        """Whether decoding an image takes long enough that several threads are faster."""
        return False

    @property
    def view_counts(self) -> Indices:
        return self._counts.of_objects

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
    def channels(self) -> int:
        return self._channels

    @property
    def preferred_workers(self) -> int | None:
        # Each loader process would decode all images and keep its own pixels.
        return 0 if (self._keeps_whole if self.photographs else self._cached) else None

    @cached_property
    def photographs(self) -> bool:
        """See `Source.photographs`. Where all images are squares of the `size`, views are cut out of these: it is the
        same, and faster where they stay in memory.
        """
        return self._photographs and not (self._cached and all(map(self._is_square, range(len(self._state)))))

    def _is_square(self, image: int) -> bool:
        """Whether an image has the `size`, as an unreadable one has."""
        try:
            return self.sides_of(image) == (self.size, self.size)
        except UnreadableImageError:
            return True

    @property
    def tolerated_images(self) -> int | None:
        return self._tolerated

    def describe(self, object_index: int, view: int) -> str:
        return self._name(self._counts.first_image(object_index) + view)

    def check(self) -> None:
        """Check nothing: counts and labels are made here, and to read the labels can take as long as all images."""

    def __getstate__(self) -> dict[str, object]:
        # A copy for another process starts with an empty cache: to send gigabytes through a pipe is slower than to
        # decode them.
        broken = np.flatnonzero(self._state == _BROKEN)
        return {**vars(self), "_cache": None, "_whole": {}, "_state": broken}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        broken, self._state = self._state, np.zeros(self._counts.images, dtype=np.uint8)
        self._state[broken] = _BROKEN

    def _first_readable(self) -> tuple[int, Pixels]:
        for image in range(len(self._state)):
            try:
                pixels = self._decode(image, self.size)
            except UnreadableImageError as error:
                self._note_broken(image, str(error), told=False)
                continue
            for name, reason in self.broken.items():
                _LOG.warning(_CANNOT, self._where, name, reason)
            return image, pixels
        raise BrokenImagesError(f"{self._where}: no image is readable; {self._example()}")

    def load(self, objects: Indices, views: Indices) -> Images:
        """See `Source.load`. Pixels have channels last in memory.

        Raises:
            BrokenImagesError: if too many images are broken.
            ValueError: if an object or a view does not exist, or `size` is None and an image has another size than the
                first.
        """
        images = self._numbers(objects, views)
        if self._cached and self._cache is None:
            self._cache = np.zeros((len(self._state), *[self._image_size] * 2, self._channels), dtype=np.uint8)
        if self._cache is not None:
            new = np.unique(images[self._state[images] == _UNREAD]).tolist()
            targets = [self._cache[image] for image in new]
        else:
            new = images.tolist()
            # Channels last, as decoders give them: the copy is straight, and resampling and convolutions are faster.
            pixels = np.zeros((len(new), *[self._image_size] * 2, self._channels), dtype=np.uint8)
            targets = list(pixels)
        self._each(lambda place: self._decode_into(targets[place], new[place]), new)
        if self._cache is not None:
            pixels = self._cache[images]
        readable = torch.from_numpy(self._state[images] == _READABLE)
        return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2), self._transform(images), readable)

    def record(self, objects: Indices, views: Indices) -> Transform:
        return self._transform(self._numbers(objects, views))

    def _numbers(self, objects: Indices, views: Indices) -> Indices:
        """The numbers of some views among all images."""
        return self._counts.images_of(np.asarray(objects, dtype=np.int64), np.asarray(views, dtype=np.int64))

    def _reading_order(self, images: Sequence[int]) -> Sequence[int]:
        """The places of `images` in the order in which they are best read."""
        return range(len(images))

    def _each(self, work: Callable[[int], object], images: Sequence[int]) -> None:
        """Do the same work for every place of `images`, on several threads where that is faster."""
        # A loader process has a single torch thread and uses no other.
        threads = min(torch.get_num_threads(), _MOST_THREADS) if self._threaded else 1
        places = self._reading_order(images)
        if threads < _FEWEST_THREADS or len(places) < 4 * threads:
            for place in places:
                work(place)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, places))

    def load_pieces(self, objects: Indices, views: Indices, cuts: Cuts) -> tuple[Images, list[Tensor]]:
        """See `Source.load_pieces`. Pixels have channels last in memory.

        Raises:
            BrokenImagesError: if too many images are broken.
            ValueError: if an object or a view does not exist.
        """
        images = self._numbers(objects, views)
        known: dict[int, Photograph | None] = dict.fromkeys(images.tolist())
        single = list(known)
        self._each(lambda place: known.update({single[place]: self._opened(single[place])}), single)
        sides = opened([known[image] for image in images.tolist()])
        made: dict[int, Pixels] = {}
        wanted: dict[int, dict[int, list[Wanted]]] = {image: {} for image in known}
        pieces = []
        for rows, regions in cuts(sides):
            if id(regions) not in made:
                made[id(regions)] = target = np.zeros((len(rows), *[regions.size] * 2, self._channels), np.uint8)
                each = zip(np.arange(len(images))[rows].tolist(), regions.corners.tolist(), target, strict=True)
                for row, corners, piece in each:
                    wanted[int(images[row])].setdefault(row, []).append((corners, regions.black, piece))
            pieces.append(made[id(regions)])
        self._each(lambda place: self._cut(image := single[place], known[image], [*wanted[image].values()]), single)
        tensors = {id(one): torch.from_numpy(one).permute(0, 3, 1, 2) for one in made.values()}
        nothing = torch.empty(len(images), self._channels, 0, 0, dtype=torch.uint8)
        readable = torch.from_numpy(self._state[images] != _BROKEN)
        return Images(nothing, self._transform(images), readable, (), sides), [tensors[id(one)] for one in pieces]

    def _opened(self, image: int) -> Photograph | None:
        if self._state[image] == _BROKEN:
            return None
        if (kept := self._whole.get(image)) is not None:
            return kept
        try:
            photograph = self._photograph(image)
            if not self._keeps_whole:
                return photograph
            # Decoded as a whole also when no memory is left: a piece must not depend on what is kept.
            photograph = Photograph(photograph.pixels()[0])
        except UnreadableImageError as error:
            self._note_broken(image, str(error))
            return None
        if self._whole_bytes_left > 0:
            self._whole[image] = photograph
            self._whole_bytes_left -= self._channels * math.prod(photograph.sides)
        return photograph

    def _cut(self, image: int, photograph: Photograph | None, wanted: Sequence[Sequence[Wanted]]) -> None:
        if photograph is None or not wanted:
            return
        try:
            cut(photograph, wanted)
        except UnreadableImageError as error:
            self._note_broken(image, str(error))

    def _decode_into(self, target: Pixels, image: int) -> None:
        if self._state[image] == _BROKEN:
            return
        try:
            pixels = self._decode(image, self.size)
        except UnreadableImageError as error:
            self._note_broken(image, str(error))
            return
        if pixels.shape[2] != target.shape[2]:
            counts = f"{pixels.shape[2]} channels, and the first image {target.shape[2]}"
            raise ValueError(f"{self._where}: {self._name(image)} has {counts}; choose `bands` or `channels`")
        if pixels.shape != target.shape:
            sizes = f"{pixels.shape[1]}x{pixels.shape[0]} pixels but the first image {len(target)}x{len(target)}"
            found = f"{self._name(image)} has {sizes}; images of different sizes need a `size`"
            raise ValueError(f"{self._where}: {found}")
        target[:] = pixels
        self._state[image] = _READABLE

    def _note_broken(self, image: int, reason: str, told: bool = True) -> None:
        if self._state[image] == _BROKEN:
            return
        self._state[image] = _BROKEN
        self.broken[self._name(image)] = reason
        if told:
            _LOG.warning(_CANNOT, self._where, self._name(image), reason)
        if len(self.broken) > self._tolerated:
            counts = f"more than {self._tolerated} of {len(self._state)} images cannot be read"
            counts += " (raise `max_broken` to go on without them)"
            raise BrokenImagesError(f"{self._where}: {counts}; {self._example()}")

    def _example(self) -> str:
        return "the first is {}: {}".format(*next(iter(self.broken.items())))
