"""The content of a run's report: facts, results, curves, view pairs, neighbours and spectra."""

import shlex
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import torch

from ssl_inv.data.pixels import as_colours
from ssl_inv.data.source import Data, Source
from ssl_inv.engine.progress import clock
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.spectrum import singular_values
from ssl_inv.evaluation.results import Comparison, to_json
from ssl_inv.evaluation.suite import KINDS
from ssl_inv.run.build import Run
from ssl_inv.run.continuing import went_on
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.judging import UNPROBED, Judgement
from ssl_inv.run.pages import report_page
from ssl_inv.run.tables import Table
from ssl_inv.transforms.words import describe_action
from ssl_inv.views.as_data import TrainingViews

_SHOWN_PAIRS, _SHOWN_QUERIES, _SHOWN_NEIGHBOURS, _SHOWN_PARAMETERS = 9, 6, 4, 2


def headlines(table: list[Comparison]) -> list[Comparison]:
    """The few rows that stand for a run, by what the protocols declare: classes on all features, how a view was made on
    the equivariant part if there is one.
    """
    shown, parts = _summary_names(table), {row.trained.part for row in table}
    opening = {
        kind.opening: kind.opening_part if kind.opening_part in parts else "all"
        for kind in KINDS.values()
        if kind.opening
    }
    return [
        row
        for row in table
        if row.trained.value is not None
        and row.trained.name in shown
        and any(row.trained.name.startswith(name) and row.trained.part == part for name, part in opening.items())
    ]


def scores(table: list[Comparison]) -> dict[str, float]:
    """The values of `headlines` by name and part, as run.json keeps them."""
    return {
        f"{row.trained.name} ({row.trained.part})": row.trained.value
        for row in headlines(table)
        if row.trained.value is not None
    }


def summary(table: list[Comparison]) -> list[Comparison]:
    """The rows that the terminal and the top of the report's table show, grouped by measurement."""
    names = _summary_names(table)
    return [row for name in names for row in table if row.trained.name == name and row.trained.value is not None]


def _summary_names(table: list[Comparison]) -> list[str]:
    names = list(dict.fromkeys(row.trained.name for row in table))
    shown = [name for name in names if any(name in kind.headlines for kind in KINDS.values())]
    for kind in KINDS.values():
        if kind.otherwise and kind.headlines[0] not in names:
            shown += [name for name in names if name.startswith(kind.otherwise)]
    return shown


def report_content(run: Run, judged: Data, folder: RunFolder, judgement: Judgement | None) -> report_page.ReportContent:
    """Everything that the page of a run shows; its pictures are views of `judged`."""
    record = folder.record()
    versions, host = record.get("versions", {}), record.get("host", {})
    parameters = sum(parameter.numel() for parameter in run.backbone.parameters())
    shown = {
        "ssl-inv": "version of ssl-inv",
        "torch": "version of torch",
        "commit": "commit",
        "uncommitted": "files changed since the commit",
    }
    facts = {
        "objective": run.recipe.objective.name,
        "backbone": f"{run.backbone.architecture}, {parameters / 1e6:.1f} M parameters",
        "data": f"{run.recipe.data.name}, {len(run.module.batches.source):,} training and "
        f"{len(run.data.validation):,} validation objects",
        "training": f"{run.module.step:,} steps of {run.recipe.trainer.batch_size}",
        "seed": str(run.recipe.trainer.seed),
        "duration": duration(record),
        "device": f"{host.get('gpu') or 'GPU'} ({run.device})"
        if run.device.type == "cuda"
        else f"{run.device}, {host.get('threads', '?')} of {host.get('cores', '?')} cores",
        **({"start": f"weights of {start['source']}"} if (start := record.get("start")) else {}),
        **({"continued": "; ".join(on)} if (on := went_on(record)) else {}),
        **({"stopped": f"at step {stopped['step']:,}: {stopped['why']}"} if (stopped := record.get("stopped")) else {}),
        **run.data.notes,
        **{text: str(versions[name]) for name, text in shown.items() if name in versions},
    }
    if judgement is not None and judgement.skipped:
        facts["not measured"] = "; ".join(f"{name}: {reason}" for name, reason in judgement.skipped.items())
    notices = list(record.get("warnings", []))
    if broken := record.get("broken_images"):
        notices.append(f"{len(broken)} images could not be read and were skipped, the first is {broken[0]}")
    return report_page.ReportContent(
        title=folder.path.resolve().name,
        command=shlex.join(record.get("command", [])),
        recipe=run.recipe.dump(),
        facts=facts,
        warnings=notices,
        results=[] if judgement is None else result_rows(judgement.table),
        curves=curves(folder.metrics()),
        view_pairs=view_pairs(in_pairs(run, judged.validation)),
        neighbours=[] if judgement is None else neighbour_rows(judged.validation, judgement.trained.validation),
        spectra={} if judgement is None else spectra(judgement),
        latents=[] if judgement is None else latents(judgement.table),
        angles={} if judgement is None else angles(judgement.table),
        downloads={} if judgement is None else downloads(judgement.table),
    )


