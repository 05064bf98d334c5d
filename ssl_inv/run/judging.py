"""The judgement of an encoder: features of both splits, every protocol on them, and the same for its untrained self."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.augment.policy import Augmentation
from ssl_inv.catalogue import PROTOCOLS, SettingError, require
from ssl_inv.data.source import Data, Indices, Source
from ssl_inv.engine.features import FeatureCache, choose_objects, evaluation_batches, shared_feature_table
from ssl_inv.engine.progress import Progress
from ssl_inv.engine.settings import EvaluationSettings
from ssl_inv.engine.team import ALONE, Team
from ssl_inv.evaluation.both_sides import THUMBNAIL, thumbnail
from ssl_inv.evaluation.protocols.base import Encoded, Protocol, ViewPredictor
from ssl_inv.evaluation.results import Comparison, Result
from ssl_inv.evaluation.suite import FULL, QUICK, Protocols, measured, skipped
from ssl_inv.nn.backbones import Backbone, Cached, to_channels_last
from ssl_inv.nn.mapper import mapper_of
from ssl_inv.nn.modes import frozen
from ssl_inv.objectives.base import Encoder, Objective
from ssl_inv.run.annotated import annotated
from ssl_inv.run.by_layer import in_common_width, layer_maps
from ssl_inv.run.judging_progress import JudgingProgress
from ssl_inv.run.kept_measurements import Cost, KeptMeasurements, costing
from ssl_inv.run.remarks import Remarks, remarks
from ssl_inv.transforms import Action
from ssl_inv.views import Plan
from ssl_inv.views.as_data import TrainingViews

PREDICTION = "prediction space"
"""The part of the features that the objective's own predictor reads and predicts. Retrieval uses it; no probe does."""

UNPROBED = (PREDICTION, THUMBNAIL)
"""Parts of a table of features that are not features of images."""


@dataclass(frozen=True)
class Judgement:
    """What was measured on one encoder, and the features that it was measured on.

    Attributes:
        table: every result with its baselines.
        trained: the encoder's features.
        untrained: the features of the same encoder with random weights.
        skipped: protocols that need something which the encoder lacks, with the reasons.
        costs: what each protocol took, with its baselines.
        remarks: what a reader must know of the data.
    """

    table: list[Comparison]
    trained: Encoded
    untrained: Encoded | None
    skipped: dict[str, str]
    costs: dict[str, Cost] = field(default_factory=dict)
    remarks: Remarks = field(default_factory=Remarks)


def judge(
    data: Data,
    trained: tuple[nn.Module, Objective | None],
    untrained: tuple[nn.Module, Objective | None] | None,
    normalise: Callable[[Tensor], Tensor],
    settings: EvaluationSettings,
    device: torch.device,
    seed: int = 0,
    cache: FeatureCache | None = None,
    show: Progress | None = None,
    protocols: Protocols | None = None,
    team: Team = ALONE,
    kept: KeptMeasurements | None = None,
    second: Encoded | None = None,
) -> Judgement | None:
    """Measure an encoder and its untrained self.

    Args:
        data: training objects to fit probes on, validation objects to score them on.
        trained: a backbone, and the objective that names the parts of its features to probe; without an objective, all
            features are probed.
        untrained: the same with random weights, or None.
        normalise: from pixels in [0, 1] to the encoder's input.
        settings: what is measured.
        device: where the networks are.
        seed: draws the training objects and shuffles targets.
        cache: keeps features for a further call; None keeps none.
        show: shows what is done and the time left; None shows nothing.
        protocols: what is measured in place of the protocols that the settings name.
        team: the processes that share the encoding. They hold the same networks and data.
        kept: measurements of a call before, which are not made again, and where each is kept once it is made.
        second: another encoder's features of the same views, for protocols that compare two.

    Returns:
        What the first process of the team has measured; None on the others.
    """
    protocols = protocols_of(settings, device) if protocols is None else protocols
    encoders = 1 if untrained is None else 2
    views = sum(
        _view_count(source, objects, settings.views) for source, objects in _splits(data, settings, seed).values()
    )
    progress = JudgingProgress(show or Progress(quiet=True), encoders * views)

    def of(encoder: tuple[nn.Module, Objective | None], pictures: bool) -> Encoded | None:
        return encode_data(data, *encoder, normalise, settings, device, seed, cache, progress, team, pictures)

    encoded = of(trained, True)
    baseline = None if untrained is None else of(untrained, False)
    if encoded is None:
        return None
    encoded, layers = in_common_width(encoded)
    baseline = None if baseline is None else in_common_width(baseline)[0]
    beside = with_second(encoded, second)
    table, costs = measurements(beside, baseline, protocols, seed, progress, kept)
    unknown = unmeasured(data.validation, *trained)
    known = remarks(encoded.train, encoded.validation, data)
    known = replace(known, facts=(*known.facts, layers)) if layers else known
    return Judgement(table + unknown, encoded, baseline, skipped(beside, protocols), costs, known)


