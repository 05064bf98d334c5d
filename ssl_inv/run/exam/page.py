"""The page of an exam: one HTML file with everything inside, readable without network."""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from ssl_inv.catalogue import RecipeError
from ssl_inv.data.source import Source
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import NEEDS
from ssl_inv.evaluation.suite import KINDS
from ssl_inv.nn.layer_features import depth_of
from ssl_inv.run.exam.depth import CAVEAT, depth_sentences
from ssl_inv.run.exam.differences import Difference
from ssl_inv.run.exam.examining import Examined
from ssl_inv.run.exam.families import FAMILIES, FURTHER, family_of, level_of
from ssl_inv.run.exam.writing import cell, difference_table, keys_of, long_table, row_of, wide_table
from ssl_inv.run.judging import UNPROBED
from ssl_inv.run.pages.comparison_page import COLOURS
from ssl_inv.run.pages.report import neighbour_rows, summary
from ssl_inv.run.pages.report_page import data_address, image
from ssl_inv.run.remarks import told_once
from ssl_inv.run.tables import Table, shown
from ssl_inv.transforms.keyed_random import permutation

_SHOWN_AT_ONCE = 12
_MOST_POINTS = 1000
_MOST_PARTS = 6
_MOST_PAIRS = 400
_NUMBERED = re.compile(r"^(?P<before>.+?)/(?P<at>\d+(?:\.\d+)?)(?P<unit>[ a-z%]*)(?P<after>/.*)?$")
"""A name with a number of something in it: `shift/4 pixels`, `few_labels/10%/knn`."""

_AXES = {"shift": "shift, in pixels", "shift_chosen": "shift, in pixels"}
"""What the numbers in names count, by the first word, where they have no unit."""


@dataclass(frozen=True)
class Cell:
    """One number of one encoder.

    Attributes:
        text: as it is read.
        by: as it is sorted.
        detail: a remark, with the baselines.
        mark: `+` or `-` where it differs from the first encoder by more than chance, else empty.
    """

    text: str
    by: str
    detail: str
    mark: str


@dataclass(frozen=True)
class Line:
    """A measurement of every encoder, and what no information scores."""

    name: str
    part: str
    cells: Sequence[Cell]
    level: str


@dataclass(frozen=True)
class Chart:
    """Curves on common axes: what is drawn, the label of the horizontal axis, and points `(x, y)` by encoder."""

    title: str
    axis: str
    curves: Mapping[str, Sequence[tuple[float, float]]]


def require_map(projection: str) -> None:
    """Raise a `RecipeError` if a projection needs a package that is not installed."""
    if projection == "umap":
        try:
            import umap  # noqa: F401
        except ImportError:
            raise RecipeError("--map umap needs umap-learn: pip install 'ssl-inv[umap]'") from None


