"""Exports a trained backbone as a timm folder or a torchvision state dict.

Every exporter writes aside, loads the result with the library it is for, compares the features, and only then renames
it. An interrupted or wrong export therefore never has the name that was asked for.
"""

import copy
import difflib
import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from ssl_inv.atomic import SEAL, seal, written_aside
from ssl_inv.data.reading import PLAIN, Reading, reading_from
from ssl_inv.engine.settings import NormalizationSettings
from ssl_inv.nn.backbones import Backbone, registering_module
from ssl_inv.nn.exported import CONFIG, sealed
from ssl_inv.nn.exported_forms import MOST_PIXELS_OF_A_SIDE, OWN_KEY, is_number, is_whole
from ssl_inv.nn.torch_files import write_torch
from ssl_inv.run.exports.parts import Parts

TORCHVISION_ARCHITECTURES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)
"""Networks whose parameters have the same names in timm and torchvision."""

WEIGHTS = "model.safetensors"
CARD = "README.md"
"""The files of an exported folder: for timm, and for people and hubs."""

NO_PARTS: Parts = MappingProxyType({})
NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Preprocessing:
    """How an image is prepared for the backbone.

    Attributes:
        mean: subtracted from pixels in [0, 1], per channel.
        std: divides them after that, per channel.
        input_size: side of the square input in pixels.
        interpolation: how images of another size are resized.
        crop_share: side of the central crop, as a share of the side of the resized image; 1 crops nothing.
        reading: how the numbers of files become pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int
    interpolation: str = "bicubic"
    crop_share: float = 1.0
    reading: Reading = PLAIN

    def __post_init__(self) -> None:
        numbers = [*self.mean, *self.std, self.crop_share]
        if not all(map(is_number, numbers)):
            raise ValueError(f"mean, std and crop must be finite numbers, got {numbers}")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std has {len(self.std)}")
        if not self.std or min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if not is_whole(self.input_size, 1, MOST_PIXELS_OF_A_SIDE):
            most = MOST_PIXELS_OF_A_SIDE - 1
            raise ValueError(f"input_size must lie between 1 and {most} pixels, got {self.input_size}")
        if self.crop_share <= 0:
            raise ValueError(f"the share that is cropped must be above 0, got {self.crop_share}")
        if not 0.5 < self.input_size / self.crop_share < MOST_PIXELS_OF_A_SIDE:
            problem = f"{self.crop_share} of an image has {self.input_size} pixels"
            raise ValueError(f"the whole must have 1 to {MOST_PIXELS_OF_A_SIDE - 1} pixels a side, but {problem}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return len(self.mean), self.input_size, self.input_size

    def sample(self, batch: int, height: int | None = None, width: int | None = None) -> Tensor:
        """Random input for comparisons, the same at every call; by default of the input's size."""
        size = height or self.input_size, width or self.input_size
        return torch.randn(batch, len(self.mean), *size, generator=torch.Generator().manual_seed(0))


def export_timm(
    model: nn.Module,
    architecture: str,
    folder: Path | str,
    preprocessing: Preprocessing,
    model_args: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    parts: Parts = NO_PARTS,
    card: str | None = None,
) -> Path:
    """Write a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`, which then works offline.

    `transformers` loads the same folder: `AutoModel.from_pretrained(FOLDER)`.

    Args:
        model: a timm network without classifier.
        architecture: its name in timm.
        folder: where; the parent folder must exist.
        preprocessing: written to config.json, where timm's data transforms look for it.
        model_args: the other arguments of `timm.create_model` that made the network; JSON must be able to hold them.
        overwrite: whether an existing folder is replaced.
        parts: the columns of the parts of the features, for config.json.
        card: the model card, for README.md.

    Returns:
        The folder.

    Raises:
        ValueError: if the folder exists, weights are not finite, or timm does not rebuild the same network.
    """
    name = _known_architecture(architecture)
    arguments = {**(model_args or {}), "num_classes": 0}
    original = evaluation_copy(model)
    with new_at(Path(folder), overwrite) as aside:
        aside.mkdir()
        safetensors.torch.save_file(plain_state(original), aside / WEIGHTS, metadata={"format": "pt", **SEAL})
        seal(aside / WEIGHTS)
        config = _timm_config(original, name, preprocessing, arguments, parts)
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if card is not None:
            (aside / CARD).write_text(card, encoding="utf-8", errors="backslashreplace")
        _require_rebuilt(original, name, arguments, aside, preprocessing)
    return Path(folder)


