"""What comes after the last step: judgement beside its baselines, export, report."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.backbones import Backbone, SharedPass, to_channels_last
from ssl_inv.data.base import Data, Source
from ssl_inv.evaluation import report
from ssl_inv.evaluation.features import FeatureTable, frozen
from ssl_inv.evaluation.results import Comparison, Result, format_table, to_json
from ssl_inv.evaluation.retrieval import ViewPredictor
from ssl_inv.evaluation.spectrum import singular_values
from ssl_inv.evaluation.suite import Encoded, evaluate_with_baselines
from ssl_inv.export import Preprocessing, export_timm
from ssl_inv.judge import PREDICTION, FeatureCache, choose_objects, feature_table, protocol_of, with_prediction_space
from ssl_inv.objectives.base import Encoder, Objective
from ssl_inv.pretrain import Run, build_augmentation, build_networks
from ssl_inv.recipe import Recipe, named
from ssl_inv.run_folder import RunFolder, now, write_text
from ssl_inv.settings import EvaluationSettings
from ssl_inv.training_views import TrainingViews, judged_data
from ssl_inv.transforms import Action

SUMMARY = (
    "linear/top1",
    "knn/top1",
    "r2/relative/rotation",
    "r2_pooled/relative/rotation",
    "retrieval/val-val/mrr",
    "retrieval/val-val/hit@1",
    "spectrum/rankme",
)
"""The measurements that the terminal and the top of the page show; R2 of other parameters joins them where no rotation is recorded."""
_SHOWN_PAIRS, _SHOWN_QUERIES, _SHOWN_NEIGHBOURS, _SHOWN_PARAMETERS = 9, 6, 4, 2


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
    return Judgement(table + unmeasured(data.validation, trained[1]), encoded, baseline)


def unmeasured(source: Source, objective: Objective | None) -> list[Comparison]:
    """A line for everything of the objective's own that cannot be judged on data without a parameter that it is told."""
    if objective is None or not (missing := [name for name in objective.parameters_used if name not in source.groups]):
        return []
    reason = f"not measured: the objective is told {', '.join(missing)}, which these data do not record"
    kind, own = type(objective), []
    if kind.predictor is not Objective.predictor:
        own.append(Result("retrieval", PREDICTION, None, detail=reason))
    if kind.aggregation is not Objective.aggregation:
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
    # What is probed and what predictions are made from come of the same features.
    shared = SharedPass(backbone) if isinstance(backbone, Backbone) else backbone
    encoder: Encoder = _whole(shared) if objective is None else objective.representations(shared)  # type: ignore[arg-type]
    module: nn.Module = backbone if objective is None else nn.ModuleList([backbone, objective])
    # As in training: other kernels round otherwise, and a probe makes more of that.
    to_channels_last(module)
    predictor, aggregation = None, None
    if objective is not None and not unmeasured(data.validation, objective):
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
        () if objective is None else tuple(name for name in objective.parameters_used if name in data.validation.groups),
    )


def _whole(backbone: nn.Module) -> Encoder:
    return lambda pixels: {"all": backbone(pixels)}


def finish(run: Run, folder: RunFolder, say: Callable[[str], None]) -> Judgement | None:
    """Judge, export and report a run whose training is done.

    Args:
        run: the trained run.
        folder: where its files are.
        say: told what is being done.

    Returns:
        What was measured, or None if the recipe asks for no evaluation.
    """
    settings = EvaluationSettings(**run.recipe["evaluation"])
    device, seed = run.trainer.strategy.root_device, run.settings.seed
    with named("evaluation"):
        data = judged_data(run.data, settings, run.objective.plan, build_augmentation(run.recipe), seed, device)
    with named("export"):
        export_run(run.recipe, run.backbone, run.data.train.image_size, folder.export_folder)
    judgement = None
    if settings.protocol != "none":
        say("evaluating")
        backbone, objective = run.backbone.to(device), run.objective.to(device)
        untrained = tuple(network.to(device) for network in build_networks(run.recipe, run.module.view_maker.groups))
        maker = run.module.view_maker.to(device)
        normalise = maker.normalise if settings.views_of == "training" else maker.whole
        with named("evaluation"):
            judgement = judge(data, (backbone, objective), untrained, normalise, settings, device, seed)  # type: ignore[arg-type]
        write_text(folder.path / "results.json", to_json(judgement.table) + "\n")
        write_text(folder.path / "results.txt", format_table(judgement.table) + "\n")
    report.write_report(report_content(run, data, folder, judgement), folder.report_file)
    rows = [] if judgement is None else headlines(judgement.table)
    folder.update(
        state="complete",
        ended=now(),
        score={f"{row.trained.name} ({row.trained.part})": row.trained.value for row in rows},
    )
    return judgement


