"""From a recipe to a run: data, augmentation, networks, view maker, optimiser and trainer."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytorch_lightning as lightning
import torch

from ssl_inv.augment.policy import Augmentation
from ssl_inv.catalogue import AUGMENTATIONS, DATA, OBJECTIVES, SettingError, require, within
from ssl_inv.data.batches import StepBatches
from ssl_inv.data.looks import odd_looks, require_one_size, require_rendered
from ssl_inv.data.source import Data, Source, Subset, with_enough_views
from ssl_inv.data.sources.given import require_images
from ssl_inv.data.splits import hold_out_views
from ssl_inv.engine import preflight
from ssl_inv.engine.action_use import ACTION, GAIN, WITHIN
from ssl_inv.engine.callbacks import make_callbacks
from ssl_inv.engine.cluster import ALONE, Place
from ssl_inv.engine.launch import make_trainer, workers
from ssl_inv.engine.loggers import require_loggers
from ssl_inv.engine.module import Pretraining, extent
from ssl_inv.engine.optimizer_names import require_shardable
from ssl_inv.engine.optimizers import make_optimizer
from ssl_inv.engine.watch import require_scored
from ssl_inv.nn.backbones import Backbone, make_backbone, to_channels_last
from ssl_inv.nn.sync_batch_norm import synchronise_batch_norm
from ssl_inv.objectives.base import Objective
from ssl_inv.run.channels import for_channels, for_classes, told
from ssl_inv.run.exports.export import preprocessing_of
from ssl_inv.run.exports.rebuilding import require_rebuildable
from ssl_inv.run.judging import judged_data
from ssl_inv.run.recipe import Choice, JudgedRecipe, Recipe
from ssl_inv.run.start import Start
from ssl_inv.transforms import Group, keyed_random
from ssl_inv.views import Plan
from ssl_inv.views.maker import ViewMaker

_MEMORIES = 0x3E3


@dataclass(frozen=True)
class Run:
    """Everything that a recipe describes, ready to train.

    Attributes:
        recipe: the resolved recipe.
        data: all training and validation objects, also those with too few views to train on.
        augmentation: makes the views.
        module: the training step over backbone, objective and views.
        trainer: Lightning's trainer for it.
        start: the weights that it begins with.
    """

    recipe: Recipe
    data: Data
    augmentation: Augmentation
    module: Pretraining
    trainer: lightning.Trainer
    start: Start

    @property
    def backbone(self) -> Backbone:
        return self.module.backbone

    @property
    def objective(self) -> Objective:
        return self.module.objective

    @property
    def device(self) -> torch.device:
        return self.trainer.strategy.root_device


def build(recipe: Recipe, begins: bool = True, here: Place = ALONE) -> Run:
    """Build a run. Nothing is written.

    Args:
        recipe: the resolved recipe.
        begins: whether to load the weights that the recipe starts from; a run that goes on has its own.
        here: which process of the run this is.

    Raises:
        SettingError: if a value cannot be used; the message has the full path of its key.
    """
    settings = recipe.trainer
    with within("trainer"):
        require_loggers(settings.loggers)
        trainer = make_trainer(settings, make_callbacks(settings.callbacks), here)
    device, processes = trainer.strategy.root_device, (trainer.global_rank, trainer.world_size)
    data, augmentation, module, start = build_module(recipe, device, *processes, begins=begins)
    return Run(start.recipe, data, augmentation, module, trainer, start)


def build_module(
    recipe: Recipe, device: torch.device, rank: int = 0, processes: int = 1, begins: bool = True
) -> tuple[Data, Augmentation, Pretraining, Start]:
    """The data, the augmentation, the training step and the start of a recipe. Nothing is written.

    Args:
        recipe: what is trained.
        device: where it will run.
        rank: number of this process.
        processes: how many share a batch.
        begins: see `build`.

    Returns:
        All of them; the start has the recipe with what depends on the channels of the images, and the advice. The
        caller tells it when nothing can be refused any more: a recipe that is refused is answered in one line.

    Raises:
        SettingError: see `build`.
    """
    settings = recipe.trainer
    data, augmentation = build_data(recipe), build_augmentation(recipe)
    asked, recipe = recipe, for_classes(for_channels(recipe, data.train), data.train)
    start = Start(recipe)
    if begins and (measured := told(asked, recipe)):
        start.passing.append(measured)
    loads = start.of_backbone if begins else None
    backbone, objective = build_networks(recipe, {**data.train.groups, **augmentation.groups}, loads)
    sizes = {augmentation.view_size(data.train.image_size), *objective.plan.sizes}
    for size in sizes:
        with within("data"):
            preflight.require_input_size(backbone.model, size)
        with within("backbone"):
            preflight.require_forward(backbone, size, backbone.in_channels)
            if begins:  # a run of earlier versions goes on
                preflight.require_whole_patches(backbone, size)
        with within("trainer"):
            preflight.require_normalised(backbone, settings.batch_size, size)
        if settings.precision == "bf16" and device.type == "cpu":
            with within("trainer"):
                preflight.require_exact_gradients(backbone, size)
    if settings.strategy == "fsdp":
        preflight.require_shardable(backbone, objective)
        with within("optimizer"):
            require_shardable(recipe.optimizer.get("name", "adamw"))
    image_size = data.train.image_size
    with within("backbone"):
        view_size = augmentation.view_size(image_size)
        require_rebuildable(backbone, preprocessing_of(recipe.normalization, view_size, image_size))
    for advice in (
        preflight.advice_on_stem(backbone, max(sizes)),
        preflight.advice_on_rotations(objective, data.train, augmentation),
    ):
        if advice is not None:
            start.passing.append(advice)
    view_maker, train = build_view_maker(recipe, data.train, augmentation, objective.plan)
    with within("evaluation", besides=["augmentation"]):
        judged_data(data, recipe.evaluation, objective.plan, augmentation, settings.seed)
    with within("objective", besides=["backbone"]):
        # First, as it names the setting; the embedding may fail for the same reason.
        preflight.require_steps(objective, backbone, view_size)
        preflight.require_embedding(objective, backbone, max(sizes))
        if begins:
            preflight.require_shown(objective, view_maker, train)
            preflight.require_values(objective, train)
    with within("objective"), torch.random.fork_rng(devices=[]):
        # Memories start with random vectors. These depend on the seed, but not on the random numbers of the weights.
        torch.manual_seed(int(keyed_random.bits(settings.seed, _MEMORIES, count=1)[0, 0] >> 1))
        objective.allocate(*extent(train))
    if begins:
        with within("trainer"):
            start.of_everything(backbone, objective, train)
        if (odd := odd_looks(data.train)) is not None:
            start.advice.append(f"data: {odd}")
        if (alike := preflight.advice_on_alike_views(objective, view_maker, train)) is not None:
            start.advice.append(alike)
        if (single := _advice_on_views(recipe, data, objective)) is not None:
            start.advice.append(single)
    with within("trainer"):
        preflight.require_batch(settings.batch_size, objective, augmentation, processes)
        plan, process = view_maker.plan, (rank, processes)
        loaded = view_maker.loaded_views
        batches = StepBatches(
            train,
            settings.batch_size,
            loaded,
            settings.seed,
            *process,
            plan.way,
            plan.linked,
            view_maker.frames,
            objective.needs_labels,
            plan.growth,
        )
        steps = settings.steps or math.ceil((settings.epochs or 0) * batches.steps_per_epoch / settings.accumulate)
    for network in (backbone, objective):
        to_channels_last(network)
        if processes > 1:
            synchronise_batch_norm(network, device)
    with within("optimizer"):
        optimization = make_optimizer((backbone, objective), **recipe.optimizer)
    _require_watched(recipe, data, objective)
    loaders = workers(settings, train)
    module = Pretraining(backbone, objective, view_maker, optimization, batches, settings, steps, loaders)
    return data, augmentation, module, start


def _advice_on_views(recipe: Recipe, data: Data, objective: Objective) -> str | None:
    """Advice if an evaluation of one view of each object cannot measure what an equivariant objective learns."""
    settings, several = recipe.evaluation, int(data.validation.view_counts.max(initial=0)) > 1
    if settings.protocol == "none" or settings.views > 1 or not several or not objective.parameters_told:
        return None
    left_out = "relative R2, retrieval and all else that compares views of an object is left out"
    return f"evaluation.views: with 1, {left_out}, and the objective is told of actions; choose 2 or more"


def _require_watched(recipe: Recipe, data: Data, objective: Objective) -> None:
    """Refuse what no monitor can score, as far as it is known before training."""
    stop, every, scores = recipe.trainer.early_stop(), recipe.monitor.every, possible_scores(data, objective)
    require_scored(recipe.trainer.watched_for_best(), "trainer.best", every, scores)
    require_scored(None if stop is None else stop.watched, "trainer.stop.name", every, scores)
    collapses = stop is not None and stop.collapse > 0
    require(not collapses or every > 0, "trainer.stop.collapse", "is told by the monitor, but monitor.every is 0")


def possible_scores(data: Data, objective: Objective) -> list[str]:
    """The beginnings of the names that a monitor's scores of an objective on some data have."""
    labelled = ["linear", "knn"] if data.train.labels is not None else []
    equivariant = [WITHIN, ACTION, GAIN] if objective.parameters_told else []
    return ["rankme", "deviation", *labelled, *equivariant, *(f"r2 {name}" for name in data.validation.groups)]


