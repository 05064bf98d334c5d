"""Training checkpoints: plain tensors and numbers, written completely or not at all, and checked when they are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssl_inv.atomic import DamagedFileError, require_sound, written_aside

FORMAT = 1

_PARTS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("recipe", "backbone", "objective", "optimizer"), (Mapping,)),
    **{"extent": (tuple, list), "image_size": (int,), "step": (int,), "stamp": (str,)},
}
"""What every checkpoint holds, besides the groups, and of which kind."""


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, or replace one.

    Raises:
        CannotWriteError: if the disk is full, or the folder cannot be written. The checkpoint before stays.
    """
    with written_aside(path) as aside:
        torch.save({"format": FORMAT, **state}, aside)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint. No code in the file is run.

    Raises:
        ValueError: if the file is no checkpoint, is damaged, has another format, lacks a part, or its step is none of
            its own recipe.
    """
    try:
        require_sound(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (DamagedFileError, FileNotFoundError):
        raise
    except Exception as error:  # A damaged archive raises many kinds of errors.
        raise ValueError(f"{path}: not a checkpoint that can be read ({error.__class__.__name__})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: not a training checkpoint of this version of ssl-inv")
    if odd := next((part for part, kinds in _PARTS.items() if not isinstance(state.get(part), kinds)), None):
        given = "none" if odd not in state else f"{state[odd]!r:.60}"
        raise ValueError(f"{path}: not a whole training checkpoint: its {odd} is {given}")
    most = _most_steps(state)
    if not 0 <= state["step"] <= most:
        raise ValueError(f"{path}: its step is {state['step']:,}, and its recipe has 0 to {most:,}")
    return state


def _most_steps(state: Mapping[str, Any]) -> int:
    """An upper bound of the steps by the checkpoint's recipe: for epochs, with one image in a batch."""
    trainer = state["recipe"].get("trainer") or {}
    images = int(state["extent"][-1])
    return int(trainer.get("steps") or (trainer.get("epochs") or 0) * images)
