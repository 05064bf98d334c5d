"""How many digits sums need."""

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least, whatever autocast made of it: squares of half precision overflow, and long sums lose their digits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
