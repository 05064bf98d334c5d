"""Reads exports back, and the backbones of checkpoints. No code in a file is run, and nothing is fetched."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ssl_inv.atomic import DamagedFileError, require_sound
from ssl_inv.catalogue import RecipeError
from ssl_inv.data.reading import MOST_PIXELS, reading_from
from ssl_inv.nn.exported import CONFIG, OWN_KEY, read_config
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
            ValueError: if the file names no architecture or its weights do not fit it.
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
        cfg, own = config["pretrained_cfg"], config.get(OWN_KEY, {})
        preprocessing = Preprocessing(
            tuple(cfg["mean"]),
            tuple(cfg["std"]),
            cfg["input_size"][-1],
            cfg.get("interpolation", "bicubic"),
            cfg.get("crop_pct", 1.0),
            reading_from({**own.get("reading", {}), "max_pixels": MOST_PIXELS}, len(cfg["mean"])),
        )
        arguments = {**(config.get("model_args") or {}), "num_classes": 0}
        parts = {name: _columns(name, both) for name, both in own.get("parts", {}).items()}
        require_sound(folder / WEIGHTS)
        state = safetensors.torch.load_file(folder / WEIGHTS)
        return BackboneFile(state, config["architecture"], arguments, preprocessing, parts, own.get("module"))
    except DamagedFileError as error:
        raise ValueError(f"{error}; export the run again") from None
    except KeyError as error:
        raise ValueError(f"{folder / CONFIG} has no entry {error}") from error
    except RecipeError:
        raise
    except (TypeError, AttributeError, ValueError, OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder} cannot be read as an export: {type(error).__name__}: {error}") from error


def _columns(name: str, both: Sequence[int]) -> slice:
    """The columns of a part. Its name becomes that of files."""
    first, end = both
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name) or not 0 <= int(first) < int(end):
        raise ValueError(f"{name!r} with columns {first} to {end} is no part of features")
    return slice(int(first), int(end))


def _backbone_state(state: Mapping[str, Any], prefix: str, path: Path) -> dict[str, Tensor]:
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    chosen = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not chosen:
        first_parts = sorted({f"{name.split('.')[0]}." for name in tensors})
        raise ValueError(
            f"no parameter in {path} begins with {prefix!r}; there are {', '.join(first_parts) or 'no tensors'}"
        )
    return chosen
