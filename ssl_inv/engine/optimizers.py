"""Optimisers, and the schedules of learning rate and weight decay for every group of parameters."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from timm.optim.lars import Lars
from torch import nn

from ssl_inv.catalogue import SettingError, require, require_above, require_at_least, suggest


def make_optimizer(
    modules: Iterable[nn.Module],
    *,
    name: Literal["adamw", "adam", "sgd", "lars"] = "adamw",
    lr: float = 1e-3,
    norm_and_bias_lr: float | None = None,
    weight_decay: float = 0.05,
    final_weight_decay: float | None = None,
    decay_norm_and_bias: bool = False,
    momentum: float = 0.9,
    betas: list[float] = [0.9, 0.999],
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup: float = 0.05,
    warmup_lr: float = 0.0,
    final_lr: float = 0.0,
    constant_lr: list[str] = [],
) -> "Optimization":
    """An optimiser for all parameters of some modules, with its schedule.

    Args:
        modules: what is trained.
        name: `adamw`; `adam`, which adds the weight decay to the gradient; `sgd`; or `lars`, for batches of thousands,
            which scales the update of every parameter that decays by the parameter's norm.
        lr: highest learning rate. It is never scaled by the batch size.
        norm_and_bias_lr: highest learning rate of biases and normalisation parameters; their whole schedule is scaled
            by the ratio to `lr`, as in Barlow Twins; None is `lr`.
        weight_decay: strength of the weight decay.
        final_weight_decay: strength after the last step, reached along half a cosine, as in DINO; None keeps
            `weight_decay`.
        decay_norm_and_bias: whether biases and normalisation parameters decay too; False is usual, True is SIE's
            setting.
        momentum: for `sgd` and `lars`.
        betas: for `adamw` and `adam`.
        schedule: `cosine` falls from `lr` to `final_lr` after the warm-up; `constant` stays.
        warmup: share of all steps in which the learning rate rises linearly from `warmup_lr`.
        warmup_lr: learning rate one warm-up step before the first step; SwAV's is 0.3.
        final_lr: learning rate after the last step of `cosine`.
        constant_lr: parts of backbone or objective whose learning rate stays at `lr` after the warm-up, such as
            `prediction` for SimSiam's predictor: the start of their parameters' names, or a pattern with `*`.

    Raises:
        SettingError: if a number is out of its range, or no parameter has a name that `constant_lr` asks for.
    """
    require_above(0, lr=lr, norm_and_bias_lr=lr if norm_and_bias_lr is None else norm_and_bias_lr)
    require(0 <= warmup < 1, "warmup", f"must be a share of all steps from 0 to below 1, got {warmup}")
    for setting, rate in (("warmup_lr", warmup_lr), ("final_lr", final_lr)):
        require(0 <= rate <= lr, setting, f"must lie between 0 and lr, {lr}, got {rate}")
    require(not warmup_lr or warmup > 0, "warmup_lr", f"{warmup_lr}, but warmup is 0: the learning rate never rises")
    require(
        len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
        "betas",
        f"must be two numbers from 0 to below 1, got {list(betas)}",
    )
    require(0 <= momentum < 1, "momentum", f"must be at least 0 and below 1, got {momentum}")
    by_betas = name in ("adamw", "adam")
    require(not by_betas or momentum == 0.9, "momentum", f"{momentum}, but {name} has betas instead")
    usual = list(betas) == [0.9, 0.999]
    require(by_betas or usual, "betas", f"{list(betas)}, but {name} has momentum instead")
    final_decay = weight_decay if final_weight_decay is None else final_weight_decay
    require_at_least(0, weight_decay=weight_decay, final_weight_decay=final_decay)
    falls = schedule == "cosine"
    require(falls or not final_lr, "final_lr", f"{final_lr}, but a constant schedule does not fall")
    require(
        falls or not constant_lr, "constant_lr", f"{constant_lr}, but no learning rate of a constant schedule falls"
    )
    course = Course(lr, warmup, warmup_lr, final_lr if falls else lr, weight_decay, final_decay)
    parts = parameter_groups(modules, course, norm_and_bias_lr, decay_norm_and_bias, constant_lr)
    return Optimization(_make(name, parts, lr, momentum, betas), course, [one for _, one in parts])


def _make(
    name: str, parts: "Sequence[tuple[list[nn.Parameter], Course]]", lr: float, momentum: float, betas: Sequence[float]
) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": course.weight_decay} for parameters, course in parts
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)
    if name == "sgd":
        # Fused SGD fails if only some parameters of a group have momentum yet, as after a step that held the others.
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    # By default, timm's LARS scales by norms only if the weight decay is not 0.
    scaled = [{**group, "always_adapt": course.decays} for group, (_, course) in zip(groups, parts, strict=True)]
    optimizer: torch.optim.Optimizer = Lars(scaled, lr=lr, momentum=momentum)
    return optimizer


@dataclass(frozen=True)
class Course:
    """The schedule of learning rate and weight decay. It depends on the step alone, so resuming needs nothing else.

    Attributes:
        lr: highest learning rate.
        warmup: share of all steps in which the rate rises linearly.
        warmup_lr: rate before the first step of the warm-up.
        final_lr: rate after the last step, reached along half a cosine.
        weight_decay: weight decay in the first step.
        final_weight_decay: weight decay after the last step, reached along half a cosine.
        decays: whether there is weight decay.
    """

    lr: float
    warmup: float
    warmup_lr: float
    final_lr: float
    weight_decay: float
    final_weight_decay: float
    decays: bool = True

    def rate(self, step: int, total: int) -> float:
        """The learning rate of step `step` (the first is 0) of `total`."""
        warm = math.ceil(self.warmup * total - 1e-9)  # 0.07 * 100 is a little more than 7
        if step < warm:
            return self.warmup_lr + (self.lr - self.warmup_lr) * (step + 1) / warm
        return _half_cosine(self.lr, self.final_lr, (step - warm) / max(1, total - warm))

    def decay(self, step: int, total: int) -> float:
        """The weight decay of step `step` of `total`."""
        return _half_cosine(self.weight_decay, self.final_weight_decay, step / total)

    def scaled(self, factor: float) -> "Course":
        """The schedule with every learning rate times `factor`."""
        return replace(self, lr=self.lr * factor, warmup_lr=self.warmup_lr * factor, final_lr=self.final_lr * factor)

    def without_decay(self) -> "Course":
        """The schedule without weight decay."""
        return replace(self, weight_decay=0.0, final_weight_decay=0.0, decays=False)

    def without_fall(self) -> "Course":
        """The schedule whose learning rate stays where the warm-up ends."""
        return replace(self, final_lr=self.lr)


def _half_cosine(start: float, end: float, share: float) -> float:
    return start if start == end else end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def parameter_groups(
    modules: Iterable[nn.Module],
    course: Course,
    norm_and_bias_lr: float | None,
    decay_norm_and_bias: bool,
    constant_lr: Sequence[str],
) -> list[tuple[list[nn.Parameter], Course]]:
    """All trainable parameters in groups of one schedule each. The group of `course` itself comes first.

    Biases and normalisation parameters are the parameters with at most one dimension. The other arguments are those of
    `make_optimizer`.

    Raises:
        SettingError: if a pattern of `constant_lr` matches no name.
    """
    parameters = [both for module in modules for both in module.named_parameters() if both[1].requires_grad]
    names = [name for name, _ in parameters]
    for pattern in constant_lr:
        if not any(_matches(name, pattern) for name in names):
            parts = dict.fromkeys(".".join(name.split(".")[:depth]) for depth in (1, 2, 3, 4) for name in names)
            what = f"no trained parameter's name begins with {pattern!r}"
            raise SettingError("constant_lr", f"{what}; {suggest(pattern, parts)}")
    groups: dict[Course, list[nn.Parameter]] = {course: []}
    for name, parameter in parameters:
        own = course
        if parameter.dim() <= 1:
            own = own if norm_and_bias_lr is None else own.scaled(norm_and_bias_lr / course.lr)
            own = own if decay_norm_and_bias else own.without_decay()
        if any(_matches(name, pattern) for pattern in constant_lr):
            own = own.without_fall()
        groups.setdefault(own, []).append(parameter)
    return [(some, own) for own, some in groups.items() if some]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


class Optimization:
    """An optimiser and the schedules of its groups of parameters.

    Args:
        optimizer: has one group of parameters for each of `courses`.
        course: the schedule of ordinary parameters.
        courses: the schedules of the groups.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, course: Course, courses: Sequence[Course]) -> None:
        self.optimizer, self.course, self.courses = optimizer, course, courses

    def rate(self, step: int, total: int) -> float:
        """The learning rate of ordinary parameters in step `step`, counted from 0, of `total`."""
        return self.course.rate(step, total)

    def set_rate(self, step: int, total: int) -> None:
        """Set learning rate and weight decay of step `step` of `total` in every group."""
        for group, course in zip(self.optimizer.param_groups, self.courses, strict=True):
            group["lr"], group["weight_decay"] = course.rate(step, total), course.decay(step, total)
