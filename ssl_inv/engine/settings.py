"""The settings of the sections of a recipe that have one schema, as dataclasses."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from ssl_inv.catalogue import SettingError, require_at_least


@dataclass(frozen=True, kw_only=True)
class NormalizationSettings:
    """What is subtracted from pixels in [0, 1] and what divides them, channel by channel.

    Args:
        mean: of the red, green and blue channel.
        std: of the three channels.
    """

    mean: list[float] = dataclasses.field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = dataclasses.field(default_factory=lambda: [0.229, 0.224, 0.225])

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("std", self.std)):
            if len(value) != 3:
                raise SettingError(name, f"must be three numbers, got {value}")
        if min(self.std) <= 0:
            raise SettingError("std", f"must be above 0, got {self.std}")


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How long and on what to train.

    Args:
        steps: optimiser steps; give this or `epochs`.
        epochs: passes over the objects of the training data.
        batch_size: samples of a batch over all devices together.
        accumulate: batches whose gradients are averaged into one step.
        clip: largest norm of the gradient; None does not clip.
        clip_each: whether `clip` is the largest norm of each parameter's gradient by itself, as in DINO's code, and not
        of all together.
        precision: `bf16` runs the networks in bfloat16 where that is safe; losses stay in float32.
        accelerator: what to run on; `auto` takes a GPU if there is one.
        devices: GPUs, or processes on the CPU.
        workers: loader processes per device; None chooses by the data and the machine's cores.
        seed: decides initial weights, data order, views and augmentation.
        checkpoint_every: steps between checkpoints.
        log_every: steps between lines in metrics.jsonl.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 256
    accumulate: int = 1
    clip: float | None = None
    clip_each: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    workers: int | None = None
    seed: int = 0
    checkpoint_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("steps or epochs must be given, and not both; null takes one back: --trainer.steps null")
        for name in ("batch_size", "accumulate", "devices", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise SettingError(name, f"must be at least 1, got {getattr(self, name)}")
        for name in ("steps", "epochs", "workers"):
            if (value := getattr(self, name)) is not None and value < (0 if name == "workers" else 1):
                raise SettingError(name, f"must be at least {0 if name == 'workers' else 1}, got {value}")
        if not 0 <= self.seed < 2**63:
            raise SettingError("seed", f"must be at least 0 and below 2^63, got {self.seed}")
        if self.clip is not None and self.clip <= 0:
            raise SettingError("clip", f"must be above 0, got {self.clip}")
        if self.clip_each and self.clip is None:
            raise SettingError("clip_each", "True, but clip is none: nothing is clipped")


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """Scores while training, on a few objects, with the encoder in evaluation mode.

    Args:
        every: steps between scores; 0 switches the monitor off.
        objects: objects to fit on, and as many at most to score on.
        share: largest share of the training time that the monitor may take; a score that would exceed it is skipped.
    """

    every: int = 50
    objects: int = 512
    share: float = 0.05

    def __post_init__(self) -> None:
        require_at_least(0, every=self.every)
        require_at_least(8, objects=self.objects)
        if not 0 < self.share <= 1:
            raise SettingError("share", f"must be above 0 and at most 1, got {self.share}")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """The judgement at the end of pretraining.

    Args:
        protocol: `full` trains the probes as the papers do, `quick` trains smaller ones for less long, `none` judges
        nothing.
        views: views of each object to extract, evenly spread over all that it has; objects with fewer give what they
        have.
        views_of: `data` judges the views that the data has; `training` such as the objective is trained on, of every
            image `views` augmented ones or patches of saccades, which tell how they were made.
        objects: training objects to fit the probes on; None takes all.
        neighbours: k of the k-nearest-neighbour vote.
        aggregate: numbers of views of an object that are classified as one, by the mean of their features and by the
            objective's own network where it has one; empty classifies single views only.
        paths: numbers of observed views of sequences that are asked where they led, by path integration; empty asks
            none.
    """

    protocol: Literal["quick", "full", "none"] = "quick"
    views: int = 8
    views_of: Literal["data", "training"] = "data"
    objects: int | None = None
    neighbours: int = 20
    aggregate: list[int] = dataclasses.field(default_factory=list)
    paths: list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("views", "neighbours"):
            if getattr(self, name) < 1:
                raise SettingError(name, f"must be at least 1, got {getattr(self, name)}")
        if self.objects is not None and self.objects < 2:
            raise SettingError("objects", f"must be at least 2, got {self.objects}")
        if not all(1 <= count <= self.views for count in self.aggregate) or len(set(self.aggregate)) < len(
            self.aggregate
        ):
            raise SettingError(
                "aggregate", f"must be different numbers from 1 to evaluation.views, {self.views}, got {self.aggregate}"
            )
        if not all(1 <= count < self.views for count in self.paths) or len(set(self.paths)) < len(self.paths):
            raise SettingError(
                "paths", f"must be different numbers from 1 to below evaluation.views, {self.views}, got {self.paths}"
            )
