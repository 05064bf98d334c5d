"""Boxes `(4,)` in pixels: left, top, right, bottom, from the upper left corner of the image."""

import numpy as np
from numpy.typing import NDArray

Box = NDArray[np.float64]


def overlap(a: Box, b: Box) -> float:
    """Intersection over union, from 0 to 1."""
    shared = area(np.concatenate((np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:]))))
    return shared / max(area(a) + area(b) - shared, np.finfo(float).tiny)


def area(box: Box) -> float:
    """Square pixels; 0 if the right side is left of the left side, or the bottom above the top."""
    return float(np.clip(box[2:] - box[:2], 0, None).prod())


def inside(box: Box, height: int, width: int) -> Box:
    """The part of a box in an image."""
    return np.clip(box, 0, [width, height, width, height])


def square_around(box: Box, margin: float, height: int, width: int) -> tuple[int, int, int]:
    """Left, top and side, in whole pixels, of the square around a box and a margin of `margin` times its longer side.

    The square is moved into the image and is never larger than the image's shorter side, so no pixel is made up.
    """
    side = int(np.clip(round((1 + margin) * float((box[2:] - box[:2]).max())), 1, min(height, width)))
    corner = np.clip(np.rint((box[:2] + box[2:] - side) / 2), 0, [width - side, height - side]).astype(int)
    return int(corner[0]), int(corner[1]), side