def export_run(recipe: Recipe, backbone: Backbone, image_size: int, folder: Path) -> Path:
    """Write the timm folder of a trained backbone, with the recipe's normalisation and view size."""
    return export_timm(
        backbone.model, backbone.architecture, folder, preprocessing_of(recipe, image_size), backbone.arguments, overwrite=True
    )


def preprocessing_of(recipe: Recipe, image_size: int) -> Preprocessing:
    """What a recipe does to an image before the backbone sees it."""
    size = build_augmentation(recipe).view_size(image_size)
    normalization = recipe["normalization"]
    share = min(1.0, size / image_size)
    if share < 1 and math.floor(size / share) != image_size:
        # timm rounds down to a pixel less than there is.
        share = size / (image_size + 1e-3)
    return Preprocessing(tuple(normalization["mean"]), tuple(normalization["std"]), size, crop_share=share)


def headlines(table: list[Comparison]) -> list[Comparison]:
    """The few rows that stand for a run: classes on all features; how a view was made on the equivariant part, or on all without one."""
    names = [row.trained.name for row in table]
    relative = "r2/relative/rotation" if "r2/relative/rotation" in names else "r2/relative/"
    chosen = []
    for row in table:
        knows_how = row.trained.name.startswith(relative)
        part = "equivariant" if knows_how and any(one.trained.part == "equivariant" for one in table) else "all"
        if row.trained.value is not None and row.trained.part == part and (knows_how or row.trained.name in ("linear/top1", "knn/top1")):
            chosen.append(row)
    return chosen


def report_content(run: Run, judged: Data, folder: RunFolder, judgement: Judgement | None) -> report.ReportContent:
    """Everything that the page of a run shows; `judged` has the views that it shows pictures of."""
    record, metrics = folder.record(), folder.metrics()
    versions = record.get("versions", {})
    shown = {
        "ssl-inv": "version of ssl-inv",
        "torch": "version of torch",
        "commit": "commit",
        "uncommitted": "files changed since the commit",
    }
    facts = {
        "objective": run.recipe["objective"]["name"],
        "backbone": f"{run.backbone.architecture}, {sum(p.numel() for p in run.backbone.parameters()) / 1e6:.1f} M parameters",
        "data": f"{run.recipe['data']['name']}, {len(run.module.batches.source):,} training and "
        f"{len(run.data.validation):,} validation objects",
        "training": f"{run.module.step:,} steps of {run.settings.batch_size}",
        **run.data.notes,
        **{text: str(versions[name]) for name, text in shown.items() if name in versions},
    }
    notices = list(record.get("warnings", []))
    if broken := record.get("broken_images"):
        notices.append(f"{len(broken)} images could not be read and were skipped, the first is {broken[0]}")
    return report.ReportContent(
        title=folder.path.resolve().name,
        recipe=run.recipe.dump(),
        facts=facts,
        warnings=notices,
        results=[] if judgement is None else result_rows(judgement.table),
        curves=curves(metrics),
        view_pairs=view_pairs(in_pairs(run, judged.validation)),
        neighbours=[] if judgement is None else neighbour_rows(judged.validation, judgement.trained.validation),
        spectra={} if judgement is None else spectra(judgement),
    )


def summary(table: list[Comparison]) -> list[Comparison]:
    """The rows that say most, grouped by measurement; everything else stands in results.txt and in the report."""
    names = list(dict.fromkeys(row.trained.name for row in table))
    shown = [name for name in names if name in SUMMARY]
    if "r2/relative/rotation" not in names:
        shown += [name for name in names if name.startswith("r2/")]
    return [row for name in shown for row in table if row.trained.name == name and row.trained.value is not None]


def result_rows(table: list[Comparison]) -> list[report.ResultRow]:
    """The lines of the results table that have a number: the summary, then the rest, each grouped by measurement."""
    top, opening = summary(table), headlines(table)
    names = list(dict.fromkeys(row.trained.name for row in table))
    rest = [row for name in names for row in table if row.trained.name == name and row not in top]
    return [
        report.ResultRow(
            row.trained.name,
            row.trained.part,
            row.trained.value,
            row.trained.spread,
            None if row.untrained is None else row.untrained.value,
            None if row.shuffled is None else row.shuffled.value,
            row.reference,
            headline=row in opening,
            folded=row not in top,
        )
        for row in (*top, *rest)
        if row.trained.value is not None
    ]


