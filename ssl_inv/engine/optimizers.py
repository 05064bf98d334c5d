"""Optimisers, the courses of learning rate and weight decay, and what weight decay leaves alone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from timm.optim.lars import Lars
from torch import nn

from ssl_inv.catalogue import SettingError, suggest


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
    betas: list[float] = [0.9, 0.999],  # noqa: B006 - never changed, and a recipe shows it as it stands
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup: float = 0.05,
    warmup_lr: float = 0.0,
    final_lr: float = 0.0,
    constant_lr: list[str] = [],  # noqa: B006
) -> "Optimization":
    """An optimiser for all parameters of some modules, with its schedule.

    Args:
        modules: what is trained.
        name: `adamw`; `adam`, whose weight decay is added to the gradient; `sgd`; or `lars`, for batches of thousands,
            which scales the update of every parameter that decays by the parameter's norm.
        lr: highest learning rate. It is used as it stands, never scaled by the batch size.
        norm_and_bias_lr: highest learning rate of biases and normalisation parameters; all their rates are smaller in
            this proportion, as in Barlow Twins; None is `lr`.
        weight_decay: strength of the weight decay.
        final_weight_decay: strength after the last step, to which it goes along half a cosine, as in DINO; None keeps
        `weight_decay`.
        decay_norm_and_bias: whether biases and normalisation parameters decay too; False is usual, True is SIE's
        setting.
        momentum: for `sgd` and `lars`.
        betas: for `adamw` and `adam`.
        schedule: `cosine` falls from `lr` to `final_lr` after the warm-up; `constant` stays.
        warmup: share of all steps in which the learning rate rises linearly from `warmup_lr`.
        warmup_lr: learning rate from which the first step is one step of the warm-up away; SwAV's is 0.3.
        final_lr: learning rate after the last step of `cosine`.
        constant_lr: parts of backbone or objective whose learning rate stays at `lr` after the warm-up, such as
            `prediction` for SimSiam's predictor: the beginning of their parameters' names, or a pattern with `*`.

    Raises:
        ValueError: if a number is out of its range, or nothing is called as `constant_lr` says.
    """
    _check_rates(lr, norm_and_bias_lr, warmup, warmup_lr, final_lr)
    _check_kind(name, momentum, betas)
    if weight_decay < 0 or (final_weight_decay is not None and final_weight_decay < 0):
        raise ValueError(
            f"weight_decay and final_weight_decay must be at least 0, got {weight_decay} and {final_weight_decay}"
        )
    if schedule == "constant" and final_lr:
        raise SettingError("final_lr", f"{final_lr}, but a constant schedule does not fall")
    if schedule == "constant" and constant_lr:
        raise SettingError("constant_lr", f"{constant_lr}, but with a constant schedule no learning rate falls")
    final = (
        lr if schedule == "constant" else final_lr,
        weight_decay if final_weight_decay is None else final_weight_decay,
    )
    course = Course(lr, warmup, warmup_lr, final[0], weight_decay, final[1])
    parts = parameter_groups(modules, course, norm_and_bias_lr, decay_norm_and_bias, constant_lr)
    return Optimization(_make(name, parts, lr, momentum, betas), course, [one for _, one in parts])


def _make(
    name: str, parts: "Sequence[tuple[list[nn.Parameter], Course]]", lr: float, momentum: float, betas: Sequence[float]
) -> torch.optim.Optimizer:
    """An optimiser of the given kind with one group for each of `parts`."""
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": course.weight_decay} for parameters, course in parts
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)
    if name == "sgd":
        # The fused one refuses parameters of which some have moved before and some have not, as after a step that held
        # them.
        return torch.optim.SGD(groups, lr=lr, momentum=momentum)
    # Left to itself, it scales by norms only where weight decay is not 0.
    scaled = [{**group, "always_adapt": course.decays} for group, (_, course) in zip(groups, parts, strict=True)]
    optimizer: torch.optim.Optimizer = Lars(scaled, lr=lr, momentum=momentum)
    return optimizer


def _check_rates(lr: float, norm_and_bias_lr: float | None, warmup: float, warmup_lr: float, final_lr: float) -> None:
    for name, rate in (("lr", lr), ("norm_and_bias_lr", norm_and_bias_lr)):
        if rate is not None and rate <= 0:
            raise SettingError(name, f"must be above 0, got {rate}")
    if not 0 <= warmup < 1:
        raise SettingError("warmup", f"must be a share of all steps from 0 to below 1, got {warmup}")
    if not 0 <= warmup_lr <= lr:
        raise SettingError("warmup_lr", f"must lie between 0 and lr, {lr}, got {warmup_lr}")
    if warmup_lr and not warmup:
        raise SettingError(
            "warmup_lr", f"{warmup_lr}, but warmup is 0: there is no step in which the learning rate rises"
        )
    if not 0 <= final_lr <= lr:
        raise SettingError("final_lr", f"must lie between 0 and lr, {lr}, got {final_lr}")


def _check_kind(name: str, momentum: float, betas: Sequence[float]) -> None:
    """Raise a `ValueError` for numbers out of range, and for those that were set, though this kind of optimiser does
    not look at them.
    """
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise SettingError("betas", f"must be two numbers from 0 to below 1, got {list(betas)}")
    if not 0 <= momentum < 1:
        raise SettingError("momentum", f"must be at least 0 and below 1, got {momentum}")
    if name in ("adamw", "adam") and momentum != 0.9:
        raise SettingError("momentum", f"{momentum}, but {name} has betas instead")
    if name in ("sgd", "lars") and list(betas) != [0.9, 0.999]:
        raise SettingError("betas", f"{list(betas)}, but {name} has momentum instead")


@dataclass(frozen=True)
class Course:
    """How learning rate and weight decay go, as functions of the step, so that resuming needs the step only.

    Attributes:
        lr: highest learning rate.
        warmup: share of all steps in which it rises linearly.
        warmup_lr: from where.
        final_lr: where it falls to along half a cosine.
        weight_decay: in the first step.
        final_weight_decay: where it goes along half a cosine.
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
        """The course with every learning rate times `factor`."""
        return replace(self, lr=self.lr * factor, warmup_lr=self.warmup_lr * factor, final_lr=self.final_lr * factor)

    def without_decay(self) -> "Course":
        """The course without weight decay."""
        return replace(self, weight_decay=0.0, final_weight_decay=0.0, decays=False)

    def without_fall(self) -> "Course":
        """The course whose learning rate stays where the warm-up ends."""
        return replace(self, final_lr=self.lr)


