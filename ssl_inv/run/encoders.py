"""Encoders as the command line names them (runs, exported folders, timm models), and the data for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ssl_inv.catalogue import RecipeError, SettingError, suggest, within
from ssl_inv.data.reading import PLAIN
from ssl_inv.data.source import Data
from ssl_inv.engine.cluster import place
from ssl_inv.engine.preflight import require_forward, require_input_size
from ssl_inv.engine.settings import EvaluationSettings, NormalizationSettings
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.nn.torchvision_models import torchvision_backbone
from ssl_inv.objectives.base import Objective
from ssl_inv.run.build import build_augmentation, build_data, build_networks
from ssl_inv.run.channels import normalised_for
from ssl_inv.run.data_sections import sections_with_data
from ssl_inv.run.exports.export import Preprocessing
from ssl_inv.run.exports.parts import InParts
from ssl_inv.run.exports.reading import load_backbone_file
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.judging import judged_data
from ssl_inv.run.recipe import JUDGED, JudgedRecipe, resolve_judged
from ssl_inv.run.requirements import require_files
from ssl_inv.run.saved_run import SavedRun
from ssl_inv.views.maker import central

LIBRARIES = ("timm:", "torchvision:")
"""How the name of a network of a library begins."""

NEEDS_LIBRARY = "goes with timm:NAME and torchvision:NAME; other encoders have their own weights"
"""Why no weights of a library can be loaded."""

Networks = tuple[nn.Module, Objective | None]
"""A backbone and, if known, the objective of its pretraining, which says which parts of the features to probe."""


@dataclass(frozen=True)
class Model:
    """An encoder.

    Attributes:
        backbone: the network with its weights.
        preprocessing: of the input; None if it is not known.
        sections: its own values for sections of `JUDGED`.
        description: a sentence about it.
        untrained: makes the same backbone with random weights; None if nobody knows how.
        crop_share: side of the central crop that it sees, as a share of the image's side; see `ViewMaker.whole`.
        enlarges: whether images smaller than its input are enlarged and seen whole.
        run: the run that it is from, if any.
        name: where it is, an absolute path, or `timm:NAME`.
        pretrained: whether a timm model has timm's weights.
        changed: the networks, if they are not those of the run's checkpoint any more.
        parts: the columns of the parts of the features, where an export names them; of a run, the objective does.
    """

    backbone: nn.Module
    preprocessing: Preprocessing | None
    sections: dict[str, Any]
    description: str
    untrained: Callable[[], nn.Module] | None
    crop_share: float = 1.0
    enlarges: bool = False
    run: SavedRun | None = None
    name: str = ""
    pretrained: bool = False
    changed: Networks | None = None
    parts: Mapping[str, slice] = field(default_factory=dict)

    @property
    def data_size(self) -> int | None:
        """Side of the images that it is judged on, in pixels; None: of any that the data have."""
        return None if self.preprocessing is None else round(self.preprocessing.input_size / self.crop_share)

    @property
    def channels(self) -> int | None:
        """How many channels its images have; None if it does not say."""
        if isinstance(self.backbone, Backbone):
            return self.backbone.in_channels
        return None if self.preprocessing is None else len(self.preprocessing.mean)

    def trained(self) -> Networks:
        """The trained networks. A run has an objective."""
        if self.changed is not None:
            backbone, objective = self.changed
            return (backbone, objective) if objective is not None else (self.in_parts(backbone), None)
        if self.run is None:
            return self.in_parts(self.backbone), None
        backbone, objective = build_networks(self.run.recipe, self.run.groups())
        self.run.load_into(backbone, objective)
        return backbone, objective

    def untrained_networks(self) -> Networks | None:
        """The same with random weights, if they can be made."""
        if self.run is not None:
            return build_networks(self.run.recipe, self.run.groups())
        return None if self.untrained is None else (self.in_parts(self.untrained()), None)

    def in_parts(self, network: nn.Module) -> nn.Module:
        """A network that gives the parts of its features, where they are known without an objective."""
        return InParts(network, self.parts) if self.parts else network


@dataclass(frozen=True)
class LoadedModel:
    """A model with data.

    Attributes:
        model: the encoder.
        recipe: the resolved sections `JUDGED`.
        data: the data of that recipe.
    """

    model: Model
    recipe: JudgedRecipe
    data: Data

    @property
    def description(self) -> str:
        return self.model.description

    def normalise(self, pixels: Tensor) -> Tensor:
        """From pixels in [0, 1] to the input of the backbone."""
        both = self.recipe.normalization.mean, self.recipe.normalization.std
        mean, std = (torch.tensor(one).view(1, -1, 1, 1).to(pixels) for one in both)
        return (pixels - mean) / std

    def whole(self, pixels: Tensor) -> Tensor:
        """The same for whole images, which are cropped to their centre first; see `ViewMaker.whole`."""
        return self.normalise(central(pixels, self.crop_share))

    @property
    def crop_share(self) -> float:
        """Side of the central crop of these data that the backbone sees, as a share of the image's side."""
        model = self.model
        if model.preprocessing is None or not model.enlarges or model.crop_share != 1:
            return model.crop_share
        return max(model.preprocessing.input_size / self.data.train.image_size, 1.0)

    def judged_data(self, settings: EvaluationSettings, objective: Objective | None, device: torch.device) -> Data:
        """The data in the views that the settings ask for, made on a device.

        Raises:
            RecipeError: for views as in training of a model that is not from a run.
        """
        if settings.views_of == "data":
            return self.data
        if self.model.run is None or objective is None:
            knows = "'training' goes with a run, which knows how its views were made"
            raise SettingError("evaluation.views_of", f"{knows}; did you mean 'data'?")
        augmentation = build_augmentation(self.model.run.recipe)
        with within("evaluation", besides=["augmentation"]):
            return judged_data(self.data, settings, objective.plan, augmentation, self.seed, device)

    @property
    def seed(self) -> int:
        """The seed of the evaluation. For a run, it is the seed of the run, which evaluated itself with it."""
        return 0 if self.model.run is None else self.model.run.recipe.trainer.seed

    def networks(self) -> tuple[Networks, Networks | None]:
        """The trained networks and, if they can be made, the untrained ones."""
        return self.model.trained(), self.model.untrained_networks()


