"""Training checkpoints: plain tensors and numbers, written completely or not at all, and checked when they are read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssl_inv.atomic import DamagedFileError, written_aside
from ssl_inv.nn.torch_files import read_torch, write_torch

FORMAT = 1


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, or replace one.

    Raises:
        CannotWriteError: if the disk is full, or the folder cannot be written. The checkpoint before stays.
    """
    with written_aside(path) as aside:
        write_torch({"format": FORMAT, **state}, aside)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint. No code in the file is run.

    Raises:
        ValueError: if the file is no checkpoint, is damaged, has another format, lacks a part, or its step is none of
            its own recipe.
    """
    try:
        state: dict[str, Any] = read_torch(path)
    except (DamagedFileError, FileNotFoundError):
        raise
    except Exception as error:  # A damaged archive raises many kinds of errors.
        raise ValueError(f"{path}: not a checkpoint that can be read ({error.__class__.__name__})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: not a training checkpoint of this version of ssl-inv")
    if odd := next((part for part, fits in _PARTS.items() if not fits(state.get(part))), None):
        given = "none" if odd not in state else f"{state[odd]!r:.60}"
        raise ValueError(f"{path}: not a whole training checkpoint: its {odd} is {given}")
    most = _most_steps(state)
    if state["step"] > most:
        raise ValueError(f"{path}: its step is {state['step']:,}, and its recipe has 0 to {most:,}")
    return state


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


_PARTS: Mapping[str, Callable[[Any], bool]] = {
    "recipe": _is_state,
    "step": _is_count,
    "image_size": lambda size: type(size) is int and 1 <= size < 2**16,
    "extent": lambda both: isinstance(both, tuple | list) and len(both) == 2 and all(map(_is_count, both)),
    "groups": lambda groups: groups is None or _is_state(groups),
    "backbone": _is_state,
    "objective": _is_state,
    "optimizer": _is_state,
    "stamp": lambda stamp: isinstance(stamp, str),
}
"""What every checkpoint has, and whether a value can be it."""


def _most_steps(state: Mapping[str, Any]) -> int:
    """An upper bound of the steps by the checkpoint's recipe: for epochs, with one image in a batch."""
    trainer = state["recipe"].get("trainer") or {}
    images = int(state["extent"][-1])
    return int(trainer.get("steps") or (trainer.get("epochs") or 0) * images)
