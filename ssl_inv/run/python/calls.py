"""What the Python interface does once torch is loaded."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ssl_inv.catalogue import RecipeError, within
from ssl_inv.data.source import Data
from ssl_inv.data.sources.given import fingerprint_of, given, source_of
from ssl_inv.engine.launch import quiet_lightning
from ssl_inv.evaluation.results import to_json
from ssl_inv.run.build import build_data
from ssl_inv.run.encoders import LIBRARIES, NEEDS_LIBRARY, LoadedModel, Model, with_data
from ssl_inv.run.evaluating import model_of
from ssl_inv.run.exam.examining import examine
from ssl_inv.run.exam.names import named, places_of
from ssl_inv.run.python.asked import in_memory, in_python
from ssl_inv.run.python.embeddings import Embeddings, embedded
from ssl_inv.run.python.result_tables import result_table
from ssl_inv.run.recipe import JudgedRecipe, Recipe
from ssl_inv.run.search.writing import write_embeddings
from ssl_inv.run.tables import Table


def recorded(recipe: Recipe) -> Recipe:
    """The recipe with the numbers and the fingerprint of the data that the caller holds."""
    with within("data"):
        data = given(**{**recipe.data.settings, "fingerprint": None})
        facts = {
            "training_objects": len(data.train),
            "validation_objects": len(data.validation),
            "fingerprint": fingerprint_of(data),
        }
    return replace(recipe, data=replace(recipe.data, settings={**recipe.data.settings, **facts}))


def evaluate(
    encoders: Any,
    data: Any,
    protocols: object,
    settings: Mapping[str, Any],
    output: str | os.PathLike[str] | None,
    pretrained: bool,
    quiet: bool,
) -> Table:
    """See `ssl_inv.evaluate`."""
    by_name = named(encoders)
    if pretrained and not any(map(_of_library, by_name.values())):
        raise RecipeError(f"pretrained: {NEEDS_LIBRARY}")
    places = places_of(list(by_name), None if output is None else Path(output))
    with quiet_lightning():
        # Every mistake is found before the first result is written.
        loaded: dict[str, LoadedModel] = {}
        for name, encoder in by_name.items():
            with in_python(), _on_its_device(encoder):
                loaded[name] = _with(model_of(encoder, pretrained and _of_library(encoder)), data, settings)
        found = examine(
            loaded, protocols, places=places, quiet=quiet, around=lambda name: _on_its_device(by_name[name])
        )
    return result_table({name: _plain(one.table) for name, one in found.items()})


def _of_library(encoder: Any) -> bool:
    return isinstance(encoder, str) and encoder.startswith(LIBRARIES)


def _plain(table: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(to_json(table))
    return rows


def embed(encoder: Any, data: Any, settings: Mapping[str, Any], pretrained: bool) -> Embeddings:
    """See `ssl_inv.embed`."""
    with quiet_lightning(), _on_its_device(encoder):
        model = _one_model(encoder, pretrained)
        one_part = in_memory(data) and not isinstance(data, Mapping | Data)
        loaded = _with(model, data, settings, _whole(data) if one_part else build_data)
        return embedded(loaded, one_part)


def write(
    encoder: Any,
    data: Any,
    settings: Mapping[str, Any],
    pretrained: bool,
    output: Path,
    file_format: str,
    shard_size: int,
    index: str | None,
) -> Path:
    """See `ssl_inv.embed`."""
    with quiet_lightning(), _on_its_device(encoder):
        loaded = _with(_one_model(encoder, pretrained), data, settings)
        with in_python():
            write_embeddings(loaded, output, file_format, shard_size, index)
    return output


def _one_model(encoder: Any, pretrained: bool) -> Model:
    if pretrained and not _of_library(encoder):
        raise RecipeError(f"pretrained: {NEEDS_LIBRARY}")
    return model_of(encoder, pretrained)


def _with(
    model: Model, data: Any, settings: Mapping[str, Any], make: Callable[[JudgedRecipe], Data] = build_data
) -> LoadedModel:
    """A model with the data of a caller."""
    if not in_memory(data):
        named = os.fspath(data) if isinstance(data, os.PathLike) else data
        with in_python():
            return with_data(model, named, settings, make)
    own = model.sections.get("data", {})
    section = {"name": "given"} if model.data_size is None else {"name": "given", "size": model.data_size}
    asked = any(key.startswith("data.") for key in settings)
    if own.get("name") == "given" and not asked and make is build_data and _is_given(own):
        # Of the run's own data, the validation part must be what the run has not seen.
        section = own
    return with_data(model, section, settings, make)


def _is_given(section: Mapping[str, Any]) -> bool:
    """Whether the caller holds the data that a run recorded."""
    settings = {key: value for key, value in section.items() if key != "name"}
    with within("data"):
        found: str = fingerprint_of(given(**{**settings, "fingerprint": None}))
    return found == str(section["fingerprint"])


def _whole(value: Any) -> Callable[[JudgedRecipe], Data]:
    """Makes data whose training part is everything that the caller gave, in its order."""

    def make(recipe: JudgedRecipe) -> Data:
        chosen = recipe.data.settings
        options = [chosen[name] for name in ("size", "cache", "max_broken", "photographs", "channels")]
        with within("data"):
            source = source_of(value, *options)
        return Data(source, source)

    return make


@contextmanager
def _on_its_device(encoder: Any) -> Iterator[None]:
    """Bring a user's module back to where it was."""
    first = next(encoder.parameters(), None) if isinstance(encoder, nn.Module) else None
    before = None if first is None else first.device
    try:
        yield
    finally:
        if before is not None:
            encoder.to(before)
