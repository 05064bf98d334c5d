"""The sections of a recipe that have one schema, as dataclasses that check their values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ssl_inv.catalogue import (
    CALLBACKS,
    LOGGERS,
    PROTOCOLS,
    Catalogue,
    SettingError,
    require,
    require_above,
    require_at_least,
    suggest,
    within,
)


@dataclass(frozen=True, kw_only=True)
class NormalizationSettings:
    """Pixels in [0, 1] minus the mean, divided by the standard deviation, per channel.

    The defaults are ImageNet's. If both are empty, or left at these for images that are not red, green and blue, they
    are measured before a run on up to 1,000 training images, and the run's recipe records them.

    Args:
        mean: of each channel.
        std: of each channel.
    """

    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])

    def __post_init__(self) -> None:
        counts = f"must have as many numbers as std, {len(self.std)}, got {self.mean}"
        require(len(self.mean) == len(self.std), "mean", counts)
        require(min(self.std, default=1) > 0, "std", f"must be above 0, got {self.std}")


@dataclass(frozen=True, kw_only=True)
class HeldOutSettings:
    """What all data have beside their own settings: on what a run is judged.

    Args:
        held_out: `objects` judges by objects that training never sees. `views` judges by new views of known objects:
            some views of each training object are held out, and the data's own validation objects are not used.
        held_out_share: with `views`, the share of the views of each object that is held out, at least two.
    """

    held_out: Literal["objects", "views"] = "objects"
    held_out_share: float = 0.25


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
        devices: GPUs of each machine, or processes on its CPU.
        nodes: machines; with more than one, torchrun or srun starts the processes of each, see docs/scale.md.
        strategy: what every process of several has of the networks: `ddp` all of them, `fsdp` a part of every block of
            a backbone that is too large to be trained whole, see docs/scale.md; `auto` is `ddp`.
        workers: loader processes per device; None chooses by the data and the number of cores.
        requeue: whether SIGUSR1 or SIGUSR2 from SLURM, which announces the end of the job, also puts the job back into
            the queue once the checkpoint is written.
        seed: decides initial weights, data order, views and augmentation.
        start: the folder of a run whose backbone, objective and memories this run begins with; steps, rates and the
            optimiser begin anew. `backbone.weights` takes the backbone alone. Null begins with random weights.
        checkpoint_every: steps between checkpoints.
        log_every: steps between lines in metrics.jsonl.
        keep: checkpoints to keep, the last of which is `last.ckpt`; from 2 on, each is also there as `step-N.ckpt`.
        best: what the best checkpoint is best in: a monitor score such as `knn`, or a loss term; `best.ckpt` holds it.
            A mapping `{name: knn, mode: max}` says whether more or less is better; by itself, scores are to be high
            and losses low. None keeps no best checkpoint.
        stop: when to end training early, as a mapping: `{name: knn, patience: 10}` ends it after 10 scores in a row
            that are no better by more than `change` (0), `{collapse: 3}` after 3 in a row that tell of a collapse;
            both can be given, and `mode` as for `best`. None trains to the last step.
        loggers: further places for what metrics.jsonl has, the recipe, and the report's pictures: `tensorboard`, `csv`,
            `wandb`, `mlflow`, `trackio`, or the dotted path of a Lightning logger. A mapping gives settings:
            `{name: wandb, project: x, offline: true}`.
        callbacks: Lightning callbacks by short name or dotted path, with settings as for `loggers`:
            `{name: pytorch_lightning.callbacks.DeviceStatsMonitor, cpu_stats: true}`.
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
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    workers: int | None = None
    requeue: bool = False
    seed: int = 0
    start: str | None = None
    checkpoint_every: int = 100
    log_every: int = 10
    keep: int = 1
    best: str | dict[str, Any] | None = None
    stop: dict[str, Any] | None = None
    loggers: list[Any] = field(default_factory=list)
    callbacks: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, not both; --trainer.steps null removes steps")
        hardware, regular = ("devices", "nodes"), ("checkpoint_every", "log_every", "keep")
        for name in ("steps", "epochs", "batch_size", "accumulate", *hardware, *regular):
            if (value := getattr(self, name)) is not None:
                require_at_least(1, **{name: value})
        require_at_least(0, workers=self.workers or 0)
        alone = self.strategy == "fsdp" and self.devices * self.nodes == 1
        needed = "fsdp needs at least two processes, by trainer.devices or trainer.nodes; use auto"
        require(not alone, "strategy", needed)
        require(0 <= self.seed < 2**63, "seed", f"must be at least 0 and below 2^63, got {self.seed}")
        if self.clip is not None:
            require_above(0, clip=self.clip)
        require(not self.clip_each or self.clip is not None, "clip_each", "needs `clip`, which is null")
        for name, catalogue, given in (("loggers", LOGGERS, self.loggers), ("callbacks", CALLBACKS, self.callbacks)):
            for number, one in enumerate(given):
                with within(f"{name}[{number}]"):
                    _require_named(one, catalogue)
        short = [one.get("name") if isinstance(one, dict) else one for one in self.loggers]
        twice = next((name for name in short if short.count(name) > 1), None)
        require(twice is None, "loggers", f"{twice!r} stands there twice")
        self.watched_for_best()
        self.early_stop()

    def watched_for_best(self) -> "Watched | None":
        """What the best checkpoint is best in."""
        return None if self.best is None else _watched("best", self.best)

    def early_stop(self) -> "StopSettings | None":
        """When to end training early."""
        if self.stop is None:
            return None
        with within("stop"):
            return StopSettings(**_known(StopSettings, self.stop))


def _require_named(given: Any, catalogue: Catalogue) -> None:
    form = f"expected the name of a {catalogue.kind}, or a mapping with a name and settings, got {given!r}"
    require(isinstance(given, str | dict), "name", form)
    name = given if isinstance(given, str) else given.get("name")
    require(isinstance(name, str) and bool(name), "name", form)
    # What a dotted path names is imported when the run is built, before anything is written.
    catalogue.require_known(str(name))


def _known(kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    names = [one.name for one in fields(kind)]
    for name in given:
        require(name in names, str(name), f"no such setting; {suggest(str(name), names)}")
    return dict(given)


def _watched(setting: str, given: str | Mapping[str, Any]) -> "Watched":
    with within(setting):
        mapping = {"name": given} if isinstance(given, str) else given
        require("name" in mapping, "name", "required: a monitor score such as 'knn', or a loss term")
        return Watched(**_known(Watched, mapping))


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A number that is logged during training, and which way is better.

    Args:
        name: of a monitor score or a loss term, as in metrics.jsonl or as loggers show it: `knn`, `monitor/knn`.
        mode: `max` if more is better, `min` if less is; None: scores are to be high, losses low.
    """

    name: str
    mode: Literal["min", "max"] | None = None

    def __post_init__(self) -> None:
        require(isinstance(self.name, str) and bool(self.name.strip()), "name", f"expected a text, got {self.name!r}")
        require(self.mode in (None, "min", "max"), "mode", f"must be 'min' or 'max', got {self.mode!r}")


