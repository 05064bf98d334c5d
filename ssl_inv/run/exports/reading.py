"""Reads exports back, and the backbones of checkpoints. No code in a file is run, and nothing is fetched."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ssl_inv.atomic import DamagedFileError, require_sound
from ssl_inv.catalogue import RecipeError, SettingError, suggest
from ssl_inv.data.reading import MOST_PIXELS, reading_from
from ssl_inv.nn.exported import CONFIG, read_config
from ssl_inv.nn.exported_forms import OWN_KEY, Form, is_number, is_whole, require_form
from ssl_inv.nn.torch_files import read_torch
from ssl_inv.run.exports.export import WEIGHTS, Preprocessing, created, first_detail


@dataclass(frozen=True)
class BackboneFile:
    """A backbone as read from disk.

    Attributes:
        state: parameters and buffers by name.
        architecture: the name in timm; None if the file does not say.
        model_args: further arguments of `timm.create_model`.
        preprocessing: of the input; None if the file does not say.
        parts: the columns of the features that are the invariant and the equivariant part, if the file says so.
        module: registers the architecture with timm, if neither timm nor this package does.
    """

    state: dict[str, Tensor]
    architecture: str | None
    model_args: dict[str, Any]
    preprocessing: Preprocessing | None
    parts: Mapping[str, slice] = field(default_factory=dict)
    module: str | None = None

    def build(self) -> nn.Module:
        """The network with its weights, in evaluation mode.

        Raises:
            ValueError: if the file names no architecture, or its weights or the parts of its features do not fit it.
        """
        if self.architecture is None:
            raise ValueError("this file holds weights only; an exported folder also names their architecture")
        misfit = f"the weights do not fit {self.architecture} with {self.model_args}"
        try:
            self._require_shapes()
            model = created(self.architecture, **{**self.model_args, "pretrained": False})
            model.load_state_dict(self.state)
        except Exception as error:  # A network meets wrong arguments with whatever fails first.
            raise ValueError(f"{misfit}: {first_detail(error)}") from error
        known = [getattr(model, name, 0) for name in ("num_features", "head_hidden_size")]
        features = max(one for one in known if isinstance(one, int))
        for name, columns in self.parts.items():
            if columns.stop > features:
                problem = f"the part {name} of the features ends at column {columns.stop}"
                raise ValueError(f"{problem}, and {self.architecture} has {features}")
        return model.eval()

    def _require_shapes(self) -> None:
        """Compare with a network that has no memory for weights: arguments may ask for more than there is."""
        try:
            with torch.device("meta"):
                empty = created(str(self.architecture), **{**self.model_args, "pretrained": False})
        except (NotImplementedError, RuntimeError):  # Some networks compute with numbers while they are made.
            return
        wanted = {name: value.shape for name, value in empty.state_dict().items()}
        for name, value in self.state.items():
            if wanted.get(name) != value.shape:
                problem = f"{name} of shape {tuple(value.shape)} belongs to another network"
                raise ValueError(problem)


def load_backbone_file(path: Path | str, prefix: str = "backbone.") -> BackboneFile:
    """Read an exported folder, or the backbone's weights in a checkpoint. No code in the file is run.

    Args:
        path: a folder written by `export_timm`, or a file written by `torch.save`: a checkpoint or a state dict.
        prefix: start of the names of the backbone's parameters in a checkpoint.

    Raises:
        FileNotFoundError: if `path` does not exist, or the folder lacks one of its two files.
        ValueError: if the file is no checkpoint, holds more than plain data, or has no parameter with that prefix.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"no exported folder and no checkpoint at {path}")
    try:
        content = read_torch(path)
    except DamagedFileError:
        raise
    except Exception as error:  # A damaged archive raises many kinds of errors.
        raise ValueError(f"{path} is not a checkpoint of plain tensors and settings: {first_detail(error)}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    return BackboneFile(_backbone_state(state, prefix, path), None, {}, None)


def _read_folder(folder: Path) -> BackboneFile:
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} is not an exported backbone: it has no {file}")
    try:
        config = read_config(folder)
        own = config.get(OWN_KEY) or {}
        preprocessing = _preprocessing(config, own.get("reading", {}), folder / CONFIG)
        arguments = {**(config.get("model_args") or {}), "num_classes": 0}
        parts = {name: _columns(name, both, folder / CONFIG) for name, both in own.get("parts", {}).items()}
        require_sound(folder / WEIGHTS)
        state = safetensors.torch.load_file(folder / WEIGHTS)
        return BackboneFile(state, config["architecture"], arguments, preprocessing, parts, own.get("module"))
    except DamagedFileError as error:
        raise ValueError(f"{error}; export the run again") from None
    except RecipeError:
        raise
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder} cannot be read as an export: {type(error).__name__}: {error}") from error


