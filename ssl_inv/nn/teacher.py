"""EMA teachers, as in BYOL, MoCo, DINO and seq-JEPA, and DINO's targets."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.layers.patch_dropout import PatchDropout
from torch import Tensor, nn

from ssl_inv.catalogue import require_between
from ssl_inv.nn.distributed import all_sum, world_size


class CentredTargets(nn.Module):
    """DINO's targets: softmax((t - c) / temperature) of the teacher's logits t, with their EMA c, the centre.

    The centre keeps one prototype from winning everywhere; a low temperature keeps targets from becoming uniform (Caron
    et al., ICCV 2021, eq. 4).

    Args:
        prototypes: K, the number of logits.
        momentum: share of the centre that an update keeps.
        temperature: after the warm-up.
        first_temperature: at the first step.
        warmup: share of all steps in which the temperature changes linearly from the first to the last.

    Raises:
        ValueError: if a number is out of its range.
    """

    centre: Tensor
    temperature: Tensor

    def __init__(
        self, prototypes: int, momentum: float, temperature: float, first_temperature: float, warmup: float
    ) -> None:
        super().__init__()
        if min(temperature, first_temperature) <= 0:
            raise ValueError(
                f"teacher_temperature and warmup_temperature must be above 0, got {temperature} and {first_temperature}"
            )
        require_between(0, 1, centre_momentum=momentum)
        self.momentum, self.range, self.warmup = momentum, (first_temperature, temperature), warmup
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("temperature", torch.zeros(()))
        self._waiting: list[Tensor] = []
        self.register_load_state_dict_post_hook(_forget_waiting)  # type: ignore[no-untyped-call]
        self.warm_up(0.0)

    def forward(self, logits: Tensor) -> Tensor:
        """Probabilities `(..., K)` of logits `(..., K)`, in the centre's precision."""
        return ((logits.to(self.centre.dtype) - self.centre) / self.temperature).softmax(dim=-1)

    @torch.no_grad()
    def put(self, mean: Tensor) -> None:
        """Queue the mean logits `(K,)` of a batch for `flush`; every process gives the mean of its own samples."""
        self._waiting.append(all_sum(mean.to(self.centre.dtype)) / world_size())

    @torch.no_grad()
    def flush(self) -> None:
        """Update the centre once a step, with the mean of the queued micro-batches."""
        if self._waiting:
            self.centre.lerp_(torch.stack(self._waiting).mean(dim=0), 1 - self.momentum)
            self._waiting.clear()

    def warm_up(self, progress: float) -> None:
        """Set the temperature for a progress from 0, the first step, to 1, the last."""
        first, last = self.range
        self.temperature.fill_(first + (last - first) * (min(1.0, progress / self.warmup) if self.warmup else 1.0))


def _forget_waiting(targets: nn.Module, _: Any) -> None:
    assert isinstance(targets, CentredTargets)
    targets._waiting.clear()


class Teacher(nn.Module):
    """A copy of a network whose parameters are an EMA of the network's.

    It runs without gradients, in training or evaluation mode like any module, and without dropout and stochastic depth.
    Its buffers, such as the running statistics of batch normalisation, are its own, as in the papers' code.

    Args:
        network: copied now, and followed later.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = _without_dropout(copy.deepcopy(network)).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.network(*inputs, **named)

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> list[Tensor]:
        """The outputs of all modules of a network that is a `Sequential`, in order."""
        assert isinstance(self.network, nn.Sequential)
        return [inputs := module(inputs) for module in self.network]

    @torch.no_grad()
    def follow(self, network: nn.Module, momentum: float) -> None:
        """Update every parameter to momentum * own + (1 - momentum) * the network's."""
        _lerp(self.network.parameters(), network.parameters(), 1 - momentum)

    @torch.no_grad()
    def follow_statistics(self, network: nn.Module, momentum: float) -> None:
        """The same for floating-point buffers, for a teacher that never runs in training mode."""
        own, others = (
            [one for one in module.buffers() if one.is_floating_point()] for module in (self.network, network)
        )
        _lerp(own, others, 1 - momentum)


def _without_dropout(network: nn.Module) -> nn.Module:
    """Set every probability of dropout and stochastic depth to 0, so that the mode does not matter to them."""
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, PatchDropout):
            module.prob = 0.0
        if isinstance(getattr(module, "drop_rate", None), float):
            module.drop_rate = 0.0  # type: ignore[assignment]  # timm's functional dropout before the classifier
    return network


def _lerp(own: Iterable[Tensor], others: Iterable[Tensor], weight: float) -> None:
    moved = list(own)
    if moved:  # torch refuses an empty list
        torch._foreach_lerp_(moved, [one.detach() for one in others], weight)


def cosine_momentum(start: float, step: int, steps: int) -> float:
    """A momentum that rises from `start` to 1 along half a cosine (BYOL, NeurIPS 2020, sec. 3.3).

    Args:
        start: the momentum at step 0.
        step: number of the step.
        steps: the momentum is 1 after so many.
    """
    return 1 - (1 - start) * (math.cos(math.pi * step / steps) + 1) / 2


def linear_momentum(start: float, step: int, steps: int) -> float:
    """A momentum that rises linearly from `start` at step 0 to 1 at step `steps`."""
    return start + (1 - start) * step / steps
