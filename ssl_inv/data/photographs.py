"""Pieces of whole photographs: the header gives the sides, the pieces are chosen, then the file is decoded once."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ssl_inv.data.decoding import (
    PLAIN,
    Pixels,
    Reading,
    named_reasons,
    opened_image,
    plain_jpeg,
    plain_jpeg_sides,
    upright_pixels,
)
from ssl_inv.data.wide_files import wide_pixels

_MARGIN = 2.0
"""A photograph may be decoded at 1/2, 1/4 or 1/8 if a region then still has so many pixels for one of its piece: the
piece then has more than 40 dB against that of a full decode.
"""

_QUARTER_TURNS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


class Photograph:
    """An encoded image whose header has been read, or decoded pixels.

    Args:
        content: the file, or the pixels `(H, W, C)`.
        reading: how the numbers of the file become colours.
        page: see `decode`.

    Attributes:
        sides: height and width in pixels, upright.

    Raises:
        UnreadableImageError: with the reason.
    """

    def __init__(self, content: bytes | Pixels, reading: Reading = PLAIN, page: int | None = None) -> None:
        self.content, self.reading, self._page = content, reading, page
        self._image: Image.Image | None = None
        self.sides: tuple[int, int]
        if isinstance(content, np.ndarray):
            self.sides = content.shape[0], content.shape[1]
            return
        if (sides := plain_jpeg_sides(content)) is not None:
            self.sides = sides
            return
        with named_reasons(content):
            if (pixels := wide_pixels(content, reading, page)) is not None:
                self.content, self.sides = pixels, (pixels.shape[0], pixels.shape[1])
                return
            self._image = opened_image(content, page)
            width, height = self._image.size
            # Pillow turns the size of a TIFF itself. It reads the whole file for the orientation of a PNG.
            asks = self._image.format != "TIFF" and width != height
            turned = asks and self._image.getexif().get(ExifTags.Base.Orientation, 1) in _QUARTER_TURNS
            self.sides = (width, height) if turned else (height, width)

    def pixels(self, most: int = 1) -> tuple[Pixels, int]:
        """The upright pixels `(H, W, C)`, and of how many pixels along each axis one was made.

        Args:
            most: pixels of the photograph that may become one, along each axis.

        Raises:
            UnreadableImageError: with the reason.
        """
        if isinstance(self.content, np.ndarray):
            return self.content, 1
        if self._image is None and most < 4:
            # Half the size costs Pillow as much as the whole costs libjpeg-turbo, which only one thread uses.
            most, bounded = 1, math.prod(self.sides) <= self.reading.most_pixels and self.reading.as_stored
            if bounded and (found := plain_jpeg(self.content)) is not None:
                return found, 1
        # A file may be decoded twice, at two sizes.
        with named_reasons(self.content), opened_image(self.content, self._page) as image:
            width = image.width
            if most > 1:
                image.draft("RGB", (image.width // most, image.height // most))
            reduced = max(1, round(width / image.width))
            return upright_pixels(image, self.reading), reduced


def opened(photographs: Sequence[Photograph | None]) -> NDArray[np.int64]:
    """The sides of photographs; one pixel for those that cannot be read."""
    return np.array([(1, 1) if one is None else one.sides for one in photographs], dtype=np.int64).reshape(-1, 2)


Wanted = tuple[list[float], bool, Pixels]
"""A piece to be made: the corners of its region, whether black lies beyond the border, and where to write it, `(S, S,
C)`; see `Regions`.
"""


def cut(photograph: Photograph, wanted: Sequence[Sequence[Wanted]]) -> None:
    """Decode a photograph and write its pieces.

    Each pixel of a piece is a triangle-weighted mean of the pixels that it covers, as in torchvision's
    `resized_crop(antialias=True)`.

    Args:
        photograph: the photograph.
        wanted: the pieces of every sample that shows it. How far it is reduced depends on those of one sample alone.

    Raises:
        UnreadableImageError: with the reason.
    """
    by_reduction: dict[int, list[Wanted]] = {}
    for sample in wanted:
        ratio = min(min(right - left, bottom - top) / len(piece) for (left, top, right, bottom), _, piece in sample)
        most = next((one for one in (8, 4, 2) if ratio >= one * _MARGIN), 1)
        by_reduction.setdefault(most, []).extend(sample)
    for most, pieces in by_reduction.items():
        pixels, reduced = photograph.pixels(most)
        for corners, black, piece in pieces:
            _resize(pixels, [one / reduced for one in corners], black, piece)


def _resize(pixels: Pixels, corners: list[float], black: bool, piece: Pixels) -> None:
    (left, top, right, bottom), (height, width), size = corners, pixels.shape[:2], len(piece)
    x, y, end, low = int(left), int(top), int(right), int(bottom)
    if (x, y, end, low) != (left, top, right, bottom):
        x, y = max(x, 0), max(y, 0)
        part = pixels[y : math.ceil(bottom), x : math.ceil(right)]
        box = max(left - x, 0.0), max(top - y, 0.0), min(right - x, part.shape[1]), min(bottom - y, part.shape[0])
        # Pillow has images of three channels or of one.
        planes = (
            [(part, piece)]
            if part.shape[2] == 3
            else zip(part.transpose(2, 0, 1), piece.transpose(2, 0, 1), strict=True)
        )
        for plane, target in planes:
            image = Image.fromarray(np.ascontiguousarray(plane))
            target[:] = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
        return
    part = pixels[y:low, x:end]
    if low > height or end > width:
        wider = ((0, max(low - height, 0)), (0, max(end - width, 0)), (0, 0))
        part = np.pad(part, wider) if black else np.pad(part, wider, mode="edge")
    if part.shape == piece.shape:
        piece[:] = part
        return
    # torch would copy pixels that are not contiguous, but on threads of its own for every thread that decodes.
    dense = torch.from_numpy(np.require(part, requirements=("C", "W"))).permute(2, 0, 1).unsqueeze(0)
    torch.from_numpy(piece).copy_(
        F.interpolate(dense, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    )
