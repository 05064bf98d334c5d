"""The settings of a section: their names, types, defaults and docstring, and the check of values.

The signatures of this package's own classes and functions are read from their source, because importing torch takes
seconds. A mistake in a recipe is therefore answered in half a second.

A setting can hold a member of a catalogue, as a mapping with the `name` and the settings of the member. Its annotation
names the kind of the catalogue: `base: Annotated[dict[str, Any], "objective"]`. A setting of type
`list[dict[str, Any]]` holds operations.
"""

import ast
import builtins
import copy
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ssl_inv.catalogue import CATALOGUES, Catalogue, Member, SettingError, suggest, within

REQUIRED = inspect.Parameter.empty
_PACKAGE = Path(__file__).parent.parent
_NAMES = {**vars(builtins), "Annotated": Annotated, "Any": Any, "Literal": Literal}
_OPERATIONS = list[dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """One keyword-only parameter.

    Attributes:
        type: its annotation.
        default: its default, or `REQUIRED`.
        kind: what the catalogue of its value holds, such as "objective"; None for a plain value.
    """

    type: Any
    default: Any
    kind: str | None = None


@dataclass(frozen=True)
class Schema:
    """The settings of a class or function by name, and its docstring."""

    settings: Mapping[str, Setting]
    doc: str


@lru_cache(maxsize=256)
def schema_of(member: Member) -> Schema:
    """The settings of a class or function: its keyword-only parameters."""
    path = _PACKAGE.joinpath(*member.module.split(".")[1:]).with_suffix(".py")
    if member.module.partition(".")[0] == __package__.partition(".")[0] and path.is_file():
        body = ast.parse(path.read_text(encoding="utf-8"), filename=str(path)).body
        if any(isinstance(one, ast.ClassDef | ast.FunctionDef) and one.name == member.attribute for one in body):
            return _read_off(body, member.attribute)
    loaded = member.load()
    signature = inspect.signature(loaded.__init__ if inspect.isclass(loaded) else loaded, eval_str=True)
    own = {p.name: p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    found = {name: _setting(Any if p.annotation is p.empty else p.annotation, p.default) for name, p in own.items()}
    return Schema(found, inspect.getdoc(loaded) or "")


def schema_of_dataclass(kind: type[Any]) -> Schema:
    """The settings of a dataclass of settings: its fields."""
    types = get_type_hints(kind, include_extras=True)
    found = {}
    for field in dataclasses.fields(kind):
        factory = field.default_factory
        default = factory() if factory is not dataclasses.MISSING else field.default
        found[field.name] = _setting(types[field.name], REQUIRED if default is dataclasses.MISSING else default)
    return Schema(found, inspect.getdoc(kind) or "")


def _read_off(body: list[ast.stmt], name: str) -> Schema:
    node = next(one for one in body if isinstance(one, ast.ClassDef | ast.FunctionDef) and one.name == name)
    function: Any = node
    if isinstance(node, ast.ClassDef):
        function = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    if function is None:
        return Schema({}, ast.get_docstring(node) or "")
    known = dict(_NAMES)
    for one in body:  # names that stand for a `Literal[...]`
        if (
            isinstance(one, ast.Assign)
            and isinstance(one.value, ast.Subscript)
            and ast.unparse(one.value.value) == "Literal"
        ):
            known[ast.unparse(one.targets[0])] = _evaluated(one.value, known)
    arguments = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    found = {
        one.arg: _setting(
            _evaluated(one.annotation, known), REQUIRED if default is None else _evaluated(default, known)
        )
        for one, default in arguments
    }
    return Schema(found, ast.get_docstring(node) or "")


def _evaluated(node: ast.expr, known: dict[str, Any]) -> Any:
    return eval(compile(ast.Expression(node), "<a signature>", "eval"), known)  # noqa: S307 - this package's own source


def _setting(annotation: Any, default: Any) -> Setting:
    kinds = (
        [one for one in get_args(annotation)[1:] if isinstance(one, str)] if get_origin(annotation) is Annotated else []
    )
    if annotation == _OPERATIONS:
        kinds = ["operation"]
    return Setting(annotation, default, kinds[0] if kinds else None)


def with_arguments(doc: str, arguments: str) -> str:
    """A docstring with further lines at the end of its block of arguments, which is made if there is none."""
    before, block, rest = doc.rstrip().partition("\nArgs:\n")
    if not block:
        return f"{before}\n\nArgs:\n{arguments.rstrip()}\n"
    own, blank, further = rest.partition("\n\n")
    return f"{before}{block}{own.rstrip()}\n{arguments.rstrip()}{blank}{further}"


def filled(
    schema: Schema,
    given: Mapping[str, Any],
    origin: str,
    besides: Iterable[str] = (),
    around: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Every setting of a schema: the given value after its check, or a copy of the default.

    Args:
        schema: the settings.
        given: values by name.
        origin: the name of the recipe in messages.
        besides: further names that stand there, for suggestions.
        around: the members that a `base` among the settings stands in.

    Raises:
        SettingError: for the first setting that is unknown, missing, or of another type.
    """
    for name in given:
        if name not in schema.settings:
            raise SettingError(str(name), f"no such setting; {suggest(str(name), [*schema.settings, *besides])}")
    found = {}
    for name, setting in schema.settings.items():
        if name in given:
            found[name] = _checked(name, given[name], setting, around if name == "base" else ())
        elif setting.default is REQUIRED:
            raise SettingError(name, f"required, and {origin} does not give it")
        elif not _is_plain(setting.default):
            kinds = "recipes hold numbers, texts, true, false, null, and lists and mappings of these"
            raise SettingError(name, f"its default is {setting.default!r}; {kinds}")
        else:
            found[name] = copy.deepcopy(setting.default)
    return found


def filled_member(
    catalogue: Catalogue,
    given: Mapping[str, Any],
    origin: str,
    besides: Iterable[str] = (),
    around: tuple[str, ...] = (),
) -> tuple[str, dict[str, Any]]:
    """The member of a catalogue that `name` names, and all of its settings; see `filled`."""
    if not isinstance(name := given.get("name"), str):
        raise SettingError("name", f"required; {suggest('', catalogue.members)}")
    member = catalogue.find(name)
    if member.name in around:
        # Its loss would have each of its terms twice, under the same name.
        raise SettingError("name", f"{member.name!r} cannot stand around itself; choose another {catalogue.kind}")
    own = {key: one for key, one in given.items() if key != "name"}
    return member.name, filled(schema_of(member), own, origin, besides, (*around, member.name))


def _checked(way: str, value: Any, setting: Setting, around: tuple[str, ...] = ()) -> Any:
    with within(way):
        value = conform(value, setting.type)
    if setting.kind is None:
        return value
    if isinstance(value, list):
        member = Setting(dict[str, Any], None, setting.kind)
        return [_checked(f"{way}[{number}]", one, member) for number, one in enumerate(value)]
    with within(way):
        name, settings = filled_member(CATALOGUES[setting.kind], value, "the recipe", around=around)
    return {"name": name, **settings}


def conform(value: Any, annotation: Any) -> Any:
    """The value as its type wants it.

    Types are strict: neither "64" nor true is a number. But 1 may stand for 1.0, and 1e3 for 1000.

    Raises:
        ValueError: if the value has another type, is a number that is not finite, or none of the literals; a
            `SettingError` that names the entry if it is one of a mapping.
    """
    from pydantic import ValidationError

    literals = [one for one in _alternatives(annotation) if one == value]
    if literals and all(type(one) is not type(value) for one in literals):  # 1 equals true
        raise ValueError(f"expected {describe_type(annotation)}, got {value!r}")
    _require_bounded(value)
    for meant in (value, _with_whole_numbers(value)):
        try:
            return _validator(annotation)(meant)
        except ValidationError:
            continue
    types = _alternatives(annotation)
    choices = [one for one in types if isinstance(one, str)]
    hint = suggest(value, choices) if choices and isinstance(value, str) else ""
    # All of them stand before it.
    tail = f"; {hint}" if hint.startswith("did you mean") else ""
    if isinstance(value, str) and str not in types and "a list of texts" in describe_type(annotation):
        tail = f"; a list of one is ['{value}']"
    if isinstance(value, dict):
        _require_entries(value, annotation)
    if str in types and isinstance(value, int | float):
        quotes = "stands in quotes, '...', and on a command line in two kinds, \"'...'\""
        tail = f"; a text that YAML reads as something else {quotes}"
    raise ValueError(f"expected {describe_type(annotation)}, got {value!r}{tail}")


def _require_entries(value: dict[Any, Any], annotation: Any) -> None:
    """Raise a `ValueError` for the first entry of a mapping that its type does not want."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    wanted = next((get_args(one)[1] for one in parts if get_origin(one) is dict), None)
    for name, one in value.items() if wanted is not None else ():
        if not isinstance(name, str):
            raise ValueError(f"expected names with {_PLURALS.get(wanted, 'values')}, got {name!r} as a name")
        with within(name):
            conform(one, wanted)


def _require_bounded(value: Any) -> None:
    """Raise a `ValueError` for a number, also inside a value of any type, that nothing can be computed with."""
    if isinstance(value, dict):
        for name, one in value.items():
            with within(str(name)):
                _require_bounded(one)
    elif isinstance(value, list):
        for one in value:
            _require_bounded(one)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"expected a number within 64 bits, got one of {len(str(value))} digits")


@lru_cache(maxsize=256)
def _validator(annotation: Any) -> Callable[[Any], Any]:
    # Imported here: `--help` can do without it.
    from pydantic import ConfigDict, TypeAdapter

    validate: Callable[[Any], Any] = TypeAdapter(
        annotation, config=ConfigDict(strict=True, allow_inf_nan=False)
    ).validate_python
    return validate


def _with_whole_numbers(value: Any) -> Any:
    """The value with 1e3 written as 1000."""
    if isinstance(value, list):
        return [_with_whole_numbers(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types and literals that an annotation admits at its top level."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return arguments
    if origin is Annotated:
        return _alternatives(arguments[0])
    if origin in (Union, UnionType):
        return tuple(one for part in arguments for one in _alternatives(part))
    return (origin or annotation,)


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    NoneType: "null",
    Any: "a value",
}
_PLURALS: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts", bool: "truth values"}


def describe_type(annotation: Any) -> str:
    """An annotation in words: "a whole number or null", "a list of numbers"."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(one) for one in arguments)
    if origin is list:
        return f"a list of {_PLURALS.get(arguments[0], 'values')}"
    if origin is dict:
        return "a mapping"
    if origin is Annotated:
        return describe_type(arguments[0])
    return " or ".join(describe_type(one) for one in arguments) or getattr(annotation, "__name__", str(annotation))


def _is_plain(value: Any) -> bool:
    """Whether YAML can hold a value. It cannot hold numbers of other libraries, nor enumerations."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(one) for both in value.items() for one in both)
    return value is None or type(value) in (bool, int, float, str)
