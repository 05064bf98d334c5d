"""The runs of a sweep: every combination of several values of settings, checked before the first begins.

Values are separated by commas outside of brackets and quotes. `0.1,0.2` are two values, `[1,2]` is one list, `'a,b'` is
one text, and `0:5` are the whole numbers from 0 to 4, `0:10:2` every second one to 8.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_inv.catalogue import RecipeError, SettingError
from ssl_inv.run.plain_yaml import dump_value
from ssl_inv.run.recipe import Recipe
from ssl_inv.run.requirements import load_runnable

MOST_RUNS = 10_000
"""More runs than anybody makes: a range with a slip of the finger is refused."""

_LONGEST_NAME = 100


@dataclass(frozen=True)
class Combination:
    """One run of a sweep.

    Attributes:
        name: of its folder, from the settings that differ.
        recipe: the name or the path of the recipe.
        settings: what is set, as it would be typed, by dotted key.
        varied: those settings of it that other runs have other values of, and `recipe` if there are several.
        resolved: the recipe with these settings, checked.
    """

    name: str
    recipe: str
    settings: Mapping[str, str]
    varied: Mapping[str, str]
    resolved: Recipe

    @property
    def overrides(self) -> list[str]:
        """The settings as words of a command line."""
        return [f"--{key}={value}" for key, value in self.settings.items()]


def parsed_settings(overrides: Sequence[str]) -> dict[str, list[str]]:
    """The values of every setting, from words `--section.key VALUES` or `--section.key=VALUES`.

    Raises:
        RecipeError: if a setting is given twice or without a value.
    """
    found: dict[str, list[str]] = {}
    waiting = list(overrides)
    while waiting:
        key, equals, text = waiting.pop(0).removeprefix("--").partition("=")
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise RecipeError(f"--{key}: a value is missing")
            text = waiting.pop(0)
        if key in found:
            raise RecipeError(f"--{key}: given twice; several values are separated by commas")
        found[key] = _several(key, text)
    return found


def typed(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Settings of Python as they would be typed: lists, tuples and ranges are several values, anything else is one."""
    return {
        key: [
            # Quotes keep a text of digits a text, and a text with commas or colons one value.
            dump_value(one)
            for one in (value if isinstance(value, (list, tuple, range)) else [value])
        ]
        for key, value in settings.items()
    }


def _several(key: str, text: str) -> list[str]:
    pieces = split_values(text)
    if not all(pieces) and len(pieces) > 1:
        raise RecipeError(f"--{key}: {text!r} has an empty value between its commas")
    values = [value for piece in pieces for value in _range(key, piece)]
    if again := next((one for number, one in enumerate(values) if one in values[:number]), None):
        raise RecipeError(f"--{key}: the value {again} stands twice")
    return values


def split_values(text: str) -> list[str]:
    """The parts of a text between commas that are in no brackets and no quotes."""
    pieces, begun, depth, quote = [], 0, 0, ""
    for place, one in enumerate(text):
        if quote:
            quote = "" if one == quote else quote
        elif one in "\"'" and not text[begun:place].strip():
            # An apostrophe inside a word, as in a path, opens nothing.
            quote = one
        elif one in "[{":
            depth += 1
        elif one in "]}":
            depth -= 1
        elif one == "," and depth == 0:
            pieces.append(text[begun:place].strip())
            begun = place + 1
    return [*pieces, text[begun:].strip()]


def _range(key: str, piece: str) -> list[str]:
    if not re.fullmatch(r"-?\d+:-?\d+(:-?\d+)?", piece):
        return [piece]
    first, end, *rest = map(int, piece.split(":"))
    step = rest[0] if rest else 1
    numbers = range(first, end, step) if step else range(0)
    if not numbers:
        raise RecipeError(f"--{key}: {piece} holds no number; 0:5 are the numbers 0 to 4")
    if len(numbers) > MOST_RUNS:
        raise RecipeError(f"--{key}: {piece} holds {len(numbers):,} numbers, more than {MOST_RUNS:,} runs")
    return [str(one) for one in numbers]


def combinations(recipes: Sequence[str], settings: Mapping[str, Sequence[str]]) -> list[Combination]:
    """Every combination, the last setting fastest. Each is checked.

    Args:
        recipes: names or paths.
        settings: the values of each setting, as they would be typed.

    Raises:
        RecipeError: on the first mistake, with the run that has it; or if there are too many runs.
    """
    count = len(recipes) * math.prod(map(len, settings.values()))
    if count > MOST_RUNS:
        raise RecipeError(f"these are {count:,} combinations, more than {MOST_RUNS:,}")
    if len({Path(one).stem for one in recipes}) < len(recipes):
        raise RecipeError("two recipes of a sweep have the same name")
    several = [key for key, values in settings.items() if len(values) > 1]
    found = []
    for recipe, *values in itertools.product(recipes, *settings.values()):
        chosen = dict(zip(settings, values, strict=True))
        varied = {key: chosen[key] for key in several}
        if len(recipes) > 1:
            varied = {"recipe": Path(recipe).stem, **varied}
        name = _name(varied) or Path(recipe).stem
        words = [f"--{key}={value}" for key, value in chosen.items()]
        try:
            resolved = load_runnable(recipe, words)
        except SettingError as error:
            raise SettingError(error.setting, f"{error.problem}{_where(name, varied)}") from None
        except RecipeError as error:
            raise RecipeError(f"{error}{_where(name, varied)}") from None
        found.append(Combination(name, recipe, chosen, varied, resolved))
    return _with_different_names(found)


def _where(name: str, varied: Mapping[str, str]) -> str:
    return f" (in run {name})" if varied else ""


def _name(varied: Mapping[str, str]) -> str:
    """`temperature-0.1_seed-2`; keys keep as much as tells them apart."""
    pieces = []
    for key, value in varied.items():
        last = key.rpartition(".")[2]
        alone = sum(other.rpartition(".")[2] == last for other in varied) == 1 and last != "name"
        short = "" if key == "recipe" else f"{last if alone else key}-"
        pieces.append(short + re.sub(r"[^\w.+-]+", "-", value.strip("'\"")).strip("-"))
    name = "_".join(pieces).lstrip(".")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(repr(varied).encode()).hexdigest()[:8]}"


def _with_different_names(runs: Sequence[Combination]) -> list[Combination]:
    """The runs; of those whose names differ in signs alone that a folder cannot have, all but the first get a hash."""
    found: dict[str, Combination] = {}
    for one in runs:
        # Some file systems do not tell capital letters from small ones.
        name = one.name
        if name.casefold() in found:
            name = f"{name}-{hashlib.sha256(repr(one.varied).encode()).hexdigest()[:8]}"
        found[name.casefold()] = Combination(name, one.recipe, one.settings, one.varied, one.resolved)
    return list(found.values())
