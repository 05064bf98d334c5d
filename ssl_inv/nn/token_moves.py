"""Turns, mirrors and sizes of images, and what they do to maps of tokens."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
"""Cells along height and width."""


@dataclass(frozen=True)
class Move:
    """What is done to a batch of images: half-turns and mirrors by image, then one size and one turn for all.

    Attributes:
        half_turns: which images are turned by half a turn, `(B,)`, bool.
        mirrors: which are mirrored after that, left and right, `(B,)`, bool.
        grid: cells of the map before the quarter turns.
        quarters: quarter turns counter-clockwise, 0 to 3.
    """

    half_turns: Tensor
    mirrors: Tensor
    grid: Grid
    quarters: int

    def images(self, pixels: Tensor, cell: int) -> Tensor:
        """The moved images, whose map has this grid.

        Args:
            pixels: `(B, C, H, W)`.
            cell: side of a cell in pixels.
        """
        half_turns, mirrors = (bits.view(-1, 1, 1, 1) for bits in (self.half_turns, self.mirrors))
        pixels = torch.where(half_turns, pixels.flip((2, 3)), pixels)
        pixels = torch.where(mirrors, pixels.flip(3), pixels)
        rows, columns = self.grid
        return _resized(pixels, (cell * rows, cell * columns)).rot90(self.quarters, (2, 3))

    def opposite(self, grid: Grid, quarters: int) -> "Move":
        """The move that half-turns and mirrors exactly the other images."""
        return Move(~self.half_turns, ~self.mirrors, grid, quarters)


def carried(maps: Tensor, start: Move, end: Move) -> Tensor:
    """Maps of images that `start` moved, as if `end` had moved them: `(B, C, h, w)`.

    `end` must have the opposite half-turns and mirrors. The step is then the same for all images: back by the first
    quarter turns, half a turn and a mirror, which are one flip from top to bottom, the other size, the second quarter
    turns. All but the size is exact.
    """
    flipped = maps.rot90(-start.quarters, (2, 3)).flip(2)
    return _resized(flipped, end.grid).rot90(end.quarters, (2, 3))


def _resized(maps: Tensor, size: Grid) -> Tensor:
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size, mode="bicubic", align_corners=False)
