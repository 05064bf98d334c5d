"""What comes after the last step: judgement beside its baselines, export, report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.augment.policy import Augmentation
from ssl_inv.data.source import Data, Source
from ssl_inv.engine.features import FeatureCache, choose_objects, feature_table
from ssl_inv.engine.settings import EvaluationSettings
from ssl_inv.evaluation.protocols.retrieval import ViewPredictor
from ssl_inv.evaluation.results import Comparison, Result
from ssl_inv.evaluation.suite import FULL, QUICK, Encoded, Protocol, evaluate_with_baselines
from ssl_inv.nn.backbones import Backbone, Cached, to_channels_last
from ssl_inv.nn.modes import frozen
from ssl_inv.objectives.base import Encoder, Objective
from ssl_inv.transforms import Action
from ssl_inv.views import Plan
from ssl_inv.views.as_data import TrainingViews


@dataclass(frozen=True)
class Judgement:
    """What was measured on one encoder, and the features that it was measured on."""

    table: list[Comparison]
    trained: Encoded
    untrained: Encoded | None


def judge(
    data: Data,
    trained: tuple[nn.Module, Objective | None],
    untrained: tuple[nn.Module, Objective | None] | None,
    normalise: Callable[[Tensor], Tensor],
    settings: EvaluationSettings,
    device: torch.device,
    seed: int = 0,
    cache: FeatureCache | None = None,
) -> Judgement:
    """Judge an encoder beside its untrained self.

    Args:
        data: training objects to fit probes on, validation objects to judge on.
        trained: a backbone, and the objective that says which parts of its features to probe; without one, all of them.
        untrained: the same with random weights, or None.
        normalise: from pixels in [0, 1] to what the backbone expects.
        settings: what is measured.
        device: where the networks are.
        seed: decides which training objects are taken.
        cache: where features are kept for a further call; None keeps none.
    """
    encoded = encode_data(data, *trained, normalise, settings, device, seed, cache)
    baseline = None if untrained is None else encode_data(data, *untrained, normalise, settings, device, seed, cache)
    parts = tuple(part for part in encoded.train.features if part != PREDICTION)
    table = evaluate_with_baselines(encoded, baseline, protocol_of(settings, parts, seed, device))
    return Judgement(table + unmeasured(data.validation, *trained), encoded, baseline)


def unmeasured(source: Source, backbone: nn.Module, objective: Objective | None) -> list[Comparison]:
    """A line for each network of the objective that is not judged because the data lack a parameter that it is told."""
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
) -> Encoded:
    """Features of both splits, with the objective's predictor and its network for several views if it has them."""
    # Probes and the predictor use the same features of a batch.
    shared = Cached(backbone, batches=1) if isinstance(backbone, Backbone) else backbone
    encoder: Encoder = _whole(shared) if objective is None else objective.representations(shared)  # type: ignore[arg-type]
    module: nn.Module = backbone if objective is None else nn.ModuleList([backbone, objective])
    # As in training: other kernels round otherwise, and a probe makes more of that.
    to_channels_last(module)
    predictor, aggregation = None, None
    if objective is not None and all(name in data.validation.groups for name in objective.parameters_used):
        predictor, aggregation = objective.predictor(shared), objective.aggregation(shared)  # type: ignore[arg-type]
    if predictor is not None:
        encoder = with_prediction_space(encoder, predictor.embed)
    tables = {}
    for split, source, objects in (
        ("train", data.train, choose_objects(data.train, settings.objects, seed)),
        ("validation", data.validation, np.arange(len(data.validation))),
    ):
        file = None if cache is None else cache.file(split, module, source, objects, settings.views)
        tables[split] = feature_table(encoder, module, source, objects, settings.views, normalise, device, file)

    def predict(embedding: Tensor, action: Action) -> Tensor:
        assert predictor is not None
        with frozen(module), torch.no_grad():
            return predictor.predict(embedding.to(device), action.to(device)).cpu()

    def aggregate(features: Tensor, actions: Sequence[Action]) -> Tensor:
        assert aggregation is not None
        with frozen(module), torch.no_grad():
            return aggregation(features.to(device), [action.to(device) for action in actions]).cpu()

    return Encoded(
        tables["train"],
        tables["validation"],
        None if predictor is None else ViewPredictor(PREDICTION, predict),
        None if aggregation is None else aggregate,
        ()
        if objective is None
        else tuple(name for name in objective.parameters_used if name in data.validation.groups),
    )


def _whole(backbone: nn.Module) -> Encoder:
    return lambda pixels: {"all": backbone(pixels)}


PREDICTION = "prediction space"
"""The part of a feature table in which the objective's own predictor works; retrieval reads it, nothing probes it."""


def require_classes(source: Source) -> None:
    """Raise a `ValueError` if a source has labels, but all are of one class: asked for a judgement alone, one wants to
    know at once.
    """
    labels = source.labels
    if labels is not None and len(torch.unique(known := labels.classes[labels.known])) == 1:
        raise ValueError(
            f"labels have one class only: all {len(known)} labelled training objects are {labels.names[int(known[0])]!r}"
        )


def with_prediction_space(encoder: Encoder, embed: Callable[[Tensor], Tensor]) -> Encoder:
    """An encoder that gives the predictor's embeddings beside the parts that are probed."""

    def encode(pixels: Tensor) -> dict[str, Tensor]:
        return {**encoder(pixels), PREDICTION: embed(pixels)}

    return encode


def protocol_of(
    settings: EvaluationSettings, parts: tuple[str, ...], seed: int = 0, device: torch.device | str = "cpu"
) -> Protocol:
    """The suite's protocol that the recipe's settings name, probing `parts` with heads that are trained on a device."""
    base, place = QUICK if settings.protocol == "quick" else FULL, str(device)
    return replace(
        base,
        linear=replace(base.linear, device=place),
        transforms=replace(base.transforms, device=place),
        neighbours=replace(base.neighbours, k=settings.neighbours),
        parts=parts,
        aggregate=tuple(settings.aggregate),
        paths=replace(base.paths, observed=tuple(settings.paths)),
        shuffle_seed=seed,
    )


def judged_data(
    data: Data,
    settings: EvaluationSettings,
    plan: Plan,
    augmentation: Augmentation,
    seed: int,
    device: torch.device | str = "cpu",
) -> Data:
    """The data in the views that evaluation asks for.

    Args:
        data: training and validation objects.
        settings: say which views.
        plan: the objective's.
        augmentation: the run's.
        seed: decides how views are made.
        device: makes them.
    """
    if settings.views_of == "data":
        return data
    train, validation = (
        TrainingViews(one, plan, augmentation, settings.views, seed, device) for one in (data.train, data.validation)
    )
    return Data(train, validation, data.notes)
