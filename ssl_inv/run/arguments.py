"""Values of command-line arguments, with errors that name what would be right."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

from ssl_inv.catalogue import suggest


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
