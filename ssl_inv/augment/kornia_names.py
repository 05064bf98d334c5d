"""kornia's augmentations by the names that recipes use: `{name: kornia.RandomPlasmaShadow, p: 0.3}`.

Every attribute of this module is a function that takes the settings of one of kornia's classes, as recipes can write
them, and returns the operation. Types are those of kornia's own signatures: a tuple is written as a list, a tensor as a
list of numbers, a member of an enumeration by its name.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, get_type_hints

import kornia.augmentation
from kornia.augmentation import AugmentationBase2D, AugmentationBase3D, MixAugmentationBaseV2, auto

from ssl_inv.augment.keyed import Keyed
from ssl_inv.augment.written import as_meant, as_written, group_of, plain
from ssl_inv.catalogue import suggest

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
            default=one.default if one.default is one.empty else plain(one.default),
            annotation=as_written(hints.get(one.name, Any)),
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
        arguments = {key: as_meant(value, hints.get(key, Any)) for key, value in settings.items()}
        try:
            made = kind(**arguments)
        except Exception as error:  # Somebody else's class can raise anything.
            raise ValueError(f"kornia.{name} refuses its settings: {' '.join(str(error).split())}") from error
        return Keyed(made, label or name, {key: group_of(key, value) for key, value in groups.items()})

    make.__name__ = make.__qualname__ = name
    make.__doc__ = inspect.getdoc(kind)
    make.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]
    make.__annotations__ = {one.name: one.annotation for one in given}
    return make