def build_networks(
    recipe: Recipe, groups: Mapping[str, Group], load: Callable[[Backbone], None] | None = None
) -> tuple[Backbone, Objective]:
    """Backbone and objective with the initial weights of the recipe's seed: the start and the untrained baseline.

    Args:
        recipe: the resolved recipe.
        groups: the recorded parameters of views.
        load: changes the backbone's weights before the objective copies what it needs of it; None leaves them random.
    """
    constructor = OBJECTIVES.find(recipe.objective.name).load()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.trainer.seed)
        with within("backbone"):
            backbone = make_backbone(**recipe.backbone)
            if load is not None:
                load(backbone)
        with within("objective", besides=["backbone"]):
            preflight.require_objective(constructor, recipe.objective.name)
            objective: Objective = constructor(backbone.features, groups, **recipe.objective.settings)
            objective.adopt(backbone)
    return backbone, objective


def build_augmentation(recipe: Recipe) -> Augmentation:
    """The augmentation of a recipe."""
    with within("augmentation"):
        make = AUGMENTATIONS.find(recipe.augmentation.name).load()
        augmentation: Augmentation = make(**recipe.augmentation.settings)
    return augmentation


def build_view_maker(
    recipe: Recipe, source: Source, augmentation: Augmentation, plan: Plan
) -> tuple[ViewMaker, Source]:
    """The view maker of a plan, and the objects of the source that have enough views for the plan."""
    wanted, most = 1 if plan.linked else plan.own_views, int(source.view_counts.max(initial=0))
    if 1 < most < wanted:
        key = "data.views" if "views" in recipe.data.settings else "data"
        raise SettingError(
            key, f"the objective needs {wanted} views of an object, and no training object has over {most}"
        )
    with within("data", besides=["augmentation"]):
        source = with_enough_views(source, wanted)
        mean, std = recipe.normalization.mean, recipe.normalization.std
        return ViewMaker(plan, source, augmentation, mean, std, recipe.trainer.seed), source


def innermost(source: Source) -> Source:
    """The source at the end of a chain of subsets."""
    while isinstance(source, Subset):
        source = source.source
    return source


def build_data(recipe: JudgedRecipe) -> Data:
    """The data of a recipe."""
    with within("data"):
        data: object = DATA.find(recipe.data.name).load()(**recipe.data.settings)
        if not isinstance(data, Data):
            given = type(data).__name__
            raise SettingError("name", f"{recipe.data.name!r} must give Data, of two sources, but gives {given}")
        if recipe.data.name not in DATA.members:
            require_images(data.train)
        require_one_size(data)
        data = held_out_of(recipe.data, data)
        # With new views of known objects, the others are not judged by.
        require_rendered(data)
        return data


def held_out_of(chosen: Choice, data: Data) -> Data:
    """The data with the split that a section asks for: by object, or new views of known objects.

    Raises:
        SettingError: if objects have too few views.
    """
    if chosen.held_out.held_out == "objects":
        return data
    seed = chosen.settings.get("split_seed", chosen.settings.get("seed", 0))
    return hold_out_views(data, chosen.held_out.held_out_share, seed if isinstance(seed, int) else 0)