def with_second(encoded: Encoded, second: Encoded | None) -> Encoded:
    """The encoder beside a second one, if that has features of the same views."""
    pairs = () if second is None else ((encoded.train, second.train), (encoded.validation, second.validation))
    same = second is not None and all(one.has_views_of(other) for one, other in pairs)
    return replace(encoded, second=second if same else None)


def measurements(
    trained: Encoded,
    untrained: Encoded | None,
    protocols: Protocols,
    seed: int,
    progress: JudgingProgress,
    kept: KeptMeasurements | None = None,
) -> tuple[list[Comparison], dict[str, Cost]]:
    """The results of every protocol that can run, with baselines, and what each took."""
    if untrained is not None:
        untrained = replace(untrained, second=trained.second)
    running = {name: protocol for name, protocol in protocols.items() if protocol.lacks(trained) is None}
    progress.measures(list(running))
    table: list[Comparison] = []
    costs: dict[str, Cost] = {}
    for name, protocol in running.items():
        known = None if kept is None else kept.read(name, protocol, trained, untrained, seed)
        if known is None:
            with costing(protocol.device) as cost:
                rows = measured(name, protocol, trained, untrained, seed, progress.begins)
            known = rows, cost
            if kept is not None:
                kept.write(name, protocol, trained, untrained, seed, rows, cost)
        table += known[0]
        costs[name] = known[1]
    return table, costs


def _splits(data: Data, settings: EvaluationSettings, seed: int) -> dict[str, tuple[Source, Indices]]:
    """The two sources, and which of their objects are judged."""
    return {
        "train": (data.train, choose_objects(data.train, settings.objects, seed)),
        "validation": (data.validation, np.arange(len(data.validation))),
    }


def _view_count(source: Source, objects: Indices, views: int) -> int:
    return int(np.minimum(source.view_counts[objects], views).sum())


def unmeasured(source: Source, backbone: nn.Module, objective: Objective | None) -> list[Comparison]:
    """A result without a value for the objective's own predictor and aggregation, if the data lack a parameter that the
    objective is told.
    """
    if objective is None or not (missing := [name for name in objective.parameters_used if name not in source.groups]):
        return []
    reason = f"not measured: the objective is told {', '.join(missing)}, which these data do not record"
    assert isinstance(backbone, Backbone)
    own = []
    if objective.predictor(backbone) is not None:
        own.append(Result("retrieval", PREDICTION, None, detail=reason))
    if objective.aggregation(backbone) is not None:
        own.append(Result("aggregation", "all", None, detail=reason))
    return [Comparison(one) for one in own]


def encode_data(
    data: Data,
    backbone: nn.Module,
    objective: Objective | None,
    normalise: Callable[[Tensor], Tensor],
    settings: EvaluationSettings,
    device: torch.device,
    seed: int,
    cache: FeatureCache | None = None,
    progress: JudgingProgress | None = None,
    team: Team = ALONE,
    pictures: bool = False,
) -> Encoded | None:
    """Features of both splits, and the objective's predictor and its network for several views if it has them. With
    `pictures`, tables also have the part `THUMBNAIL`.

    None on all processes of the team but the first.
    """
    # Probed features and predictions share one forward pass.
    shared: Any = Cached(backbone, batches=1) if isinstance(backbone, Backbone) else backbone
    probed: Encoder = (
        (lambda pixels: parts_of(shared(pixels))) if objective is None else objective.representations(shared)
    )
    module: nn.Module = backbone if objective is None else nn.ModuleList([backbone, objective])
    # As in training: other kernels round differently, and a probe amplifies that.
    to_channels_last(module)
    predictor, aggregation = None, None
    if objective is not None and all(name in data.validation.groups for name in objective.parameters_used):
        predictor, aggregation = objective.predictor(shared), objective.aggregation(shared)

    def encode(pixels: Tensor) -> dict[str, Tensor]:
        parts = probed(pixels)
        return parts if predictor is None else {**parts, PREDICTION: predictor.embed(pixels)}

    def encode_data_views(pixels: Tensor) -> dict[str, Tensor]:
        return {**encode(pixels), THUMBNAIL: thumbnail(pixels)} if pictures else encode(pixels)

    def encode_others(pixels: Tensor) -> dict[str, Tensor]:
        with frozen(module), torch.no_grad():
            return encode(pixels)

    def predict(embedding: Tensor, action: Action) -> Tensor:
        assert predictor is not None
        with frozen(module), torch.no_grad():
            return predictor.predict(embedding.to(device), action.to(device)).cpu()

    def aggregate(features: Tensor, actions: Sequence[Action]) -> Tensor:
        assert aggregation is not None
        with frozen(module), torch.no_grad():
            return aggregation(features.to(device), [action.to(device) for action in actions]).cpu()

    splits = _splits(data, settings, seed)
    tables = {}
    told = None if progress is None else progress.encoded
    for split, (source, objects) in splits.items():
        file = None if cache is None else cache.file(split, module, source, objects, settings.views)
        if progress is not None and file is not None and file.is_file():
            progress.known(_view_count(source, objects, settings.views))
        table = shared_feature_table(
            team, encode_data_views, module, source, objects, settings.views, normalise, device, file, told
        )
        if table is not None:
            tables[split] = table
    if not team.first:
        return None

    mapper = mapper_of(backbone)

    def maps(pixels: Tensor) -> Tensor:
        with frozen(module), torch.no_grad():
            if isinstance(shared, Cached):
                return shared.whole_map(pixels)
            assert mapper is not None
            return mapper(pixels)  # type: ignore[no-any-return]

    dark, bright = (
        normalise(torch.full((1, data.validation.channels, *[data.validation.image_size] * 2), level, device=device))
        for level in (0.0, 1.0)
    )

    def network() -> nn.Module:
        return copy.deepcopy(backbone)

    colours, has_maps = _colours(dark, bright), mapper is not None and _has_maps(maps, dark)
    of_layers = layer_maps(backbone, dark)
    used = () if objective is None else objective.parameters_used
    return Encoded(
        tables["train"],
        tables["validation"],
        predictor=None if predictor is None else ViewPredictor(PREDICTION, predict),
        aggregate=None if aggregation is None else aggregate,
        told=tuple(name for name in used if name in data.validation.groups),
        probed=tuple(part for part in tables["train"].features if part not in UNPROBED),
        encode=encode_others,
        images=lambda split: evaluation_batches(*splits[split], settings.views, normalise, device),
        maps=next(reversed(of_layers.values()), maps if has_maps else None),
        layer_maps=of_layers,
        colours=colours,
        **annotated({split: source for split, (source, _) in splits.items()}, dark.shape[-1], colours, device),
        mapper=(lambda: copy.deepcopy(mapper)) if has_maps else None,  # type: ignore[arg-type, return-value]
        network=network if mapper is not None else None,
    )