def exam_page(
    found: Mapping[str, Examined],
    differences: Sequence[Difference],
    sources: Mapping[str, Source],
    facts: Mapping[str, Any],
    projection: str = "pca",
) -> str:
    """The page as HTML text. Names are escaped.

    Args:
        found: what was measured, by encoder.
        differences: of the encoders from the first one.
        sources: the validation data of encoders, whose images are shown; features without a network have none.
        facts: what the reader must know of the data and the settings.
        projection: how features are drawn: `pca`, or `umap`, which needs its package.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent.parent / "pages" / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["image"] = image
    environment.filters["address"] = data_address
    environment.filters["breaking"] = lambda name: Markup("/<wbr>").join(name.split("/"))
    environment.filters["soft"] = lambda name: Markup("<wbr>").join(re.split(r"(?<=[-_:./])", name))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(found)}
    top = {(row.trained.name, row.trained.part) for one in found.values() for row in summary(one.table)}
    lines = [_line(found, key, differences) for key in keys_of(found)]
    rest = [one for one in lines if (one.name, one.part) not in top]
    drawn, scatters = charts(found), _scatters(found)
    return environment.get_template("exam.html.j2").render(
        title="Exam of one encoder" if len(found) == 1 else f"Exam of {len(found)} encoders",
        remarks=dict.fromkeys(fact for one in found.values() for fact in one.remarks.facts),
        warnings=told_once([one.remarks for one in found.values()]),
        found=found,
        colours=colours,
        facts=facts,
        top=_by_family([one for one in lines if (one.name, one.part) in top]),
        rest=_by_family(rest),
        more=len(rest),
        differences=difference_table(differences),
        charts=[_drawn(chart) for chart in drawn[:_SHOWN_AT_ONCE]],
        further_charts=[_drawn(chart) for chart in drawn[_SHOWN_AT_ONCE:]],
        depths=depth_sentences(found),
        caveat=CAVEAT,
        scatters=scatters[:_SHOWN_AT_ONCE],
        further_scatters=scatters[_SHOWN_AT_ONCE:],
        maps=Markup(_script_json({name: _map(one.validation, projection) for name, one in found.items()})),  # noqa: S704
        projection=projection.upper(),
        neighbours=_neighbours(found, sources),
        costs=_costs(found),
        protocols=_protocols(found),
        downloads={"exam.csv": long_table(found).to_csv(), "exam.tex": wide_table(found).to_latex()},
        needs=NEEDS,
    )


def _line(found: Mapping[str, Examined], key: tuple[str, str], differences: Sequence[Difference]) -> Line:
    significant = {
        one.encoder: "+" if one.difference > 0 else "-"
        for one in differences
        if (one.name, one.part) == key and one.adjusted < 0.05
    }
    cells = []
    for name, one in found.items():
        row = row_of(one, key)
        value = None if row is None else row.trained.value
        said = [] if row is None else [row.trained.detail] if row.trained.detail else []
        for kind in ("untrained", "shuffled"):
            baseline = None if row is None else getattr(row, kind)
            if baseline is not None and baseline.value is not None:
                said.append(f"{kind} {shown(float(baseline.value))}")
        cells.append(Cell(cell(row), "" if value is None else repr(value), "; ".join(said), significant.get(name, "")))
    level = level_of(found, key)
    return Line(*key, cells, "" if level is None else shown(level))


def _by_family(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Lines that say something, by what they are about."""
    told = [one for one in lines if any(cell.text for cell in one.cells)]
    return {
        family: ones
        for family in (*FAMILIES, FURTHER)
        if (ones := [one for one in told if family_of(one.name) == family])
    }


def charts(found: Mapping[str, Examined]) -> list[Chart]:
    """Curves over the numbers in names and parts: of pixels, of labels, of a layer; and over angles.

    Those with three points are drawn, what most encoders have first.
    """
    series: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for name, one in found.items():
        for row in one.table:
            result = row.trained
            for parameter, error in result.errors:
                middle = sum(map(float, parameter.split("-"))) / 2
                name_of = result.name.removesuffix("/median")
                where = (f"median error of {name_of}, {result.part}, in degrees", "true angle, in degrees")
                series.setdefault(where, {}).setdefault(name, []).append((middle, error))
            if result.value is None:
                continue
            if (depth := depth_of(result.part)) is not None:
                where, at = (f"{result.name}, {depth[0]}", "layer"), float(depth[1])
            elif match := _NUMBERED.match(result.name):
                what = match["before"] + (match["after"] or "")
                axis = match["unit"].strip() or _AXES.get(result.name.partition("/")[0], "")
                where, at = (f"{what}, {result.part}", axis), float(match["at"])
            else:
                continue
            series.setdefault(where, {}).setdefault(name, []).append((at, float(result.value)))
    kept = []
    for (title, axis), curves in series.items():
        drawn = {name: sorted(points) for name, points in curves.items() if len({x for x, _ in points}) > 2}
        if drawn:
            kept.append(Chart(title, axis, drawn))
    return sorted(kept, key=lambda chart: -len(chart.curves))


def _drawn(chart: Chart) -> dict[str, Any]:
    """A chart in a drawing of 360 x 138."""
    points = [point for curve in chart.curves.values() for point in curve]
    (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))

    def place(x: float, y: float) -> str:
        return f"{8 + 344 * (x - left) / ((right - left) or 1):.1f},{132 - 126 * (y - low) / ((high - low) or 1):.1f}"

    return {
        "title": chart.title,
        "axis": chart.axis,
        "curves": {name: [place(*point) for point in curve] for name, curve in chart.curves.items()},
        "ends": [shown(float(end)) for end in (low, high)],
        "range": [f"{end:g}" for end in (left, right)],
    }


