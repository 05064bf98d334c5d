"""Encoders to judge, embed or export: runs, exported folders, and any timm model; and the data to do it on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ssl_inv.backbones import Backbone
from ssl_inv.data.base import Data
from ssl_inv.data.files import Files
from ssl_inv.export import Preprocessing, load_backbone_file
from ssl_inv.finish import preprocessing_of
from ssl_inv.objectives.base import Objective
from ssl_inv.pretrain import build_data, build_networks
from ssl_inv.recipe import Recipe, RecipeError, apply_overrides, find_recipe, named, read_yaml, resolve, shipped_recipes
from ssl_inv.registry import AUGMENTATIONS, DATA, suggest
from ssl_inv.run_folder import RunFolder

_JUDGED = ("data", "normalization", "evaluation")
"""The sections of a recipe that say how a model is judged."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with the data to judge it on.

    Attributes:
        recipe: the sections `data`, `normalization` and `evaluation`, resolved.
        data: the data that they describe.
        trained: the backbone, and its objective where it was pretrained with one.
        untrained: the same with random weights.
        normalise: from pixels in [0, 1] to what the backbone expects.
        description: what was loaded, in a sentence.
    """

    recipe: Recipe
    data: Data
    trained: tuple[nn.Module, Objective | None]
    untrained: tuple[nn.Module, Objective | None]
    normalise: Callable[[Tensor], Tensor]
    description: str


@dataclass(frozen=True)
class _Model:
    trained: tuple[nn.Module, Objective | None]
    untrained: tuple[nn.Module, Objective | None]
    preprocessing: Preprocessing
    sections: dict[str, Any]
    description: str


def load_model(name: str, data: str | None, overrides: list[str], pretrained: bool) -> LoadedModel:
    """A model by the name that the command line takes, with its data.

    Args:
        name: folder of a run, exported folder, or `timm:NAME`.
        data: recipe, name of a data set, folder, zip or CSV file; None takes the data that a run was trained on.
        overrides: `--section.key value` settings over the sections `data`, `normalization` and `evaluation`.
        pretrained: for timm models, whether to load timm's weights.

    Raises:
        RecipeError: if there is no such model or data, or they do not fit each other.
    """
    model = _model(name, pretrained)
    sections = _data_sections(data, model, overrides)
    recipe = resolve(apply_overrides(sections, overrides), "the command line", _JUDGED)
    loaded = build_data(recipe)
    mean, std = (torch.tensor(recipe["normalization"][key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    _check_fit(model, loaded)
    return LoadedModel(
        recipe, loaded, model.trained, model.untrained, lambda pixels: (pixels - mean.to(pixels)) / std.to(pixels), model.description
    )


def load_run(folder: RunFolder) -> tuple[Backbone, Recipe, Preprocessing]:
    """The backbone of a run's last checkpoint, with its recipe and what was done to images.

    Raises:
        RecipeError: if the run has no checkpoint.
    """
    backbone, _, recipe, _ = _networks_of(folder)
    return backbone, recipe, preprocessing_of(recipe, _image_size(folder, recipe))


def _networks_of(folder: RunFolder) -> tuple[Backbone, Objective, Recipe, dict[str, Any]]:
    state = folder.load_checkpoint()
    if state is None:
        raise RecipeError(f"{str(folder.path)!r} has no checkpoint yet")
    recipe = folder.recipe()
    data = build_data(recipe)
    backbone, objective = build_networks(recipe, {**data.train.groups, **_augmented_groups(recipe)})
    backbone.load_state_dict(state["backbone"])
    objective.load_state_dict(state["objective"])
    return backbone, objective, recipe, state


def _image_size(folder: RunFolder, recipe: Recipe) -> int:
    exported = folder.export_folder / "config.json"
    if exported.is_file():
        preprocessing = load_backbone_file(folder.export_folder).preprocessing
        if preprocessing is not None:
            return preprocessing.input_size
    return build_data(recipe).train.image_size


def _model(name: str, pretrained: bool) -> _Model:
    if name.startswith("timm:"):
        return _timm_model(name.removeprefix("timm:"), pretrained)
    if pretrained:
        raise RecipeError("--pretrained goes with timm:NAME; runs and exported folders have their own weights")
    path = Path(name)
    if (path / "recipe.yaml").is_file():
        return _run_model(RunFolder.open(path))
    if (path / "config.json").is_file():
        return _exported_model(path)
    if timm.is_model(name):
        raise RecipeError(f"there is no folder {name!r}; for timm's model say timm:{name}")
    raise RecipeError(f"{name!r} is neither the folder of a run, nor an exported folder, nor timm:NAME")


def _run_model(folder: RunFolder) -> _Model:
    backbone, objective, recipe, state = _networks_of(folder)
    data = build_data(recipe)
    untrained = build_networks(recipe, {**data.train.groups, **_augmented_groups(recipe)})
    description = f"{folder.path}: {recipe['objective']['name']}, {backbone.architecture}, step {state['step']}"
    return _Model(
        (backbone, objective), untrained, preprocessing_of(recipe, data.train.image_size), {one: recipe[one] for one in _JUDGED}, description
    )


def _augmented_groups(recipe: Recipe) -> dict[str, Any]:
    groups: dict[str, Any] = AUGMENTATIONS.find(recipe["augmentation"]["name"]).load()(**recipe.settings("augmentation")).groups
    return groups


def _exported_model(path: Path) -> _Model:
    with named("model"):
        file = load_backbone_file(path)
    if file.architecture is None or file.preprocessing is None:
        raise RecipeError(f"{str(path)!r}: config.json names no architecture or preprocessing")
    trained, untrained = (_create(file.architecture, dict(file.model_args), seed) for seed in (0, 1))
    trained.load_state_dict(file.state)
    sections = _normalization(file.preprocessing)
    return _Model((trained, None), (untrained, None), file.preprocessing, sections, f"{path}: {file.architecture}")


def _timm_model(name: str, pretrained: bool) -> _Model:
    if not timm.is_model(name.split(".")[0]):
        raise RecipeError(f"timm has no model called {name!r}; {suggest(name, timm.list_models())}")
    try:
        trained = timm.create_model(name, pretrained=True, num_classes=0) if pretrained else _create(name, {}, 0)
    except Exception as error:  # the hub's client has no common class of errors
        raise RecipeError(f"timm's weights of {name!r} cannot be loaded: {error.__class__.__name__}; are you offline?") from error
    cfg = trained.pretrained_cfg
    preprocessing = Preprocessing(tuple(cfg["mean"]), tuple(cfg["std"]), cfg["input_size"][-1])
    weights = "timm's weights" if pretrained else "random weights (--pretrained loads timm's)"
    return _Model((trained, None), (_create(name, {}, 1), None), preprocessing, _normalization(preprocessing), f"timm:{name}, {weights}")


def _create(name: str, arguments: dict[str, Any], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model(name, pretrained=False, **{**arguments, "num_classes": 0})
    return model


def _normalization(preprocessing: Preprocessing) -> dict[str, Any]:
    return {"normalization": {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}}


def _data_sections(data: str | None, model: _Model, overrides: list[str]) -> dict[str, Any]:
    """The sections that `--data` stands for, over those that the model brings."""
    sections = {name: dict(section) for name, section in model.sections.items()}
    if data is None:
        if "data" not in sections and not any(one.startswith("--data.name") for one in overrides):
            raise RecipeError("--data is missing: a recipe, folder, zip or CSV file to judge the model on")
        return sections
    if data in DATA.entries:
        return {**sections, "data": {"name": data}}
    if data in shipped_recipes() or data.endswith((".yaml", ".yml")):
        content = read_yaml(find_recipe(data))
        return {**sections, **{name: content[name] for name in ("data", "evaluation") if name in content}}
    path = Path(data)
    if not path.exists():
        raise RecipeError(f"--data {data}: no such file, folder, recipe or data set; {suggest(data, [*shipped_recipes(), *DATA.entries])}")
    return {**sections, "data": _data_at(path, model.preprocessing.input_size)}


def _data_at(path: Path, size: int) -> dict[str, Any]:
    """The data section for files at a path: 3DIEBench's layout, a table of views, or plain images."""
    if (path / "train_images.npy").is_file():
        kind = "threediebench"
    else:
        with named("data"):
            names = Files(str(path)).names if path.suffix != ".csv" else []
        tables = [one for one in names if bytes(one).decode().endswith(".csv")]
        kind = "table" if path.suffix == ".csv" or len(tables) == 1 else "folder"
    return {"name": kind, "path": str(path), "size": size}


def _check_fit(model: _Model, data: Data) -> None:
    size = data.train.image_size
    fixed = getattr(getattr(_timm_of(model.trained[0]), "patch_embed", None), "img_size", None)
    if fixed is not None and getattr(_timm_of(model.trained[0]).patch_embed, "strict_img_size", False) and fixed[0] != size:  # type: ignore[union-attr]
        raise RecipeError(f"data.size: images have {size} pixels, but this model takes {fixed[0]}; add --data.size {fixed[0]}")


def _timm_of(backbone: nn.Module) -> nn.Module:
    return backbone.model if isinstance(backbone, Backbone) else backbone

