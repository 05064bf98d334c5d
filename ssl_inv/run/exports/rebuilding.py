"""Before training: whether an export of a network would be the same network."""

import json
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch

from ssl_inv.catalogue import SettingError
from ssl_inv.nn.backbones import Backbone
from ssl_inv.run.exports.export import Preprocessing, exported_config


def require_rebuildable(backbone: Backbone, preprocessing: Preprocessing) -> None:
    """Raise a `SettingError` unless timm makes the same network from the configuration that an export would have.

    Weights are not needed: the network is made without memory for them where it can be.
    """
    name = backbone.architecture
    for key, value in backbone.model.state_dict().items():
        if not torch.isfinite(value).all():
            raise SettingError("name", f"{name} has numbers that are not finite, {key}, so it cannot be exported")
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = json.dumps(exported_config(backbone, preprocessing))
            (Path(folder) / "config.json").write_text(config, encoding="utf-8")
            again = _made_again(folder)
    except Exception as error:  # A network meets wrong arguments with whatever fails first.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        what = f"an export of {name} with {backbone.arguments}"
        raise SettingError("arguments", f"{what} cannot be loaded: {reason}") from None
    ours, theirs = ({key: one.shape for key, one in net.state_dict().items()} for net in (backbone.model, again))
    if ours != theirs:
        odd = next(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
        difference = f"{odd} has the form {tuple(ours.get(odd, ()))}, and in its export {tuple(theirs.get(odd, ()))}"
        raise SettingError("arguments", f"an export of {name} would be another network: {difference}")


def _made_again(folder: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return timm.create_model(f"local-dir:{folder}")
        except (NotImplementedError, RuntimeError):  # Some networks compute with numbers while they are made.
            return timm.create_model(f"local-dir:{folder}")