def _scatters(found: Mapping[str, Examined]) -> list[dict[str, Any]]:
    """Predicted against true numbers, a drawing for each measurement and encoder."""
    drawn = []
    for name, one in found.items():
        for row in one.table:
            pairs = row.trained.pairs[:_MOST_PAIRS]
            if not pairs:
                continue
            low, high = min(map(min, pairs)), max(map(max, pairs))
            width = (high - low) or 1.0
            drawn.append(
                {
                    "title": f"{row.trained.name}, {row.trained.part}",
                    "encoder": name,
                    "ends": [shown(float(low)), shown(float(high))],
                    "points": [
                        (f"{10 + 180 * (true - low) / width:.1f}", f"{190 - 180 * (predicted - low) / width:.1f}")
                        for true, predicted in pairs
                    ],
                }
            )
    return drawn


def _map(table: FeatureTable | None, projection: str) -> dict[str, Any]:
    """Some views in two dimensions, for each part, and what they can be coloured by."""
    if table is None or len(table) < 3:
        return {"parts": {}, "colours": {}}
    rows = torch.from_numpy(np.sort(permutation(0, length=len(table))[:_MOST_POINTS]))
    some = table.ordered().select(rows)
    parts = [part for part in some.features if part not in UNPROBED]
    step = max(1, -(-len(parts) // _MOST_PARTS))
    chosen = parts if len(parts) <= _MOST_PARTS else [parts[0], *parts[1::step]]
    colours: dict[str, dict[str, Any]] = {}
    if some.labels is not None:
        names = some.class_names or tuple(map(str, range(int(some.labels.max()) + 1)))
        known = set(some.labelled_rows().tolist())
        values = [int(one) if row in known else None for row, one in enumerate(some.labels)]
        colours["class"] = {"values": values, "names": list(names)}
    for name in some.transform.names:
        columns = some.transform[name].double().reshape(len(some), -1)
        for number, column in enumerate(columns.T):
            label = name if columns.shape[1] == 1 else f"{name} [{number}]"
            colours[label] = {"values": [round(float(one), 4) for one in column]}
    return {
        "parts": {part: _flat(some.part(part), projection).tolist() for part in chosen},
        "colours": colours,
        "objects": some.objects.tolist(),
    }


def _flat(features: Tensor, projection: str) -> Any:
    """Two coordinates in [0, 1] for each row, `(N, 2)`."""
    x = features.double()
    x = x - x.mean(dim=0)
    if projection == "umap":
        from umap import UMAP

        flat = torch.from_numpy(UMAP(random_state=0, n_jobs=1).fit_transform(x.float().numpy())).double()
    else:
        # The sign of a component is free: its largest entry is positive.
        values, vectors = torch.linalg.eigh(x @ x.T if len(x) < x.shape[1] else x.T @ x)
        top = vectors[:, -2:].flip(1)
        flat = top * values[-2:].flip(0).clamp_min(0).sqrt() if len(x) < x.shape[1] else x @ top
        largest = flat.gather(0, flat.abs().argmax(dim=0, keepdim=True))
        flat = flat * largest.sign()
    low, high = flat.min(dim=0).values, flat.max(dim=0).values
    return ((flat - low) / (high - low).clamp_min(1e-12)).numpy().round(3)


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c").replace("&", "\\u0026")


def _neighbours(found: Mapping[str, Examined], sources: Mapping[str, Source]) -> dict[str, Any]:
    """Some views and those whose features are nearest, by encoder."""
    rows = {}
    for name, one in found.items():
        if name in sources and one.validation is not None:
            rows[name] = neighbour_rows(sources[name], one.validation)
    return {name: ones for name, ones in rows.items() if ones}


def _costs(found: Mapping[str, Examined]) -> Table:
    names = dict.fromkeys(protocol for one in found.values() for protocol in one.costs)
    return Table(
        {"protocol": protocol, **{name: _cost(one, protocol) for name, one in found.items()}} for protocol in names
    )


def _cost(one: Examined, protocol: str) -> str:
    cost = one.costs.get(protocol)
    if cost is None:
        return ""
    memory = "" if cost.memory is None else f", {cost.memory / 2**20:,.0f} MB"
    return f"{cost.seconds:.1f} s{memory}"


def _protocols(found: Mapping[str, Examined]) -> dict[str, list[str]]:
    """What the protocols that ran measure, in the paragraphs of their classes."""
    ran = dict.fromkeys(protocol for one in found.values() for protocol in one.costs)
    texts = {name: inspect.cleandoc(KINDS[name].__doc__ or "") for name in ran if name in KINDS}
    return {name: text.partition("\nAttributes:")[0].strip().split("\n\n") for name, text in texts.items()}