def curves(metrics: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Loss terms and monitor scores by step, from the lines of metrics.jsonl."""
    found: dict[str, list[tuple[float, float]]] = {}
    for entry in metrics:
        for group in ("loss", "monitor"):
            for name, value in entry.get(group, {}).items():
                found.setdefault(f"{group}/{name}", []).append((entry["step"], value))
    return found


def _pictures(source: Source, objects: np.ndarray[Any, Any], views: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return source.load(objects.astype(np.int64), views.astype(np.int64)).pixels.cpu().permute(0, 2, 3, 1).contiguous().numpy()


def in_pairs(run: Run, judged: Source) -> Source:
    """Judged objects in views that can be compared: their own, or of images that have one each such as the objective is shown."""
    augmentation = build_augmentation(run.recipe)
    if judged.view_counts.max() > 1 or not augmentation.groups:
        return judged
    try:
        return TrainingViews(judged, run.objective.plan, augmentation, 2, run.settings.seed)
    except ValueError:  # what is made depends on the batch that it stands in, so there is nothing to show
        return judged


def view_pairs(source: Source) -> report.ViewPairs | None:
    """The first two views of some objects and what leads from one to the other; None without second views or without a record of them."""
    objects = np.flatnonzero(source.view_counts >= 2)[:_SHOWN_PAIRS]
    if not len(objects) or not source.groups:
        return None
    zeros = np.zeros_like(objects)
    first, second = source.load(objects, zeros), source.load(objects, zeros + 1)
    action = first.transform.to("cpu").relative(second.transform.to("cpu"))
    pixels = np.stack([_pictures(source, objects, zeros), _pictures(source, objects, zeros + 1)], axis=1)
    return report.ViewPairs(pixels, [report.describe_action(action, row) for row in range(len(objects))])


def neighbour_rows(source: Source, table: FeatureTable) -> list[report.NeighbourRow]:
    """Some views and their nearest neighbours among other objects, in the invariant and the equivariant part, or in all of it."""
    parts: list[str] = [part for part in ("invariant", "equivariant") if part in table.features] or ["all"]
    distinct_objects = len(torch.unique(table.objects))
    if distinct_objects <= _SHOWN_NEIGHBOURS:
        return []
    queries = torch.linspace(0, len(table) - 1, _SHOWN_QUERIES).long()
    near = {
        part: report.nearest_neighbours(table.part(part), queries, _SHOWN_NEIGHBOURS, table.objects, exclude_same_object=True)
        for part in parts
    }
    return [
        report.NeighbourRow(
            _picture(source, table, int(query)),
            _label(table, int(query)),
            {part: [_neighbour(source, table, int(query), int(other)) for other in near[part][number]] for part in parts},
        )
        for number, query in enumerate(queries)
    ]


def _picture(source: Source, table: FeatureTable, row: int) -> np.ndarray[Any, Any]:
    picture: np.ndarray[Any, Any] = _pictures(source, table.objects[row : row + 1].numpy(), table.views[row : row + 1].numpy())[0]
    return picture


def _label(table: FeatureTable, row: int) -> str:
    known = table.labels is not None and (table.labelled is None or bool(table.labelled[row]))
    return table.class_names[int(table.labels[row])] if known and table.class_names and table.labels is not None else ""


def _neighbour(source: Source, table: FeatureTable, query: int, other: int) -> report.Neighbour:
    rows = torch.tensor([query]), torch.tensor([other])
    words = ""
    if table.transform.names:
        names = [name for name in ("rotation",) if name in table.transform.names] or table.transform.names[:_SHOWN_PARAMETERS]
        chosen = [table.transform.select(row).only(names) for row in rows]
        words = report.describe_action(chosen[0].relative(chosen[1]), 0)
    label, wanted = _label(table, other), _label(table, query)
    return report.Neighbour(_picture(source, table, other), label, words, label == wanted if label and wanted else None)


def spectra(judgement: Judgement) -> Mapping[str, Mapping[str, list[float]]]:
    """Singular values of the validation features by part, of the trained and of the untrained encoder."""
    encoders = {"trained": judgement.trained, "untrained": judgement.untrained}
    tables = {name: encoded.validation for name, encoded in encoders.items() if encoded is not None}
    parts = [part for part in judgement.trained.validation.features if part != PREDICTION]
    return {part: {name: singular_values(table.part(part)).tolist() for name, table in tables.items()} for part in parts}
