"""Random directions, new ones in every step, the same on all processes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.catalogue import require_at_least
from ssl_inv.memories.base import Memory
from ssl_inv.transforms import keyed_random


class RandomDirections(Memory):
    """Unit vectors that depend on a seed and the step alone, so processes agree on them without a message.

    An objective calls `advance` in `after_step`. The micro-batches of a step share their directions. A CPU and a GPU
    draw different ones.

    Args:
        count: how many.
        seed: of the directions.

    Raises:
        SettingError: if `count` is below 1.
    """

    step: Tensor

    def __init__(self, count: int, seed: int = 0) -> None:
        super().__init__()
        require_at_least(1, directions=count)
        self.count, self.seed = count, seed
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        # A copy of `step` on the host: reading the buffer would wait for the device. None: read it again.
        self._host_step: int | None = 0

    def forget(self) -> None:
        super().forget()
        self._host_step = None

    def advance(self, step: int) -> None:
        """Note that optimiser step `step` is done; the first is 1."""
        self.step.fill_(step)
        self._host_step = step

    def forward(self, embeddings: Tensor) -> Tensor:
        """Directions `(D, count)` for embeddings `(..., D)`, at least float32."""
        if self._host_step is None:
            self._host_step = int(self.step)
        dtype = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
        key = int(keyed_random.bits(self.seed, self._host_step, count=1)[0, 0] >> 1)
        generator = torch.Generator(embeddings.device).manual_seed(key)
        shape = embeddings.shape[-1], self.count
        return F.normalize(torch.randn(shape, generator=generator, dtype=dtype, device=embeddings.device), dim=0)
