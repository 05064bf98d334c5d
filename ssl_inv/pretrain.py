"""A whole run: build what the recipe says, train, judge, export, report."""

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as lightning
import torch

from ssl_inv.augment.pipeline import Augmentation
from ssl_inv.augment.view_maker import ViewMaker
from ssl_inv.backbones import Backbone, make_backbone, to_channels_last
from ssl_inv.callbacks import Progress, Recorder
from ssl_inv.data.base import Data, Source, Subset
from ssl_inv.data.loading import StepBatches
from ssl_inv.distributed import synchronise_batch_norm
from ssl_inv.engine import Pretraining, Schedule
from ssl_inv.monitor import OnlineMonitor
from ssl_inv.objectives.base import Objective
from ssl_inv.optimization import make_optimizer
from ssl_inv.recipe import MonitorSettings, Recipe, RecipeError, TrainerSettings, named
from ssl_inv.registry import AUGMENTATIONS, DATA, OBJECTIVES
from ssl_inv.run_folder import RunFolder
from ssl_inv.transforms import Group


@dataclass(frozen=True)
class Run:
    """Everything that a recipe describes, built and ready to train.

    Attributes:
        recipe: the resolved recipe.
        data: training and validation objects.
        module: the training step over backbone, objective and views.
        trainer: Lightning's trainer for it.
        settings: the recipe's trainer section.
    """

    recipe: Recipe
    data: Data
    module: Pretraining
    trainer: lightning.Trainer
    settings: TrainerSettings

    @property
    def backbone(self) -> Backbone:
        return self.module.backbone

    @property
    def objective(self) -> Objective:
        return self.module.objective


def build(recipe: Recipe) -> Run:
    """Build a run; nothing is written.

    Raises:
        RecipeError: if a value cannot be used; the message names its section.
    """
    settings = TrainerSettings(**recipe["trainer"])
    with named("trainer"):
        trainer = make_trainer(settings)
    data = build_data(recipe)
    with named("augmentation"):
        augmentation: Augmentation = AUGMENTATIONS.find(recipe["augmentation"]["name"]).load()(**recipe.settings("augmentation"))
    train = data.train
    backbone, objective = build_networks(recipe, {**train.groups, **augmentation.groups})
    with named("data"):
        train = with_enough_views(train, objective.plan.count)
        view_maker = ViewMaker(
            objective.plan, train, augmentation, recipe["normalization"]["mean"], recipe["normalization"]["std"], settings.seed
        )
    with named("trainer"):
        batches = StepBatches(
            train, settings.batch_size, view_maker.loaded_views, settings.seed, trainer.global_rank, trainer.world_size
        )
        steps = settings.steps or math.ceil((settings.epochs or 0) * batches.steps_per_epoch / settings.accumulate)
    to_channels_last(backbone)
    if trainer.world_size > 1:
        synchronise_batch_norm(backbone)
        synchronise_batch_norm(objective)
    with named("optimizer"):
        optimization = make_optimizer((backbone, objective), **recipe["optimizer"])
    schedule = Schedule(steps, settings.accumulate, settings.clip, settings.seed)
    module = Pretraining(backbone, objective, view_maker, optimization, batches, schedule, workers(settings, train))
    return Run(recipe, Data(train, data.validation, data.notes), module, trainer, settings)


def build_networks(recipe: Recipe, groups: Mapping[str, Group]) -> tuple[Backbone, Objective]:
    """Backbone and objective with the initial weights that the recipe's seed gives: what a run starts from, and its untrained baseline."""
    constructor = OBJECTIVES.find(recipe["objective"]["name"]).load()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe["trainer"]["seed"])
        with named("backbone"):
            backbone = make_backbone(**recipe["backbone"])
        with named("objective"):
            objective: Objective = constructor(backbone.features, groups, **recipe.settings("objective"))
    return backbone, objective


def build_data(recipe: Recipe) -> Data:
    """The data that a recipe's section describes."""
    with named("data"):
        return DATA.find(recipe["data"]["name"]).load()(**recipe.settings("data"))  # type: ignore[no-any-return]


def with_enough_views(source: Source, wanted: int) -> Source:
    """The objects that have at least `wanted` views, if any object has more than one; all objects otherwise."""
    import numpy as np

    counts = source.view_counts
    if counts.max() == 1 or counts.min() >= wanted:
        return source
    enough = np.flatnonzero(counts >= wanted)
    if not len(enough):
        raise ValueError(f"no object has the {wanted} views that the objective needs")
    return Subset(source, enough)


def make_trainer(settings: TrainerSettings) -> lightning.Trainer:
    """Lightning's trainer with everything off that the engine does itself.

    Raises:
        ValueError: if the accelerator or the number of devices is not there.
    """
    available = torch.cuda.device_count()
    accelerator = ("gpu" if available else "cpu") if settings.accelerator == "auto" else settings.accelerator
    if accelerator == "gpu" and settings.devices > available:
        raise ValueError(f"devices is {settings.devices}, but this machine has {available} GPU(s)")
    with warnings.catch_warnings():
        # Advice about loggers and unused GPUs, neither of which is a mistake here.
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        return lightning.Trainer(
            accelerator=accelerator,
            devices=settings.devices,
            strategy="ddp" if settings.devices > 1 else "auto",
            precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )


def workers(settings: TrainerSettings, source: Source) -> int:
    """Loader processes per device: what the recipe says, what suits the data, or the cores that are left over."""
    if settings.workers is not None:
        return settings.workers
    if source.preferred_workers is not None:
        return source.preferred_workers
    return max(1, min(8, ((os.cpu_count() or 2) - 1) // settings.devices))


def make_monitor(run: Run) -> OnlineMonitor | None:
    """The online monitor of a run, or None if the recipe switches it off."""
    settings = MonitorSettings(**run.recipe["monitor"])
    if not settings.every:
        return None
    device = run.trainer.strategy.root_device
    encoder = run.objective.representations(run.backbone)
    return OnlineMonitor(run.data, encoder, run.backbone, run.module.view_maker.normalise, settings, device, run.settings.seed)


def train(run: Run, folder: RunFolder | None, progress: Progress) -> None:
    """Train to the last step of the recipe, from the folder's checkpoint if it has one.

    Raises:
        NonFiniteLossError: if a loss term is not finite; the folder keeps the last good checkpoint.
    """
    state = folder.load_checkpoint() if folder is not None else None
    if state is not None:
        run.module.load_training_state(state)
    if folder is not None:
        folder.forget_metrics_after(run.module.step)
        folder.update(state="training")
    progress.first_step = run.module.step
    if run.module.step < run.module.schedule.steps:
        monitor = make_monitor(run)
        recorder = Recorder(folder, run.recipe, monitor, progress)
        run.trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*The 'train_dataloader' does not.*")
            run.trainer.fit(run.module)
    progress.close()


def refuse_unwritable(path: Path) -> None:
    """Raise a `RecipeError` if `path` cannot be made, before anything slow is done."""
    parent = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RecipeError(f"output {str(path)!r} cannot be written: {parent} is not a writable folder")
