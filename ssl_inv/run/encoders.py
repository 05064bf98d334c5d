"""Encoders to judge, embed or export: runs, exported folders, and any timm model; and the data to do it on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ssl_inv.catalogue import DATA, suggest
from ssl_inv.data.archives import Files
from ssl_inv.data.source import Data
from ssl_inv.engine.preflight import require_forward, require_input_size
from ssl_inv.engine.settings import EvaluationSettings
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.objectives.base import Objective
from ssl_inv.run.build import build_augmentation, build_data, build_networks
from ssl_inv.run.export import Preprocessing, load_backbone_file, preprocessing_of
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.judging import judged_data
from ssl_inv.run.recipe import (
    JUDGED,
    JudgedRecipe,
    Recipe,
    RecipeError,
    apply_overrides,
    find_recipe,
    named,
    read_yaml,
    require_files,
    resolve_judged,
    shipped_recipes,
)
from ssl_inv.transforms import Group
from ssl_inv.views.maker import central

Networks = tuple[nn.Module, Objective | None]
"""A backbone, and the objective that it was pretrained with where that is known: it says which parts of the features to
probe.
"""


@dataclass(frozen=True)
class SavedRun:
    """What a run has left for others: of its data nothing is needed.

    Attributes:
        folder: where it is.
        recipe: every setting.
        state: the last checkpoint's.
    """

    folder: RunFolder
    recipe: Recipe
    state: dict[str, Any]

    @classmethod
    def open(cls, folder: RunFolder) -> "SavedRun":
        """Read recipe and checkpoint.

        Raises:
            RecipeError: if the run has no checkpoint.
        """
        recipe, state = folder.recipe(), folder.load_checkpoint()
        if state is None:
            raise RecipeError(f"{str(folder.path)!r} has no checkpoint yet")
        return cls(folder, recipe, state)

    def backbone(self) -> Backbone:
        """The trained backbone, a new one at every call."""
        backbone = make_backbone(**self.recipe.backbone)
        backbone.load_state_dict(self.state["backbone"])
        return backbone

    @property
    def image_size(self) -> int:
        """Side of the images of its data, in pixels."""
        return int(self.state["image_size"])

    @property
    def preprocessing(self) -> Preprocessing:
        """What was done to images."""
        view_size = build_augmentation(self.recipe).view_size(self.image_size)
        return preprocessing_of(self.recipe.normalization, view_size, self.image_size)


@dataclass(frozen=True)
class Model:
    """An encoder as the command line names it.

    Attributes:
        backbone: with its weights.
        preprocessing: what its input goes through.
        sections: those of `JUDGED` that it brings, by which it is judged unless something else is asked for.
        description: what it is, in a sentence.
        untrained: makes the same backbone with random weights.
        crop_share: side of what it sees in shares of the images' sides; see `ViewMaker.whole`.
        enlarges: whether it sees whole images that are smaller than its input enlarged to that.
        run: the run that it comes from, if it does.
    """

    backbone: nn.Module
    preprocessing: Preprocessing
    sections: dict[str, Any]
    description: str
    untrained: Callable[[], nn.Module]
    crop_share: float = 1.0
    enlarges: bool = False
    run: "SavedRun | None" = None


@dataclass(frozen=True)
class LoadedModel:
    """A model with the data to judge it on.

    Attributes:
        model: the encoder.
        recipe: the sections `JUDGED`, resolved.
        data: the data that they describe.
    """

    model: Model
    recipe: JudgedRecipe
    data: Data

    @property
    def description(self) -> str:
        return self.model.description

    def normalise(self, pixels: Tensor) -> Tensor:
        """From pixels in [0, 1] to what the backbone expects."""
        mean, std = (
            torch.tensor(getattr(self.recipe.normalization, key)).view(1, -1, 1, 1).to(pixels)
            for key in ("mean", "std")
        )
        return (pixels - mean) / std

    def whole(self, pixels: Tensor) -> Tensor:
        """Likewise of whole images, whose centre it sees if its views were smaller; see `ViewMaker.whole`."""
        return self.normalise(central(pixels, self.crop_share))

    @property
    def crop_share(self) -> float:
        """Side of what the backbone sees of these data, in shares of the images' sides."""
        enlarged = self.model.preprocessing.input_size / self.data.train.image_size
        return max(enlarged, 1.0) if self.model.enlarges and self.model.crop_share == 1 else self.model.crop_share

    def judged_data(self, settings: EvaluationSettings, objective: Objective | None, device: torch.device) -> Data:
        """The data in the views that evaluation asks for, made on a device.

        Raises:
            RecipeError: if views as in training are asked for, but the model comes from no run.
        """
        if settings.views_of == "data":
            return self.data
        if self.model.run is None or objective is None:
            raise RecipeError(
                "evaluation.views_of: 'training' goes with a run, which knows how its views were made; did you mean 'data'?"
            )
        with named("evaluation"):
            return judged_data(
                self.data, settings, objective.plan, build_augmentation(self.model.run.recipe), self.seed, device
            )

    @property
    def seed(self) -> int:
        """Decides what a judgement draws: for a run the seed by which it judged itself."""
        return 0 if self.model.run is None else self.model.run.recipe.trainer.seed

    def networks(self) -> tuple[Networks, Networks]:
        """What is judged, and the same untrained; a run brings its objective."""
        if self.model.run is None:
            return (self.model.backbone, None), (self.model.untrained(), None)
        recipe, state = self.model.run.recipe, self.model.run.state
        groups = {name: Group.from_record(record) for name, record in state["groups"].items()}
        backbone, objective = build_networks(recipe, groups)
        objective.allocate(*state["extent"])
        backbone.load_state_dict(state["backbone"])
        objective.load_state_dict(state["objective"])
        return (backbone, objective), build_networks(recipe, groups)


