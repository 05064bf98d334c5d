"""Regions of photographs of different sizes, brought to one size so that they stand in one batch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Regions:
    """One region of every photograph of a batch.

    Attributes:
        corners: left, top, right and bottom in pixels of the photograph, `(B, 4)`. A region may end beyond the right or
            lower border of its photograph if it has as many pixels as the piece along that axis.
        sides: height and width of the photographs in pixels, `(B, 2)`.
        size: side of the pieces in pixels, to which all regions are brought.
        black: whether black lies beyond the border; otherwise the pixels at the border go on.
    """

    corners: NDArray[np.float64]
    sides: NDArray[np.int64]
    size: int
    black: bool = False

    def maps(self) -> NDArray[np.float64]:
        """Homographies from photographs to pieces, `(B, 3, 3)`, on coordinates from -1 to 1 between outer edges."""
        low, high = self.corners[:, :2], self.corners[:, 2:]
        extent, whole = high - low, self.sides[:, ::-1]
        found = np.zeros((len(low), 3, 3))
        found[:, [0, 1], [0, 1]], found[:, :2, 2], found[:, 2, 2] = whole / extent, (whole - low - high) / extent, 1
        return found

    def reduced(self) -> NDArray[np.bool_]:
        """Whether a region has more pixels than its piece, along x and along y, `(B, 2)`."""
        return self.corners[:, 2:] - self.corners[:, :2] > self.size

    def rows(self, chosen: NDArray[np.int64]) -> "Regions":
        """The regions of some photographs."""
        return Regions(self.corners[chosen], self.sides[chosen], self.size, self.black)

    def with_rows(self, chosen: NDArray[np.int64], others: "Regions") -> "Regions":
        """These regions with `others` in some rows."""
        corners, sides = self.corners.copy(), self.sides.copy()
        corners[chosen], sides[chosen] = others.corners, others.sides
        return Regions(corners, sides, self.size, self.black)
