"""Whether a value fits the type that a constructor's signature gives to a setting, and that type in words."""

import copy
import math
from functools import lru_cache
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from ssl_inv.registry import suggest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "null", Any: "a value"}
_PLURALS: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts", bool: "truth values"}


def conform(value: Any, annotation: Any) -> Any:
    """The value as the annotation wants it, by jsonargparse's reading of types.

    The type that is written is meant: neither "64" nor true is a number. But 1 is one wherever 1.0 is, and 1e3 is a whole number.

    Raises:
        ValueError: if it is of another type, a number that is not finite, or none of the literals; the message names the closest of these.
    """
    for meant in (value, _with_whole_numbers(value)):
        parsed = _parsed(meant, annotation)
        if _unchanged(parsed, meant) and _admitted(parsed, annotation):
            return parsed
    choices = [one for one in _members(annotation) if isinstance(one, str)]
    tail = f"; {suggest(value, choices)}" if choices and isinstance(value, str) else ""
    if str in _members(annotation) and isinstance(value, int | float):
        tail = "; a text that YAML reads as something else stands in quotes, '...', and on a command line in two kinds, \"'...'\""
    raise ValueError(f"expected {describe_type(annotation)}, got {value!r}{tail}")


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
    return " or ".join(describe_type(one) for one in arguments) or getattr(annotation, "__name__", str(annotation))


_REFUSED = object()


def _parsed(value: Any, annotation: Any) -> Any:
    """What jsonargparse makes of a value; `_REFUSED` if nothing."""
    from jsonargparse import ArgumentError

    try:
        # It changes lists and mappings in place.
        return _parser(annotation).parse_object({"value": copy.deepcopy(value)}, defaults=False).value
    except (ArgumentError, OverflowError):
        return _REFUSED


@lru_cache(maxsize=256)
def _parser(annotation: Any) -> "ArgumentParser":
    # Imported here, because it takes a quarter of a second that `--help` can do without.
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=annotation)
    return parser


def _unchanged(parsed: Any, value: Any) -> bool:
    """Whether jsonargparse took a value as it stands: it reads "64" as a number, too. Only a whole number may have become a real one."""
    if isinstance(parsed, dict) and isinstance(value, dict):
        return parsed.keys() == value.keys() and all(_unchanged(one, value[key]) for key, one in parsed.items())
    if isinstance(parsed, list) and isinstance(value, list):
        return len(parsed) == len(value) and all(map(_unchanged, parsed, value))
    if isinstance(parsed, float) and not math.isfinite(parsed):
        return False
    return bool(parsed == value) and (type(parsed) is type(value) or (type(parsed), type(value)) == (float, int))


def _admitted(value: Any, annotation: Any) -> bool:
    """Whether the annotation itself has null or the very literal: jsonargparse takes null for any type, and true where a literal is 1."""
    members = _members(annotation)
    if value is None:
        return any(one in members for one in (None, NoneType, Any))
    equal = [one for one in members if one == value]
    return not equal or any(type(one) is type(value) for one in equal)


def _with_whole_numbers(value: Any) -> Any:
    """The value with 1e3 written as 1000."""
    if isinstance(value, list):
        return [_with_whole_numbers(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types and literal values that an annotation admits at its top level."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (None, list, dict):
        return (get_origin(annotation) or annotation,)
    return tuple(member for part in get_args(annotation) for member in _members(part))
