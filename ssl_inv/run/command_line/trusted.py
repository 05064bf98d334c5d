"""`--trust`, and the modules that a user allows by typing the path of something in them."""

import argparse
from collections.abc import Iterator
from typing import Any

from ssl_inv.catalogue import RecipeError
from ssl_inv.run.recipe import apply_overrides
from ssl_inv.trust import is_dotted

_NAMES = ("name", "dataset", "loggers", "callbacks", "also")
"""Settings whose values are names, or lists of names, of what recipes are made of."""


def trust_option(parser: argparse.ArgumentParser) -> None:
    """Add `--trust`."""
    what = (
        "allow code of this module or package, which a recipe, a run or an export names; can be given several times "
        "(also in SSL_INV_TRUST, with commas). Without it, no file brings code of its own"
    )
    parser.add_argument("--trust", type=_module, action="append", default=[], metavar="MODULE", help=what)


def _module(text: str) -> str:
    if not is_dotted(text):
        raise argparse.ArgumentTypeError(f"expected the name of a module such as my_package.losses, got {text!r}")
    return text


def typed_modules(overrides: list[str]) -> list[str]:
    """The modules of the dotted paths that are typed as values: `--objective.name mine.Mine` is its user's own word."""
    try:
        content = apply_overrides({}, overrides)
    except RecipeError:  # The command refuses it, with its own reason.
        return []
    paths = [path.strip().replace(":", ".") for name in _names("", content) for path in name.split(",")]
    return [path.rpartition(".")[0] for path in paths if "." in path and is_dotted(path)]


def _names(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner, one in value.items():
            yield from _names(str(inner), one)
    elif isinstance(value, list):
        for one in value:
            yield from _names(key, one)
    elif isinstance(value, str) and key in _NAMES:
        yield value
