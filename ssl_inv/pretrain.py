"""A whole run: build what the recipe says, train, judge, export, report."""

import logging
import math
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytorch_lightning as lightning
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from ssl_inv import keyed_random
from ssl_inv.augment.operations.shared import Shared
from ssl_inv.augment.pipeline import Augmentation
from ssl_inv.augment.view_maker import ViewMaker
from ssl_inv.backbones import (
    Backbone,
    advice_on_stem,
    make_backbone,
    require_exact_gradients,
    require_forward,
    require_input_size,
    to_channels_last,
)
from ssl_inv.callbacks import Progress, Recorder
from ssl_inv.cores import available_cores
from ssl_inv.data.base import Data, Source, Subset
from ssl_inv.data.loading import StepBatches
from ssl_inv.distributed import synchronise_batch_norm
from ssl_inv.engine import NonFiniteLossError, Pretraining, Schedule, extent
from ssl_inv.evaluation.features import frozen
from ssl_inv.monitor import OnlineMonitor
from ssl_inv.objectives.base import Objective
from ssl_inv.optimization import make_optimizer
from ssl_inv.recipe import Recipe, RecipeError, difference, named, resolve
from ssl_inv.registry import AUGMENTATIONS, DATA, OBJECTIVES
from ssl_inv.run_folder import RunFolder
from ssl_inv.settings import EvaluationSettings, MonitorSettings, TrainerSettings
from ssl_inv.training_views import judged_data
from ssl_inv.transforms import Group, Pose, Rotation
from ssl_inv.views import Plan

_MEMORIES = 0x3E3


@dataclass(frozen=True)
class Run:
    """Everything that a recipe describes, built and ready to train.

    Attributes:
        recipe: the resolved recipe.
        data: training and validation objects; those of too few views for the plan, which are not trained on, among them.
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
    augmentation = build_augmentation(recipe)
    train = data.train
    backbone, objective = build_networks(recipe, {**train.groups, **augmentation.groups})
    sizes = {augmentation.view_size(train.image_size), *objective.plan.sizes}
    for size in sizes:
        with named("data"):
            require_input_size(backbone.model, size)
        with named("backbone"):
            require_forward(backbone, size)
        if settings.precision == "bf16" and trainer.strategy.root_device.type == "cpu":
            with named("trainer"):
                require_exact_gradients(backbone, size)
    if (advice := advice_on_stem(backbone, max(sizes))) is not None:
        _say(advice)
    _warn_of_untrue_rotations(objective, train, augmentation)
    with named("trainer"):
        _require_whole_chunks(augmentation, settings.batch_size, trainer.world_size)
    view_maker, train = build_view_maker(recipe, train, augmentation, objective.plan)
    with named("evaluation"):
        judged_data(data, EvaluationSettings(**recipe["evaluation"]), objective.plan, augmentation, settings.seed)
    with named("objective"):
        _require_embedding(objective, backbone, max(sizes))
    with named("objective"), torch.random.fork_rng(devices=[]):
        # Memories begin with random vectors: as much a matter of the seed as the weights, and others than these were drawn from.
        torch.manual_seed(int(keyed_random.bits(settings.seed, _MEMORIES, count=1)[0, 0] >> 1))
        objective.allocate(*extent(train))
    with named("trainer"):
        if settings.batch_size == 1 and any(isinstance(one, nn.BatchNorm1d) for one in objective.modules()):
            raise ValueError("batch_size is 1, but the objective's heads normalise over the samples of a batch; choose 2 or more")
        share = trainer.global_rank, trainer.world_size
        plan = view_maker.plan
        batches = StepBatches(train, settings.batch_size, view_maker.loaded_views, settings.seed, *share, plan.way, plan.linked)
        steps = settings.steps or math.ceil((settings.epochs or 0) * batches.steps_per_epoch / settings.accumulate)
    to_channels_last(backbone)
    to_channels_last(objective)  # of which a teacher is a part
    if trainer.world_size > 1:
        synchronise_batch_norm(backbone, trainer.strategy.root_device)
        synchronise_batch_norm(objective, trainer.strategy.root_device)
    with named("optimizer"):
        optimization = make_optimizer((backbone, objective), **recipe["optimizer"])
    schedule = Schedule(steps, settings.accumulate, settings.clip, settings.clip_each, settings.seed)
    module = Pretraining(backbone, objective, view_maker, optimization, batches, schedule, workers(settings, train))
    return Run(recipe, data, module, trainer, settings)


def _require_embedding(objective: Objective, backbone: Backbone, size: int) -> None:
    """Raise what the objective's own networks, as far as they embed single images, have against the backbone's features of this size."""
    if (predictor := objective.predictor(backbone)) is not None:
        with frozen(backbone), frozen(objective), torch.no_grad():
            predictor.embed(torch.zeros(1, 3, size, size))


def build_networks(recipe: Recipe, groups: Mapping[str, Group]) -> tuple[Backbone, Objective]:
    """Backbone and objective with the initial weights that the recipe's seed gives: what a run starts from, and its untrained baseline."""
    constructor = OBJECTIVES.find(recipe["objective"]["name"]).load()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe["trainer"]["seed"])
        with named("backbone"):
            backbone = make_backbone(**recipe["backbone"])
        with named("objective"):
            if not issubclass(constructor, Objective):
                name = recipe["objective"]["name"]
                raise ValueError(f"name: {name!r} does not derive from ssl_inv.objectives.base.Objective")
            objective: Objective = constructor(backbone.features, groups, **recipe.settings("objective"))
            objective.adopt(backbone)
    return backbone, objective


