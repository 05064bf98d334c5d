"""A network that follows another one: the target of BYOL, MoCo, DINO, seq-JEPA and their kin."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.layers.patch_dropout import PatchDropout
from torch import Tensor, nn


class Teacher(nn.Module):
    """A copy of a network whose parameters are a moving average of the network's.

    Nothing is learned in it: it is called without gradients, and stands in training or evaluation mode like any module.
    Its buffers, such as the running statistics of batch normalisation, are its own, as in the papers' code. Of dropout
    and stochastic depth it has none.

    Args:
        network: what it begins as a copy of and follows.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = _without_dropout(copy.deepcopy(network)).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.network(*inputs, **named)

    @torch.no_grad()
    def follow(self, network: nn.Module, momentum: float) -> None:
        """Keep `momentum` of every parameter and take the rest from `network`'s."""
        _lerp(self.network.parameters(), network.parameters(), 1 - momentum)

    @torch.no_grad()
    def follow_statistics(self, network: nn.Module, momentum: float) -> None:
        """Likewise for buffers of real numbers, which of a teacher that never sees a batch in training mode would stay
        as they began.
        """
        own, others = (
            [one for one in module.buffers() if one.is_floating_point()] for module in (self.network, network)
        )
        _lerp(own, others, 1 - momentum)


def _without_dropout(network: nn.Module) -> nn.Module:
    """The network with every probability of dropout and stochastic depth set to 0, so that its mode decides nothing
    about them.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, PatchDropout):
            module.prob = 0.0
        if isinstance(getattr(module, "drop_rate", None), float):
            module.drop_rate = 0.0  # type: ignore[assignment]  # timm's, of dropout by function before the classifier
    return network


def _lerp(own: Iterable[Tensor], others: Iterable[Tensor], weight: float) -> None:
    moved = list(own)
    if moved:  # torch refuses an empty list
        torch._foreach_lerp_(moved, [one.detach() for one in others], weight)


def cosine_momentum(start: float, step: int, steps: int) -> float:
    """A momentum that rises from `start` to 1 along half a cosine (BYOL, NeurIPS 2020, sec. 3.3).

    Args:
        start: the momentum at step 0.
        step: of `steps`.
        steps: after which it is 1.
    """
    return 1 - (1 - start) * (math.cos(math.pi * step / steps) + 1) / 2


def linear_momentum(start: float, step: int, steps: int) -> float:
    """A momentum that rises from `start` at step 0 to 1 at step `steps` along a straight line."""
    return start + (1 - start) * step / steps