def best_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on(networks: Networks, device: torch.device) -> Networks:
    """Both networks on a device."""
    backbone, objective = networks
    return backbone.to(device), None if objective is None else objective.to(device)


def load_model(name: str, data: str | None, overrides: list[str], pretrained: bool) -> LoadedModel:
    """A model by the name that the command line takes, with its data.

    Args:
        name: folder of a run, exported folder, or `timm:NAME`.
        data: recipe, name of a data set, folder, zip or CSV file; None takes the data that a run was trained on.
        overrides: `--section.key value` settings over the sections `JUDGED`.
        pretrained: for timm models, whether to load timm's weights.

    Raises:
        RecipeError: if there is no such model or data, or they do not fit each other.
    """
    model = _model(name, pretrained)
    sections = _data_sections(data, model, overrides)
    recipe = resolve_judged(apply_overrides(sections, overrides, JUDGED), "the command line")
    require_files(recipe)
    loaded = LoadedModel(model, recipe, build_data(recipe))
    _check_fit(loaded)
    return loaded


def _model(name: str, pretrained: bool) -> Model:
    if name.startswith("timm:"):
        return _timm_model(name.removeprefix("timm:"), pretrained)
    if pretrained:
        raise RecipeError("--pretrained goes with timm:NAME; runs and exported folders have their own weights")
    path = Path(name)
    if (path / "recipe.yaml").is_file():
        return _run_model(SavedRun.open(RunFolder.open(path)))
    if (path / "config.json").is_file():
        return _exported_model(path)
    if not path.exists() and timm.is_model(name):
        raise RecipeError(f"there is no folder {name!r}; for timm's model say timm:{name}")
    raise RecipeError(f"{name!r} is neither the folder of a run, nor an exported folder, nor timm:NAME")


def _run_model(run: SavedRun) -> Model:
    preprocessing, recipe = run.preprocessing, run.recipe
    backbone = run.backbone()
    description = (
        f"{run.folder.path}: {recipe.objective.name}, {backbone.architecture}, after {run.state['step']:,} steps"
    )
    sections = {section: recipe.sections()[section] for section in JUDGED}
    share = preprocessing.input_size / run.image_size
    return Model(
        backbone, preprocessing, sections, description, lambda: make_backbone(**recipe.backbone), share, run=run
    )


