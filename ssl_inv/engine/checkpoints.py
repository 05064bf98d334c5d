"""Training checkpoints: plain tensors and numbers, written completely or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssl_inv.atomic import written_aside

FORMAT = 1


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, or replace one."""
    with written_aside(path) as aside:
        torch.save({"format": FORMAT, **state}, aside)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint. No code in the file is run.

    Raises:
        ValueError: if the file is no checkpoint, or has another format.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged archive raises many kinds of errors.
        raise ValueError(f"{path}: not a checkpoint that can be read ({error.__class__.__name__})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: not a training checkpoint of this version of ssl-inv")
    return state
