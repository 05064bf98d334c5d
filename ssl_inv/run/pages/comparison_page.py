"""A comparison as one HTML file: sortable tables, every seed as a dot, and curves; readable without network."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from ssl_inv.run.folder import RunFolder
from ssl_inv.run.plain_yaml import dump_yaml
from ssl_inv.run.side_by_side.comparison import RunComparison
from ssl_inv.run.side_by_side.grouping import Group, words
from ssl_inv.run.side_by_side.over_seeds import deviation, mean
from ssl_inv.run.side_by_side.runs import Key
from ssl_inv.run.tables import Table, shown

COLOURS = ("#2f6ab3", "#d1662b", "#2f8a57", "#a14aa0", "#b8901c", "#3a9fb5", "#b83a55", "#6b6f78")
_MOST_POINTS = 300  # of a curve; a screen shows no more
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 360.0, 8.0, 352.0, 6.0, 132.0


@dataclass(frozen=True)
class Dots:
    """A measurement of one group: places on the scale from 0 to 1 and what stands beside them."""

    label: str
    colour: str
    text: str
    seeds: list[float]
    centre: float | None
    low: float | None
    high: float | None
    untrained: float | None
    shuffled: float | None


@dataclass(frozen=True)
class Curve:
    """The points of one run, `x,y x,y`, in the drawing; its group's colour."""

    points: str
    colour: str
    label: str


@dataclass(frozen=True)
class Chart:
    """Curves of one series with the ends of both axes."""

    title: str
    curves: list[Curve]
    low: str
    high: str
    last: int


def comparison_page(compared: RunComparison) -> str:
    """The page as HTML text. Names are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    colours = {group.label: COLOURS[number % len(COLOURS)] for number, group in enumerate(compared.groups)}
    count, many = sum(len(group.runs) for group in compared.groups), len(compared.groups)
    return environment.get_template("comparison.html.j2").render(
        title=f"{count} run{'s' * (count > 1)} in {many} group{'s' * (many > 1)}",
        notes=compared.notes,
        groups=compared.wide(turned=False),
        differences=compared.differences(),
        scales=[(", ".join(key), *scale(compared, key, colours)) for key in compared.keys],
        names=len(compared.shown_settings()) or 1,
        charts=charts(compared.groups, colours),
        colours=colours,
        runs=_runs(compared),
        common=dump_yaml(_common(compared.groups)),
        sortable=_sortable,
    )


def _sortable(text: str) -> str:
    """What a column is sorted by: the number that a cell begins with, or else its text."""
    first = str(text).split(" ")[0]
    try:
        number = float(first)
    except ValueError:
        return str(text)
    return first if math.isfinite(number) else ""


def scale(compared: RunComparison, key: Key, colours: Mapping[str, str]) -> tuple[list[Dots], tuple[str, str]]:
    """A measurement of every group on one scale, and the ends of the scale: the smallest and the largest number."""
    found = {group.label: list(group.by_seed(key).values()) for group in compared.groups}
    everything = [
        number
        for ones in found.values()
        for one in ones
        for number in (one.value, one.untrained, one.shuffled)
        if number is not None
    ]
    low, high = min(everything, default=0.0), max(everything, default=1.0)

    def place(number: float | None) -> float | None:
        return None if number is None else (number - low) / ((high - low) or 1.0)

    rows = []
    for label, ones in found.items():
        values = [one.value for one in ones]
        centre, spread = mean(values), deviation(values)
        ends = (None, None) if centre is None or spread is None else (centre - spread, centre + spread)
        beside = "" if centre is None else shown(centre) + (f" ± {shown(spread)}" if spread is not None else "")
        baselines = (place(mean([getattr(one, kind) for one in ones])) for kind in ("untrained", "shuffled"))
        seeds = [number for number in map(place, values) if number is not None]
        rows.append(Dots(label, colours[label], beside, seeds, place(centre), *map(place, ends), *baselines))
    return rows, (shown(float(low)), shown(float(high)))


def charts(groups: Sequence[Group], colours: Mapping[str, str]) -> list[Chart]:
    """The curves of loss terms and monitor scores, a line a run; only series that were logged at two steps."""
    series: dict[str, list[tuple[str, list[tuple[float, float]]]]] = {}
    for group in groups:
        for run in group.runs:
            of_run: dict[str, list[tuple[float, float]]] = {}
            for entry in RunFolder(run.path).metrics():
                for kind in ("loss", "monitor"):
                    for name, value in entry.get(kind, {}).items():
                        if value is not None and math.isfinite(value):
                            of_run.setdefault(f"{kind}/{name}", []).append((entry["step"], value))
            for name, points in of_run.items():
                series.setdefault(name, []).append((group.label, points))
    return [_chart(name, runs, colours) for name, runs in series.items() if any(len(points) > 1 for _, points in runs)]


def _chart(name: str, runs: Sequence[tuple[str, list[tuple[float, float]]]], colours: Mapping[str, str]) -> Chart:
    steps = [step for _, points in runs for step, _ in points]
    values = [value for _, points in runs for _, value in points]
    low, high, last = min(values), max(values), max(steps)

    def drawn(points: Sequence[tuple[float, float]]) -> str:
        every = math.ceil(len(points) / _MOST_POINTS)
        kept = [*points[::every], *([points[-1]] if (len(points) - 1) % every else [])]
        return " ".join(
            f"{_LEFT + (_RIGHT - _LEFT) * step / (last or 1):.1f},"
            f"{_BOTTOM - (_BOTTOM - _TOP) * (value - low) / ((high - low) or 1.0):.1f}"
            for step, value in kept
        )

    curves = [Curve(drawn(points), colours[label], label) for label, points in runs]
    return Chart(name, curves, shown(float(low)), shown(float(high)), int(last))


def _runs(compared: RunComparison) -> Table:
    """Every run with its settings, seed and numbers."""
    names = compared.shown_settings()
    return Table(
        {
            "run": run.name,
            **{name: words(group.settings.get(name)) for name in names},
            "seed": words(run.seed),
            **{", ".join(key): shown(one.value) for key in compared.keys if (one := run.measured(key)) is not None},
            "began": str(run.record.get("began") or "")[:16].replace("T", " "),
            "device": run.device,
        }
        for group in compared.groups
        for run in group.runs
    )


def _common(groups: Sequence[Group]) -> dict[str, Any]:
    """The settings that all runs share, by section."""
    runs = [run for group in groups for run in group.runs]
    first, *others = runs
    found: dict[str, Any] = {}
    for key, value in first.settings.items():
        if all(repr(one.settings.get(key)) == repr(value) for one in others):
            section, _, inner = key.partition(".")
            _put(found, (section, inner) if inner else (section,), value)
    return found


def _put(into: dict[str, Any], way: Iterable[str], value: Any) -> None:
    *outer, last = way
    for one in outer:
        into = into.setdefault(one, {})
    into[last] = value