def duration(record: Mapping[str, Any]) -> str:
    """How long a run has taken until its end, or until now, since its beginning or since it was last resumed."""
    pauses = record.get("resumed", [])
    begun = pauses[-1]["at"] if pauses else record.get("began")
    if begun is None:
        return "unknown"
    # A report that is made again is of a run that has ended.
    ended = record.get("ended") if record.get("state") == "complete" else None
    seconds = (_seconds(ended) if ended else time.time()) - _seconds(begun)
    since = f" since it was resumed at step {pauses[-1]['step']:,}" if pauses else ", with evaluation"
    return f"{clock(max(seconds, 0))}{since}"


def _seconds(moment: str) -> float:
    return datetime.strptime(moment, "%Y-%m-%dT%H:%M:%S%z").timestamp()


def latents(table: list[Comparison]) -> list[report_page.Latent]:
    """The R2 of every parameter in the invariant and equivariant part, or in all features: of the action between two
    views where it was measured, else of one view.
    """
    rows = result_rows(table)
    kinds = ("r2/relative/", "r2/absolute/")
    kind = next((one for one in kinds if any(row.name.startswith(one) for row in rows)), kinds[0])
    measured = [row for row in rows if row.name.startswith(kind)]
    known = {row.part for row in measured}
    both: list[str] = [one for one in ("invariant", "equivariant") if one in known]
    parts = both or sorted(known)
    found: dict[str, dict[str, report_page.ResultRow]] = {}
    for part in parts:
        for row in measured:
            if row.part == part:
                found.setdefault(row.name.removeprefix(kind), {})[part] = row
    return [report_page.Latent(name.replace("_", " "), by_part) for name, by_part in found.items()]


def angles(table: list[Comparison]) -> dict[str, dict[str, tuple[tuple[str, float], ...]]]:
    """The errors of predicted angles, by "parameter, part" and by encoder."""
    return {
        f"{row.trained.name.removeprefix('r2/relative/').replace('_', ' ')}, {row.trained.part}": {
            name: result.errors
            for name in ("trained", "untrained", "shuffled")
            if (result := getattr(row, name)) is not None and result.errors
        }
        for row in table
        if row.trained.errors and row.trained.name.startswith("r2/relative/")
    }


def downloads(table: list[Comparison]) -> dict[str, str]:
    """The results as files."""
    rows = [
        {
            "measure": row.trained.name,
            "part": row.trained.part,
            "trained": row.trained.value,
            "standard error": row.trained.spread,
            "untrained": None if row.untrained is None else row.untrained.value,
            "shuffled": None if row.shuffled is None else row.shuffled.value,
            "reference": row.reference,
            "remark": row.trained.detail,
        }
        for row in table
    ]
    return {"results.csv": Table(rows).to_csv(), "results.json": to_json(table)}


