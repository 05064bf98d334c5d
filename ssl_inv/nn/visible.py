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
    with _only_visible(backbone.model, visible.unsqueeze(1)):
        return backbone.feature_map(pixels * _at(visible.unsqueeze(1), pixels))


@contextmanager
def _only_visible(model: nn.Module, visible: Tensor) -> Iterator[None]:
    """Change what layers compute inside; afterwards they are as before."""
    hooks, changed = [], []
    masked: list[Tensor] = [visible]  # the last map that a hook has masked, which need not be masked again

    def mask(module: nn.Module, inputs: Any, found: Tensor) -> Tensor:
        masked[0] = found * _at(visible, found)
        return masked[0]

    for module in model.modules():
        if isinstance(module, _LOCAL):
            hooks.append(module.register_forward_hook(mask))
        elif isinstance(module, _BATCH_NORM):
            vars(module)["forward"] = partial(_normalised, module, visible, masked)
            changed.append(module)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in changed:
            del vars(module)["forward"]


def _normalised(norm: Any, visible: Tensor, masked: list[Tensor], maps: Tensor) -> Tensor:
    """Batch normalisation of visible places, and the activation that timm fuses with it; 0 elsewhere."""
    shape, seen = (1, -1, 1, 1), full_precision(_at(visible, maps))
    values = full_precision(maps) if maps is masked[0] else full_precision(maps) * seen
    if norm.training or norm.running_mean is None:
        count = all_sum(seen.sum()).clamp_min(1)
        # Passes over maps are what this costs, so the variance is the mean square less the squared mean.
        mean = all_sum(values.sum((0, 2, 3))) / count
        square = all_sum(torch.linalg.vector_norm(values, dim=(0, 2, 3)).square()) / count
        variance = (square - mean.square()).clamp_min(0)
        if norm.training and norm.running_mean is not None:
            norm.num_batches_tracked.add_(1)
            momentum = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
            norm.running_mean.lerp_(mean.detach().to(norm.running_mean.dtype), momentum)
            unbiased = variance.detach() * (count / (count - 1).clamp_min(1))
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
    else:
        mean, variance = norm.running_mean.to(values.dtype), norm.running_var.to(values.dtype)
    scale = (variance + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    shift = norm.bias - mean * scale if norm.affine else -mean * scale
    found = torch.addcmul(shift.view(shape), values, scale.view(shape))
    if hasattr(norm, "act"):
        found = norm.act(norm.drop(found))
    kept: Tensor = (found * seen).to(maps.dtype)
    return kept


def _at(visible: Tensor, maps: Tensor) -> Tensor:
    """Visible places `(B, 1, h, w)` on the grid of larger maps, in their precision."""
    found = visible.to(maps.dtype)
    return found if found.shape[2:] == maps.shape[2:] else F.interpolate(found, maps.shape[2:], mode="nearest")


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
