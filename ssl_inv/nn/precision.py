"""Float32 for what half precision would spoil."""

import torch
from torch import Tensor, nn


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in at least float32: in half precision, squares overflow and long sums lose their digits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def in_full_precision(layer: nn.Module, *parts: Tensor) -> Tensor:
    """A layer on concatenated parts, in the precision of its weights: bfloat16 would round a rotation to a fifth of a
    degree.
    """
    with torch.autocast(parts[0].device.type, enabled=False):
        dtype = next(layer.parameters()).dtype
        return layer(torch.cat([part.to(dtype) for part in parts], dim=-1))  # type: ignore[no-any-return]
