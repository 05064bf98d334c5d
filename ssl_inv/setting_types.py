"""Whether a value fits the type that a constructor's signature gives to a setting, and that type in words."""

import math
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from ssl_inv.registry import suggest

_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "null", Any: "a value"}
_PLURALS: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts", bool: "truth values"}


def conform(value: Any, annotation: Any) -> Any:
    """The value as the annotation wants it.

    The type that is written is meant: neither "64" nor true is a number. But 1 is one wherever 1.0 is, and 1e3 is a whole number.

    Raises:
        ValueError: if it is of another type, a number that is not finite, or none of the literals; the message names the closest of these.
    """
    try:
        return _conform(value, annotation)
    except (TypeError, OverflowError):
        choices = [one for one in _members(annotation) if isinstance(one, str)]
        tail = f"; {suggest(value, choices)}" if choices and isinstance(value, str) else ""
        raise ValueError(f"expected {describe_type(annotation)}, got {value!r}{tail}") from None


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


def _conform(value: Any, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _one_of(value, arguments)
    if origin is list and isinstance(value, list):
        return [_conform(one, arguments[0]) for one in value]
    if origin is dict and isinstance(value, dict):
        return {_conform(key, arguments[0]): _conform(one, arguments[1]) for key, one in value.items()}
    if origin is None:
        return _plain(value, annotation)
    if origin not in (list, dict):
        for member in arguments:
            try:
                return _conform(value, member)
            except TypeError:
                continue
    raise TypeError


def _one_of(value: Any, literals: tuple[Any, ...]) -> Any:
    # True equals 1, but is not what was meant by it.
    if not any(value == one and type(value) is type(one) for one in literals):
        raise TypeError
    return value


def _plain(value: Any, annotation: Any) -> Any:
    if annotation is Any:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        if type(value) is not annotation:
            raise TypeError
        return value
    if not math.isfinite(value) or annotation not in (int, float) or annotation(value) != value:
        raise TypeError
    return annotation(value)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types and literal values that an annotation admits at its top level."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (None, list, dict):
        return (get_origin(annotation) or annotation,)
    return tuple(member for part in get_args(annotation) for member in _members(part))
