"""Hands a trained backbone over to other libraries: a timm folder, a torchvision state dict, an ONNX file.

Every exporter proves its result before that takes the name it was asked for: the library it is meant for loads it and
must give the same features. Files are written aside and renamed, so an interrupted export leaves nothing that looks
like one.
"""

import copy
import difflib
import importlib.util
import json
import math
import pickle
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from ssl_inv.atomic import written_aside
from ssl_inv.engine.settings import NormalizationSettings
from ssl_inv.nn.backbones import Backbone

TORCHVISION_ARCHITECTURES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)
"""Networks whose parameters have the same names in timm and in torchvision."""


ONNX_TOLERANCE = 1e-4
"""Largest difference that a feature of ONNX Runtime and of torch may have; in shares of the largest feature where that
exceeds 1.
"""


_CONFIG = "config.json"


_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Preprocessing:
    """What an image goes through before the backbone sees it.

    Attributes:
        mean: per channel, of pixels in [0, 1]; subtracted.
        std: per channel, of pixels in [0, 1]; divided by.
        input_size: side of the square input in pixels.
        interpolation: how an image of another size is resized.
        crop_share: side of the central crop in shares of the resized image's; 1 keeps all of a square image.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int
    interpolation: str = "bicubic"
    crop_share: float = 1.0

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std has {len(self.std)}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if self.input_size < 1:
            raise ValueError(f"input_size must be at least 1 pixel, got {self.input_size}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return len(self.mean), self.input_size, self.input_size

    def sample(self, batch: int) -> Tensor:
        """Random input for comparisons, the same at every call; the global random state is left alone."""
        return torch.randn(batch, *self.input_shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class BackboneFile:
    """A backbone as it was read from disk.

    Attributes:
        state: its parameters and buffers by name.
        architecture: its timm name; None where the file does not say.
        model_args: arguments of `timm.create_model` besides the name.
        preprocessing: what its input goes through; None where the file does not say.
    """

    state: dict[str, Tensor]
    architecture: str | None
    model_args: dict[str, Any]
    preprocessing: Preprocessing | None

    def build(self) -> nn.Module:
        """The network with its weights, in evaluation mode.

        Raises:
            ValueError: if the file names no architecture or its weights do not fit it.
        """
        if self.architecture is None:
            raise ValueError(
                "this file holds weights only; an exported folder also says which architecture they belong to"
            )
        model = _create(self.architecture, **self.model_args)
        try:
            model.load_state_dict(self.state)
        except RuntimeError as error:
            raise ValueError(
                f"the weights do not fit {self.architecture} with {self.model_args}: {_first_detail(error)}"
            ) from error
        return model.eval()


def export_timm(
    model: nn.Module,
    architecture: str,
    folder: Path | str,
    preprocessing: Preprocessing,
    model_args: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` turns into the same network,
    offline.

    Args:
        model: a timm network without classifier.
        architecture: its timm name.
        folder: where to; its parent must exist.
        preprocessing: stands in the folder's config.json, where timm's data transforms look for it.
        model_args: the arguments besides the name with which `timm.create_model` made the network; they must be
        expressible in JSON.
        overwrite: whether an existing folder is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: if the folder exists, weights are not finite, or timm does not rebuild the same network from the
            name and the arguments.
    """
    name = _known_architecture(architecture)
    arguments = {**(model_args or {}), "num_classes": 0}
    original = _evaluation_copy(model)
    with _new_at(Path(folder), overwrite) as aside:
        aside.mkdir()
        safetensors.torch.save_file(_plain_state(original), aside / _WEIGHTS, metadata={"format": "pt"})
        config = _timm_config(original, name, preprocessing, arguments)
        (aside / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _require_rebuilt(original, name, arguments, aside, preprocessing)
    return Path(folder)


def export_torchvision(model: nn.Module, architecture: str, path: Path | str, overwrite: bool = False) -> Path:
    """Write a state dict that torchvision's network of the same name loads.

    The classifier is not in it: `network.load_state_dict(torch.load(path, weights_only=True), strict=False)` misses
    `fc` and nothing else.

    Raises:
        ValueError: if torchvision has no such network, this one differs from it, weights are not finite, or the file
            exists.
    """
    import torchvision

    name = architecture.split(".")[0]
    if name not in TORCHVISION_ARCHITECTURES:
        raise ValueError(
            f"{architecture} has no counterpart in torchvision; these have: {', '.join(TORCHVISION_ARCHITECTURES)}"
        )
    original = _evaluation_copy(model)
    with torch.device("meta"):
        counterpart = torchvision.models.get_model(name).eval()
    counterpart.fc = nn.Identity()
    state = _plain_state(original)
    _require_same(original, counterpart, state, Preprocessing((0.0,) * 3, (1.0,) * 3, 64), "torchvision's")
    with _new_at(Path(path), overwrite) as aside:
        torch.save(state, aside)
    return Path(path)


def export_onnx(model: nn.Module, path: Path | str, preprocessing: Preprocessing, overwrite: bool = False) -> Path:
    """Write an ONNX file from normalised `image` `(B, C, H, W)` to `features` `(B, D)` for any batch size B.

    The preprocessing stands in the file's metadata under `mean`, `std` and `input_size`, as JSON.

    Raises:
        ModuleNotFoundError: if the extra `onnx` is not installed.
        ValueError: if the file exists, weights are not finite, or ONNX Runtime differs from torch by more than
            `ONNX_TOLERANCE`.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"ONNX export needs {', '.join(missing)}: pip install 'ssl-inv[onnx]'")
    original = _evaluation_copy(model)
    _plain_state(original)
    with _new_at(Path(path), overwrite) as aside:
        _write_onnx(original, aside, preprocessing)
        _require_onnx_agrees(original, aside, preprocessing)
    return Path(path)


def load_backbone_file(path: Path | str, prefix: str = "backbone.") -> BackboneFile:
    """Open an exported folder, or the backbone's weights in a training checkpoint. No code in the file is run.

    Args:
        path: a folder written by `export_timm`, or a file written by `torch.save` (a checkpoint or a bare state dict).
        prefix: what the names of the backbone's parameters begin with in a checkpoint.

    Raises:
        FileNotFoundError: if there is nothing at `path`, or the folder lacks one of its two files.
        ValueError: if the file is not a checkpoint, holds more than plain data, or has no parameter with that prefix.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"no exported folder and no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} is not a checkpoint of plain tensors and settings: {_first_detail(error)}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    return BackboneFile(_backbone_state(state, prefix, path), None, {}, None)


def _known_architecture(architecture: str) -> str:
    name = architecture.split(".")[0]
    if not timm.is_model(name):
        closest = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.0)[0]
        raise ValueError(f"timm has no network called {architecture!r}; the closest is {closest!r}")
    return name


