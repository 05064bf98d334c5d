"""I-JEPA's block masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import SettingError, require, require_at_least
from ssl_inv.memories.progress import Progress
from ssl_inv.nn.distributed import gather, is_distributed
from ssl_inv.nn.tokens import Grid
from ssl_inv.transforms import keyed_random

_ATTEMPTS = 20

_TRIED, _HIDDEN = 1024, 0.25
"""Samples whose masks are tried, and the share of them that may lose every patch. As a mask is drawn up to twenty
times, one of 10^12 samples then stays without a context.
"""


@dataclass(frozen=True)
class Masks:
    """The visible patches of every sample, and the patches to predict.

    Attributes:
        context: numbers of the visible patches, `(B, n)`, int64, ascending.
        targets: `(B, M, m)`, int64: M blocks, which may overlap each other but not the context.
    """

    context: Tensor
    targets: Tensor


class BlockMasking(Progress):
    """I-JEPA's multi-block masks (Assran et al., CVPR 2023, sec. 3 and appendix A), from keyed random numbers.

    Each step draws one shape for all target blocks, one shape for all context blocks, and the positions of every
    sample's blocks. A sample's context is its context block without its target blocks. Contexts larger than the
    smallest context of the global batch lose random patches, so that all have equal size. Positions depend only on the
    seed, the step and the sample.

    Args:
        blocks: M, target blocks of a sample.
        scale: smallest and largest share of the patches in a target block.
        aspect: smallest and largest height over width of a target block.
        context_scale: smallest and largest share of the patches in the square context block.
        least_context: patches; a sample with fewer is drawn again, up to twenty times, and the draw with the most
            counts.
        seed: decides all masks, with the step and the sample.

    Attributes:
        steps_done: the number of optimiser steps done; on the host, as reading it from a device would wait for the
            device.

    Raises:
        SettingError: if a setting is out of its range.
    """

    def __init__(
        self,
        blocks: int,
        scale: Sequence[float],
        aspect: Sequence[float],
        context_scale: Sequence[float],
        least_context: int,
        seed: int,
    ) -> None:
        super().__init__()
        require_at_least(1, blocks=blocks, least_context=least_context)
        for name, share in (("block_scale", scale), ("context_scale", context_scale)):
            if len(share) != 2 or not 0 < share[0] <= share[1] <= 1:
                raise SettingError(
                    name,
                    f"must be a smallest and a largest share of the patches, above 0 and up to 1, got {list(share)}",
                )
        if len(aspect) != 2 or not 0 < aspect[0] <= aspect[1]:
            raise SettingError(
                "block_aspect", f"must be a smallest and a largest height over width, above 0, got {list(aspect)}"
            )
        self.blocks, self.least_context, self.seed = blocks, least_context, seed
        self.scale, self.aspect, self.context_scale = tuple(scale), tuple(aspect), tuple(context_scale)

    def forward(self, index: Tensor, grid: Grid, device: torch.device) -> Masks:
        """Masks for this step.

        Args:
            index: the samples' numbers in the data set, `(B,)`.
            grid: of the images.
            device: of the masks.

        Raises:
            SettingError: if the target blocks leave some sample no context.
        """
        samples = index.cpu().numpy()
        targets, visible = self.draw(samples, grid)
        smallest = visible.sum(axis=1).min()
        if is_distributed():
            smallest = int(gather(torch.tensor([smallest], device=device)).min())
        if smallest == 0:
            rows, columns = grid
            raise SettingError(
                "blocks",
                f"{self.blocks} of them can hide all {rows} x {columns} patches of an image; make block_scale smaller",
            )
        surplus_last = np.where(
            visible, keyed_random.uniform(*self._key(samples, _ATTEMPTS), count=visible.shape[1]), 2.0
        )
        context = np.sort(surplus_last.argsort(axis=1)[:, :smallest], axis=1)
        return Masks(*(torch.from_numpy(one).to(device, non_blocking=True) for one in (context, targets)))

    def require_fit(self, grid: Grid) -> None:
        """Raise a `SettingError` if no step, or not every step, can leave samples a context on this grid."""
        rows, columns = grid
        patches = f"{rows} x {columns} patches of an image"
        ends = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, 9)]), axis=-1).reshape(-1, 2)
        shapes = sorted(
            {block_shape(grid, self.scale, self.aspect, units) for units in ends}, key=lambda one: -_area(one)
        )
        smallest = _area(shapes[-1])
        problem = f"{list(self.scale)} makes blocks that hide all {patches}; make it smaller"
        require(smallest < rows * columns, "block_scale", problem)
        squares = [block_shape(grid, self.context_scale, (1.0, 1.0), units) for units in ends]
        samples = np.arange(_TRIED)
        for shape in shapes:
            visible = self._placed(samples, grid, (shape, min(squares, key=_area)), 0)[1]
            problem = f"{self.blocks} of them can hide all {patches}; make block_scale smaller"
            require(float((~visible.any(axis=1)).mean()) <= _HIDDEN, "blocks", problem)

    def visible(self, index: Tensor, grid: Grid) -> Tensor:
        """The context of every sample before all get equal size, `(B, rows, columns)`, bool."""
        return torch.from_numpy(self.draw(index.cpu().numpy(), grid)[1]).view(-1, *grid)

    def predicted(self, index: Tensor, grid: Grid) -> Tensor:
        """The patches of all target blocks together, `(B, rows, columns)`, bool."""
        targets = torch.from_numpy(self.draw(index.cpu().numpy(), grid)[0]).flatten(1)
        return torch.zeros(len(targets), grid[0] * grid[1], dtype=torch.bool).scatter_(1, targets, True).view(-1, *grid)

    def draw(self, samples: NDArray[np.int64], grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The target blocks `(B, M, m)`, and the context `(B, N)`, bool, whose size differs between samples.

        Args:
            samples: the samples' numbers in the data set, `(B,)`.
            grid: of the images.
        """
        units = keyed_random.uniform(self.seed, self.steps_done, count=4)[0]
        shapes = (
            block_shape(grid, self.scale, self.aspect, units[:2]),
            block_shape(grid, self.context_scale, (1.0, 1.0), units[2:]),
        )
        targets, visible = self._placed(samples, grid, shapes, 0)
        for attempt in range(1, _ATTEMPTS):
            count = visible.sum(axis=1)
            if (count >= self.least_context).all():
                break
            other_targets, other_visible = self._placed(samples, grid, shapes, attempt)
            better = (count < self.least_context) & (other_visible.sum(axis=1) > count)
            targets[better], visible[better] = other_targets[better], other_visible[better]
        return targets, visible

    def _placed(
        self, samples: NDArray[np.int64], grid: Grid, shapes: tuple[Grid, Grid], attempt: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        units = keyed_random.uniform(*self._key(samples, attempt), count=2 * (self.blocks + 1)).reshape(
            len(samples), -1, 2
        )
        targets, context = place_blocks(grid, shapes[0], units[:, 1:]), place_blocks(grid, shapes[1], units[:, :1])
        visible = np.zeros((len(samples), grid[0] * grid[1]), dtype=np.bool_)
        np.put_along_axis(visible, context[:, 0], True, axis=1)
        np.put_along_axis(visible, targets.reshape(len(samples), -1), False, axis=1)
        return targets, visible

    def _key(self, samples: NDArray[np.int64], attempt: int) -> tuple[int, int, NDArray[np.int64], int]:
        return self.seed, self.steps_done, samples, attempt


def _area(shape: Grid) -> int:
    return shape[0] * shape[1]


def block_shape(grid: Grid, scale: Sequence[float], aspect: Sequence[float], units: NDArray[np.float64]) -> Grid:
    """Height and width of a block in patches, at most the grid's.

    Args:
        grid: of the image.
        scale: smallest and largest share of the patches.
        aspect: smallest and largest height over width.
        units: two numbers from [0, 1): for the share and for the aspect.
    """
    area = grid[0] * grid[1] * (scale[0] + (scale[1] - scale[0]) * units[0])
    ratio = aspect[0] + (aspect[1] - aspect[0]) * units[1]
    height, width = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
    return min(max(height, 1), grid[0]), min(max(width, 1), grid[1])


def place_blocks(grid: Grid, shape: Grid, units: NDArray[np.float64]) -> NDArray[np.int64]:
    """The patches `(B, M, m)` of blocks of one shape, row by row; `units` `(B, M, 2)`, in [0, 1), give top and left."""
    top, left = ((units[..., axis] * (grid[axis] - shape[axis] + 1)).astype(np.int64) for axis in (0, 1))
    inside = np.arange(shape[0])[:, None] * grid[1] + np.arange(shape[1])
    return (top * grid[1] + left)[..., None] + inside.ravel()
