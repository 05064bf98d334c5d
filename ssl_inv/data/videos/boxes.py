"""Boxes `(4,)` in pixels: left, top, right, bottom, from the upper left corner of the image."""

import numpy as np
from numpy.typing import NDArray

Box = NDArray[np.float64]


def overlap(a: Box, b: Box) -> float:
    """Intersection over union, from 0 to 1."""
    shared = area(np.concatenate((np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:]))))
    return shared / max(area(a) + area(b) - shared, np.finfo(float).tiny)


def area(box: Box) -> float:
    """Square pixels; 0 where the right side lies left of the left one, or the bottom above the top."""
    return float(np.clip(box[2:] - box[:2], 0, None).prod())


def inside(box: Box, height: int, width: int) -> Box:
    """The part of a box that lies in an image."""
    return np.clip(box, 0, [width, height, width, height])


def square_around(box: Box, margin: float, height: int, width: int) -> tuple[int, int, int]:
    """Left, top and side of the square that shows a box and `margin` times its longer side around it, whole pixels.

    A square that would leave the image is pushed back into it, and is never larger than the image's shorter side: no
    pixel is made up.
    """
    side = int(np.clip(round((1 + margin) * float((box[2:] - box[:2]).max())), 1, min(height, width)))
    corner = np.clip(np.rint((box[:2] + box[2:] - side) / 2), 0, [width - side, height - side]).astype(int)
    return int(corner[0]), int(corner[1]), side
