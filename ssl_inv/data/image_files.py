"""Images that are stored encoded, as JPEG or PNG and the like; the base of the sources whose images are files."""

from abc import abstractmethod
from collections.abc import Sequence

from ssl_inv.data.archives import Files
from ssl_inv.data.decoding import PLAIN, Pixels, Reading, UnreadableImageError, decode
from ssl_inv.data.images import Photographs, StoredImages
from ssl_inv.data.names import Names, printable
from ssl_inv.data.photographs import Photograph
from ssl_inv.data.source import Indices

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
        return decode(self._content(image), size, self.reading)

    def _photograph(self, image: int) -> Photograph:
        return Photograph(self._content(image), self.reading)

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
    ) -> None:
        self._files, self._names = files, names
        super().__init__(str(files.path), counts, size, cache, max_broken, photographs, reading)

    @property
    def stamp(self) -> str:
        return self._files.stamp

    def _name(self, image: int) -> str:
        return printable(self._names[image])

    def _read(self, image: int) -> bytes:
        return self._files.read(self._names[image])
