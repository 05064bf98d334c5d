"""Explains recipes: the comment that opens a recipe file, and every setting by the docstrings of the code."""

import inspect
import itertools
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from ssl_inv.run.plain_yaml import dump_value
from ssl_inv.run.recipe import Recipe, section_schema

_FACTS = ("command", "time", "score")
_SECTION = re.compile(r"^(\w+):$", re.MULTILINE)
_PYTHON_NONE = re.compile(r"(?<!`)\bNone\b(?!`)")


@dataclass(frozen=True)
class RecipeHead:
    """The comment that opens a recipe file.

    Attributes:
        title: its first line.
        facts: the values of `command:`, `time:` and `score:`.
        notes: the other paragraphs.
        text: the whole comment.
    """

    title: str
    facts: dict[str, str]
    notes: tuple[str, ...]
    text: str


def recipe_head(path: Path) -> RecipeHead:
    """The opening comment of a recipe file."""
    lines = list(itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines()))
    title, *paragraphs = "\n".join(line.removeprefix("#").removeprefix(" ").rstrip() for line in lines).split("\n\n")
    facts: dict[str, str] = {}
    notes = []
    for paragraph in paragraphs:
        if paragraph.partition(":")[0] not in _FACTS:
            notes.append(" ".join(paragraph.split()))
            continue
        for line in paragraph.splitlines():
            key, _, value = line.partition(":")
            if key in _FACTS:
                facts[key] = value.strip()
            else:
                facts[list(facts)[-1]] += f" {line.strip()}"
    return RecipeHead(title, facts, tuple(notes), "".join(f"{line}\n" for line in lines))


def explained(recipe: Recipe) -> str:
    """The recipe as YAML, with a comment above every setting. It can be saved and used as a recipe."""
    return "\n".join(_explained_section(section, settings) for section, settings in recipe.sections().items())


def argument_sentences(docstring: str | None) -> dict[str, str]:
    """The sentences of the `Args:` block of a docstring by argument, with `null` for `None` as in recipes."""
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
    return {name: _PYTHON_NONE.sub("`null`", sentence) for name, sentence in found.items()}


def opening_and_sections(docstring: str) -> tuple[list[str], dict[str, str]]:
    """The paragraphs before the first section of a docstring, and the text of each section, such as `Args:`."""
    opening, *rest = _SECTION.split(inspect.cleandoc(docstring))
    sections = {heading: textwrap.dedent(text.strip("\n")) for heading, text in zip(rest[::2], rest[1::2], strict=True)}
    return opening.rstrip().split("\n\n"), sections


def _explained_section(section: str, settings: dict[str, object]) -> str:
    text = section_schema(section, str(settings.get("name"))).doc
    sentences = argument_sentences(text)
    opening, _ = opening_and_sections(text or "")
    lines = [line for paragraph in opening for line in ["#", *_paragraph(paragraph)]][1:]
    lines.append(f"{section}:")
    for name, value in settings.items():
        lines += [*_comment(sentences.get(name, ""), "  "), f"  {name}: {dump_value(value)}"]
    return "\n".join(lines) + "\n"


def _paragraph(text: str) -> list[str]:
    """A paragraph as a comment. Equations, which are indented, keep their lines."""
    return [f"# {line}" for line in text.splitlines()] if text.startswith(" ") else _comment(text, "")


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
