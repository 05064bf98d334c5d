"""Schedules of learning rate and weight decay. They depend on the step alone, so resuming needs nothing else."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.multistep_lr import MultiStepLRScheduler
from timm.scheduler.poly_lr import PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.step_lr import StepLRScheduler
from timm.scheduler.tanh_lr import TanhLRScheduler
from timm.scheduler.wsd_lr import WSDLRScheduler

from ssl_inv.catalogue import SettingError, require, suggest

_KINDS: Mapping[str, Callable[..., Scheduler]] = {
    "cosine": CosineLRScheduler,
    "tanh": TanhLRScheduler,
    "poly": PolyLRScheduler,
    "step": StepLRScheduler,
    "multistep": MultiStepLRScheduler,
    "wsd": WSDLRScheduler,
}

_ELSEWHERE = {
    "lr_min": "`final_lr` says it",
    "warmup_t": "`warmup` says it",
    "warmup_lr_init": "`warmup_lr` says it",
    "warmup_prefix": "schedules begin after the warm-up",
    "t_in_epochs": "schedules count steps",
    "initialize": "learning rates are set anew in every step",
    "optimizer": "`name` says it",
}
"""Arguments of timm's schedules that are not set by `schedule_arguments`."""

_REQUIRED = {"step": ("decay_t", "decay_rate"), "multistep": ("decay_t", "decay_rate"), "wsd": ("decay_t",)}

_TIMES = ("t_initial", "decay_t", "stable_timescale", "noise_range_t")
"""Arguments that are times: numbers of steps, or below 1 shares of the steps after the warm-up."""

_TRIED_STEPS = 1000


@dataclass(frozen=True)
class Shape:
    """A schedule of timm between the warm-up and the last step.

    Attributes:
        name: of the schedule.
        arguments: of its constructor, by name.

    Raises:
        SettingError: for an argument that it does not have, needs, or refuses.
    """

    name: str
    arguments: tuple[tuple[str, Any], ...]

    def __post_init__(self) -> None:
        known = [one for one in inspect.signature(_KINDS[self.name]).parameters if one not in _ELSEWHERE]
        given = dict(self.arguments)
        for key in given:
            way = f"schedule_arguments.{key}"
            require(key not in _ELSEWHERE, way, f"cannot be set here: {_ELSEWHERE.get(key)}")
            require(key in known, way, f"{self.name} has no such argument; {suggest(key, known)}")
            if key in _TIMES:
                _require_times(way, given[key])
        for key in _REQUIRED.get(self.name, ()):
            require(key in given, f"schedule_arguments.{key}", f"required by {self.name}")
        try:
            self.rate(1.0, 0.0, 0, _TRIED_STEPS)
        except Exception as error:  # Somebody else's class can raise anything.
            problem = " ".join(str(error).split()) or "it cannot be computed"
            raise SettingError("schedule_arguments", f"{self.name} refuses its arguments: {problem}") from error

    @property
    def falls_to_an_end(self) -> bool:
        """Whether it has a learning rate that it falls to."""
        return "lr_min" in inspect.signature(_KINDS[self.name]).parameters

    def rate(self, lr: float, final_lr: float, step: int, steps: int) -> float:
        """The learning rate of a step.

        Args:
            lr: highest learning rate.
            final_lr: after the last step.
            step: since the end of the warm-up.
            steps: that there are after the warm-up.
        """
        scheduler = _scheduler(self, lr, final_lr, max(1, steps))
        scheduler.step_update(step)
        return float(scheduler.optimizer.param_groups[0]["lr"])


@lru_cache(maxsize=256)
def _scheduler(shape: Shape, lr: float, final_lr: float, steps: int) -> Scheduler:
    kind = _KINDS[shape.name]
    own: dict[str, Any] = {"t_initial": steps, "lr_min": final_lr}
    arguments = {key: own[key] for key in own if key in inspect.signature(kind).parameters}
    for key, value in shape.arguments:
        arguments[key] = _in_steps(value, steps) if key in _TIMES else value
    return kind(torch.optim.SGD([torch.zeros(())], lr=lr), t_in_epochs=False, **arguments)


def _require_times(way: str, value: Any) -> None:
    for time in value if isinstance(value, list | tuple) else (value,):
        # timm says what it makes of something that is no number.
        fits = not isinstance(time, int | float) or 0 <= time < 1 or (time >= 1 and time == int(time))
        require(fits, way, f"must be a number of steps, or a share from 0 to below 1, got {time}")


def _in_steps(time: Any, steps: int) -> Any:
    if isinstance(time, tuple):
        return [_in_steps(one, steps) for one in time]
    return max(1, round(time * steps)) if 0 < time < 1 else time


@dataclass(frozen=True)
class Course:
    """The schedule of learning rate and weight decay of some parameters.

    Attributes:
        lr: highest learning rate.
        warmup: share of all steps in which the rate rises linearly.
        warmup_lr: rate before the first step of the warm-up.
        final_lr: rate after the last step.
        weight_decay: weight decay in the first step.
        final_weight_decay: weight decay after the last step, reached along half a cosine.
        decays: whether there is weight decay.
        shape: how the rate goes from `lr` to `final_lr`; None is half a cosine.
    """

    lr: float
    warmup: float
    warmup_lr: float
    final_lr: float
    weight_decay: float
    final_weight_decay: float
    decays: bool = True
    shape: Shape | None = None

    def rate(self, step: int, total: int) -> float:
        """The learning rate of step `step` (the first is 0) of `total`."""
        warm = math.ceil(self.warmup * total - 1e-9)  # 0.07 * 100 is a little more than 7
        if step < warm:
            return self.warmup_lr + (self.lr - self.warmup_lr) * (step + 1) / warm
        if self.shape is not None:
            return self.shape.rate(self.lr, self.final_lr, step - warm, total - warm)
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
        return replace(self, final_lr=self.lr, shape=None)


def _half_cosine(start: float, end: float, share: float) -> float:
    return start if start == end else end + (start - end) * (1 + math.cos(math.pi * share)) / 2
