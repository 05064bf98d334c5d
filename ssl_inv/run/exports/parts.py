"""Which columns of a backbone's features are the invariant part, and which the equivariant one."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ssl_inv.nn.backbones import AroundBackbone, Backbone, Change, Features
from ssl_inv.nn.modes import frozen
from ssl_inv.objectives.base import Objective

Parts = Mapping[str, tuple[int, int]]
"""The first column of each part of the features, and the first one after it."""


class _Numbered(AroundBackbone):
    """A backbone whose pooled features are the numbers of their own columns."""

    def encode(self, pixels: Tensor, change: Change | None = None) -> Features:
        numbers = torch.arange(self.features, dtype=pixels.dtype, device=pixels.device).expand(len(pixels), -1)
        return Features(lambda: numbers, lambda: self.whole.encode(pixels, change).map)


def parts_of(objective: Objective, backbone: Backbone, size: int) -> dict[str, tuple[int, int]]:
    """The parts that an objective's `representations` cuts out of the pooled features.

    Parts that are no run of columns, such as the output of a further layer, are left out.

    Args:
        objective: names the parts.
        backbone: the network that it was trained with.
        size: side of the network's input, in pixels.
    """
    device = next(backbone.parameters()).device
    with frozen(objective), frozen(backbone), torch.no_grad():
        found = objective.representations(_Numbered(backbone))(
            torch.zeros(1, backbone.in_channels, size, size, device=device)
        )
    everything = torch.arange(backbone.features)
    if not torch.equal(found["all"][0].cpu().long(), everything):
        return {}
    parts = {}
    for name, values in found.items():
        columns = values[0].cpu()
        if name == "all" or not len(columns):
            continue
        first = int(columns[0])
        if torch.equal(columns, torch.arange(first, first + len(columns), dtype=columns.dtype)):
            parts[name] = (first, first + len(columns))
    return parts


class InParts(nn.Module):
    """A network without an objective, whose features are cut into parts.

    Args:
        network: from normalised pixels to features `(B, D)`.
        parts: the columns of each part.
    """

    def __init__(self, network: nn.Module, parts: Mapping[str, slice]) -> None:
        super().__init__()
        self.network, self.parts = network, dict(parts)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        features: Tensor = self.network(pixels)
        return {"all": features, **{name: features[:, columns] for name, columns in self.parts.items()}}

    def extra_repr(self) -> str:
        return ", ".join(f"{name} {columns.start}:{columns.stop}" for name, columns in self.parts.items())
