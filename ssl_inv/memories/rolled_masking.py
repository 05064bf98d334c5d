"""CAPI's masks: one rectangle stays visible, and is shifted round the edges of the image."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import SettingError, require
from ssl_inv.memories.masking import Masks
from ssl_inv.memories.progress import Progress
from ssl_inv.nn.tokens import Grid
from ssl_inv.transforms import keyed_random


class RolledMasking(Progress):
    """Inverse block masks with a cyclic shift (Darcet et al., "CAPI", TMLR 2025), from keyed random numbers.

    The visible patches of a sample are a rectangle, row by row until their number is reached, shifted by a uniform
    number of rows and columns; what leaves the image on one side enters on the other. The logarithm of the rectangle's
    height over its width is uniform between those of 1/2 and 2. All samples have equally many visible patches. Of the
    others, some are predicted, at random. A mask depends only on the seed, the step and the sample.

    Args:
        hidden: share of the patches that the student does not see.
        predicted: share of the hidden patches that are predicted.
        seed: decides all masks, with the step and the sample.

    Raises:
        SettingError: if a setting is out of its range.
    """

    def __init__(self, hidden: float, predicted: float, seed: int) -> None:
        super().__init__()
        require(0 < hidden < 1, "hidden_share", f"must be above 0 and below 1, got {hidden}")
        require(0 < predicted <= 1, "predicted_share", f"must be above 0 and up to 1, got {predicted}")
        self.hidden, self.predicted_share, self.seed = hidden, predicted, seed

    def forward(self, index: Tensor, grid: Grid, device: torch.device) -> Masks:
        """Masks for this step, with one block of targets `(B, 1, m)`.

        Args:
            index: the samples' numbers in the data set, `(B,)`.
            grid: of the images.
            device: of the masks.

        Raises:
            SettingError: if an image has too few patches to hide some and show some.
        """
        samples = index.cpu().numpy()
        visible = self.draw(samples, grid)
        count = visible[0].sum()
        wanted = max(1, int(self.predicted_share * (visible.shape[1] - count)))
        # Numbers of visible patches are ascending; hidden ones are in random order.
        context = np.flatnonzero(visible).reshape(len(samples), count) % visible.shape[1]
        order = keyed_random.uniform(*self._key(samples), 1, count=visible.shape[1])
        targets = np.sort(np.where(visible, 2.0, order).argsort(axis=1)[:, None, :wanted], axis=2)
        return Masks(*(torch.from_numpy(one).to(device, non_blocking=True) for one in (context, targets)))

    def visible(self, index: Tensor, grid: Grid) -> Tensor:
        """What the student sees, `(B, rows, columns)`, bool."""
        return torch.from_numpy(self.draw(index.cpu().numpy(), grid)).view(-1, *grid)

    def seen(self, grid: Grid) -> int:
        """How many patches of an image are visible.

        Raises:
            SettingError: if an image has too few patches to hide some and show some.
        """
        rows, columns = grid
        count = rows * columns - int(self.hidden * rows * columns)
        if not 0 < count < rows * columns:
            problem = f"{self.hidden} of {rows} x {columns} patches leaves {count} to see; give larger images"
            raise SettingError("hidden_share", f"{problem} or smaller patches")
        return count

    def draw(self, samples: NDArray[np.int64], grid: Grid) -> NDArray[np.bool_]:
        """The visible patches of some samples, `(B, N)`.

        Args:
            samples: their numbers in the data set, `(B,)`.
            grid: of the images.
        """
        rows, columns = grid
        count = self.seen(grid)
        aspect, down, right = keyed_random.uniform(*self._key(samples), 0, count=3).T[..., None, None]
        ratio = np.exp((2 * aspect - 1) * math.log(2))
        width = np.clip(np.rint(np.sqrt(count / ratio)), -(-count // rows), columns).astype(np.int64)
        row = (np.arange(rows)[:, None] - (down * rows).astype(np.int64)) % rows
        column = (np.arange(columns) - (right * columns).astype(np.int64)) % columns
        visible: NDArray[np.bool_] = (column < width) & (row * width + column < count)
        return visible.reshape(len(samples), -1)

    def _key(self, samples: NDArray[np.int64]) -> tuple[int, int, NDArray[np.int64]]:
        return self.seed, self.steps_done, samples
