"""Objectives around another one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ssl_inv.backbones import Backbone
from ssl_inv.objectives.base import Encoder, Losses, Objective
from ssl_inv.registry import OBJECTIVES
from ssl_inv.transforms import Group


def base_objective(features: int, groups: Mapping[str, Group], *, name: str, setting: str = "base", **settings: Any) -> Objective:
    """The objective that a setting describes.

    Args:
        features: dimensions of the pooled vector that it sees.
        groups: the parameters of all views' transforms, by name.
        name: registered, or a dotted path.
        setting: what the setting is called.
        settings: the objective's own.

    Raises:
        ValueError: if there is no such objective, or it refuses its settings.
    """
    constructor = OBJECTIVES.find(name).load()
    if not issubclass(constructor, Objective):
        raise ValueError(f"{setting}: {name!r} does not derive from ssl_inv.objectives.base.Objective")
    with speaking_of(setting):
        objective: Objective = constructor(features, groups, **settings)
    return objective


@contextmanager
def speaking_of(setting: str) -> Iterator[None]:
    """Put the name of a setting before the message of a `ValueError` about what it describes."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from error


def beside(base: Losses, own: Losses) -> Losses:
    """The terms of a base objective and those that stand beside them.

    Raises:
        ValueError: if both have a term of one name, one of which would be lost.
    """
    if both := sorted(base.keys() & own.keys()):
        raise ValueError(f"base: its loss has a term {both[0]!r} too, as an objective around itself has")
    return {**base, **own}


def two_parts(backbone: Backbone, invariant: int) -> Encoder:
    """The features of a backbone, of which the first `invariant` are "invariant" and all others "equivariant"."""

    def encode(pixels: Tensor) -> dict[str, Tensor]:
        features = backbone(pixels)
        return {"all": features, "invariant": features[:, :invariant], "equivariant": features[:, invariant:]}

    return encode