_ENTRIES = ("mean", "std", "input_size")
"""Without these, nobody knows the input of a network."""

_READING: Mapping[str, Form] = {
    "background": (lambda value: isinstance(value, str), "a text"),
    "white": (lambda value: value is None or is_number(value), "a number"),
    "bands": (lambda value: isinstance(value, list) and all(map(is_whole, value)), "a list of whole numbers"),
    "range": (lambda value: isinstance(value, list) and all(map(_is_pair, value)), "a list of [lowest, highest]"),
    "channels": (lambda value: value is None or is_whole(value), "a whole number"),
}


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _preprocessing(config: Mapping[str, Any], reading: Mapping[str, Any], file: Path) -> Preprocessing:
    """The preprocessing that a config.json of the right forms describes."""
    place = "pretrained_cfg." if "pretrained_cfg" in config else ""
    cfg = config.get("pretrained_cfg", config)
    for key in _ENTRIES:
        if key not in cfg:
            raise ValueError(f"{file} has no entry {place}{key}")
    channels = (config.get("model_args") or {}).get("in_chans", len(cfg["mean"]))
    if channels != len(cfg["mean"]):
        raise ValueError(f"{file}: {place}mean has {len(cfg['mean'])} number(s), and model_args.in_chans is {channels}")
    for key, value in reading.items():
        if key not in _READING:
            raise ValueError(f"{file}: {OWN_KEY}.reading has an unknown entry {key!r}; {suggest(key, _READING)}")
        require_form(value, _READING[key], f"{file}: {OWN_KEY}.reading.{key}")
    try:
        read = reading_from({**reading, "max_pixels": MOST_PIXELS}, len(cfg["mean"]))
    except SettingError as error:
        raise ValueError(f"{file}: {OWN_KEY}.reading.{error}") from None
    try:
        side, share = cfg["input_size"][-1], cfg.get("crop_pct", 1.0)
        how = cfg.get("interpolation", "bicubic")
        return Preprocessing(tuple(cfg["mean"]), tuple(cfg["std"]), side, how, share, read)
    except ValueError as error:
        raise ValueError(f"{file}: {place.removesuffix('.') or 'preprocessing'}: {error}") from None


def _columns(name: str, both: Any, file: Path) -> slice:
    """The columns of a part. Its name becomes that of files."""
    where = f"{file}: {OWN_KEY}.parts"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name):
        raise ValueError(f"{where} has a part {name[:80]!r}; names are of letters, digits, _ and -")
    fits = isinstance(both, list) and len(both) == 2 and all(map(is_whole, both)) and both[0] < both[1]
    require_form(both, (lambda _: fits, "[first column, first column after it]"), f"{where}.{name}")
    return slice(*both)


def _backbone_state(state: Mapping[str, Any], prefix: str, path: Path) -> dict[str, Tensor]:
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    chosen = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not chosen:
        first_parts = sorted({f"{name.split('.')[0]}." for name in tensors})
        raise ValueError(
            f"no parameter in {path} begins with {prefix!r}; there are {', '.join(first_parts) or 'no tensors'}"
        )
    return chosen
