"""The evaluation of any encoder on any data, beside the same encoder with random weights."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.atomic import write_text
from ssl_inv.catalogue import RecipeError, SettingError, suggest, within
from ssl_inv.engine.features import FeatureCache, fingerprint
from ssl_inv.engine.progress import Progress
from ssl_inv.engine.settings import EvaluationSettings
from ssl_inv.engine.team import ALONE, Team
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.results import to_json
from ssl_inv.evaluation.suite import Protocols
from ssl_inv.run.encoders import LoadedModel, Model, best_device, model_named, on
from ssl_inv.run.environment import host_facts, versions
from ssl_inv.run.exports.export import Preprocessing
from ssl_inv.run.folder import now
from ssl_inv.run.judging import Judgement, judge, protocols_of, require_classes
from ssl_inv.run.kept_measurements import KeptMeasurements
from ssl_inv.run.known_split import with_known_split
from ssl_inv.run.pages.report import scores
from ssl_inv.run.python.loaded import LoadedEncoder
from ssl_inv.run.results_file import RESULTS, checksums

MEASUREMENTS = "measurements"
"""The folder, in a folder of results, of what each protocol has measured."""


def evaluated(
    loaded: LoadedModel,
    output: Path | None = None,
    chosen: object = None,
    quiet: bool = False,
    team: Team = ALONE,
    second: Encoded | None = None,
    seed: int | None = None,
) -> Judgement | None:
    """Evaluate a model on its data.

    Args:
        loaded: the model and the data.
        output: a folder for results.json and evaluation.json, and for the features and the measurements of each
            protocol, which a second call reads; None writes nothing.
        chosen: see `chosen_protocols`.
        quiet: whether to show no progress.
        team: the processes that share the encoding; the first one alone measures and writes.
        second: another encoder's features of the same views, for protocols that compare two.
        seed: draws the training objects and shuffles targets; None takes that of the run, which evaluated itself with
            it.

    Returns:
        What was measured; None on all processes but the first.

    Raises:
        RecipeError: if the settings or the data allow no evaluation.
    """
    device = best_device()
    settings, protocols = require_evaluation(loaded, chosen)
    trained, untrained = loaded.networks()
    data_judged = loaded.judged_data(settings, trained[1], device)
    # The sections that say which images the encoder is given.
    images = {section: loaded.recipe.sections()[section] for section in ("data", "normalization")}
    cache = None if output is None else FeatureCache(output / "features", images, loaded.crop_share)
    kept = None
    if output is not None:
        stamps = [data_judged.train.stamp, data_judged.validation.stamp]
        weights = [None if one is None else fingerprint(one) for one in trained]
        kept = KeptMeasurements(output / MEASUREMENTS, [images, settings.views_of, loaded.crop_share, stamps, weights])
    with within("evaluation"):
        networks = on(trained, device), None if untrained is None else on(untrained, device)
        normalise = loaded.normalise if settings.views_of == "training" else loaded.whole
        progress = Progress(quiet=quiet or not team.first)
        try:
            judgement = judge(
                data_judged,
                *networks,
                normalise,
                settings,
                device,
                loaded.seed if seed is None else seed,
                cache,
                progress,
                protocols,
                team,
                kept,
                second,
            )
        finally:
            progress.close()
    if judgement is not None:
        judgement = replace(judgement, remarks=with_known_split(judgement.remarks, loaded, trained[1]))
    if output is not None and judgement is not None:
        # Its checksum of the results before is wrong from now on.
        (output / "evaluation.json").unlink(missing_ok=True)
        write_text(output / RESULTS, to_json(judgement.table) + "\n")
        told = {
            "checksums": checksums(output),
            "model": loaded.description,
            "weights": fingerprint(trained[0]),
            "judged": now(),
            "host": host_facts(),
            "versions": versions(),
            "score": scores(judgement.table),
            "costs": {name: asdict(cost) for name, cost in judgement.costs.items()},
            "skipped": judgement.skipped,
            "warnings": judgement.remarks.warnings,
            "facts": judgement.remarks.facts,
            "recipe": loaded.recipe.sections(),
        }
        if loaded.model.run is not None:
            told["trained_with"] = loaded.model.run.recipe.sections()
            if not (folder := loaded.model.run.folder).at_end:
                told["checkpoint"] = folder.checkpoint_file.stem
        write_text(output / "evaluation.json", json.dumps(told, indent=2) + "\n")
    return judgement


def require_evaluation(loaded: LoadedModel, chosen: object = None) -> tuple[EvaluationSettings, Protocols]:
    """The settings and protocols of an evaluation.

    Args:
        loaded: the model and the data.
        chosen: see `chosen_protocols`.

    Raises:
        RecipeError: if they or the data allow none.
    """
    settings = loaded.recipe.evaluation
    if settings.protocol == "none" and chosen is not None:
        settings = replace(settings, protocol="quick")
    if settings.protocol == "none":
        raise RecipeError("evaluation.protocol: 'none' evaluates nothing; did you mean 'quick'?")
    protocols = chosen_protocols(chosen, settings, best_device())
    with within("evaluation"):
        require_classes(loaded.data.train)
    return settings, protocols


def chosen_protocols(chosen: object, settings: EvaluationSettings, device: torch.device) -> Protocols:
    """The protocols that a caller asks for.

    Args:
        chosen: `quick` or `full`; names of protocols, with their settings by `settings`; protocols themselves, in a
            list or by name; None for those of the settings.
        settings: of the evaluation.
        device: where networks are trained that protocols fit.

    Raises:
        SettingError: if there is no such protocol.
    """
    if chosen is None or chosen in ("quick", "full"):
        settings = settings if chosen is None else replace(settings, protocol=chosen)
        with within("evaluation"):
            return protocols_of(settings, device)
    if isinstance(chosen, str | Protocol):
        chosen = [chosen]
    named = dict(chosen) if isinstance(chosen, Mapping) else None
    if named is None and isinstance(chosen, Sequence):
        with within("evaluation"):
            known = protocols_of(settings, device)
        named = {}
        for one in chosen:
            if isinstance(one, str) and one not in known:
                known = {**known, one: _further(one, known, settings, device)}
            named[one if isinstance(one, str) else type(one).__name__] = known[one] if isinstance(one, str) else one
    if not named or not all(isinstance(one, Protocol) for one in named.values()):
        raise SettingError("protocols", f"must be 'quick', 'full', names or protocols, got {chosen!r}")
    return named


def _further(name: str, known: Protocols, settings: EvaluationSettings, device: torch.device) -> Protocol:
    """A protocol that is none of the suite's, by its dotted path or the short name that a package gives it."""
    try:
        return protocols_of(replace(settings, also=[name]), device)[name]
    except SettingError as error:
        unknown = f"none is called {name!r}; {suggest(name, ['quick', 'full', *known])}"
        raise SettingError("protocols", error.problem if "." in name else unknown) from error


