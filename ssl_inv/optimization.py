"""Optimisers, learning-rate schedules, and what weight decay leaves alone."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from timm.optim.lars import Lars
from torch import nn


def make_optimizer(
    modules: Iterable[nn.Module],
    *,
    name: Literal["adamw", "adam", "sgd", "lars"] = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    decay_norm_and_bias: bool = False,
    momentum: float = 0.9,
    betas: list[float] = [0.9, 0.999],  # noqa: B006 - never changed, and a recipe shows it as it stands
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup: float = 0.05,
    final_lr: float = 0.0,
) -> "Optimization":
    """An optimiser for all parameters of some modules, with its schedule.

    Args:
        modules: what is trained.
        name: `adamw`; `adam`, whose weight decay is added to the gradient; `sgd`; or `lars`, for batches of thousands.
        lr: highest learning rate. It is used as it stands, never scaled by the batch size.
        weight_decay: strength of the weight decay.
        decay_norm_and_bias: whether biases and normalisation parameters decay too; False is usual, True is SIE's setting.
        momentum: for `sgd` and `lars`.
        betas: for `adamw` and `adam`.
        schedule: `cosine` falls from `lr` to `final_lr` after the warm-up; `constant` stays.
        warmup: share of all steps in which the learning rate rises linearly from zero.
        final_lr: learning rate after the last step of `cosine`.

    Raises:
        ValueError: if a number is out of its range.
    """
    if lr <= 0:
        raise ValueError(f"lr must be above 0, got {lr}")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is a share of all steps from 0 to below 1, got {warmup}")
    if len(betas) != 2:
        raise ValueError(f"betas are two numbers, got {betas}")
    if schedule == "constant" and final_lr:
        raise ValueError(f"final_lr is {final_lr}, but a constant schedule does not fall")
    groups = parameter_groups(modules, weight_decay, decay_norm_and_bias)
    first, second = betas
    optimizer: torch.optim.Optimizer
    if name == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=(first, second), fused=True)
    elif name == "adam":
        optimizer = torch.optim.Adam(groups, lr=lr, betas=(first, second), fused=True)
    elif name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)
    else:
        optimizer = Lars(groups, lr=lr, momentum=momentum)
    return Optimization(optimizer, lr, schedule, warmup, final_lr)


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    """All trainable parameters in two groups: those that decay, and vectors and scalars (biases, normalisation), which do not."""
    parameters = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if decay_norm_and_bias or parameter.dim() > 1]
    kept = [parameter for parameter in parameters if not (decay_norm_and_bias or parameter.dim() > 1)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class Optimization:
    """An optimiser whose learning rate is a function of the step, so that resuming needs the step only."""

    def __init__(self, optimizer: torch.optim.Optimizer, lr: float, schedule: str, warmup: float, final_lr: float) -> None:
        self.optimizer = optimizer
        self.lr, self.schedule, self.warmup, self.final_lr = lr, schedule, warmup, final_lr

    def rate(self, step: int, total: int) -> float:
        """The learning rate of step `step` (the first is 0) of `total`."""
        warm = math.ceil(self.warmup * total)
        if step < warm:
            return self.lr * (step + 1) / warm
        if self.schedule == "constant":
            return self.lr
        share = (step - warm) / max(1, total - warm)
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * share)) / 2

    def set_rate(self, step: int, total: int) -> float:
        """Set the learning rate of step `step` of `total` in every group, and return it."""
        rate = self.rate(step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate
