"""torchvision's v2 transforms by the names that recipes use: `{name: torchvision.RandomPosterize, bits: 4}`.

Every attribute of this module is a function that takes the settings of one of torchvision's classes, as recipes can
write them, and returns the operation. Tuples are written as lists, members of enumerations by their names, and
transforms within transforms as mappings with their `name`.
"""

import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, get_args, get_type_hints

from torchvision.transforms import v2

from ssl_inv.augment.seeded import Seeded
from ssl_inv.augment.written import as_meant, as_written, group_of, plain
from ssl_inv.catalogue import SettingError, require, suggest, within

_BOXES = "it changes boxes, masks or key points, and views have none"
_TYPES = "it changes the type of an image, and views are tensors in [0, 1]"
_MANY = "it makes several images of one, and an operation makes one"
_MIXES = "it mixes the samples of a batch, so a view would depend on its batch"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("CutMix", "MixUp"), _MIXES),
    **dict.fromkeys(("FiveCrop", "TenCrop"), _MANY),
    **dict.fromkeys(
        ("ClampBoundingBoxes", "ClampKeyPoints", "ConvertBoundingBoxFormat", "SanitizeBoundingBoxes"), _BOXES
    ),
    **dict.fromkeys(("SanitizeKeyPoints", "SetClampingMode", "RandomIoUCrop"), _BOXES),
    **dict.fromkeys(("ConvertImageDtype", "PILToTensor", "ToDtype", "ToImage", "ToPILImage", "ToPureTensor"), _TYPES),
    "ToTensor": _TYPES,
    "Lambda": "it takes a function, which no recipe holds; in Python, use ssl_inv.augment.Seeded",
    "LinearTransformation": "it takes matrices of one number for every two pixels, which no recipe holds",
    "Normalize": "views are normalised as the section `normalization` says",
    "UniformTemporalSubsample": "it changes videos, and views are images",
}
"""Classes of torchvision that no recipe can use, and why."""

_CONTAINERS = ("Compose", "RandomApply", "RandomChoice", "RandomOrder")


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """The names of the transforms that recipes can use, without `torchvision.`."""
    kinds = {name: one for name, one in vars(v2).items() if inspect.isclass(one) and issubclass(one, v2.Transform)}
    return tuple(sorted({*kinds} - REFUSED.keys() - {"Transform"}))


def __getattr__(name: str) -> Callable[..., Seeded]:
    if name.startswith("__"):
        raise AttributeError(name)
    if name not in names():
        raise AttributeError(_why_not(name))
    return _maker(name)


def _why_not(name: str) -> str:
    if name in REFUSED:
        return f"torchvision.{name} cannot be used: {REFUSED[name]}"
    close = suggest(f"torchvision.{name}", [f"torchvision.{one}" for one in names()])
    return f"torchvision has no transform called {name!r}; {close}"


def made(settings: Mapping[str, Any]) -> v2.Transform:
    """A transform of torchvision from a mapping with its `name` and its arguments.

    Raises:
        SettingError: if a name or an argument is unknown, or refused.
    """
    require(isinstance(settings, dict) and isinstance(settings.get("name"), str), "name", "required")
    name = settings["name"].removeprefix("torchvision.")
    if name not in names():
        raise SettingError("name", _why_not(name))
    kind, hints = getattr(v2, name), _hints(name)
    known = inspect.signature(kind).parameters
    arguments = {}
    for key, value in settings.items():
        if key != "name":
            require(key in known, str(key), f"torchvision.{name} has no such argument; {suggest(str(key), known)}")
            arguments[key] = _nested(key, value) if name in _CONTAINERS and key == "transforms" else value
            if not (name in _CONTAINERS and key == "transforms"):
                arguments[key] = _meant(key, value, hints.get(key, Any))
    try:
        transform: v2.Transform = kind(**arguments)
    except Exception as error:  # Somebody else's class can raise anything.
        raise ValueError(f"torchvision.{name} refuses its settings: {' '.join(str(error).split())}") from error
    return transform


def _nested(key: str, value: Any) -> list[v2.Transform]:
    require(isinstance(value, list), key, f"must be a list of mappings, each with its `name`, got {value!r}")
    found = []
    for number, one in enumerate(value):
        with within(f"{key}[{number}]"):
            found.append(made(one))
    return found


@lru_cache(maxsize=128)
def _hints(name: str) -> Mapping[str, Any]:
    return get_type_hints(getattr(v2, name).__init__)


def _meant(key: str, value: Any, annotation: Any) -> Any:
    """A value of a recipe as torchvision wants it."""
    kinds = [one for one in (annotation, *get_args(annotation)) if inspect.isclass(one) and issubclass(one, Enum)]
    if not kinds or not isinstance(value, str):
        return as_meant(value, annotation)
    choices = {one.name.lower(): one for one in kinds[0]}
    name = value.lower().replace("-", "_")
    require(name in choices, key, f"{value!r} is no {kinds[0].__name__}; {suggest(name, choices)}")
    return choices[name]


@lru_cache(maxsize=128)
def _maker(name: str) -> Callable[..., Seeded]:
    kind, hints = getattr(v2, name), _hints(name)
    own = [*inspect.signature(kind).parameters.values()]
    given = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=one.default if one.default is one.empty else plain(one.default),
            annotation=_written(hints.get(one.name, Any)),
        )
        for one in own
        if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    ]
    further: dict[str, tuple[Any, Any]] = {"label": (str | None, None), "groups": (dict[str, Any], {})}
    given += [
        inspect.Parameter(setting, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for setting, (annotation, default) in further.items()
    ]

    def make(**settings: Any) -> Seeded:
        label, groups = settings.pop("label", None), settings.pop("groups", {})
        transform = made({"name": name, **settings})
        return Seeded(transform, label or name, {key: group_of(key, value) for key, value in groups.items()})

    make.__name__ = make.__qualname__ = name
    make.__doc__ = inspect.getdoc(kind)
    make.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]
    make.__annotations__ = {one.name: one.annotation for one in given}
    return make


def _written(annotation: Any) -> Any:
    """What recipes may write for a type of torchvision's signatures; it has too many for a check before it is made."""
    simple = annotation in (int, float, str, bool)
    return as_written(annotation) if simple else Any