def result_rows(table: list[Comparison]) -> list[report_page.ResultRow]:
    """The rows with a number: the summary, then the rest, both grouped by measurement."""
    top, opening = summary(table), headlines(table)
    names = list(dict.fromkeys(row.trained.name for row in table))
    rest = [row for name in names for row in table if row.trained.name == name and row not in top]
    return [
        report_page.ResultRow(
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
    """Loss terms, monitor scores and the learning rate by step, from the lines of metrics.jsonl."""
    found: dict[str, list[tuple[float, float]]] = {}
    rates: list[tuple[float, float]] = []
    for entry in metrics:
        for group in ("loss", "monitor"):
            for name, value in entry.get(group, {}).items():
                found.setdefault(f"{group}/{name}", []).append((entry["step"], value))
        if "lr" in entry:
            rates.append((entry["step"], entry["lr"]))
    return {**found, "optimizer/learning rate": rates} if rates else found


def _pictures(source: Source, objects: np.ndarray[Any, Any], views: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    pixels = source.load(objects.astype(np.int64), views.astype(np.int64)).pixels.cpu()
    return as_colours(pixels).permute(0, 2, 3, 1).contiguous().numpy()


def in_pairs(run: Run, judged: Source) -> Source:
    """The judged objects in at least two views: their own; for single images, two views as in training."""
    augmentation = run.augmentation
    if judged.view_counts.max() > 1 or not augmentation.groups:
        return judged
    try:
        return TrainingViews(judged, run.objective.plan, augmentation, 2, run.recipe.trainer.seed)
    except ValueError:  # views that depend on their batch cannot be shown
        return judged


def view_pairs(source: Source) -> report_page.ViewPairs | None:
    """The first two views of some objects and the action between them; None without second views or records."""
    objects = np.flatnonzero(source.view_counts >= 2)[:_SHOWN_PAIRS]
    if not len(objects) or not source.groups:
        return None
    zeros = np.zeros_like(objects)
    first, second = source.load(objects, zeros), source.load(objects, zeros + 1)
    action = first.transform.to("cpu").relative(second.transform.to("cpu"))
    pixels = np.stack([_pictures(source, objects, zeros), _pictures(source, objects, zeros + 1)], axis=1)
    return report_page.ViewPairs(pixels, [describe_action(action, row) for row in range(len(objects))])


def neighbour_rows(source: Source, table: FeatureTable) -> list[report_page.NeighbourRow]:
    """Some views and their nearest neighbours among other objects, in the invariant and the equivariant part, or in all
    features.
    """
    parts: list[str] = [part for part in ("invariant", "equivariant") if part in table.features] or ["all"]
    distinct_objects = len(torch.unique(table.objects))
    if distinct_objects <= _SHOWN_NEIGHBOURS:
        return []
    queries = torch.linspace(0, len(table) - 1, _SHOWN_QUERIES).long()
    near = {
        part: report_page.nearest_neighbours(
            table.part(part), queries, _SHOWN_NEIGHBOURS, table.objects, exclude_same_object=True
        )
        for part in parts
    }
    return [
        report_page.NeighbourRow(
            _picture(source, table, int(query)),
            _label(table, int(query)),
            {
                part: [_neighbour(source, table, int(query), int(other)) for other in near[part][number]]
                for part in parts
            },
        )
        for number, query in enumerate(queries)
    ]


def _picture(source: Source, table: FeatureTable, row: int) -> np.ndarray[Any, Any]:
    picture: np.ndarray[Any, Any] = _pictures(
        source, table.objects[row : row + 1].numpy(), table.views[row : row + 1].numpy()
    )[0]
    return picture


def _label(table: FeatureTable, row: int) -> str:
    known = table.labels is not None and (table.labelled is None or bool(table.labelled[row]))
    return table.class_names[int(table.labels[row])] if known and table.class_names and table.labels is not None else ""


def _neighbour(source: Source, table: FeatureTable, query: int, other: int) -> report_page.Neighbour:
    rows = torch.tensor([query]), torch.tensor([other])
    words = ""
    if table.transform.names:
        names = [name for name in ("rotation",) if name in table.transform.names] or table.transform.names[
            :_SHOWN_PARAMETERS
        ]
        chosen = [table.transform.select(row).only(names) for row in rows]
        words = describe_action(chosen[0].relative(chosen[1]), 0)
    label, wanted = _label(table, other), _label(table, query)
    return report_page.Neighbour(
        _picture(source, table, other), label, words, label == wanted if label and wanted else None
    )


def spectra(judgement: Judgement) -> Mapping[str, Mapping[str, list[float]]]:
    """Singular values of the validation features by part, for the trained and the untrained encoder."""
    encoders = {"trained": judgement.trained, "untrained": judgement.untrained}
    tables = {name: encoded.validation for name, encoded in encoders.items() if encoded is not None}
    parts = [part for part in judgement.trained.validation.features if part not in UNPROBED]
    return {
        part: {name: singular_values(table.part(part)).tolist() for name, table in tables.items()} for part in parts
    }
