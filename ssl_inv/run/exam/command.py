"""The command `evaluate`, after the command line has checked its arguments."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_inv.catalogue import PROTOCOLS, RecipeError
from ssl_inv.engine.launch import quiet_lightning
from ssl_inv.engine.settings import EvaluationSettings
from ssl_inv.evaluation.results import format_table
from ssl_inv.run.encoders import LIBRARIES, NEEDS_LIBRARY, LoadedModel, load_model
from ssl_inv.run.exam.depth import depth_sentences
from ssl_inv.run.exam.differences import differences
from ssl_inv.run.exam.examining import Examined, Examinee, examine
from ssl_inv.run.exam.given_features import GivenFeatures, are_features, features_in, require_both
from ssl_inv.run.exam.layers import in_layers
from ssl_inv.run.exam.names import named, places_of
from ssl_inv.run.exam.page import exam_page, require_map
from ssl_inv.run.exam.writing import begin, wide_table, write
from ssl_inv.run.pages.report import summary
from ssl_inv.run.recipe import JUDGED, apply_overrides, resolve_section
from ssl_inv.run.together import gathered


def exam(
    models: Sequence[str],
    data: str | None,
    overrides: list[str],
    pretrained: bool,
    protocols: Sequence[str] | None,
    output: Path | None,
    layers: bool,
    projection: str,
) -> None:
    """Evaluate encoders on one data set, each beside itself with random weights, and print one table.

    Args:
        models: as `load_model` names them, or folders of features.
        data: see `load_model`.
        overrides: see `load_model`.
        pretrained: whether to load the weights of networks of libraries.
        protocols: `quick`, `full`, `all` or names; None: those of the settings.
        output: a folder for the page, the results and what a second call reads.
        layers: whether to measure the features of every layer.
        projection: how the page draws features, `pca` or `umap`.

    Raises:
        RecipeError: before anything is measured, if an encoder, the data or a setting cannot be used.
    """
    require_map(projection)
    require_meant(models, data, layers, output)
    if pretrained and not any(model.startswith(LIBRARIES) for model in models):
        raise RecipeError(f"--pretrained {NEEDS_LIBRARY}")
    by_name = named(list(models))
    places = places_of(list(by_name), output)
    with quiet_lightning(), gathered() as team:
        encoders: dict[str, Examinee] = {}
        for name, model in by_name.items():
            encoders[name] = _loaded(model, data, overrides, pretrained and model.startswith(LIBRARIES), layers)
        require_comparable(encoders)
        evaluation = apply_overrides({}, overrides, JUDGED).get("evaluation", {})
        settings: EvaluationSettings = resolve_section("evaluation", evaluation, "the command line")

        def checked() -> None:
            if output is not None and team.first and len(encoders) > 1:
                begin(output, list(encoders))

        found = examine(encoders, _chosen(protocols), settings, places, team=team, checked=checked)
    if not team.first:
        return
    same = on_same_objects(found)
    first = next(iter(found))
    compared = list(dict.fromkeys(row.trained.name for one in found.values() for row in summary(one.table)))
    against = differences({name: one.table for name, one in found.items() if name in same}, first, compared)
    if output is not None:
        others = [one for one in found if one not in same]
        facts = {"data": data, "settings": overrides, "measured on other objects": others}
        sources = {name: one.data.validation for name, one in encoders.items() if isinstance(one, LoadedModel)}
        write(output, found, against, facts, exam_page(found, against, sources, facts, projection))
    sys.stdout.write(_text(found, output))


def _text(found: Mapping[str, Examined], output: Path | None) -> str:
    facts = dict.fromkeys(fact for one in found.values() for fact in one.remarks.facts)
    lines = [*(one.description for one in found.values()), *facts]
    depths = [f"{name}: {said}" for name, sentences in depth_sentences(found).items() for said in sentences]
    written = [] if output is None else [f"page: {output / 'exam.html'}"]
    if len(found) == 1:
        (one,) = found.values()
        lines += [f"not measured: {protocol}, {why}" for protocol, why in one.skipped.items()]
        return "\n".join([*lines, format_table(one.table), *depths, *written, ""])
    for name, one in found.items():
        lines += [f"{name}: not measured: {protocol}, {why}" for protocol, why in one.skipped.items()]
    return "\n".join([*lines, str(wide_table(found)), *depths, *written, ""])


def _chosen(protocols: Sequence[str] | None) -> object:
    if not protocols:
        return None
    if list(protocols) == ["all"]:
        return list(PROTOCOLS.members)
    return protocols[0] if len(protocols) == 1 and protocols[0] in ("quick", "full") else list(protocols)


def require_meant(models: Sequence[str], data: str | None, layers: bool, output: Path | None) -> None:
    """Refuse what would have no effect on features without a network, and an output inside of what is measured.

    Raises:
        RecipeError: naming the argument.
    """
    folders = [Path(model) for model in models if not model.startswith(LIBRARIES)]
    try:
        given = [folder for folder in folders if are_features(folder)]
    except OSError as error:
        raise RecipeError(f"{str(error.filename)[:60]!r}: {error.strerror}") from None
    if len(given) == len(models):
        for option, asked in {"--data": data is not None, "--layers": layers}.items():
            if asked:
                raise RecipeError(f"{option} goes with an encoder; {given[0]} has features without one")
    inside = [] if output is None else [one for one in folders if output.resolve().is_relative_to(one.resolve())]
    if inside and (len(models) > 1 or given):
        raise RecipeError(f"--output: {str(output)!r} lies inside of {str(inside[0])!r}, which is measured")


def _loaded(model: str, data: str | None, overrides: list[str], pretrained: bool, layers: bool) -> Examinee:
    if are_features(Path(model)):
        return features_in(Path(model))
    require_both(Path(model))
    loaded = load_model(model, data, overrides, pretrained)
    return in_layers(loaded) if layers else loaded


def require_comparable(encoders: Mapping[str, Examinee]) -> None:
    """Raise a `RecipeError` unless all encoders are measured on the same data in the same way."""
    loaded = {name: one for name, one in encoders.items() if not isinstance(one, GivenFeatures)}
    if len(loaded) < 2:
        return
    (first, one), *others = loaded.items()
    for name, other in others:
        for section in ("data", "evaluation"):
            here, there = (_plain(each.recipe.sections()[section]) for each in (one, other))
            # Every encoder sees the images in the size that it takes.
            keys = [key for key in {**here, **there} if (section, key) != ("data", "size")]
            odd = next((key for key in keys if here.get(key) != there.get(key)), None)
            if odd is None:
                continue
            values = f"{odd}: {here.get(odd)} and {there.get(odd)}"
            if section == "data":
                raise RecipeError(f"{first} and {name} have different data ({values}); give --data for all")
            raise RecipeError(
                f"{first} and {name} are evaluated differently ({values}); give --evaluation.{odd} for all"
            )


def _plain(section: Any) -> dict[str, Any]:
    found: dict[str, Any] = dict(section)
    return found


def on_same_objects(found: Mapping[str, Examined]) -> list[str]:
    """The encoders that were measured on the validation views of the first one."""
    tables = {name: one.validation for name, one in found.items() if one.validation is not None}
    first = next(iter(tables.values()), None)
    return [name for name, table in tables.items() if first is not None and table.has_views_of(first)]
