"""Arguments of other libraries' classes as recipes write them: tuples as lists, enumerations by their names."""

import inspect
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

import torch
from torch import Tensor

from ssl_inv.catalogue import SettingError, require, suggest
from ssl_inv.transforms import Circle, Code, Flag, Group, Real

_GROUPS: Mapping[str, type[Group]] = {"circle": Circle, "code": Code, "flag": Flag, "real": Real}
"""The groups that a recipe can give to a parameter."""


def group_of(parameter: str, given: Any) -> Group:
    """The group that a recipe gives to a parameter, `{name: circle, period: 1}`."""
    if not isinstance(given, dict):
        raise SettingError(f"groups.{parameter}", f"must be a mapping such as {{name: real}}, got {given!r}")
    if (found := given.get("name")) not in _GROUPS:
        raise SettingError(f"groups.{parameter}", f"no group is called {found!r}; {suggest(str(found), _GROUPS)}")
    kind = _GROUPS[str(found)]
    settings = {key: value for key, value in given.items() if key != "name"}
    known = list(inspect.signature(kind).parameters)
    for key, value in settings.items():
        way = f"groups.{parameter}.{key}"
        require(key in known, way, f"no such setting of the group {found}; {suggest(str(key), known)}")
        fits = isinstance(value, int | float) and (value > 0 or key not in ("scale", "period"))
        require(fits, way, f"must be a number{' above 0' if key in ('scale', 'period') else ''}, got {value!r}")
    return kind(**settings)


def plain(value: Any) -> Any:
    """A default as a recipe writes it."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Tensor):
        return value.tolist()
    return [plain(one) for one in value] if isinstance(value, tuple | list) else value


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def as_written(annotation: Any) -> Any:
    """What recipes may write for a type of a library's signatures."""
    parts = _parts(annotation)
    if len(parts) > 1:
        others = [one for one in parts if one not in (Tensor, type(None))]
        written = [as_written(one) for one in parts if one is not Tensor or not others]
        return Union[tuple(dict.fromkeys(written))]  # noqa: UP007 - the parts are only known here
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Tensor:
        return list[float]
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return str
    if origin in (tuple, list, Sequence):
        inner = dict.fromkeys(as_written(one) for one in arguments if one is not Ellipsis)
        return list[Union[tuple(inner)]] if inner else list[Any]  # type: ignore[misc]  # noqa: UP007
    return annotation if annotation in (int, float, str, bool, type(None)) or origin is Literal else Any


def as_meant(value: Any, annotation: Any) -> Any:
    """A value of a recipe as the library wants it."""
    if not isinstance(value, list):
        return value
    wants_list = any(get_origin(one) is list for one in _parts(annotation))
    wants_tuple = any(get_origin(one) is tuple for one in _parts(annotation))
    if Tensor in _parts(annotation) and not (wants_list or wants_tuple):
        return torch.tensor(value)
    inner = [as_meant(one, _inner(annotation)) for one in value]
    return inner if wants_list and not wants_tuple else tuple(inner)


def _inner(annotation: Any) -> Any:
    """The type of the members of a list or tuple."""
    found = [one for part in _parts(annotation) for one in get_args(part) if one is not Ellipsis]
    return found[0] if found else Any
