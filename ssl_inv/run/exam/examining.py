"""The exam: some encoders, each measured by the same protocols on the same data."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ssl_inv.atomic import write_text
from ssl_inv.catalogue import within
from ssl_inv.engine.launch import say
from ssl_inv.engine.progress import Progress
from ssl_inv.engine.settings import EvaluationSettings
from ssl_inv.engine.team import ALONE, Team
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.results import Comparison, to_json
from ssl_inv.evaluation.suite import Protocols, skipped
from ssl_inv.run.encoders import LoadedModel, best_device
from ssl_inv.run.evaluating import MEASUREMENTS, chosen_protocols, evaluated, require_evaluation
from ssl_inv.run.exam.given_features import GivenFeatures
from ssl_inv.run.judging import measurements, with_second
from ssl_inv.run.judging_progress import JudgingProgress
from ssl_inv.run.kept_measurements import Cost, KeptMeasurements
from ssl_inv.run.remarks import Remarks, remarks, told_once
from ssl_inv.run.results_file import RESULTS

Examinee = LoadedModel | GivenFeatures
"""An encoder with data, or features that somebody else has computed."""

RESAMPLES = 2000
"""Resamples of objects where encoders are compared: the ends of an interval need more than a standard error."""


@dataclass(frozen=True)
class Examined:
    """What was measured on one encoder.

    Attributes:
        description: a sentence about it.
        table: every result with its baselines.
        costs: what each protocol took, with its baselines.
        skipped: protocols that need something which the encoder lacks, with the reasons.
        validation: the features of the validation objects.
        remarks: what a reader must know of the data.
    """

    description: str
    table: list[Comparison]
    costs: dict[str, Cost] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    validation: FeatureTable | None = None
    remarks: Remarks = field(default_factory=Remarks)


def examine(
    encoders: Mapping[str, Examinee],
    chosen: object = None,
    settings: EvaluationSettings | None = None,
    places: Mapping[str, Path | None] | None = None,
    quiet: bool = False,
    team: Team = ALONE,
    around: Callable[[str], Any] | None = None,
    checked: Callable[[], None] = lambda: None,
) -> dict[str, Examined]:
    """Measure every encoder.

    Protocols that compare two encoders compare each with the first. Where there are several, standard errors come from
    `RESAMPLES` resamples of the objects, the same for all encoders.

    Args:
        encoders: by the name that a table shows.
        chosen: the protocols; see `chosen_protocols`.
        settings: of the evaluation of features without a network; encoders have their own.
        places: a folder for the results of each, or None.
        quiet: whether to show no progress.
        team: the processes that share the encoding.
        around: makes a context manager around the measurement of an encoder from its name.
        checked: called when settings and data of all encoders are known to be fine.

    Returns:
        By name; nothing on all processes of the team but the first.

    Raises:
        RecipeError: before anything is measured, if an encoder or its data allow no evaluation.
    """
    settings, device = settings or EvaluationSettings(), best_device()
    asked = {name: _protocols(one, chosen, settings, device, len(encoders) > 1) for name, one in encoders.items()}
    checked()
    found: dict[str, Examined] = {}
    first: Encoded | None = None
    for name, one in encoders.items():
        place = None if places is None else places.get(name)
        if isinstance(one, GivenFeatures):
            if not team.first:
                continue
            encoded, examined = _of_features(one, asked[name], place, first, quiet)
        else:
            # Encoders of several seeds are measured on the same objects.
            seed = 0 if len(encoders) > 1 else None
            with nullcontext() if around is None else around(name):
                judgement = evaluated(one, place, asked[name], quiet, team, first, seed)
            if judgement is None:
                continue
            encoded = judgement.trained
            facts = one.description, judgement.table, judgement.costs, judgement.skipped
            examined = Examined(*facts, judgement.trained.validation, judgement.remarks)
        found[name] = examined
        first = first or Encoded(encoded.train, encoded.validation, probed=encoded.probed)
    for warning in told_once([one.remarks for one in found.values()]):
        say(warning)
    return found


def _protocols(
    one: Examinee, chosen: object, settings: EvaluationSettings, device: torch.device, several: bool
) -> Protocols:
    protocols = (
        chosen_protocols(chosen, settings, device)
        if isinstance(one, GivenFeatures)
        else require_evaluation(one, chosen)[1]
    )
    return {name: _resampled(protocol) if several else protocol for name, protocol in protocols.items()}


def _resampled(protocol: Protocol) -> Protocol:
    return replace(protocol, bootstrap=replace(protocol.bootstrap, resamples=RESAMPLES))


def _of_features(
    given: GivenFeatures, protocols: Protocols, place: Path | None, second: Encoded | None, quiet: bool
) -> tuple[Encoded, Examined]:
    encoded = with_second(Encoded(given.train, given.validation), second)
    kept = None if place is None else KeptMeasurements(place / MEASUREMENTS, None)
    progress = Progress(quiet=quiet)
    try:
        with within("evaluation"):
            table, costs = measurements(encoded, None, protocols, 0, JudgingProgress(progress, 0), kept)
    finally:
        progress.close()
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        write_text(place / RESULTS, to_json(table) + "\n")
    facts = given.description, table, costs, skipped(encoded, protocols)
    return encoded, Examined(*facts, given.validation, remarks(given.train, given.validation))
