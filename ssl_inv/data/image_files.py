"""Images that are stored encoded, as JPEG or PNG and the like; the base of the sources whose images are files."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from ssl_inv.data.archives import Files
from ssl_inv.data.decoding import PLAIN, Pixels, Reading, UnreadableImageError, decode
from ssl_inv.data.images import Photographs, StoredImages
from ssl_inv.data.names import Names, utf8_name
from ssl_inv.data.photographs import Photograph
from ssl_inv.data.source import Indices
from ssl_inv.data.wide_files import has_wide_numbers
from ssl_inv.transforms import Transform

THREADED_BYTES = 20_000


class EncodedImages(StoredImages):
    """Base of the sources whose images are encoded.

    Args:
        where: see `StoredImages`.
        counts: see `StoredImages`.
        size: see `StoredImages`.
        cache: see `StoredImages`.
        max_broken: see `StoredImages`.
        photographs: see `StoredImages`.
        reading: how the numbers of an image become colours.
    """

    def __init__(
        self,
        where: str,
        counts: Indices,
        size: int | None,
        cache: bool | None,
        max_broken: float,
        photographs: Photographs = "whole",
        reading: Reading = PLAIN,
    ) -> None:
        self.reading = reading
        super().__init__(where, counts, size, cache, max_broken, photographs)

    @abstractmethod
    def _read(self, image: int) -> bytes:
        """An image as it is stored, or any error."""

    def _content(self, image: int) -> bytes:
        try:
            return self._read(image)
        except Exception as error:  # Besides OSError, a damaged archive gives zlib.error, struct.error and ValueError.
            raise UnreadableImageError(str(error)) from error

    def _decode(self, image: int, size: int | None) -> Pixels:
        return decode(self._content(image), size, self.reading, self._page(image))

    def _photograph(self, image: int) -> Photograph:
        return Photograph(self._content(image), self.reading, self._page(image))

    def _stored(self, image: int) -> bytes | Pixels:
        found = super()._stored(image)
        # A photograph of numbers that Pillow does not read keeps their pixels alone.
        return found if isinstance(found, bytes) else self._content(image)

    def is_wide(self, image: int) -> bool:
        """Whether an image has numbers of more than 8 bits; see `has_wide_numbers`."""
        return has_wide_numbers(self._content(image))

    def _page(self, image: int) -> int | None:
        """The page of an image in a file with several, counted from 0; None if the file is one image."""
        return None

    def _worth_threads(self, image: int) -> bool:
        return len(self._content(image)) >= THREADED_BYTES


class ImageFiles(EncodedImages):
    """Base of the sources whose images are files.

    Args:
        files: the folder or archive.
        names: the file of every image, object by object.
        counts: see `StoredImages`.
        size: see `StoredImages`.
        cache: see `StoredImages`.
        max_broken: see `StoredImages`.
        photographs: see `StoredImages`.
        reading: how the numbers of a file become colours.
        pages: of every image, its number in a file with several, counted from 0; None: every file is one image.
    """

    def __init__(
        self,
        files: Files,
        names: Names | Sequence[str],
        counts: Indices,
        size: int | None,
        cache: bool | None,
        max_broken: float,
        photographs: Photographs = "whole",
        reading: Reading = PLAIN,
        pages: Indices | None = None,
    ) -> None:
        self._files, self._names = files, names
        self._pages = pages
        super().__init__(str(files), counts, size, cache, max_broken, photographs, reading)

    @property
    def stamp(self) -> str:
        return self._files.stamp

    def _name(self, image: int) -> str:
        return utf8_name(self._names[image]) + (f" page {page + 1}" if (page := self._page(image)) else "")

    def original(self, object_index: int, view: int) -> tuple[bytes | Pixels, Transform]:
        """See `StoredImages.original`; if pages are views, their pixels: files would hold all of them."""
        image = self.image_of(object_index, view)
        if self._pages is not None:
            return self._photograph(image).pixels()[0], self._transform(np.array([image]))
        return super().original(object_index, view)

    def _page(self, image: int) -> int | None:
        return None if self._pages is None else int(self._pages[image])

    def _read(self, image: int) -> bytes:
        return self._files.read(self._names[image])
