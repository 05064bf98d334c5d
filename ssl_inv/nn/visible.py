"""Passes of a convolutional network through some places of an image only."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import all_sum
from ssl_inv.nn.losses import full_precision

_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_LOCAL = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a network has batch normalisation, and no layer or group normalisation beside it."""
    kinds = [type(one) for one in module.modules()]
    other = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)
    return any(issubclass(one, _BATCH_NORM) for one in kinds) and not any(issubclass(one, other) for one in kinds)


def encode_places(backbone: Backbone, pixels: Tensor, visible: Tensor) -> Tensor:
    """The last map `(B, C, h, w)` of a convolutional network that sees some places of each image only.

    Pixels of hidden places are 0, and so is what every convolution, pooling and normalisation gives there: visible
    places do not grow into hidden ones from layer to layer. The statistics of batch normalisation are those of visible
    places, of all processes (Tian et al., "SparK", ICLR 2023, sec. 3.1).

    Args:
        backbone: a network that `has_batch_norm`.
        pixels: `(B, 3, H, W)`.
        visible: the places of the last map that are seen, `(B, h, w)`, bool.
    """
    seen = SeenPlaces(visible)
    with only_visible(backbone.model, seen):
        return backbone.feature_map(pixels * seen.like(pixels))


class SeenPlaces:
    """Visible places on the grid of every map.

    Args:
        visible: on the grid of the last map, `(B, h, w)`, bool.
    """

    def __init__(self, visible: Tensor) -> None:
        self._visible, self._found = visible.unsqueeze(1), dict[tuple[torch.Size, torch.dtype], Tensor]()
        self.masked: Tensor | None = None
        """The last map that was multiplied by its places, which need not be multiplied again."""

    def like(self, maps: Tensor) -> Tensor:
        """1 at visible places, else 0, `(B, 1, H, W)` of maps `(B, C, H, W)`, in their precision."""
        size = maps.shape[2:]
        if (size, maps.dtype) not in self._found:
            places = self._visible.to(maps.dtype)
            self._found[size, maps.dtype] = (
                places if places.shape[2:] == size else F.interpolate(places, size, mode="nearest")
            )
        return self._found[size, maps.dtype]


@contextmanager
def only_visible(model: nn.Module, seen: "SeenPlaces") -> Iterator[None]:
    """Inside, convolutions, pools and batch normalisation see some places only; afterwards they are as before.

    Args:
        model: whose layers change.
        seen: the places.
    """
    hooks, changed = [], []

    def mask(module: nn.Module, inputs: Any, found: Tensor) -> Tensor:
        # Neither convolutions nor pools keep what they give, so it can be changed in place.
        seen.masked = found.mul_(seen.like(found))
        return seen.masked

    for module in model.modules():
        if isinstance(module, _LOCAL):
            hooks.append(module.register_forward_hook(mask))
        elif isinstance(module, _BATCH_NORM):
            vars(module)["forward"] = partial(_normalised, module, seen)
            changed.append(module)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in changed:
            del vars(module)["forward"]


def _normalised(norm: Any, visible: "SeenPlaces", maps: Tensor) -> Tensor:
    """Batch normalisation of visible places, and the activation that timm fuses with it; 0 elsewhere."""
    seen = full_precision(visible.like(maps))
    values = full_precision(maps) if maps is visible.masked else full_precision(maps) * seen
    if norm.training or norm.running_mean is None:
        found, mean, variance, count = _OfVisible.apply(values, norm.weight, norm.bias, seen, norm.eps)
        if norm.training and norm.running_mean is not None:
            norm.num_batches_tracked.add_(1)
            momentum = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
            unbiased = variance * (count / (count - 1).clamp_min(1))
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
    else:
        mean, variance = norm.running_mean.to(values.dtype), norm.running_var.to(values.dtype)
        scale, shift = _line(mean, (variance + norm.eps).rsqrt(), norm.weight, norm.bias)
        found = torch.addcmul(shift, values, scale)
    if hasattr(norm, "act"):
        found = norm.act(norm.drop(found))
    kept: Tensor = (found * seen).to(maps.dtype)
    return kept


class _OfVisible(torch.autograd.Function):
    """Normalises maps by the statistics of their visible places, of all processes.

    Passes over maps are what this costs, so the variance is the mean square less the squared mean, and the gradient is
    written out.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor | None, bias: Tensor | None, seen: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The maps, and the mean, variance and number of visible places.

        Args:
            ctx: of autograd.
            values: `(B, C, H, W)`, 0 at hidden places.
            weight: of every channel, or None.
            bias: of every channel, or None.
            seen: 1 at visible places, else 0, `(B, 1, H, W)`.
            eps: added to the variance.
        """
        # Several times as fast as `vector_norm`, where channels lie innermost.
        squares = values.square().sum((0, 2, 3))
        mean, square, count = _over_processes(values.sum((0, 2, 3)), squares, seen.sum())
        variance = (square - mean.square()).clamp_min_(0)
        inverse = (variance + eps).rsqrt()
        scale, shift = _line(mean, inverse, weight, bias)
        ctx.save_for_backward(values, weight, mean, inverse, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return torch.addcmul(shift, values, scale), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        """By the chain rule. What hidden places get means nothing: before and after, they are multiplied by 0."""
        values, weight, mean, inverse, count = ctx.saved_tensors
        grad = grads[0]
        # Both sums in one pass over the maps; the statistics are handed in, not computed.
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad, values, None, None, None, mean, inverse, True, 0.0, [False, True, True]
        )
        along, level, _ = _over_processes(of_weight, of_bias, count, whole=True)
        scale = inverse if weight is None else inverse * weight
        slope = -scale * inverse * along
        moved = torch.addcmul((-scale * level - slope * mean).view(1, -1, 1, 1), values, slope.view(1, -1, 1, 1))
        moved.addcmul_(grad, scale.view(1, -1, 1, 1))
        return moved, None if weight is None else of_weight, None if weight is None else of_bias, None, None


def _over_processes(first: Tensor, second: Tensor, count: Tensor, whole: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of each process as means over the places of all. `whole`: `count` is already that of all."""
    packed = all_sum(torch.cat((first, second, count.new_zeros(1) if whole else count.view(1))))
    total = (count if whole else packed[-1]).clamp_min(1)
    return packed[: len(first)] / total, packed[len(first) : -1] / total, total


def _line(mean: Tensor, inverse: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scale and shift `(1, C, 1, 1)` of a normalisation."""
    scale = inverse if weight is None else inverse * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)


def smooth_l1_of_unit_places(predicted: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """Mean over counted places of all processes of the smooth L1 distance between unit vectors, summed over channels.

    Args:
        predicted: maps `(B, C, h, w)`.
        targets: maps of the same size.
        counted: `(B, h, w)`, bool.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        found, wanted = (F.normalize(full_precision(one), dim=1) for one in (predicted, targets))
        errors = F.smooth_l1_loss(found, wanted, reduction="none").sum(dim=1)
        return all_sum((errors * counted).sum()) / all_sum(counted.sum().to(errors.dtype)).clamp_min(1)
