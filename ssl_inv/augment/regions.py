"""Which part of a photograph a view needs, and at which size: a piece is cut before anything is sent to the device."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssl_inv.augment.warp import Padding
from ssl_inv.transforms.regions import Regions

_DETAIL = 1.5
"""Pixels of a window for one pixel of the view. With fewer, a turned view loses detail that it would show."""

_MARGIN = 2.0
"""Pixels around what a view touches, of the view or of the photograph, whichever are larger: filters read them."""

_CORNERS = np.array([[-1.0, -1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])


def growth(size: int, turned: bool, fields: Sequence[str]) -> int:
    """The side of windows of which views of `size` pixels are made without a loss of detail.

    Args:
        size: side of the views in pixels.
        turned: whether views are turned or distorted: the box around a turned square is larger by up to sqrt(2).
        fields: the parameters of random fields that move pixels.
    """
    wider = math.prod(math.sqrt(2) if name == "field_rotate" else 4 / 3 for name in fields)
    needed = size * _DETAIL * (math.sqrt(2) if turned else 1) * min(wider, 2)
    # Means over squares of 2 or 4 pixels fit into it.
    return 4 * math.ceil(needed / 4)


def windows(
    matrices: NDArray[np.float64],
    sides: NDArray[np.int64],
    size: int,
    detailed: int | None = None,
    reach: NDArray[np.float64] | None = None,
    padding: Padding = "reflection",
) -> Regions:
    """The regions that views touch.

    Args:
        matrices: from view to photograph, `(B, 3, 3)`.
        sides: height and width of the photographs in pixels, `(B, 2)`.
        size: side of the views in pixels.
        detailed: side of the windows in pixels; None for upright views, whose pieces are the views themselves.
        reach: how far from the centre of a view its pixels read, from 1 at its border, `(B,)`.
        padding: what lies outside of the photographs.
    """
    extent = sides[:, ::-1].astype(np.float64)
    corners = np.tile(_CORNERS, (len(matrices), 1, 1))
    if reach is not None:
        corners[:, :, :2] *= reach[:, None, None]
    points = corners @ matrices.transpose(0, 2, 1)
    ahead = points[:, :, 2].min(axis=1) > 1e-3  # behind it lies the horizon, and the view reaches any point
    points = points[:, :, :2] / np.where(ahead[:, None], points[:, :, 2], 1)[:, :, None]
    low, high = ((one + 1) / 2 * extent for one in (points.min(axis=1), points.max(axis=1)))
    if detailed is None:
        both = np.concatenate((low, high), axis=1)
        # Records have single precision: a corner that is almost at the edge of a pixel is meant to be there.
        return Regions(np.where(np.abs(both - np.rint(both)) < 1e-3, np.rint(both), both), sides, size)
    margin = _MARGIN * np.maximum((high - low) / size, 1)
    low, high = low - margin, high + margin
    if padding == "reflection":
        low, high = np.minimum(low, 2 * extent - high), np.maximum(high, -low)
    low, high = (np.where(ahead[:, None], one, edge) for one, edge in ((low, 0.0), (high, extent)))
    low = np.floor(np.clip(low, 0, extent - 1))
    high = np.ceil(np.clip(high, low + 1, extent))
    # A region that is smaller than its piece grows: its pixels are copied then, and lose nothing.
    grown = np.clip(low - np.floor((detailed - (high - low)) / 2), 0, np.maximum(extent - detailed, 0))
    small = high - low <= detailed
    low, high = np.where(small, grown, low), np.where(small, grown + detailed, high)
    return Regions(np.concatenate((low, high), axis=1), sides, detailed, padding == "zeros")