def export_torchvision(model: nn.Module, architecture: str, path: Path | str, overwrite: bool = False) -> Path:
    """Write a state dict for torchvision's network of the same name.

    It has no classifier: `network.load_state_dict(torch.load(path, weights_only=True), strict=False)` misses only `fc`.

    Raises:
        ValueError: if torchvision has no such network or another one, weights are not finite, or the file exists.
    """
    import torchvision

    name = architecture.split(".")[0]
    if name not in TORCHVISION_ARCHITECTURES:
        raise ValueError(
            f"{architecture} has no counterpart in torchvision; these have: {', '.join(TORCHVISION_ARCHITECTURES)}"
        )
    original = evaluation_copy(model)
    if (channels := original.get_parameter("conv1.weight").shape[1]) != 3:
        problem = f"torchvision's networks take images of 3 channels, and this one takes {channels}"
        raise ValueError(f"{problem}; export it for timm")
    with torch.device("meta"):
        counterpart = torchvision.models.get_model(name).eval()
    counterpart.fc = nn.Identity()
    state = plain_state(original)
    _require_same(original, counterpart, state, Preprocessing((0.0,) * 3, (1.0,) * 3, 64), "torchvision's")
    with new_at(Path(path), overwrite) as aside:
        write_torch(state, aside)
    return Path(path)


def _known_architecture(architecture: str) -> str:
    name = architecture.split(".")[0]
    if not timm.is_model(name):
        closest = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.0)[0]
        raise ValueError(f"timm has no network called {architecture!r}; the closest is {closest!r}")
    return name


def created(architecture: str, **arguments: Any) -> nn.Module:
    """A network of timm in evaluation mode. The random state does not change."""
    # The random initial weights must not change the random state of a run that exports between two steps.
    with torch.random.fork_rng(devices=[]):
        return timm.create_model(architecture, **arguments).eval()


@contextmanager
def new_at(target: Path, overwrite: bool) -> Iterator[Path]:
    """`written_aside` for a path that a user names: its folder must exist, and it must be free or `overwrite`."""
    if target.exists() and not overwrite:
        raise ValueError(f"{target} exists already; choose another name or ask for it to be overwritten")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist")
    with written_aside(target) as aside:
        yield aside


def evaluation_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in float32 and evaluation mode."""
    # Channels-last networks run other kernels, which round differently; a loaded network has the standard layout.
    return copy.deepcopy(model).cpu().float().eval().to(memory_format=torch.contiguous_format)


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as separate, contiguous tensors; a `ValueError` if one is not finite."""
    # safetensors refuses tensors that share memory or have gaps.
    state = {
        name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()
    }
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"the backbone's {name} is not finite, so the network is not exported")
    return state


def _timm_config(
    model: nn.Module, name: str, preprocessing: Preprocessing, arguments: Mapping[str, Any], parts: Parts
) -> dict[str, Any]:
    known: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    pretrained_cfg = {
        # With these, timm adapts the network to other classes, channels and sizes.
        **{key: known[key] for key in ("classifier", "first_conv", "fixed_input_size") if key in known},
        "num_classes": 0,
        "input_size": preprocessing.input_shape,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop_share,
        "crop_mode": "center",
    }
    config = {
        "architecture": name,
        "num_classes": 0,
        "num_features": getattr(model, "num_features", None),
        # transformers passes these beside a num_classes of its own.
        "model_args": {key: value for key, value in arguments.items() if key != "num_classes"},
        "pretrained_cfg": pretrained_cfg,
        OWN_KEY: {
            "parts": {one: list(columns) for one, columns in parts.items()},
            "module": registering_module(name),
            **({"reading": reading} if (reading := preprocessing.reading.settings()) else {}),
        },
    }
    return sealed(config)