@dataclass(frozen=True, kw_only=True)
class StopSettings:
    """When training ends before its last step.

    Args:
        name: the number whose plateau ends training; see `Watched`; None watches for no plateau.
        patience: values in a row that are no better than the best before them.
        change: how much better a value must be to count.
        mode: see `Watched`.
        collapse: scores in a row that tell of collapsed features; 0 does not end training for it.
    """

    name: str | None = None
    patience: int = 10
    change: float = 0.0
    mode: Literal["min", "max"] | None = None
    collapse: int = 0

    def __post_init__(self) -> None:
        for name, value in (("patience", self.patience), ("collapse", self.collapse)):
            require(type(value) is int, name, f"expected a whole number, got {value!r}")
        require(type(self.change) in (int, float), "change", f"expected a number, got {self.change!r}")
        require_at_least(1, patience=self.patience)
        require_at_least(0, change=self.change, collapse=self.collapse)
        require(self.name is not None or self.collapse > 0, "name", "required, unless `collapse` is given")
        if self.name is not None:
            Watched(name=self.name, mode=self.mode)

    @property
    def watched(self) -> Watched | None:
        """The number whose plateau ends training."""
        return None if self.name is None else Watched(name=self.name, mode=self.mode)


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """Scores during training, on a few objects, with the encoder in evaluation mode.

    Args:
        every: steps between scores; 0 switches the monitor off.
        objects: training objects to fit on; at most as many validation objects are scored.
        share: largest share of the training time that the monitor may take; it skips scores that would exceed it. With
            1 it skips none.
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
        unseen_classes: names of the classes that the encoder was trained without, for the protocol `unseen_classes`;
            empty: it parts the classes in halves.
    """

    protocol: Literal["quick", "full", "none"] = "quick"
    views: int = 8
    views_of: Literal["data", "training"] = "data"
    objects: int | None = None
    neighbours: int = 20
    also: list[str] = field(default_factory=list)
    aggregate: list[int] = field(default_factory=list)
    paths: list[int] = field(default_factory=list)
    unseen_classes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_at_least(1, views=self.views, neighbours=self.neighbours)
        if self.objects is not None:
            require_at_least(2, objects=self.objects)
        require(len(set(self.also)) == len(self.also), "also", f"must be different protocols, got {self.also}")
        for name in self.also:
            try:
                PROTOCOLS.require_known(name)
            except SettingError as error:
                raise SettingError("also", error.problem) from error
        _require_different("aggregate", self.aggregate, self.views, f"to evaluation.views, {self.views}")
        _require_different("paths", self.paths, self.views - 1, f"to below evaluation.views, {self.views}")


def _require_different(name: str, counts: Sequence[int], most: int, words: str) -> None:
    fits = all(1 <= count <= most for count in counts) and len(set(counts)) == len(counts)
    require(fits, name, f"must be different numbers from 1 {words}, got {counts}")
