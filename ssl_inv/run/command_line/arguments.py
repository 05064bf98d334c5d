"""Values of command-line arguments, with errors that name what would be right."""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ssl_inv.catalogue import RecipeError, suggest
from ssl_inv.run.folder import RunFolder

RECIPE: dict[str, Any] = {"metavar": "RECIPE", "help": "name of a shipped recipe, or path of a recipe file"}
"""The argument that names a recipe."""


LIBRARY_NAMES = "timm:NAME or torchvision:NAME"
"""How networks of libraries are named."""


class AddCommand(Protocol):
    """Adds a command to the program: its name, what it calls, and a sentence about it."""

    def __call__(
        self, name: str, call: Callable[[argparse.Namespace], None], description: str
    ) -> argparse.ArgumentParser:
        """The parser of the command."""


def output_option(parser: argparse.ArgumentParser, metavar: str, what: str, required: bool = False) -> None:
    """Add `--output`."""
    parser.add_argument("--output", type=Path, metavar=metavar, required=required, help=what)


def checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Add `--checkpoint`."""
    what = "which checkpoint of the run: last, best, or the number of a step that was kept (last)"
    parser.add_argument("--checkpoint", metavar="last|best|STEP", help=what)


def chosen_model(model: str, checkpoint: str | None) -> str:
    """The model that a command is given; the file of a checkpoint if one is chosen.

    Raises:
        RecipeError: if there is no such checkpoint, or the model is no run.
    """
    if checkpoint is None:
        return model
    if not (Path(model) / "recipe.yaml").is_file():
        raise RecipeError(f"--checkpoint goes with the folder of a run, and {model!r} is none")
    return str(RunFolder.open(Path(model)).at_checkpoint(checkpoint).checkpoint_file)


def licence_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--license`, with the short names that model hubs use."""

    def parsed(text: str) -> str:
        if not re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", text):
            raise argparse.ArgumentTypeError(f"expected a short name such as apache-2.0 or cc-by-4.0, got {text!r}")
        return text

    parser.add_argument("--license", type=parsed, metavar="NAME", help=what)


def model_and_data(parser: argparse.ArgumentParser) -> None:
    """Add an encoder and the data for it."""
    what = f"folder of a run, checkpoint in it, exported folder, or {LIBRARY_NAMES}"
    parser.add_argument("model", metavar="MODEL", help=what)
    model_options(parser)


def model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of an encoder, and the data for it."""
    checkpoint_option(parser)
    data = "recipe whose data to use, data set, or path of a folder, archive or file; by default the data of the run"
    parser.add_argument("--data", metavar="DATA", help=data)
    parser.add_argument(
        "--pretrained", action="store_true", help=f"for {LIBRARY_NAMES}: load the library's weights, perhaps by network"
    )


def one_of(choices: Sequence[str]) -> dict[str, Any]:
    """Options of an argument with some choices, whose error names the closest one."""

    def parsed(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"there is no {text!r}; {suggest(text, choices)}")
        return text

    return {"type": parsed, "metavar": f"{{{','.join(choices)}}}"}


def number(kind: type[Any], low: float = -math.inf, high: float = math.inf) -> Callable[[str], Any]:
    """Parses a number from `low` to `high`."""

    def parsed(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}") from None
        if not low <= value <= high:
            wanted = f"must be at least {low}" if high == math.inf else f"must lie between {low:g} and {high:g}"
            raise argparse.ArgumentTypeError(f"{wanted}, got {value}")
        return value

    return parsed