# Encoders of a user.


class Function(nn.Module):
    """A user's function from pixels `(B, 3, H, W)` in [0, 1] to features `(B, D)`, or to features by part."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, pixels: Tensor) -> Tensor | Mapping[str, Tensor]:
        found = self.function(pixels)
        if isinstance(found, np.ndarray):
            return torch.from_numpy(found)
        if not isinstance(found, Tensor | Mapping):
            raise ValueError(f"an encoder must give a tensor (B, D), or tensors by part, got {type(found).__name__}")
        return found


def model_of(encoder: Any, pretrained: bool = False) -> Model:
    """Any encoder as a model.

    Args:
        encoder: the folder of a run or an exported folder, a run, `timm:NAME`, what `ssl_inv.load` gives, a module, or
            any function from pixels to features.
        pretrained: whether to load timm's weights of `timm:NAME`.

    Raises:
        RecipeError: if it is none of these.
    """
    if isinstance(encoder, LoadedEncoder):
        return replace(encoder.source, backbone=encoder.backbone, changed=(encoder.backbone, encoder.objective))
    if isinstance(encoder, nn.Module):
        return _module(encoder)
    if hasattr(encoder, "__fspath__") or isinstance(encoder, str):
        return model_named(encoder if isinstance(encoder, str) else str(encoder.__fspath__()), pretrained)
    if callable(encoder):
        name = getattr(encoder, "__name__", type(encoder).__name__)
        return Model(Function(encoder), None, _plain_pixels(), f"{name}, a function", None)
    kinds = "the folder of a run, an exported folder, timm:NAME, a module or a function"
    raise RecipeError(f"encoder: must be {kinds}, got {type(encoder).__name__}")


def _plain_pixels() -> dict[str, Any]:
    return {"normalization": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}}


def _takes_channels(module: nn.Module, config: Mapping[str, Any]) -> bool:
    """Whether the first layer takes the channels of timm's configuration, which `in_chans` does not change."""
    first = config.get("first_conv")
    layer = dict(module.named_modules()).get(first) if isinstance(first, str) else None
    return layer is None or getattr(layer, "in_channels", len(config["mean"])) == len(config["mean"])


def _module(module: nn.Module) -> Model:
    """A user's module. One of timm says how its input is normalised, and how large it is."""
    config = getattr(module, "pretrained_cfg", None)
    known = isinstance(config, Mapping) and {"mean", "std", "input_size"} <= set(config)
    sections, preprocessing = _plain_pixels(), None
    if known and isinstance(config, Mapping) and _takes_channels(module, config):
        preprocessing = Preprocessing(tuple(config["mean"]), tuple(config["std"]), config["input_size"][-1])
        sections = {"normalization": {"mean": list(preprocessing.mean), "std": list(preprocessing.std)}}
    untrained = (lambda: _reset(module)) if _can_be_reset(module) else None
    return Model(module, preprocessing, sections, type(module).__name__, untrained)


def _can_be_reset(module: nn.Module) -> bool:
    """Whether every parameter belongs to a layer that can draw it anew."""
    return all(
        callable(getattr(layer, "reset_parameters", None)) or not list(layer.parameters(recurse=False))
        for layer in module.modules()
    )


def _reset(module: nn.Module) -> nn.Module:
    again = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for layer in again.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
    return again
