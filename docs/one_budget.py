"""Encoders on one budget, from docs/results/one-budget.json: their table, their chart, and the benchmark on meshes.

benchmarks/on_one_budget.py writes the file, a run for each budget, candidate and seed.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark_tables import facts
from record import Record
from tables import number, table

from ssl_inv.run.side_by_side.over_seeds import mean

Content = Mapping[str, Any]
Values = tuple[float | None, ...]

CLASSES, NEIGHBOURS, ROTATION = "linear/top1", "knn/top1", "r2/relative/rotation"
PAIRS, TRIPLETS = 128, 192
"""Images of a step of 64 pairs, and of triplets; the corner of the chart is of objectives with no more."""
SHARE = 0.95
"""Of both bounds, what the frontier asks for."""

BOUNDS = {CLASSES: "supervised-classes", ROTATION: "supervised-rotation"}
"""The candidates whose scores are the bounds: each is told one thing alone."""

INVARIANT = (
    *("simclr", "vicreg", "moco-v3", "trajectory"),
    *(f"{name}-{pairs}" for name in ("simclr", "vicreg") for pairs in (96, 160)),
    *(f"{name}-rendered" for name in ("simclr", "vicreg", "moco-v3", "vicreg-trajectory", "byol", "lejepa")),
    *(f"{name}-rendered" for name in ("barlow-twins", "simsiam")),
)
"""The candidates and recipes whose best accuracy is what an encoder that has both should reach."""

COLUMNS = {
    "linear, %": CLASSES,
    "kNN, %": NEIGHBOURS,
    "R2 rotation": ROTATION,
    "floor hue": "r2/relative/floor_hue",
    "light height": "r2/relative/light_theta",
    "light direction": "r2/relative/light_phi",
    "light hue": "r2/relative/light_hue",
    "MRR": "retrieval/val-val/mrr",
    "H@1": "retrieval/val-val/hit@1",
}
MESHES = {"new objects": "meshes", "new views of known objects": "meshes-known"}
"""The budgets on meshes, by the question that their held-out views ask."""

_MESH_COLUMNS = {
    "linear, %": CLASSES,
    "kNN, %": NEIGHBOURS,
    "R2 rotation": ROTATION,
    "R2 floor hue": COLUMNS["floor hue"],
    "R2 light hue": COLUMNS["light hue"],
    "MRR": COLUMNS["MRR"],
    "H@1": COLUMNS["H@1"],
}
_ORDER = {"untrained": 1, **dict.fromkeys(BOUNDS.values(), 2)}


def by_candidate(content: Content, budget: str) -> dict[str, dict[int, Content]]:
    """The runs of a budget, by candidate and seed."""
    found: dict[str, dict[int, Content]] = {}
    for key, run in content["runs"].items():
        place, candidate, seed = key.split(" ")
        if place == budget:
            found.setdefault(candidate, {})[int(seed)] = run
    return {name: dict(sorted(runs.items())) for name, runs in found.items()}


def values(runs: Iterable[Content], measure: str, kind: int = 0) -> Values:
    """A number of each run, from all features: equal widths for encoders with parts and without.

    Args:
        runs: of one candidate.
        measure: its name.
        kind: 0 for the trained network, 2 for the untrained one, 3 with shuffled targets.
    """
    found = []
    for run in runs:
        rows = [run["numbers"].get(f"{measure} | {part}") for part in _parts(measure)]
        found.append(next((row[kind] for row in rows if row is not None), None))
    return tuple(one for one in found if one is not None)


def _parts(measure: str) -> tuple[str, ...]:
    """The parts of the features of which a measure may be, the first one that there is."""
    if "retrieval" in measure:
        return ("prediction space", "all")
    return ("all",)


def of_record(record: Record) -> dict[str, Values]:
    """The numbers of a recorded recipe, by measure."""
    found = {}
    for measure in COLUMNS.values():
        rows = [record.find(measure, part) for part in _parts(measure)]
        row = next((one for one in rows if one is not None), None)
        found[measure] = () if row is None else tuple(one for one in row.trained if one is not None)
    return found


def scores(content: Content, budget: str, records: Iterable[Record] = ()) -> dict[str, dict[str, Values]]:
    """The numbers of every candidate of a budget, of recorded recipes and of the untrained network, by measure."""
    runs = by_candidate(content, budget)
    found = {
        name: {measure: values(of_seed.values(), measure) for measure in COLUMNS.values()}
        for name, of_seed in runs.items()
    }
    longest = max(runs.values(), key=len, default={})
    plain = {
        measure: values(longest.values(), measure, 2) for measure in COLUMNS.values() if "retrieval" not in measure
    }
    return {**{one.name: of_record(one) for one in records}, **found, "untrained": plain}


def frontier(content: Content, budget: str, records: Sequence[Record] = ()) -> str:
    """The table of a budget, best first by the least of the shares of the bounds, and how it was measured.

    Args:
        content: the file of the runs.
        budget: its name.
        records: of recipes with the same network, data and steps.
    """
    found, runs = scores(content, budget, records), by_candidate(content, budget)
    seeds_of = {one.name: len(one.seeds) for one in records} | {name: len(of_seed) for name, of_seed in runs.items()}
    images = {name: _images(of_seed) for name, of_seed in runs.items()}

    def share(name: str, measure: str) -> float | None:
        # No objective without labels is asked for the classes of one that has them.
        bound = (
            mean(found.get(BOUNDS[ROTATION], {}).get(ROTATION, ()))
            if measure == ROTATION
            else best_invariant(found, images, measure, images.get(name))
        )
        ours = mean(found[name].get(measure, ()))
        return None if ours is None or not bound or bound <= 0 else ours / bound

    shares = {name: [share(name, measure) for measure in (CLASSES, NEIGHBOURS, ROTATION)] for name in found}

    def place(name: str) -> tuple[int, float]:
        return _ORDER.get(name, 0), -min((one for one in shares[name] if one is not None), default=0.0)

    of_best = ["of the best invariant linear, %", "of the best invariant kNN, %", "of the bound's rotation, %"]
    head = ["candidate", "seeds", "images a step", *COLUMNS, *of_best]
    rows = []
    for name in sorted(found, key=place):
        shown = [number(measure, found[name].get(measure, ())) for measure in COLUMNS.values()]
        counts = [str(of.get(name, "")) for of in (seeds_of, images)]
        parts = ["" if one is None else f"{100 * one:.0f}" for one in shares[name]]
        rows.append([f"`{name}`", *counts, *shown, *parts])
    return f"{table(head, rows, range(1, len(head)))}\n\n{told(runs, budget)}"


def _images(of_seed: Mapping[int, Content]) -> int:
    """The views that an objective asks for in a step."""
    return int(next(iter(of_seed.values()))["images"])


def best_invariant(
    found: Mapping[str, Mapping[str, Values]], images: Mapping[str, int], measure: str, most: int | None
) -> float | None:
    """The highest accuracy of an objective that is told no transform and no label.

    Args:
        found: scores by candidate and measure.
        images: of a step, by candidate.
        measure: of the accuracy.
        most: images that the objective has at most in a step, or those of pairs if it is fewer; None for any number.
    """
    known = [
        mean(found[name][measure])
        for name in INVARIANT
        if name in found and (most is None or images.get(name, 0) <= max(most, PAIRS))
    ]
    return max((one for one in known if one is not None), default=None)


def told(runs: Mapping[str, Mapping[int, Content]], budget: str) -> str:
    """How the runs of a budget were measured."""
    every = [run for of_seed in runs.values() for run in of_seed.values()]
    first = every[0]
    days = sorted({run["date"][:10] for run in every})
    note = f"torch {first['torch']}, {first['threads']} thread, {' to '.join(dict.fromkeys((days[0], days[-1])))}"
    seeds = sorted({seed for of_seed in runs.values() for seed in of_seed})
    words = {"seeds": seeds, "machine": first["machine"], "note": note, "command": command(budget, seeds)}
    return facts({**words, "commits": [run["commit"] for run in every]})


def command(budget: str, seeds: Iterable[int]) -> str:
    """What makes the runs of a candidate again."""
    meshes = " --meshes meshes_cc0.npz" * budget.startswith("meshes")
    asked = f"--candidates NAME --seeds {' '.join(map(str, seeds))} --output new.json"
    return f"python benchmarks/on_one_budget.py runs/budgets --budget {budget}{meshes} {asked}"


def of_objectives(content: Content, budget: str) -> dict[str, tuple[str, str]]:
    """Linear accuracy and rotation R2 of every objective of a budget, by its name.

    Of several candidates with one objective, the one of its name stands for it, or else the one of most seeds.
    """
    runs, found = by_candidate(content, budget), scores(content, budget)

    def rank(name: str) -> tuple[bool, int, str]:
        return _objective(runs[name]) != name, -len(runs[name]), name

    shown: dict[str, tuple[str, str]] = {}
    for name in sorted(runs, key=rank):
        numbers = tuple(number(measure, found[name].get(measure, ())) for measure in (CLASSES, ROTATION))
        shown.setdefault(_objective(runs[name]), (numbers[0], numbers[1]))
    return shown


def _objective(of_seed: Mapping[int, Content]) -> str:
    return str(next(iter(of_seed.values()))["objective"]["name"])


def meshes(content: Content) -> str:
    """The benchmark on meshes: a table for each question, and how it was measured; "" if no run is on them."""
    asked = {question: by_candidate(content, budget) for question, budget in MESHES.items()}
    found = {question: scores(content, MESHES[question]) for question, runs in asked.items() if runs}

    def place(name: str) -> tuple[int, float]:
        known = [mean(of[name].get(ROTATION, ())) for of in found.values() if name in of]
        return -_ORDER.get(name, 0), -max((one for one in known if one is not None), default=0.0)

    parts = []
    for question, of in found.items():
        runs = asked[question]
        heading, told_of = f"**{question.capitalize()}**", told(runs, MESHES[question])
        parts += [heading, _mesh_table(runs, of, sorted(of, key=place)), told_of]
    return "\n\n".join(parts)


def _mesh_table(
    runs: Mapping[str, Mapping[int, Content]], found: Mapping[str, Mapping[str, Values]], names: Iterable[str]
) -> str:
    """A row for each candidate, with its shares of what is known without labels and of what was told, and below it one
    for classes from several views at once.
    """
    images = {name: _images(of_seed) for name, of_seed in runs.items()}
    bounds = {measure: mean(found.get(bound, {}).get(measure, ())) for measure, bound in BOUNDS.items()}
    head = ["", "seeds", "images a step", *_MESH_COLUMNS, "of the bound's linear, %"]
    head += ["of the best invariant linear, %", "of the best invariant kNN, %", "of the bound's rotation, %"]
    rows = []
    for name in names:
        counts = [str(of.get(name, "")) for of in ({one: len(some) for one, some in runs.items()}, images)]
        several = {
            f"{name}, {heading}": {one: _of_part(runs[name].values(), one, part) for one in (CLASSES, NEIGHBOURS)}
            for heading, part in (_SEVERAL.items() if name in runs else ())
        }
        for heading, row in {name: found[name], **several}.items():
            if any(row.values()):
                best = [best_invariant(found, images, one, images.get(name)) for one in (CLASSES, NEIGHBOURS)]
                of = [(CLASSES, bounds[CLASSES]), (CLASSES, best[0]), (NEIGHBOURS, best[1])]
                shares = [_share(row.get(measure, ()), bound) for measure, bound in (*of, (ROTATION, bounds[ROTATION]))]
                shown = [number(measure, row.get(measure, ())) for measure in _MESH_COLUMNS.values()]
                rows.append([heading, *counts, *shown, *shares])
    return table(head, rows, range(1, len(head)))


def _share(ours: Values, bound: float | None) -> str:
    known = mean(ours)
    return "" if known is None or bound is None or bound <= 0 else f"{100 * known / bound:.0f}"


_SEVERAL = {
    **{f"aggregate of {views}": f"aggregate of {views} views" for views in (2, 4)},
    "mean of 4": "mean of 4 views",
}
"""Headings of classes from several views of an object, and the parts of the features that they are read from."""


def _of_part(runs: Iterable[Content], measure: str, part: str) -> Values:
    found = [run["numbers"].get(f"{measure} | {part}", [None])[0] for run in runs]
    return tuple(one for one in found if one is not None)


IN_SHORT = {
    "supervised-classes": "supervised, told the classes",
    "supervised-rotation": "supervised, told the rotation",
    "frontier-equimod": "[`frontier-equimod`](recipes/frontier-equimod-meshes.yaml)",
    "frontier": "[`frontier`](recipes/frontier-meshes.yaml)",
    "augself": "AugSelf",
    "equimod": "EquiMod",
    "equicaps": "EquiCaps",
    "sie-quaternion": "SIE",
    "seq-jepa": "seq-JEPA",
    "simclr": "SimCLR",
    "vicreg": "VICReg",
    "untrained": "untrained",
}
"""The rows of the short table, by candidate."""


def meshes_in_short(content: Content) -> str:
    """Classes and pose on meshes for both questions; "" if no run is on them."""
    columns = [
        ("classes of new objects, %", "meshes", CLASSES),
        ("their rotation, R2", "meshes", ROTATION),
        ("their floor's hue, R2", "meshes", COLUMNS["floor hue"]),
        ("classes in new views of known objects, %", "meshes-known", CLASSES),
        ("their rotation, R2", "meshes-known", ROTATION),
    ]
    found = {budget: scores(content, budget) if by_candidate(content, budget) else {} for _, budget, _ in columns}
    rows, seeds = [], set()
    for name, shown in IN_SHORT.items():
        if all(name in rows_of for rows_of in found.values()):
            numbers = [found[budget][name].get(measure, ()) for _, budget, measure in columns]
            seeds |= {len(some) for some in numbers if some and name != "untrained"}
            rows.append(
                [shown, *(number(measure, some) for (_, _, measure), some in zip(columns, numbers, strict=True))]
            )
    if not rows:
        return ""
    note = "one seed" if seeds == {1} else "± is the standard deviation over seeds; where there is none, one seed"
    return table([note, *(heading for heading, _, _ in columns)], rows, range(1, len(columns) + 1))


def _best(row: Content) -> float:
    found = [mean(tuple(one["rotation"])) for one in row.values() if isinstance(one, Mapping) and one.get("rotation")]
    return -max((one for one in found if one is not None), default=0.0)


# The chart.

CHARTS = {"solids-small": "docs/frontier-solids-small.svg", "solids": "docs/frontier-solids.svg"}
"""The chart of a budget, by its place in the repository."""


def charts(others: Mapping[str, Content]) -> dict[str, str]:
    """The charts of all budgets that have runs, by place."""
    content = others.get("one-budget", {"runs": {}})
    return {place: chart(content, budget) for budget, place in CHARTS.items() if by_candidate(content, budget)}


_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _EDGE = 760, 480, 60, 50, 20
_STEP = 0.1
"""From tick to tick of both axes."""


def chart(content: Content, budget: str) -> str:
    """Every run of a budget as an SVG: linear accuracy over rotation R2, with the corner that the bounds ask for."""
    found = scores(content, budget)
    points = {
        name: (mean(row[ROTATION]), mean(row[CLASSES]))
        for name, row in found.items()
        if mean(row.get(ROTATION, ())) is not None and mean(row.get(CLASSES, ())) is not None
    }
    images = {name: _images(of_seed) for name, of_seed in by_candidate(content, budget).items()}
    corner = (points.get(BOUNDS[ROTATION], (None,))[0], best_invariant(found, images, CLASSES, TRIPLETS))
    spans = [_span([point[axis] for point in points.values()]) for axis in (0, 1)]

    def across(value: float) -> float:
        low, high = spans[0]
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _EDGE)

    def up(value: float) -> float:
        low, high = spans[1]
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _BOTTOM - _EDGE)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    if None not in corner:
        x, y = across(SHARE * corner[0]), up(SHARE * corner[1])
        lines.append(
            f'<rect x="{x:.1f}" y="{_EDGE}" width="{max(_WIDTH - _EDGE - x, 0):.1f}" height="{max(y - _EDGE, 0):.1f}" '
            'fill="#e3f4e3"/>'
        )
    for right in _ticks(spans[0]):
        lines.append(f'<text x="{across(right):.1f}" y="{_HEIGHT - 30}" text-anchor="middle">{right:.1f}</text>')
    for high in _ticks(spans[1]):
        lines.append(f'<text x="{_LEFT - 8}" y="{up(high) + 4:.1f}" text-anchor="end">{100 * high:.0f}</text>')
    ground, edge = _HEIGHT - _BOTTOM, _WIDTH - _EDGE
    lines.append(f'<path d="M{_LEFT} {_EDGE}V{ground}H{edge}" fill="none" stroke="#444"/>')
    lines.append(f'<text x="{(_LEFT + edge) / 2}" y="{_HEIGHT - 10}" text-anchor="middle">R2 of the rotation</text>')
    turned = f'transform="translate(14 {(_EDGE + ground) / 2}) rotate(-90)"'
    lines.append(f'<text {turned} text-anchor="middle">linear top-1, %</text>')
    places = {name: (across(right), up(high)) for name, (right, high) in points.items()}
    for name, (x, y) in sorted(places.items()):
        title = f"<title>{html.escape(name)}</title>"
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_colour(name)}">{title}</circle>')
    for name, (x, y) in _labels(places).items():
        lines.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{_colour(name)}" font-size="10">{html.escape(name)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _colour(name: str) -> str:
    return "#888" if name == "untrained" else "#c33" if name.startswith("supervised") else "#236"


def _labels(places: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Where each name begins, for as many as fit without touching a point or another name.

    Bounds come first, then what stands nearest to the upper right corner.
    """
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places.values()]
    found = {}
    for name in sorted(places, key=lambda one: (one not in _ORDER, places[one][1] - places[one][0])):
        x, y = places[name]
        width = 5.6 * len(name)
        for left, base in ((x + 7, y + 4), (x - 7 - width, y + 4), (x - width / 2, y - 7), (x - width / 2, y + 14)):
            box = (left, base - 9, left + width, base + 2)
            inside = _within(box, (_LEFT, _EDGE / 2, _WIDTH - 2, _HEIGHT - _BOTTOM))
            if inside and not any(_touch(box, one) for one in taken):
                taken.append(box)
                found[name] = (left, base)
                break
    return found


def _within(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return other[0] < one[0] and other[1] < one[1] and one[2] < other[2] and one[3] < other[3]


def _touch(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ticks(span: tuple[float, float]) -> list[float]:
    return [_STEP * count for count in range(math.ceil(span[0] / _STEP), math.floor(span[1] / _STEP) + 1)]


def _span(found: Iterable[float]) -> tuple[float, float]:
    low, high = min(found), max(found)
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin
