"""What several processes must agree on: gathered embeddings, summed statistics.

The rule of the house: the loss and the gradient on W processes with B/W samples each equal those of one process with B samples. A collective that
knows its gradient makes every process differentiate the sum of all W losses; each process holds the whole loss, so that sum is W times the loss,
and the average over processes that DDP takes of the gradients removes the W again.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_distributed() -> bool:
    """Whether a process group of more than one process is running."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """The number of processes; 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """The number of this process; 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone().contiguous()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone().contiguous()
        dist.all_reduce(total)
        return total


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes in rank order, `(W B, ...)` from `(B, ...)`, with gradient; every process has the same B."""
    return _Gather.apply(tensor) if is_distributed() else tensor  # type: ignore[no-any-return,no-untyped-call]


def all_sum(tensor: Tensor) -> Tensor:
    """The sum over processes, with gradient."""
    return _Sum.apply(tensor) if is_distributed() else tensor  # type: ignore[no-any-return,no-untyped-call]


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with the statistics of all processes, on any device; torch's own `SyncBatchNorm` runs on accelerators only."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and is_distributed()):
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count = torch.tensor([float(values.numel() // values.shape[1])], dtype=values.dtype, device=values.device)
        sums = all_sum(torch.cat((values.sum(axes), (values * values).sum(axes), count)))
        channels = values.shape[1]
        mean, square, total = sums[:channels] / sums[-1], sums[channels:-1] / sums[-1], sums[-1]
        variance = (square - mean * mean).clamp_min(0)
        self._track(mean.detach(), (variance * total / (total - 1)).detach())
        normalised = (values - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch normalisation inside by one whose statistics are those of the global batch; parameters and names stay.

    Subclasses (timm's fused `BatchNormAct2d`) have their statistics synchronised by torch's own converter on accelerators and are refused
    elsewhere, because replacing them would lose the activation.

    Raises:
        TypeError: if a subclass of batch normalisation stands in a module on the CPU.
    """
    from timm.layers import convert_sync_batchnorm

    if any(parameter.is_cuda for parameter in module.parameters()):
        return convert_sync_batchnorm(module)  # type: ignore[no-any-return]
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, _BatchNorm):
            if type(child) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                raise TypeError(f"{name}: {type(child).__name__} cannot share its statistics between processes on the CPU")
            synchronised = _BatchNorm(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            synchronised.load_state_dict(child.state_dict())
            synchronised.train(child.training)
            setattr(module, name, synchronised.to(next(child.parameters(), torch.empty(0)).dtype))
        else:
            synchronise_batch_norm(child)
    return module