def _create(architecture: str, **arguments: Any) -> nn.Module:
    # A network's random initial weights must not move the random state of a run that exports between two steps.
    with torch.random.fork_rng(devices=[]):
        return timm.create_model(architecture, **arguments).eval()


def _evaluation_copy(model: nn.Module) -> nn.Module:
    # Channels last runs other kernels, whose sums are rounded elsewhere; what is loaded again has the standard layout.
    return copy.deepcopy(model).cpu().float().eval().to(memory_format=torch.contiguous_format)


def _plain_state(model: nn.Module) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory or have gaps.
    state = {
        name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()
    }
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"the backbone's {name} holds values that are not finite; such a network is not exported")
    return state


def _timm_config(
    model: nn.Module, name: str, preprocessing: Preprocessing, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    known: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    pretrained_cfg = {
        # These three tell timm how to adapt the network to other classes, channels and sizes.
        **{key: known[key] for key in ("classifier", "first_conv", "fixed_input_size") if key in known},
        "num_classes": 0,
        "input_size": preprocessing.input_shape,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop_share,
        "crop_mode": "center",
    }
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": getattr(model, "num_features", None),
        "model_args": dict(arguments),
        "pretrained_cfg": pretrained_cfg,
    }


def _require_rebuilt(
    model: nn.Module, name: str, arguments: Mapping[str, Any], folder: Path, preprocessing: Preprocessing
) -> None:
    """Raise unless timm makes `model` from `folder`; the message names the first layer that differs."""
    try:
        rebuilt = _create(f"local-dir:{folder}", pretrained=True)
    except RuntimeError as error:
        plain = _create(name, **arguments)
        reason = _first_difference(model, plain, "timm's") or _first_detail(error)
        raise ValueError(f"timm cannot rebuild this {name} from model_args {dict(arguments)}: {reason}") from error
    _require_same(model, rebuilt, None, preprocessing, "timm's")


def _require_same(
    model: nn.Module, other: nn.Module, state: dict[str, Tensor] | None, preprocessing: Preprocessing, label: str
) -> None:
    """Raise unless `other`, after `state` was loaded into it where given, has exactly the features of `model`; `label`
    says whose it is.
    """
    image = preprocessing.sample(batch=2)
    try:
        if state is not None:
            other.load_state_dict(state, assign=True)
        with torch.inference_mode():
            same = torch.equal(model(image), other(image))
        detail = "same weights, other features"
    except RuntimeError as error:
        same, detail = False, _first_detail(error)
    if not same:
        raise ValueError(f"this network differs from {label}: {_first_difference(model, other, label) or detail}")


