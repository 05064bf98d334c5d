"""The registered objectives as their source tells of them; nothing here imports torch."""

import ast
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import ssl_inv
from ssl_inv.catalogue import OBJECTIVES, Entry
from ssl_inv.run.explain import argument_sentences, opening_and_sections
from ssl_inv.run.plain_yaml import dump_value
from ssl_inv.run.schema import schema_of


@dataclass(frozen=True)
class Setting:
    """A setting of an objective: its default and what it may be, as YAML writes them, and the sentence of the
    docstring.
    """

    name: str
    default: str
    choices: str
    meaning: str


@dataclass(frozen=True)
class Method:
    """A registered objective.

    Attributes:
        name: its name in recipes.
        title: its name in prose.
        idea: the line that opens its module.
        file: its module's file below the package, `objectives/sie.py`.
        source: the opening paragraph of the docstring, which says where the method is from.
        body: the paragraphs that follow, up to the first section; equations are those that are indented.
        when: when to use it and when not; empty if the docstring has no section `When`.
        settings: in the order of the signature.
        reads_transforms: whether the loss looks at how views were made.
    """

    name: str
    title: str
    idea: str
    file: str
    source: str
    body: tuple[str, ...]
    when: str
    settings: tuple[Setting, ...]
    reads_transforms: bool

    @property
    def equations(self) -> list[str]:
        """The paragraphs that are equations."""
        return [paragraph for paragraph in self.body if paragraph.startswith(" ")]


def read_methods() -> dict[str, Method]:
    """Every registered objective by name, in alphabetical order.

    Raises:
        ValueError: if a module's docstring does not open with the objective's name in prose and a colon.
    """
    return {name: _method(entry) for name, entry in OBJECTIVES.members.items()}


def _method(entry: Entry) -> Method:
    file = Path(*entry.module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse((Path(ssl_inv.__file__).parent / file).read_text(encoding="utf-8"))
    headline = (ast.get_docstring(tree) or "").split("\n")[0]
    title, idea = _title_and_idea(headline, file)
    (source, *body), sections = opening_and_sections(entry.schema.__doc__ or "")
    when = " ".join(sections.get("When", "").split())
    return Method(
        entry.name, title, idea, file.as_posix(), source, tuple(body), when, _settings(entry), _reads_transforms(tree)
    )


def _title_and_idea(headline: str, file: Path) -> tuple[str, str]:
    title, colon, idea = headline.partition(": ")
    if not colon:
        raise ValueError(f"{file}: the module's docstring must open with 'Name: what it does', got {headline!r}")
    return title, idea


def _settings(entry: Entry) -> tuple[Setting, ...]:
    hints = get_type_hints(entry.schema, include_extras=True)
    sentences = argument_sentences(entry.schema.__doc__)
    return tuple(
        Setting(
            name,
            "" if one.default is one.empty else dump_value(one.default),
            choices(hints[name]),
            sentences.get(name, ""),
        )
        for name, one in schema_of(entry).settings.items()
        if one.kind is one.KEYWORD_ONLY
    )


def choices(annotation: Any) -> str:
    """What a setting may be, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return f"{arguments[1]}: a mapping with its `name` and settings"
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin in (Union, UnionType):
        return " or ".join("`null`" if one is NoneType else choices(one) for one in arguments)
    if origin in (list, tuple):
        return f"list of {choices(arguments[0])}"
    words = {int: "integer", float: "number", bool: "true or false", str: "text", dict: "mapping"}
    return words.get(origin or annotation, str(annotation))


def _reads_transforms(tree: ast.Module) -> bool:
    """Whether the module asks a view for its transform, views for their actions, or for a path between views: so it can
    learn of it.
    """
    nodes = list(ast.walk(tree))
    asked = any(
        isinstance(node, ast.Attribute) and ast.unparse(node).endswith((".transform", "views.actions"))
        for node in nodes
    )
    plans = {
        name.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "ssl_inv.views"
        for name in node.names
    }
    return asked or "TransformPath" in plans