def best_device() -> torch.device:
    """A GPU if there is one, else the CPU. Processes that a launcher has started on one machine take one GPU each."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    here = place()
    index = here.local_rank % torch.cuda.device_count() if here.started_outside else None
    return torch.device("cuda") if index is None else torch.device("cuda", index)


def on(networks: Networks, device: torch.device) -> Networks:
    """Both networks on a device."""
    backbone, objective = networks
    return backbone.to(device), None if objective is None else objective.to(device)


def load_model(name: str, data: str | None, overrides: list[str], pretrained: bool) -> LoadedModel:
    """A model and its data.

    Args:
        name: folder of a run, one of its checkpoints, exported folder, or `timm:NAME`.
        data: recipe, name of a data set, or path of data; None takes the data of the run.
        overrides: `--section.key value` settings of the sections `JUDGED`.
        pretrained: whether to load timm's weights of a timm model.

    Raises:
        RecipeError: if there is no such model or data, or they do not fit each other.
    """
    return with_data(model_named(name, pretrained), data, overrides)


def with_data(
    model: Model,
    data: str | Mapping[str, Any] | None,
    overrides: list[str] | Mapping[str, Any],
    make: Callable[[JudgedRecipe], Data] = build_data,
) -> LoadedModel:
    """A model and data for it.

    Args:
        model: the encoder.
        data: see `load_model`; or a section of a recipe.
        overrides: see `load_model`; or values by dotted keys.
        make: makes the data of the recipe.

    Raises:
        RecipeError: if there are no such data, or they do not fit the model.
    """
    reading = PLAIN if model.preprocessing is None else model.preprocessing.reading
    sections = sections_with_data(model.sections, data, model.data_size, overrides, reading)
    recipe = resolve_judged(sections, overrides)
    require_files(recipe)
    data_found = make(recipe)
    channels, takes = data_found.train.channels, model.channels
    if takes not in (None, channels):
        raise SettingError("data", f"the images have {channels} channel(s), and this encoder takes {takes}")
    if takes is None:
        plain = recipe.normalization == NormalizationSettings(mean=[0.0] * 3, std=[1.0] * 3)
        every = NormalizationSettings(mean=[0.0] * channels, std=[1.0] * channels)
        recipe = replace(recipe, normalization=every) if plain else normalised_for(recipe, data_found.train)
    loaded = LoadedModel(model, recipe, data_found)
    network = model.backbone.model if isinstance(model.backbone, Backbone) else model.backbone
    with within("data"):
        size = round(loaded.data.train.image_size * loaded.crop_share)
        require_input_size(network, size)
        require_forward(model.backbone, size, channels)
    return loaded


def model_named(name: str, pretrained: bool) -> Model:
    """A model as a command line names it; see `load_model`.

    Raises:
        RecipeError: if there is none.
    """
    found = _found_model(name, pretrained)
    place = name if name.startswith(LIBRARIES) else str(Path(name).absolute())
    return replace(found, name=place, pretrained=pretrained)


def _found_model(name: str, pretrained: bool) -> Model:
    if name.startswith("timm:"):
        return _timm_model(name.removeprefix("timm:"), pretrained)
    if name.startswith("torchvision:"):
        return torchvision_model(name.removeprefix("torchvision:"), pretrained)
    if pretrained:
        raise RecipeError(f"--pretrained {NEEDS_LIBRARY}")
    path = Path(name)
    if (path / "recipe.yaml").is_file() or RunFolder(path).has_checkpoint:
        return _run_model(SavedRun.open(RunFolder.open(path)))
    if path.suffix == ".ckpt" and path.parent.name == "checkpoints":
        return _run_model(SavedRun.open(RunFolder.open(path.parents[1]).at_checkpoint(path.stem)))
    if (path / "config.json").is_file():
        return _exported_model(path)
    if not path.exists() and timm.is_model(name):
        raise RecipeError(f"there is no folder {name!r}; for timm's model say timm:{name}")
    kinds = "the folder of a run, nor an exported folder, nor timm:NAME or torchvision:NAME"
    raise RecipeError(f"{name!r} is neither {kinds}")


def _run_model(run: SavedRun) -> Model:
    preprocessing, recipe, backbone = run.preprocessing, run.recipe, run.backbone()
    what = f"{recipe.objective.name}, {backbone.architecture}, after {run.state['step']:,} steps"
    sections = {section: recipe.sections()[section] for section in JUDGED}
    share, untrained = preprocessing.input_size / run.image_size, partial(make_backbone, **recipe.backbone)
    return Model(backbone, preprocessing, sections, f"{run.folder.path}: {what}", untrained, share, run=run)


def _exported_model(path: Path) -> Model:
    with within("model"):
        file = load_backbone_file(path)
        if file.architecture is None or file.preprocessing is None:
            raise ValueError(f"{path / 'config.json'} names no architecture or preprocessing")
        backbone = file.build()
    untrained = partial(_create, file.architecture, dict(file.model_args), 1)
    preprocessing, description = file.preprocessing, f"{path}: {file.architecture}"
    sections, share = _normalization(preprocessing), preprocessing.crop_share
    return Model(backbone, preprocessing, sections, description, untrained, share, enlarges=True, parts=file.parts)


def _timm_model(name: str, pretrained: bool) -> Model:
    architecture, dot, _ = name.partition(".")
    if not timm.is_model(architecture):
        raise RecipeError(f"timm has no model called {name!r}; {suggest(name, timm.list_models())}")
    if dot and name not in timm.list_pretrained():
        known = timm.list_pretrained(f"{architecture}.*")
        raise RecipeError(f"timm has no weights called {name!r}; {suggest(name, known)}")
    backbone: Any
    try:
        backbone = timm.create_model(name, pretrained=True, num_classes=0) if pretrained else _create(name, {}, 0)
    except Exception as error:  # The hub's client has no common class of errors.
        raise RecipeError(
            f"timm's weights of {name!r} cannot be loaded: {error.__class__.__name__}; are you offline?"
        ) from error
    config: dict[str, Any] = backbone.pretrained_cfg
    preprocessing = Preprocessing(tuple(config["mean"]), tuple(config["std"]), config["input_size"][-1])
    weights = "timm's weights" if pretrained else "random weights (--pretrained loads timm's)"
    description = f"timm:{name}, {weights}, on whole images"
    return Model(backbone, preprocessing, _normalization(preprocessing), description, lambda: _create(name, {}, 1))


def torchvision_model(name: str, pretrained: bool) -> Model:
    """A network of torchvision without its last layer.

    Raises:
        RecipeError: if there is none, or its weights cannot be loaded.
    """
    backbone, mean, std, size = torchvision_backbone(name, pretrained)
    preprocessing = Preprocessing(mean, std, size)
    weights = "torchvision's weights" if pretrained else "random weights (--pretrained loads torchvision's)"
    description = f"torchvision:{name}, {weights}, on whole images"

    def untrained() -> nn.Module:
        return torchvision_backbone(name, False, 1)[0]

    return Model(backbone, preprocessing, _normalization(preprocessing), description, untrained)


def _create(name: str, arguments: dict[str, Any], seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(name, pretrained=False, **{**arguments, "num_classes": 0})


def _normalization(preprocessing: Preprocessing) -> dict[str, Any]:
    return {"normalization": {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}}
