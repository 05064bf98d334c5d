"""Names for things that a recipe chooses: objectives, data sets, augmentations.

A registry knows where its members stand without importing them: a recipe with a typing mistake is answered before torch is loaded. It reads
names and constructor signatures off the source text of the package's own modules; a dotted path names a class of anybody else's.

A setting that is itself a member of a registry, a mapping with its `name` and its settings, is annotated with the registry's kind:
`base: Annotated[dict[str, Any], "objective"]`.
"""

import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

T = TypeVar("T")


def register(name: str) -> Callable[[T], T]:
    """Mark a class or function of this package as the recipe name `name`; the registry of its folder finds the mark in the source."""

    def mark(thing: T) -> T:
        thing.registered_name = name  # type: ignore[attr-defined]
        return thing

    return mark


@dataclass(frozen=True)
class Entry:
    """Where a registered class or function stands.

    Attributes:
        name: its name in recipes.
        module: the module that defines it.
        qualified_name: its name there.
        schema: a function without body that has its settings (keyword-only parameters) as signature and its docstring.
    """

    name: str
    module: str
    qualified_name: str
    schema: Callable[..., None]

    def load(self) -> Any:
        """Import it."""
        return getattr(importlib.import_module(self.module), self.qualified_name)


class Registry:
    """The registered members of one folder of modules.

    Args:
        kind: what a member is, for messages: "objective".
        package: the package whose modules are searched.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, Entry] | None = None

    @property
    def entries(self) -> dict[str, Entry]:
        """Every member of the package by name, in alphabetical order; read off the source once."""
        if self._entries is None:
            folder = Path(__file__).parent.joinpath(*self.package.split(".")[1:])
            found = [entry for path in sorted(folder.glob("*.py")) for entry in _scan(path, f"{self.package}.{path.stem}")]
            self._entries = {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}
        return self._entries

    def find(self, name: str) -> Entry:
        """The member called `name`, or the class at the dotted path `name`.

        Raises:
            ValueError: if there is none; the message names the closest.
        """
        if name in self.entries:
            return self.entries[name]
        if "." in name:
            return self._foreign(name)
        raise ValueError(f"name: no {self.kind} is called {name!r}; {suggest(name, self.entries)}")

    def _foreign(self, path: str) -> Entry:
        module, _, qualified_name = path.rpartition(".")
        if "" not in sys.path and os.getcwd() not in sys.path:
            # The folder one stands in, as `python -m` has it, but last: what lies there must not hide an installed package.
            sys.path.append(os.getcwd())
        try:
            member = getattr(importlib.import_module(module), qualified_name)
        except Exception as error:  # whatever happens in somebody else's module
            raise ValueError(f"name: the {self.kind} {path!r} cannot be imported: {error}") from error
        constructor = member.__init__ if inspect.isclass(member) else member
        signature = inspect.signature(constructor, eval_str=True)
        settings = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]

        def schema(**_: Any) -> None: ...

        schema.__signature__ = inspect.Signature(settings)  # type: ignore[attr-defined]
        schema.__annotations__ = {p.name: Any if p.annotation is p.empty else p.annotation for p in settings}
        schema.__doc__ = inspect.getdoc(member)
        return Entry(path, module, qualified_name, schema)


def suggest(name: str, known: Any, limit: int = 12) -> str:
    """The tail of a message about an unknown name: the closest known one, or what there is to choose from."""
    import difflib

    names = [str(one) for one in known]
    if alike := [one for one in names if one.casefold() == name.casefold()]:
        return f"did you mean {alike[0]!r}?"
    if beginning := [one for one in names if len(name) > 1 and re.split(r"[-_.]", one)[0] == name]:
        return f"did you mean {beginning[0]!r}?" if len(beginning) == 1 else f"there are {', '.join(beginning[:limit])}"
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"did you mean {close[0]!r}?"
    return f"there are {', '.join(names[:limit])}{', ...' if len(names) > limit else ''}" if names else "there are none"


def _scan(path: Path, module: str) -> list[Entry]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    aliases = [node for node in tree.body if isinstance(node, ast.Assign) and _is_literal_alias(node)]
    found = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for name in (_registered_name(decorator) for decorator in node.decorator_list):
            if name is not None:
                found.append(Entry(name, module, node.name, _schema(node, aliases)))
    return found


def schema_of(module: str, function: str) -> Callable[..., None]:
    """The settings of a function of this package, read off its source; see `Entry.schema`."""
    path = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    node = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return _schema(node, [])


def _is_literal_alias(node: ast.Assign) -> bool:
    value = node.value
    return isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name) and value.value.id == "Literal"


def _registered_name(decorator: ast.expr) -> str | None:
    if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "register":
        argument = decorator.args[0]
        return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else None
    return None


def _schema(node: ast.ClassDef | ast.FunctionDef, aliases: list[ast.Assign]) -> Callable[..., None]:
    """The settings of a class or function, compiled on their own: the keyword-only parameters and the docstring, and no other line."""
    function = node
    if isinstance(node, ast.ClassDef):
        initialisers = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        function = initialisers[0] if initialisers else ast.parse("def __init__(self): ...").body[0]  # type: ignore[assignment]
    assert isinstance(function, ast.FunctionDef)
    arguments = ast.arguments([], [], None, function.args.kwonlyargs, function.args.kw_defaults, None, [])
    signature = ast.FunctionDef("schema", arguments, [ast.Pass()], [], ast.Constant(None), None)
    if "type_params" in ast.FunctionDef._fields:
        signature.type_params = []  # type: ignore[attr-defined,unused-ignore]
    unit = ast.fix_missing_locations(ast.Module([*aliases, signature], []))
    space: dict[str, Any] = {"Annotated": Annotated, "Any": Any, "Literal": Literal}
    exec(compile(unit, f"<settings of {node.name}>", "exec"), space)  # noqa: S102 - our own source, already on the path
    schema: Callable[..., None] = space["schema"]
    schema.__doc__ = ast.get_docstring(node)
    return schema


OBJECTIVES = Registry("objective", "ssl_inv.objectives")
DATA = Registry("data set", "ssl_inv.data")
AUGMENTATIONS = Registry("augmentation", "ssl_inv.augment")
OPERATIONS = Registry("operation", "ssl_inv.augment.operations")