def _has_maps(maps: Callable[[Tensor], Tensor], image: Tensor) -> bool:
    """Whether a network gives a feature map, or tokens that fill a square."""
    try:
        return maps(image).dim() == 4
    except (ValueError, IndexError):  # of tokens that fill no square, and of networks that have vectors only
        return False


def _colours(dark: Tensor, bright: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of each channel, from normalised images of zeros and of ones; None without three channels."""
    if dark.shape[1] != 3:
        return None
    zero, one = (image[0].mean(dim=(1, 2)).cpu() for image in (dark, bright))
    return -zero / (one - zero), 1 / (one - zero)


def parts_of(features: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Features by part; a single tensor is the part `all`."""
    return {"all": features} if isinstance(features, Tensor) else dict(features)


def require_classes(source: Source) -> None:
    """Refuse a source whose labels are all of one class: a judgement by itself should fail at once.

    Raises:
        ValueError: if there are labels of one class only.
    """
    labels = source.labels
    if labels is not None and len(torch.unique(known := labels.classes[labels.known])) == 1:
        raise ValueError(
            f"labels have one class only: all {len(known)} labelled training objects are "
            f"{labels.names[int(known[0])]!r}"
        )


def protocols_of(settings: EvaluationSettings, device: torch.device | str = "cpu") -> Protocols:
    """The suite's protocols with the recipe's settings; `Protocol.recipe` says which field a setting belongs to."""
    quick, chosen = settings.protocol == "quick", {}
    for name, protocol in {**(QUICK if quick else FULL), **further_protocols(settings.also, quick)}.items():
        own = {field: getattr(settings, key) for key, field in protocol.recipe.items()}
        fields: dict[str, Any] = {
            field: tuple(value) if isinstance(value, list) else value for field, value in own.items()
        }
        chosen[name] = replace(protocol, device=str(device), **fields)
    return chosen


def further_protocols(names: Sequence[str], quick: bool) -> dict[str, Protocol]:
    """Protocols that run only where they are asked for.

    Raises:
        SettingError: for the setting `also`, if there is none of a name, or it is no protocol or one that always runs.
    """
    found: dict[str, Protocol] = {}
    for name in names:
        require(name not in FULL, "also", f"{name!r} is one of the protocols that always run")
        try:
            kind = PROTOCOLS.find(name).load()
        except SettingError as error:
            raise SettingError("also", error.problem) from error
        fits = isinstance(kind, type) and issubclass(kind, Protocol)
        require(fits, "also", f"{name!r} does not derive from ssl_inv.evaluation.protocols.base.Protocol")
        found[name] = kind.quick() if quick else kind()
    return found


def judged_data(
    data: Data,
    settings: EvaluationSettings,
    plan: Plan,
    augmentation: Augmentation,
    seed: int,
    device: torch.device | str = "cpu",
) -> Data:
    """The data in the views that are judged: the data's own, or views made as in training.

    Args:
        data: training and validation objects.
        settings: choose the views.
        plan: the objective's.
        augmentation: the run's.
        seed: decides how views are made.
        device: makes them.
    """
    further_protocols(settings.also, settings.protocol == "quick")
    if settings.views_of == "data":
        return data
    train, validation = (
        TrainingViews(one, plan, augmentation, settings.views, seed, device) for one in (data.train, data.validation)
    )
    return Data(train, validation, data.notes, data.held_out)
