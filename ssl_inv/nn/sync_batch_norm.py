"""Batch normalisation with the statistics of the global batch, on any device."""

import torch
from torch import Tensor, nn

from ssl_inv.nn.distributed import all_sum, is_distributed, world_size
from ssl_inv.nn.losses import full_precision


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with the statistics of all processes. Torch's `SyncBatchNorm` runs on accelerators only."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        if is_distributed() and (self.training or not self.track_running_stats):
            return self._normalised(input)
        return super().forward(input)

    def _normalised(self, tensor: Tensor) -> Tensor:
        axes = [axis for axis in range(tensor.dim()) if axis != 1]
        shape = [1, -1] + [1] * (tensor.dim() - 2)
        values = full_precision(tensor)
        total = values.numel() // values.shape[1] * world_size()
        # Centre first: the mean of squares minus the squared mean loses all digits if the mean is large.
        mean = all_sum(values.sum(axes)) / total
        centred = values - mean.view(shape)
        variance = all_sum(centred.square().sum(axes)) / total
        self._track(mean.detach(), variance.detach() * total / max(1, total - 1))
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(tensor.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if (
            not self.training
            or self.running_mean is None
            or self.running_var is None
            or self.num_batches_tracked is None
        ):
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


class _BatchNormAct(_BatchNorm):
    """timm's batch normalisation followed by an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return self.act(self.drop(super().forward(input)))  # type: ignore[no-any-return]


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Make every batch normalisation of a module use the statistics of the global batch. Parameters and names stay.

    Args:
        module: changed in place where possible.
        device: where it will run.

    Returns:
        The module to use.

    Raises:
        TypeError: if a module for the CPU has an unknown kind of batch normalisation.
    """
    from timm.layers.norm_act import convert_sync_batchnorm

    if device.type == "cuda":
        return convert_sync_batchnorm(module)  # type: ignore[no-any-return,no-untyped-call]
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, _synchronised(child, name))
        else:
            synchronise_batch_norm(child, device)
    return module


def _synchronised(norm: nn.modules.batchnorm._BatchNorm, name: str) -> nn.modules.batchnorm._BatchNorm:
    from timm.layers.norm_act import BatchNormAct2d

    if isinstance(norm, _BatchNorm):
        return norm
    if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d):
        raise TypeError(f"{name}: {type(norm).__name__} cannot share its statistics between processes on the CPU")
    fused = isinstance(norm, BatchNormAct2d)
    kind = _BatchNormAct if fused else _BatchNorm
    synchronised = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    if fused:
        synchronised.drop, synchronised.act = norm.drop, norm.act
    # The same parameters and buffers, not copies: an optimiser may have them already.
    synchronised._parameters, synchronised._buffers = norm._parameters, norm._buffers
    return synchronised.train(norm.training)