def _exported_model(path: Path) -> Model:
    with named("model"):
        file = load_backbone_file(path)
        if file.architecture is None or file.preprocessing is None:
            raise ValueError(f"{path / 'config.json'} names no architecture or preprocessing")
        backbone = file.build()
    architecture, arguments = file.architecture, dict(file.model_args)
    sections = _normalization(file.preprocessing)
    share = file.preprocessing.crop_share
    untrained = partial(_create, architecture, arguments, 1)
    return Model(backbone, file.preprocessing, sections, f"{path}: {architecture}", untrained, share, enlarges=True)


def _timm_model(name: str, pretrained: bool) -> Model:
    if not timm.is_model(name.split(".")[0]):
        raise RecipeError(f"timm has no model called {name!r}; {suggest(name, timm.list_models())}")
    architecture, dot, _ = name.partition(".")
    if dot and name not in timm.list_pretrained():
        raise RecipeError(
            f"timm has no weights called {name!r}; {suggest(name, timm.list_pretrained(f'{architecture}.*'))}"
        )
    backbone: Any
    try:
        backbone = timm.create_model(name, pretrained=True, num_classes=0) if pretrained else _create(name, {}, 0)
    except Exception as error:  # the hub's client has no common class of errors
        raise RecipeError(
            f"timm's weights of {name!r} cannot be loaded: {error.__class__.__name__}; are you offline?"
        ) from error
    config: dict[str, Any] = backbone.pretrained_cfg
    preprocessing = Preprocessing(tuple(config["mean"]), tuple(config["std"]), config["input_size"][-1])
    weights = "timm's weights" if pretrained else "random weights (--pretrained loads timm's)"
    return Model(
        backbone,
        preprocessing,
        _normalization(preprocessing),
        f"timm:{name}, {weights}, on whole images",
        lambda: _create(name, {}, 1),
    )


def _create(name: str, arguments: dict[str, Any], seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(name, pretrained=False, **{**arguments, "num_classes": 0})


def _normalization(preprocessing: Preprocessing) -> dict[str, Any]:
    return {"normalization": {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}}


def _data_sections(data: str | None, model: Model, overrides: list[str]) -> dict[str, Any]:
    """The sections that `--data` stands for, over those that the model brings."""
    chosen = apply_overrides({}, overrides, JUDGED).get("data", {}).get("name")
    if data is None:
        if "data" not in model.sections and chosen is None:
            raise RecipeError("--data is missing: a recipe, data set, folder, zip or CSV file to take images from")
        return model.sections
    if data in DATA.members:
        return {**model.sections, "data": {"name": data}}
    if data in shipped_recipes() or data.endswith((".yaml", ".yml")):
        content = read_yaml(find_recipe(data))
        return {**model.sections, **{name: content[name] for name in ("data", "evaluation") if name in content}}
    path = Path(data)
    if not path.exists():
        raise RecipeError(
            f"--data {data}: no such file, folder, recipe or data set; {suggest(data, [*shipped_recipes(), *DATA.members])}"
        )
    return {**model.sections, "data": _data_at(path, round(model.preprocessing.input_size / model.crop_share), chosen)}


def _data_at(path: Path, size: int, kind: str | None) -> dict[str, Any]:
    """The data section for files at a path: of the kind that is asked for, else 3DIEBench's layout, a table of views,
    or plain images.
    """
    if path.suffix.lower() == ".csv":
        return {"name": "table", "path": str(path.parent), "csv_file": path.name, "size": size}
    if kind is None:
        with named("data"):
            tops = set(Files(path).inside(""))
        kind = "folder"
        if "train_images.npy" in tops:
            kind = "threediebench"
        elif any(name.lower().endswith(".csv") for name in tops):
            kind = "table"
    return {"name": kind, "path": str(path), "size": size}


def _check_fit(loaded: LoadedModel) -> None:
    backbone = loaded.model.backbone
    with named("data"):
        size = round(loaded.data.train.image_size * loaded.crop_share)
        require_input_size(backbone.model if isinstance(backbone, Backbone) else backbone, size)
        require_forward(backbone, size)
