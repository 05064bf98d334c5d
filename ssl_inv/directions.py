"""Random directions that all processes agree on, new ones for every optimiser step."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv import keyed_random


class RandomDirections(nn.Module):
    """Unit vectors that depend on a seed and the number of the step alone, so that processes have the same without a message.

    An objective that has some calls `advance` in `after_step`. The step is saved with the objective; the micro-batches of one step share
    their directions. CPU and GPU draw different ones.

    Args:
        count: how many.
        seed: decides them.

    Raises:
        ValueError: if `count` is below 1.
    """

    step: Tensor

    def __init__(self, count: int, seed: int = 0) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"directions must be at least 1, got {count}")
        self.count, self.seed = count, seed
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        # The same on the host: reading the buffer would wait for all that the device still has to do.
        self._host_step: int | None = 0
        self.register_load_state_dict_post_hook(_read_step_again)  # type: ignore[no-untyped-call]

    def advance(self, step: int) -> None:
        """Draw for optimiser step `step` + 1 from now on, the first step being 1."""
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


def _read_step_again(module: RandomDirections, incompatible: Any) -> None:
    module._host_step = None