def _require_rebuilt(
    model: nn.Module, name: str, arguments: Mapping[str, Any], folder: Path, preprocessing: Preprocessing
) -> None:
    try:
        rebuilt = created(f"local-dir:{folder}", pretrained=True)
    except RuntimeError as error:
        plain = created(name, **arguments)
        reason = _first_difference(model, plain, "timm's") or first_detail(error)
        raise ValueError(f"timm cannot rebuild this {name} from model_args {dict(arguments)}: {reason}") from error
    _require_same(model, rebuilt, None, preprocessing, "timm's")


def _require_same(
    model: nn.Module, other: nn.Module, state: dict[str, Tensor] | None, preprocessing: Preprocessing, label: str
) -> None:
    """Raise unless `other`, which loads `state` if given, has exactly the features of `model`."""
    image = preprocessing.sample(batch=2)
    try:
        if state is not None:
            other.load_state_dict(state, assign=True)
        with torch.inference_mode():
            same = torch.equal(model(image), other(image))
        detail = "same weights, other features"
    except RuntimeError as error:
        same, detail = False, first_detail(error)
    if not same:
        raise ValueError(f"this network differs from {label}: {_first_difference(model, other, label) or detail}")


def _first_difference(model: nn.Module, other: nn.Module, label: str) -> str | None:
    ours, theirs = _layers(model), _layers(other)
    for name in ours:
        # A name that only one network has says little: libraries name activations and pooling differently.
        if name in theirs and ours[name] != theirs[name]:
            return f"{name} is {ours[name]}, {label} is {theirs[name]}"
    return None


def _layers(model: nn.Module) -> dict[str, str]:
    # In evaluation, synchronised batch norm is plain batch norm.
    leaves = {name: layer for name, layer in model.named_modules() if not list(layer.children())}
    return {name: f"{type(leaf).__name__.removeprefix('Sync')}({leaf.extra_repr()})" for name, leaf in leaves.items()}


def first_detail(error: Exception) -> str:
    """The most telling line of an error of torch: the second one, if there is one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[min(1, len(lines) - 1)], 200, placeholder=" ...") if lines else type(error).__name__


def exported_config(backbone: Backbone, preprocessing: Preprocessing) -> dict[str, Any]:
    """The content of config.json that an export of a backbone has."""
    arguments = {**backbone.arguments, "num_classes": 0}
    return _timm_config(backbone.model, _known_architecture(backbone.architecture), preprocessing, arguments, NO_PARTS)


def export_run(
    backbone: Backbone, preprocessing: Preprocessing, folder: Path, parts: Parts = NO_PARTS, card: str | None = None
) -> Path:
    """Write the timm folder of a trained backbone, or replace it."""
    arguments = backbone.model, backbone.architecture, folder, preprocessing, backbone.arguments
    return export_timm(*arguments, overwrite=True, parts=parts, card=card)


def preprocessing_of(
    normalization: NormalizationSettings, view_size: int, image_size: int, data: Mapping[str, Any] = NO_SETTINGS
) -> Preprocessing:
    """The preprocessing of a run.

    Args:
        normalization: the section of the recipe.
        view_size: side of a view, in pixels.
        image_size: side of the images that views are cut from, in pixels.
        data: the settings of the data, which say how files are read.
    """
    share = min(1.0, view_size / image_size)
    if share < 1 and math.floor(view_size / share) != image_size:
        # timm rounds down, here to one pixel less than the image has.
        share = view_size / (image_size + 1e-3)
    reading = reading_from(data, len(normalization.mean))
    return Preprocessing(tuple(normalization.mean), tuple(normalization.std), view_size, "bicubic", share, reading)
