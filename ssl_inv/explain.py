"""Recipes in words: what the shipped ones are for, and what each setting means, taken from the docstrings of what reads them."""

import inspect
import re
import textwrap
from pathlib import Path

from ssl_inv.plain_yaml import dump_value
from ssl_inv.recipe import Recipe, section_schema

_FACTS = ("command", "time", "score")


def recipe_head(path: Path) -> tuple[str, dict[str, str]]:
    """The first line of the comment that opens a recipe file, and what it says after `command:`, `time:` and `score:`."""
    comments = [line.lstrip("#")[1:].rstrip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    facts: dict[str, str] = {}
    for line in comments:
        key, colon, value = line.partition(":")
        if colon and key in _FACTS:
            facts[key] = value.strip()
        elif facts and line.startswith("  "):
            facts[list(facts)[-1]] += f" {line.strip()}"
        elif facts:
            break
    return next(iter(comments), ""), facts


def explained(recipe: Recipe) -> str:
    """The recipe as YAML, every setting below a comment that says what it means; it can be saved and used as a recipe."""
    return "\n".join(_explained_section(section, settings) for section, settings in recipe.items())


def argument_sentences(docstring: str | None) -> dict[str, str]:
    """What the `Args:` block of a docstring says of each argument."""
    found: dict[str, str] = {}
    _, _, block = inspect.cleandoc(docstring or "").partition("\nArgs:\n")
    name = ""
    for line in block.splitlines():
        if line and not line.startswith(" "):
            break
        if match := re.fullmatch(r" {4}(\w+): (.*)", line):
            name, found[match[1]] = match[1], match[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found


def _explained_section(section: str, settings: dict[str, object]) -> str:
    text = section_schema(section, str(settings.get("name"))).__doc__
    sentences = argument_sentences(text)
    lines = [*_comment(inspect.cleandoc(text or "").split("\n\n")[0], ""), f"{section}:"]
    for name, value in settings.items():
        lines += [*_comment(sentences.get(name, ""), "  "), f"  {name}: {dump_value(value)}"]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
