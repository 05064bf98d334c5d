"""EMA teachers, as in BYOL, MoCo, DINO and seq-JEPA."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.layers.patch_dropout import PatchDropout
from torch import Tensor, nn

from ssl_inv.nn.sharding import local


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
    # A teacher's blocks are in the same shards as the network's.
    moved = [local(one) for one in own]
    if moved:  # torch refuses an empty list
        torch._foreach_lerp_(moved, [local(one.detach()) for one in others], weight)


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
