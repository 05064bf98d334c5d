"""What a recipe leaves open until the data is known: channels of the network, the mean and deviation of each, and the
number of classes of an objective that reads them.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from ssl_inv.catalogue import OBJECTIVES, SettingError, require
from ssl_inv.data.source import Source
from ssl_inv.engine.settings import NormalizationSettings
from ssl_inv.run.recipe import Choice, JudgedRecipe, Recipe
from ssl_inv.transforms import keyed_random

MEASURED = 1000
"""Images whose pixels are measured, at most."""

_AT_ONCE = 50

_FLATTEST = 1 / 255
"""The least deviation of a channel: one level of bytes. A channel of one value would be divided by zero."""

AnyRecipe = TypeVar("AnyRecipe", bound=JudgedRecipe)


def for_channels(recipe: Recipe, source: Source) -> Recipe:
    """The recipe with a network for the channels of the training images, and their mean and deviation.

    Raises:
        SettingError: if the recipe gives other numbers of channels.
    """
    channels, arguments = source.channels, recipe.backbone["arguments"]
    given = arguments.get("in_chans", channels)
    require(given == channels, "backbone.arguments.in_chans", f"is {given}, and the images have {channels} channel(s)")
    if channels != 3:
        recipe = replace(recipe, backbone={**recipe.backbone, "arguments": {**arguments, "in_chans": channels}})
    return normalised_for(recipe, source)


def for_classes(recipe: Recipe, source: Source) -> Recipe:
    """The recipe with the number of classes of the training data, where an objective that reads them leaves it open.

    Raises:
        SettingError: if the data have no classes, or more than the recipe says.
    """
    objective = recipe.objective
    settings = _with_classes(objective.name, objective.settings, source, "objective")
    return recipe if settings == objective.settings else replace(recipe, objective=Choice(objective.name, settings))


def _with_classes(name: str, settings: Mapping[str, Any], source: Source, where: str) -> dict[str, Any]:
    """The settings of an objective, and of those inside it."""
    found = {
        key: {"name": one["name"], **_with_classes(one["name"], _nameless(one), source, f"{where}.{key}")}
        if isinstance(one, dict) and isinstance(one.get("name"), str)
        else one
        for key, one in settings.items()
    }
    reads = name in OBJECTIVES.members and getattr(OBJECTIVES.find(name).load(), "counts_classes", False)
    if not reads or not settings["labels"] or not settings["classification"]:
        return found
    labels = source.labels
    if labels is None or not bool(labels.known.any()):
        problem = f"true, but the training data have no classes; choose labelled data, or {where}.classification 0"
        raise SettingError(f"{where}.labels", problem)
    given, there = settings["classes"], len(labels.names)
    enough = given is None or given >= there
    require(enough, f"{where}.classes", f"is {given}, and the training data have {there} classes")
    return {**found, "classes": there if given is None else given}


def _nameless(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in settings.items() if key != "name"}


def normalised_for(recipe: AnyRecipe, source: Source) -> AnyRecipe:
    """The recipe with the mean and deviation of every channel.

    They are measured if the recipe leaves them empty, or leaves them at their defaults, which are for red, green and
    blue, and images have other channels.

    Raises:
        SettingError: if the recipe gives those of another number of channels.
    """
    own, channels = recipe.normalization, source.channels
    if not own.mean or (channels != 3 and own == NormalizationSettings()):
        return replace(recipe, normalization=measured(source))
    for one in fields(own):
        values = getattr(own, one.name)
        problem = f"has {len(values)} number(s), and the images have {channels} channel(s)"
        if len(values) != channels:
            raise SettingError(f"normalization.{one.name}", f"{problem}; leave mean and std empty, [], to measure them")
    return recipe


def measured(source: Source) -> NormalizationSettings:
    """Mean and standard deviation of every channel over the pixels of some images, drawn by a key, always the same.

    Raises:
        ValueError: if none of these images is readable.
    """
    chosen = np.sort(keyed_random.permutation(0, length=len(source))[:MEASURED])
    channels, count = source.channels, 0
    total, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(chosen), _AT_ONCE):
        objects = chosen[start : start + _AT_ONCE]
        images = source.load(objects, np.zeros_like(objects))
        pixels = images.pixels.cpu()[images.readable.cpu()].numpy().astype(np.float64) / 255
        total += pixels.sum(axis=(0, 2, 3))
        squares += (pixels**2).sum(axis=(0, 2, 3))
        count += pixels[:, 0].size
    if not count:
        raise SettingError("normalization.mean", "cannot be measured, as no image that was drawn can be read; give it")
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0)).clip(_FLATTEST)
    return NormalizationSettings(mean=mean.round(4).tolist(), std=deviation.round(4).tolist())


def told(before: JudgedRecipe, after: JudgedRecipe) -> str | None:
    """A sentence about what was measured; None if nothing was."""
    if before.normalization == after.normalization:
        return None
    found = after.normalization
    default = before.normalization == NormalizationSettings()
    instead = ", since those of the recipe are for red, green and blue" if default else ""
    return f"normalization: measured on training images{instead}: mean {found.mean}, std {found.std}"