def _half_cosine(start: float, end: float, share: float) -> float:
    """From `start` to `end`, `share` of the way."""
    return start if start == end else end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def parameter_groups(
    modules: Iterable[nn.Module],
    course: Course,
    norm_and_bias_lr: float | None,
    decay_norm_and_bias: bool,
    constant_lr: Sequence[str],
) -> list[tuple[list[nn.Parameter], Course]]:
    """All trainable parameters, those with one course together; first those with `course` itself.

    Vectors and scalars are biases and normalisation parameters, and whatever else has no directions that could decay.
    The other arguments are those of `make_optimizer`.

    Raises:
        ValueError: if a pattern of `constant_lr` matches no name.
    """
    parameters = [both for module in modules for both in module.named_parameters() if both[1].requires_grad]
    _require_matches(constant_lr, [name for name, _ in parameters])
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


def _require_matches(patterns: Sequence[str], names: Sequence[str]) -> None:
    """Raise a `ValueError` if a pattern matches none of the parameters' names; it suggests a part of the networks."""
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            parts = [".".join(name.split(".")[:depth]) for depth in (1, 2, 3, 4) for name in names]
            raise SettingError(
                "constant_lr",
                f"no trained parameter's name begins with {pattern!r}; {suggest(pattern, dict.fromkeys(parts))}",
            )


class Optimization:
    """An optimiser, and the course of every group of its parameters.

    Args:
        optimizer: with one group of parameters for each of `courses`.
        course: of parameters that are no exception.
        courses: of the groups.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, course: Course, courses: Sequence[Course]) -> None:
        self.optimizer, self.course, self.courses = optimizer, course, courses

    def rate(self, step: int, total: int) -> float:
        """The learning rate of step `step` (the first is 0) of `total`, of parameters that are no exception."""
        return self.course.rate(step, total)

    def set_rate(self, step: int, total: int) -> None:
        """Set learning rate and weight decay of step `step` of `total` in every group."""
        for group, course in zip(self.optimizer.param_groups, self.courses, strict=True):
            group["lr"], group["weight_decay"] = course.rate(step, total), course.decay(step, total)
