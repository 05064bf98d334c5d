"""kornia's augmentations by the names that recipes use: `{name: kornia.RandomPlasmaShadow, p: 0.3}`.

Every attribute of this module is a function that takes the settings of one of kornia's classes, as recipes can write
them, and returns the operation. Types are those of kornia's own signatures: a tuple is written as a list, a tensor as a
list of numbers, a member of an enumeration by its name.
"""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import kornia.augmentation
import torch
from kornia.augmentation import AugmentationBase2D, AugmentationBase3D, MixAugmentationBaseV2, auto
from torch import Tensor

from ssl_inv.augment.keyed import Keyed
from ssl_inv.catalogue import SettingError, require, suggest
from ssl_inv.transforms import Circle, Code, Flag, Group, Real

_POLICIES = ("AutoAugment", "RandAugment", "TrivialAugment")

_MIXES = "it mixes the samples of a batch, so a view would depend on its batch"
_NORMALISES = "views are normalised as the section `normalization` says"

REFUSED: Mapping[str, str] = {
    "PatchMix": _MIXES,
    "RandomCutMixV2": _MIXES,
    "RandomMixUpV2": _MIXES,
    "RandomMosaic": _MIXES,
    "RandomTransplantation": _MIXES,
    "RandomTransplantation3D": _MIXES,
    "RandomDissolving": "it needs the weights of a diffusion model, which are not downloaded",
    "Normalize": _NORMALISES,
    "Denormalize": _NORMALISES,
}
"""Classes of kornia that no recipe can use, and why."""

_NOT_SET = ("same_on_batch", "p_batch", "keepdim", "data_keys")
"""Arguments that would change what a view is."""

_GROUPS: Mapping[str, type[Group]] = {"circle": Circle, "code": Code, "flag": Flag, "real": Real}
"""The groups that a recipe can give to a parameter."""


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """The names of the augmentations that recipes can use, without `kornia.`."""
    kinds = {name: getattr(kornia.augmentation, name) for name in kornia.augmentation.__all__}
    images = AugmentationBase2D, MixAugmentationBaseV2
    found = [
        name
        for name, kind in kinds.items()
        if inspect.isclass(kind) and issubclass(kind, images) and not inspect.isabstract(kind) and "Base" not in name
    ]
    return tuple(sorted({*found, *_POLICIES} - REFUSED.keys()))


def __getattr__(name: str) -> Callable[..., Keyed]:
    if name.startswith("__"):
        raise AttributeError(name)
    if name not in names():
        raise AttributeError(_why_not(name))
    return _maker(name)


def _why_not(name: str) -> str:
    kind = getattr(kornia.augmentation, name, None)
    if name in REFUSED:
        return f"kornia.{name} cannot be used: {REFUSED[name]}"
    if inspect.isclass(kind) and issubclass(kind, AugmentationBase3D):
        return f"kornia.{name} cannot be used: it changes volumes (B, C, D, H, W), and views are images"
    if kind is not None:
        return f"kornia.{name} takes modules, which no recipe holds; in Python, use ssl_inv.augment.Keyed"
    close = suggest(f"kornia.{name}", [f"kornia.{one}" for one in names()])
    return f"kornia has no augmentation called {name!r}; {close}"


@lru_cache(maxsize=128)
def _maker(name: str) -> Callable[..., Keyed]:
    kind = getattr(kornia.augmentation, name, None) or getattr(auto, name)
    hints = get_type_hints(kind.__init__)
    own = [one for one in list(inspect.signature(kind.__init__).parameters.values())[1:] if one.name not in _NOT_SET]
    own = [one for one in own if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    given = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=one.default if one.default is one.empty else _plain(one.default),
            annotation=_as_written(hints.get(one.name, Any)),
        )
        for one in own
    ]
    further: dict[str, tuple[Any, Any]] = {"label": (str | None, None), "groups": (dict[str, Any], {})}
    given += [
        inspect.Parameter(setting, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for setting, (annotation, default) in further.items()
    ]

    def make(**settings: Any) -> Keyed:
        label, groups = settings.pop("label", None), settings.pop("groups", {})
        arguments = {key: _as_meant(value, hints.get(key, Any)) for key, value in settings.items()}
        try:
            made = kind(**arguments)
        except Exception as error:  # Somebody else's class can raise anything.
            raise ValueError(f"kornia.{name} refuses its settings: {' '.join(str(error).split())}") from error
        return Keyed(made, label or name, {key: _group(key, value) for key, value in groups.items()})

    make.__name__ = make.__qualname__ = name
    make.__doc__ = inspect.getdoc(kind)
    make.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]
    make.__annotations__ = {one.name: one.annotation for one in given}
    return make


def _group(parameter: str, given: Any) -> Group:
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


def _plain(value: Any) -> Any:
    """A default as a recipe writes it."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Tensor):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _as_written(annotation: Any) -> Any:
    """What recipes may write for a type of kornia's signatures."""
    parts = _parts(annotation)
    if len(parts) > 1:
        others = [one for one in parts if one not in (Tensor, type(None))]
        written = [_as_written(one) for one in parts if one is not Tensor or not others]
        return Union[tuple(dict.fromkeys(written))]  # noqa: UP007 - the parts are only known here
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Tensor:
        return list[float]
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return str
    if origin in (tuple, list, Sequence):
        inner = dict.fromkeys(_as_written(one) for one in arguments if one is not Ellipsis)
        return list[Union[tuple(inner)]] if inner else list[Any]  # type: ignore[misc]  # noqa: UP007
    return annotation if annotation in (int, float, str, bool, type(None)) or origin is Literal else Any


def _as_meant(value: Any, annotation: Any) -> Any:
    """A value of a recipe as kornia wants it."""
    if not isinstance(value, list):
        return value
    wants_list = any(get_origin(one) is list for one in _parts(annotation))
    wants_tuple = any(get_origin(one) is tuple for one in _parts(annotation))
    if Tensor in _parts(annotation) and not (wants_list or wants_tuple):
        return torch.tensor(value)
    inner = [_as_meant(one, _inner(annotation)) for one in value]
    return inner if wants_list and not wants_tuple else tuple(inner)


def _inner(annotation: Any) -> Any:
    """The type of the members of a list or tuple."""
    found = [one for part in _parts(annotation) for one in get_args(part) if one is not Ellipsis]
    return found[0] if found else Any
