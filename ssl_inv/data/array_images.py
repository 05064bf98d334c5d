"""Images that are arrays of numbers, in columns of lists and in numpy's files."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_inv.data.reading import PLAIN, Pixels, Reading, UnreadableImageError
from ssl_inv.data.wide_files import as_pixels, numbers_of_array

_TOLERANCE = 1e-3
"""A resize can leave [0, 1] by a rounding error; a normalised image leaves it by far."""


def array_pixels(numbers: NDArray[Any], reading: Reading = PLAIN) -> Pixels:
    """The pixels `(H, W, C)` of an image that is an array.

    Bytes are taken as they are, unless the reading says what they span, as for masks of 0 and 1. Floats lie in [0, 1],
    unless it says what they span. A second or fourth band is opacity where colours are wanted.

    Args:
        numbers: `(H, W)`, `(H, W, C)` or `(C, H, W)`.
        reading: how numbers become pixels.

    Raises:
        UnreadableImageError: for another shape or type, floats out of [0, 1], or other bands than wanted.
    """
    layers = numbers_of_array(numbers, reading)
    if layers.dtype.kind == "f" and not reading.limits:
        low, high = float(layers.min()), float(layers.max())
        if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            problem = f"floats must lie in [0, 1], got {low:.3g} to {high:.3g}"
            raise UnreadableImageError(f"{problem}; name what they span with `range`, or the value of `white`")
        layers = np.rint(255 * layers.clip(0, 1)).astype(np.uint8)
    opacity = reading.colours and layers.shape[2] in (2, 4)
    return np.ascontiguousarray(as_pixels(layers, reading, opacity))
