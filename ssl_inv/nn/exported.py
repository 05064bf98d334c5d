"""What the config.json of an exported network may say: a network that is known, with plain arguments.

A folder may come from anybody. timm would follow an address in it, so everything that leads to weights elsewhere, or to
another network than the one whose weights lie beside it, is refused before timm sees it.
"""

import dataclasses
import inspect
import json
import sys
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
from timm.models import build_model_with_cfg
from torch import nn

from ssl_inv.atomic import DamagedFileError
from ssl_inv.catalogue import foreign_member, suggest
from ssl_inv.nn.backbones import REFUSED_ARGUMENTS
from ssl_inv.nn.exported_forms import CHECKSUM, OWN_KEY, require_forms
from ssl_inv.plain import read_json

CONFIG = "config.json"

_ADDRESSES = ("url", "file", "hf_hub_id", "hf_hub_filename", "state_dict", "source", "custom_load")
"""Entries of timm's `pretrained_cfg` that say where weights are."""

_MOST, _LONGEST, _DEEPEST = 1 << 16, 1000, 6
"""Bounds of arguments: of whole numbers, of texts and lists, and of lists inside each other."""


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json, which names a known network and leads to no other place.

    Raises:
        ValueError: if it cannot be read, is damaged, or says anything else. `SettingError`, if it needs a module that
            is not allowed.
    """
    file = folder / CONFIG
    try:
        config: dict[str, Any] = read_json(file)
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    require_unchanged(config, file)
    require_forms(config, file)
    # Old folders of timm have one mapping of everything.
    told_of_weights = config.get("pretrained_cfg", config)
    for key in _ADDRESSES:
        if told := told_of_weights.get(key):
            raise ValueError(f"{file}: pretrained_cfg.{key} leads to other weights, {told!r}; those beside it are read")
    _require_known(config.get("architecture"), (config.get(OWN_KEY) or {}).get("module"), file)
    arguments = config.get("model_args") or {}
    known = known_arguments(config["architecture"])
    for name, value in arguments.items():
        if name in ("num_classes", "global_pool"):
            continue
        if name in REFUSED_ARGUMENTS or name not in known:
            why = REFUSED_ARGUMENTS.get(name) or f"no argument of {config['architecture']}; {suggest(name, known)}"
            raise ValueError(f"{file}: model_args.{name}: {why}")
        _require_plain(f"{file}: model_args.{name}", value)
    return config


def sealed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a config.json with a checksum of everything in it, which `require_unchanged` compares."""
    own = {**config.get(OWN_KEY, {}), CHECKSUM: ""}
    return {**config, OWN_KEY: {**own, CHECKSUM: _checksum({**config, OWN_KEY: own})}}


def require_unchanged(config: Any, file: Path) -> None:
    """Raise a `DamagedFileError` unless the content of a config.json fits its checksum. One without passes."""
    own = config.get(OWN_KEY) if isinstance(config, dict) else None
    if not isinstance(own, dict):
        return
    told = own.get(CHECKSUM)
    if told is not None and told != _checksum({**config, OWN_KEY: {**own, CHECKSUM: ""}}):
        edited = f"if you have edited it, remove its {OWN_KEY}.{CHECKSUM}"
        raise DamagedFileError(f"{file} is damaged: it does not fit its checksum ({edited})")


def _checksum(config: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(config, sort_keys=True).encode()):08x}"


def _require_known(architecture: Any, module: Any, file: Path) -> None:
    if not isinstance(architecture, str):
        raise ValueError(f"{file} names no architecture")
    name = architecture.split(".")[0]
    if not timm.is_model(name) and isinstance(module, str):
        foreign_member("backbone", f"{module}.{name}")
    if not timm.is_model(name):
        raise ValueError(f"{file}: timm has no network {architecture!r}; {suggest(name, timm.list_models())}")


@lru_cache(maxsize=32)
def known_arguments(architecture: str) -> frozenset[str]:
    """The names of arguments in the module that makes a network: of its classes, and of the functions around them."""
    module = sys.modules[timm.models.model_entrypoint(architecture.split(".")[0]).__module__]
    found: set[str] = set()
    for one in vars(module).values():
        own = getattr(one, "__module__", None) == module.__name__
        if inspect.isclass(one) and dataclasses.is_dataclass(one):
            found |= {field.name for field in dataclasses.fields(one)}
        elif (inspect.isclass(one) and issubclass(one, nn.Module)) or (inspect.isfunction(one) and own):
            found |= set(inspect.signature(one).parameters)
    # What timm does around the network: it may load weights.
    around = set(inspect.signature(build_model_with_cfg).parameters)
    return frozenset(found - around - set(REFUSED_ARGUMENTS) - {"self", "args", "kwargs", "device", "dtype"})


def _require_plain(where: str, value: Any, depth: int = 0) -> None:
    """Raise a `ValueError` unless a value is a plain one within bounds, and no address."""
    if isinstance(value, Mapping | list):
        inner = value.values() if isinstance(value, Mapping) else value
        if len(value) > _LONGEST or depth >= _DEEPEST:
            raise ValueError(f"{where} is too long or nested too deeply")
        for one in inner:
            _require_plain(where, one, depth + 1)
    elif isinstance(value, str):
        if "://" in value or value.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or len(value) > _LONGEST:
            raise ValueError(f"{where} is an address and no argument: {value[:80]!r}")
    elif isinstance(value, int | float):
        if not abs(value) <= _MOST:  # NaN must fail, too.
            raise ValueError(f"{where} must lie between {-_MOST} and {_MOST}, got {value}")
    elif value is not None:
        raise ValueError(f"{where} must be a plain value, got {type(value).__name__}")
