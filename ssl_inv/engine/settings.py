"""The sections of a recipe that have one schema, as dataclasses that check their values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ssl_inv.catalogue import require, require_above, require_at_least


@dataclass(frozen=True, kw_only=True)
class NormalizationSettings:
    """Pixels in [0, 1] minus the mean, divided by the standard deviation, per channel.

    Args:
        mean: of the red, green and blue channel.
        std: of the red, green and blue channel.
    """

    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("std", self.std)):
            require(len(value) == 3, name, f"must be three numbers, got {value}")
        require(min(self.std) > 0, "std", f"must be above 0, got {self.std}")


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How long and on which hardware to train.

    Args:
        steps: optimiser steps; give this or `epochs`.
        epochs: passes over the objects of the training data.
        batch_size: samples per batch, over all devices together.
        accumulate: batches whose gradients are averaged into one step.
        clip: largest norm of the gradient; None does not clip.
        clip_each: whether `clip` limits the gradient norm of each parameter alone, as in DINO's code, or the norm of
            all gradients together.
        precision: `bf16` runs the networks in bfloat16 where that is safe; losses stay in float32.
        accelerator: the hardware; `auto` takes a GPU if there is one.
        devices: GPUs, or processes on the CPU.
        workers: loader processes per device; None chooses by the data and the number of cores.
        seed: decides initial weights, data order, views and augmentation.
        start: the folder of a run whose backbone, objective and memories this run begins with; steps, rates and the
            optimiser begin anew. `backbone.weights` takes the backbone alone. Null begins with random weights.
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
    start: str | None = None
    checkpoint_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, not both; --trainer.steps null removes steps")
        for name in ("steps", "epochs", "batch_size", "accumulate", "devices", "checkpoint_every", "log_every"):
            if (value := getattr(self, name)) is not None:
                require_at_least(1, **{name: value})
        require_at_least(0, workers=self.workers or 0)
        require(0 <= self.seed < 2**63, "seed", f"must be at least 0 and below 2^63, got {self.seed}")
        if self.clip is not None:
            require_above(0, clip=self.clip)
        require(not self.clip_each or self.clip is not None, "clip_each", "needs `clip`, which is null")


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """Scores during training, on a few objects, with the encoder in evaluation mode.

    Args:
        every: steps between scores; 0 switches the monitor off.
        objects: training objects to fit on; at most as many validation objects are scored.
        share: largest share of the training time that the monitor may take; it skips scores that would exceed it.
    """

    every: int = 50
    objects: int = 512
    share: float = 0.05

    def __post_init__(self) -> None:
        require_at_least(0, every=self.every)
        require_at_least(8, objects=self.objects)
        require(0 < self.share <= 1, "share", f"must be above 0 and at most 1, got {self.share}")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """The evaluation after pretraining.

    Args:
        protocol: `full` trains the probes as the papers do, `quick` trains smaller ones for less long, `none` evaluates
            nothing.
        views: views of each object to extract, evenly spread over all views that it has; objects with fewer give all.
        views_of: `data` evaluates the views that the data has; `training` makes views as the objective is trained on:
            of every image `views` augmented ones, or patches of saccades, which record how they were made.
        objects: training objects to fit the probes on; None takes all.
        neighbours: k of the k-nearest-neighbour vote.
        aggregate: numbers of views of an object that are classified as one, by the mean of their features and by the
            objective's own network if it has one; empty classifies single views only.
        also: further protocols, by dotted path or by the name that an installed package gave them.
        paths: how many views are observed before path integration predicts where the sequence ends; one test per
            number, none if empty.
    """

    protocol: Literal["quick", "full", "none"] = "quick"
    views: int = 8
    views_of: Literal["data", "training"] = "data"
    objects: int | None = None
    neighbours: int = 20
    also: list[str] = field(default_factory=list)
    aggregate: list[int] = field(default_factory=list)
    paths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_at_least(1, views=self.views, neighbours=self.neighbours)
        if self.objects is not None:
            require_at_least(2, objects=self.objects)
        require(len(set(self.also)) == len(self.also), "also", f"must be different protocols, got {self.also}")
        _require_different("aggregate", self.aggregate, self.views, f"to evaluation.views, {self.views}")
        _require_different("paths", self.paths, self.views - 1, f"to below evaluation.views, {self.views}")


def _require_different(name: str, counts: Sequence[int], most: int, words: str) -> None:
    fits = all(1 <= count <= most for count in counts) and len(set(counts)) == len(counts)
    require(fits, name, f"must be different numbers from 1 {words}, got {counts}")