def build_augmentation(recipe: Recipe) -> Augmentation:
    """The augmentation that a recipe's section describes."""
    with named("augmentation"):
        augmentation: Augmentation = AUGMENTATIONS.find(recipe["augmentation"]["name"]).load()(**recipe.settings("augmentation"))
    return augmentation


def build_view_maker(recipe: Recipe, source: Source, augmentation: Augmentation, plan: Plan) -> tuple[ViewMaker, Source]:
    """What makes the views of a plan, and those objects of the source that have enough views for it."""
    normalization, seed = recipe["normalization"], recipe["trainer"]["seed"]
    with named("data"):
        source = with_enough_views(source, 1 if plan.linked else plan.own_views)
        return ViewMaker(plan, source, augmentation, normalization["mean"], normalization["std"], seed), source


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
    with quiet_lightning():
        return lightning.Trainer(
            accelerator=accelerator,
            devices=settings.devices,
            # Buffers agree on all processes by construction; sending a queue or a bank around every step would cost more than the step.
            # Clusters and neighbours of millions of images take the first process hours, in which the others wait.
            strategy=DDPStrategy(broadcast_buffers=False, timeout=timedelta(days=1)) if settings.devices > 1 else "auto",
            precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice (loggers, unused GPUs, numbers of workers) and its account of what it does to itself; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
            # Lightning's own use of torch's trees, reported as if it were ours.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _require_whole_chunks(augmentation: Augmentation, batch_size: int, processes: int) -> None:
    """Raise a `ValueError` if samples that are to be augmented alike would stand on different processes."""
    for operation in (one for policy in augmentation.policies for one in policy.operations):
        if isinstance(operation, Shared) and processes > 1 and batch_size % (operation.samples * processes):
            needed = f"a multiple of {operation.samples} samples that are augmented alike times {processes} processes"
            raise ValueError(f"batch_size must be {needed}, {operation.samples * processes}; got {batch_size}")


def _warn_of_untrue_rotations(objective: Objective, source: Source, augmentation: Augmentation) -> None:
    turning = [name for name in ("flip", "vertical_flip", "angle") if name in augmentation.groups]
    told = [name for name in objective.parameters_told if isinstance(source.groups.get(name), Rotation | Pose)]
    if turning and told and not objective.told_of_plain_views:
        _say(f"augmentation: {turning[0]!r} mirrors or turns views, and the objective is told {told[0]!r} of the data as if it did not")


def workers(settings: TrainerSettings, source: Source) -> int:
    """Loader processes per device: what the recipe says, as far as there are cores; what suits the data; or the spare cores."""
    cores = available_cores()
    if settings.workers is not None:
        most = max(1, cores // settings.devices)
        if settings.workers > most:
            reason = f"trainer.workers is {settings.workers}, but there are {cores} core(s) for {settings.devices} device(s)"
            _say(f"{reason}; {most} loader process(es) a device are started")
        return min(settings.workers, most)
    if source.preferred_workers is not None:
        return source.preferred_workers
    return max(1, min(8, (cores - 1) // settings.devices))


def make_monitor(run: Run) -> OnlineMonitor | None:
    """The online monitor of a run, or None if the recipe switches it off."""
    settings = MonitorSettings(**run.recipe["monitor"])
    if not settings.every:
        return None
    device = run.trainer.strategy.root_device
    encoder = run.objective.representations(run.backbone)
    return OnlineMonitor(run.data, encoder, run.backbone, run.module.view_maker.whole, settings, device, run.settings.seed)


def train(run: Run, folder: RunFolder | None, progress: Progress) -> None:
    """Train to the last step of the recipe, from the folder's checkpoint if it has one.

    Args:
        run: what to train. With several devices, one process for each of the others is started with the command line of this one.
        folder: where to write; None writes nothing, as on all processes but the first.
        progress: told how far the run is.

    Raises:
        NonFiniteLossError: if a loss term or a weight is not finite; the folder keeps the last good checkpoint.
        KeyboardInterrupt: if the run was interrupted; its folder says so and can be resumed.
    """
    if folder is not None:
        if (state := folder.load_checkpoint()) is not None:
            _require_same_run(run, folder, state)
            run.module.load_training_state(state)
        if changed := folder.goes_on(run.module.step):
            _warn(folder, f"the run goes on at step {run.module.step} otherwise than before, so not bit for bit: {', '.join(changed)}")
        folder.remove_leftovers()
        folder.forget_metrics_after(run.module.step)
        folder.update(state="training")
    progress.first_step = run.module.step
    if run.module.step < run.module.schedule.steps:
        monitor = None if folder is None else make_monitor(run)
        run.trainer.callbacks.append(Recorder(folder, run.recipe, monitor, progress))  # type: ignore[attr-defined]
        try:
            _fit(run)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{error}; {_last_good(folder)}") from None
        finally:
            progress.close()


def _require_same_run(run: Run, folder: RunFolder, state: Mapping[str, Any]) -> None:
    """Raise a `RecipeError` unless a checkpoint was made by this recipe on as many images; say so if files have changed since."""
    # Settings that came with a later version have their defaults in both.
    if changed := difference(resolve(state["recipe"], str(folder.checkpoint_file)), run.recipe):
        raise RecipeError(f"{str(folder.recipe_file)!r} has changed since the run's last checkpoint: {'; '.join(changed)}")
    source = run.module.batches.source
    now = extent(source)
    if (before := tuple(state["extent"])) != now:
        counts = "{} objects in {} images".format
        raise RecipeError(f"data: the run began with {counts(*before)}, and there are {counts(*now)} now; it cannot go on")
    if state["stamp"] != source.stamp:
        _warn(folder, "data: files have changed since the run began, so it does not go on bit for bit")


def _warn(folder: RunFolder, what: str) -> None:
    _say(what)
    folder.warn(what)


@rank_zero_only
def _say(what: str) -> None:
    logging.getLogger("ssl_inv").warning(f"warning: {what}")


def _fit(run: Run) -> None:
    try:
        with quiet_lightning(), _own_account_of_broken_images():
            run.trainer.fit(run.module)
    except SystemExit:
        if not run.trainer.interrupted:
            raise
        # Lightning answers Ctrl-C by ending the program and turning a deaf ear to further ones.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _own_account_of_broken_images() -> Iterator[None]:
    """Silence the data's log while training: the recorder says once for all loader processes which images are broken."""
    logger = logging.getLogger("ssl_inv.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _last_good(folder: RunFolder | None) -> str:
    if folder is None or not folder.checkpoint_file.is_file():
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {folder.checkpoint_file}"
