"""Weights as they are read: from files, the folders of runs and exports, and timm. No code in a file is run."""

import hashlib
import re
import socket
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import safetensors.torch
import timm
import torch
from huggingface_hub import constants

from ssl_inv.atomic import DamagedFileError, require_sound
from ssl_inv.catalogue import SettingError
from ssl_inv.nn.exported import require_unchanged
from ssl_inv.nn.exported_forms import require_forms
from ssl_inv.nn.ibn import IBN_SUFFIXES
from ssl_inv.nn.stems import SUFFIXES
from ssl_inv.nn.torch_files import require_stored
from ssl_inv.plain import read_json


class Emptied:
    """What stands in for every class and function of a file that holds no tensors: to call it gives a mapping."""

    def __new__(cls, *arguments: Any, **named: Any) -> OrderedDict[str, Any]:  # type: ignore[misc]
        return OrderedDict()


class Number:
    """What stands in for numpy's own numbers and types."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class Weights:
    """Weights as read.

    Attributes:
        source: what the recipe calls them.
        content: tensors by name, and further mappings of this kind.
        sha256: of the file, or of the tensors where timm gave them.
        mean: of the normalisation that the weights were trained with, if known.
        std: of that normalisation, if known.
    """

    source: str
    content: Mapping[str, Any]
    sha256: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_weights(source: str, architecture: str) -> Weights:
    """Weights from where a recipe says.

    Args:
        source: `timm`, `hf-hub:ORGANISATION/NAME` or `timm/NAME`, the folder of a run or of an export, or a file.
        architecture: the backbone's name in timm, for `timm`.

    Raises:
        SettingError: if there are no such weights, or they cannot be read.
    """
    if source == "timm":
        for suffix in (*IBN_SUFFIXES.values(), *SUFFIXES.values()):
            architecture = architecture.removesuffix(suffix)
        return _of_timm(source, architecture)
    if source.startswith(("hf-hub:", "timm/")):
        return _of_timm(source, source if source.startswith("hf-hub:") else f"hf-hub:{source}")
    place = Path(source).expanduser()
    mean, std = _normalization(place / "config.json") if place.is_dir() else (None, None)
    file = _file_in(place)
    try:
        require_sound(file)
        content = safetensors.torch.load_file(file) if file.suffix == ".safetensors" else _read_torch(file)
    except DamagedFileError as error:
        again = "if others wrote it without checksums, torch.load and torch.save write them"
        raise SettingError("weights", f"{error}; take another copy of the file ({again})") from None
    except Exception as error:  # A damaged archive raises many kinds of errors.
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = next((line for line in lines if re.search("GLOBAL|Can only|blocked", line)), lines[0])[:200]
        if "Unsupported operand" in str(error):
            reason = "it was not written by torch.save"
        raise SettingError("weights", f"{source} cannot be read as tensors and plain values: {reason}") from None
    if not isinstance(content, Mapping):
        raise SettingError("weights", f"{source} holds no tensors by name, but a {type(content).__name__}")
    return Weights(source, content, sha256_of(file), mean, std)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read_torch(file: Path) -> Any:
    # Checkpoints often hold settings of classes that are not there, or that must not run.
    require_stored(file)
    with _inert_globals(file):
        return torch.load(file, map_location="cpu", weights_only=True)


def _inert_globals(file: Path) -> AbstractContextManager[None]:
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except Exception:  # Not a zip archive; `torch.load` then says what is wrong, if anything.
        unknown = []
    allowed: Any = [(Number if name.startswith("numpy.") else Emptied, name) for name in unknown]
    return torch.serialization.safe_globals(allowed)


def _file_in(place: Path) -> Path:
    if place.is_dir():
        for inside in ("checkpoints/last.ckpt", "model.safetensors", "pytorch_model.bin"):
            if (place / inside).is_file():
                return place / inside
        raise SettingError("weights", f"{str(place)!r} is neither the folder of a run with a checkpoint nor an export")
    if not place.is_file():
        raise SettingError("weights", f"no such file or folder: {str(place)!r}")
    if place.suffix == ".npz":
        raise SettingError("weights", f"{str(place)!r}: .npz files are not read; timm has most of them as `timm/NAME`")
    return place


def _normalization(config: Path) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    if not config.is_file():
        return None, None
    try:
        content = read_json(config)
    except (ValueError, OSError) as error:
        problem = f"{config} cannot be read: {error}"
        raise SettingError("weights", f"{problem}; name the file of the weights instead of its folder") from None
    if not isinstance(content, dict) or "pretrained_cfg" not in content:
        return None, None  # Of another library.
    try:
        require_unchanged(content, config)
        require_forms(content, config)
    except ValueError as error:
        raise SettingError("weights", f"{error}; name the file of the weights instead of its folder") from None
    both = [tuple(content["pretrained_cfg"].get(name, ())) for name in ("mean", "std")]
    return (both[0], both[1]) if all(len(one) == 3 for one in both) else (None, None)


def _of_timm(source: str, name: str) -> Weights:
    """Weights of a whole timm model with its classifier, which timm loads strictly."""
    if not name.startswith("hf-hub:") and not timm.models.is_model_pretrained(name):
        raise SettingError("weights", f"timm has no weights of {name}")
    try:
        with _offline():
            model = _pretrained(name)
    except Exception:  # The hub's client has no common class of errors.
        if not _reachable():
            raise SettingError(
                "weights", f"{name} is not in this machine's cache of timm's weights, and their hub cannot be reached"
            ) from None
        try:
            model = _pretrained(name)
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise SettingError("weights", f"{name} cannot be loaded: {type(error).__name__}: {reason}") from None
    state, digest = model.state_dict(), hashlib.sha256()
    for key, value in state.items():
        digest.update(key.encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    config = model.pretrained_cfg
    return Weights(source, state, digest.hexdigest(), tuple(config["mean"]), tuple(config["std"]))


def _pretrained(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        return timm.create_model(name, pretrained=True)


@contextmanager
def _offline() -> Iterator[None]:
    """Let the hub's client look in its cache only."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable() -> bool:
    """Whether the network may know the hub. Its client tries for a minute before it gives up."""
    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies().get("https"):
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True
