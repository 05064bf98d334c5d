"""DINO's centred and sharpened targets."""

import torch
from torch import Tensor

from ssl_inv.catalogue import require_above, require_between
from ssl_inv.memories.base import Memory
from ssl_inv.nn.distributed import all_sum, world_size


class CentredTargets(Memory):
    """The student's targets: softmax((t - c) / temperature) of the teacher's logits t, with c their moving average.

    Centring keeps one prototype from winning everywhere. A low temperature keeps the targets from being uniform (Caron
    et al., ICCV 2021, eq. 4).

    Args:
        prototypes: K, the number of logits.
        momentum: the share of the centre that an update keeps.
        temperature: after the warm-up.
        first_temperature: at the first step.
        warmup: share of all steps in which the temperature goes linearly from the first to the last.

    Raises:
        SettingError: if a number is out of its range.
    """

    centre: Tensor
    temperature: Tensor

    def __init__(
        self, prototypes: int, momentum: float, temperature: float, first_temperature: float, warmup: float
    ) -> None:
        super().__init__()
        require_above(0, teacher_temperature=temperature, warmup_temperature=first_temperature)
        require_between(0, 1, centre_momentum=momentum)
        self.momentum, self.range, self.warmup = momentum, (first_temperature, temperature), warmup
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("temperature", torch.zeros(()))
        self.warm_up(0.0)

    def forward(self, logits: Tensor) -> Tensor:
        """Probabilities `(..., K)` from logits `(..., K)`, in the centre's precision."""
        return ((logits.to(self.centre.dtype) - self.centre) / self.temperature).softmax(dim=-1)

    @torch.no_grad()
    def put(self, mean: Tensor) -> None:
        """Add the mean logits `(K,)` of this process's batch at the next `flush`."""
        self._wait(all_sum(mean.to(self.centre.dtype)) / world_size())

    def _take_in(self, waiting: list[tuple[Tensor, ...]]) -> None:
        # Once a step, however many micro-batches it has.
        self.centre.lerp_(torch.stack([mean for (mean,) in waiting]).mean(dim=0), 1 - self.momentum)

    def warm_up(self, progress: float) -> None:
        """Set the temperature for a time from 0, the first step, to 1, the last."""
        first, last = self.range
        self.temperature.fill_(first + (last - first) * (min(1.0, progress / self.warmup) if self.warmup else 1.0))