def _first_difference(model: nn.Module, other: nn.Module, label: str) -> str | None:
    """The first layer that both have by name and that is not the same, in words, or None."""
    ours, theirs = _layers(model), _layers(other)
    for name in ours:
        # A name that only one has says little: libraries call their activations and their pooling differently.
        if name in theirs and ours[name] != theirs[name]:
            return f"{name} is {ours[name]}, {label} is {theirs[name]}"
    return None


def _layers(model: nn.Module) -> dict[str, str]:
    # A synchronised norm is a plain one in evaluation.
    leaves = {name: layer for name, layer in model.named_modules() if not list(layer.children())}
    return {name: f"{type(leaf).__name__.removeprefix('Sync')}({leaf.extra_repr()})" for name, leaf in leaves.items()}


def _first_detail(error: Exception) -> str:
    """The most telling line of an error of torch: the one after its headline, where there is one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[min(1, len(lines) - 1)], 200, placeholder=" ...") if lines else type(error).__name__


def _write_onnx(model: nn.Module, path: Path, preprocessing: Preprocessing) -> None:
    import onnx

    program = torch.onnx.export(
        model,
        (preprocessing.sample(batch=2),),
        dynamo=True,
        input_names=["image"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    proto = program.model_proto
    for key in ("mean", "std", "input_size"):
        proto.metadata_props.add(key=key, value=json.dumps(getattr(preprocessing, key)))
    onnx.save(proto, path)


def _require_onnx_agrees(model: nn.Module, path: Path, preprocessing: Preprocessing) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        image = preprocessing.sample(batch)
        with torch.inference_mode():
            expected = model(image)
        features = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
        distance = ((features - expected).abs().max() / expected.abs().max().clamp_min(1)).item()
        # A comparison with NaN is false, and must end here too.
        if not distance <= ONNX_TOLERANCE:
            raise ValueError(
                f"ONNX Runtime differs from torch by {distance:.1e} at batch size {batch}; allowed is {ONNX_TOLERANCE:.0e}"
            )


def _read_folder(folder: Path) -> BackboneFile:
    for file in (_CONFIG, _WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} is not an exported backbone: it has no {file}")
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    try:
        cfg = config["pretrained_cfg"]
        preprocessing = Preprocessing(
            tuple(cfg["mean"]),
            tuple(cfg["std"]),
            cfg["input_size"][-1],
            cfg.get("interpolation", "bicubic"),
            cfg.get("crop_pct", 1.0),
        )
        arguments = {"num_classes": 0, **config.get("model_args", {})}
        return BackboneFile(
            safetensors.torch.load_file(folder / _WEIGHTS), config["architecture"], arguments, preprocessing
        )
    except KeyError as error:
        raise ValueError(f"{folder / _CONFIG} has no entry {error}") from error


def _backbone_state(state: Mapping[str, Any], prefix: str, path: Path) -> dict[str, Tensor]:
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    chosen = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not chosen:
        first_parts = sorted({f"{name.split('.')[0]}." for name in tensors})
        raise ValueError(
            f"no parameter in {path} begins with {prefix!r}; there are {', '.join(first_parts) or 'no tensors'}"
        )
    return chosen


@contextmanager
def _new_at(target: Path, overwrite: bool) -> Iterator[Path]:
    """`written_aside`, with the errors of a user's path."""
    if target.exists() and not overwrite:
        raise ValueError(f"{target} exists already; choose another name or ask for it to be overwritten")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist")
    with written_aside(target) as aside:
        yield aside


def export_run(backbone: Backbone, preprocessing: Preprocessing, folder: Path) -> Path:
    """Write the timm folder of a trained backbone, or replace it."""
    arguments = backbone.model, backbone.architecture, folder, preprocessing, backbone.arguments
    return export_timm(*arguments, overwrite=True)


def preprocessing_of(normalization: NormalizationSettings, view_size: int, image_size: int) -> Preprocessing:
    """What a run does to an image before the backbone sees it.

    Args:
        normalization: the recipe's section.
        view_size: side of a view, in pixels.
        image_size: side of the images that views are made of, in pixels.
    """
    share = min(1.0, view_size / image_size)
    if share < 1 and math.floor(view_size / share) != image_size:
        # timm rounds down to a pixel less than there is.
        share = view_size / (image_size + 1e-3)
    return Preprocessing(tuple(normalization.mean), tuple(normalization.std), view_size, crop_share=share)
