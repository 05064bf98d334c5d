"""The tables of the pages that docs/build.py writes: our results, and the numbers of papers."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from record import UNKNOWN, Record, Values, comparable
from record import Row as ResultRow

from ssl_inv.catalogue import suggest
from ssl_inv.run.plain_yaml import dump_value, parse_yaml
from ssl_inv.run.recipe import load_recipe, section_schema, shipped_recipes
from ssl_inv.run.side_by_side.over_seeds import deviation, mean

DOCS = Path(__file__).parent
_PLACE = ("method", "source", "data", "setting")
_EQUAL_TERMS = ("data", "backbone", "normalization", "trainer", "evaluation")
_APART = ("aggregate", "paths")  # settings of the evaluation that add measurements and change no other
_MAIN = ("linear/top1", "knn/top1", "retrieval/val-val/mrr", "retrieval/val-val/hit@1")
_ROTATION = "r2/relative/rotation"
_HUES = ("r2/relative/floor_hue", "r2/relative/light_hue")

Link = Callable[[str], str]
"""From the name of a method to a link to its page."""


def escaped(text: str) -> str:
    """Prose with code in backticks, safe from being read as HTML, emphasis or the border of a cell."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        one.replace("|", "\\|") if one.startswith("`") else re.sub(r"([*<>|~])", r"\\\1", one) for one in pieces
    )


def sentence(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: range = range(0)) -> str:
    """A table without the columns that are empty in every row; the columns `numbers` are right-aligned."""
    rows = list(rows)
    kept = [column for column in range(len(head)) if any(row[column] for row in rows)]
    rule = ["---:" if column in numbers else "---" for column in kept]
    lines = [[head[column] for column in kept], rule, *([row[column] for column in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def folded(summary: str, content: str) -> str:
    """Content that is shown after a click on `summary`."""
    return f"<details>\n<summary>{summary}</summary>\n\n{content}\n\n</details>"


Row = dict[str, str]
"""A row of papers.yaml: `method`, `source`, `data`, `setting`, and the numbers, as texts, by measure."""


@dataclass(frozen=True)
class Papers:
    """The content of papers.yaml: descriptions of sources and headings of measures by key, the overview's columns, the
    names of methods that are no objectives, and the rows in the order of the file.
    """

    sources: dict[str, str]
    measures: dict[str, str]
    overview: list[dict[str, str]]
    names: dict[str, str]
    rows: list[Row]

    def main(self, method: str, source: str, data: str) -> Row | None:
        """The first row of a method on a data set in a source, which stands for the method in comparisons."""
        wanted = (method, source, data)
        return next((row for row in self.rows if (row["method"], row["source"], row["data"]) == wanted), None)


def read_papers(path: Path = DOCS / "papers.yaml") -> Papers:
    """Read and check the file.

    Raises:
        ValueError: if a row lacks a source, data set or setting, or names a source or measure that is not defined.
    """
    text = path.read_text(encoding="utf-8")
    parse_yaml(text)  # refuses keys that stand twice, which the next line would accept
    content = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - keeps numbers as texts: 0.50 stays 0.50
    methods = content.pop("objectives")

    def require_defined(where: str, kind: str, key: str) -> None:
        if key not in (defined := content[f"{kind}s"]):
            problem = f"{where!r} names the {kind} {key!r}, which is not defined"
            raise ValueError(f"{path.name}: {problem}; {suggest(key, defined)}")

    rows = [{"method": method, **row} for method, listed in methods.items() for row in listed]
    for row in rows:
        method = row["method"]
        if (missing := next((key for key in _PLACE if key not in row), None)) is not None:
            raise ValueError(f"{path.name}: a row of {method!r} has no {missing!r}: {row}")
        require_defined(method, "source", row["source"])
        for measure in row.keys() - _PLACE:
            require_defined(method, "measure", measure)
            if not re.fullmatch(r"-?\d+(\.\d+)?", row[measure]):
                problem = f"{measure} of a row of {method!r} must be a number, got {row[measure]!r}"
                raise ValueError(f"{path.name}: {problem}")
    for column in content["overview"]:
        require_defined("overview", "measure", column["measure"])
        require_defined("overview", "source", column["source"])
    return Papers(**content, rows=rows)


def published(papers: Papers, rows: Sequence[Row], link: Link | None = None) -> str:
    """Rows of one source: one column per measure. Without `link` to methods, the first column is the data set."""
    measures = [key for key in papers.measures if any(key in row for row in rows)]
    head = ["method" if link else "data", "setting", *(papers.measures[key] for key in measures)]
    cells = (
        [link(row["method"]) if link else row["data"], escaped(row["setting"]), *(row.get(key, "") for key in measures)]
        for row in rows
    )
    return table(head, cells, range(2, len(head)))


def by_source(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by source, in the order in which sources first appear."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["source"], []).append(row)
    return groups


def number(name: str, values: Values) -> str:
    """The mean over runs, with the standard deviation if there are several; accuracies in per cent."""
    centre, spread = mean(values), deviation(values)
    if centre is None:
        return ""
    factor, digits = (100, 1) if name.endswith(("/top1", "/top5")) else (1, 1 if abs(centre) >= 100 else 3)
    return f"{factor * centre:.{digits}f}" + ("" if spread is None else f" ± {factor * spread:.{digits}f}")


def departures(record: Record) -> list[str]:
    """The settings of a record that differ from today's recipe."""
    if record.recipe not in shipped_recipes():
        return [f"there is no recipe `{record.recipe}`"]
    today = comparable(load_recipe(record.recipe).sections())
    settings = ((section, *one) for section, values in record.sections().items() for one in values.items())
    return [
        f"`{section}.{key}: {dump_value(value)}`"
        for section, key, value in settings
        if today.get(section, {}).get(key) != value
    ]


def circumstances(record: Record) -> str:
    """Seeds, commits, machine, time, the first run's command, and how the runs differed from today's recipe."""

    def seeds(numbers: Sequence[int]) -> str:
        return f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"

    commits: dict[str, list[int]] = {}
    for commit, seed in zip(record.commits, record.seeds, strict=True):
        commits.setdefault(commit[:7], []).append(seed)
    several = "commits " + ", ".join(f"{commit} ({seeds(which)})" for commit, which in commits.items())
    seconds = mean(tuple(one for one in record.seconds if one is not None))
    facts = [
        seeds(record.seeds) + ", mean ± standard deviation over them" * (len(record.seeds) > 1),
        f"commit {next(iter(commits))}" if len(commits) == 1 else several,
        record.machine,
        *([] if seconds is None else [f"{seconds / 60:.0f} min per run"]),
        f"recipe `{record.recipe}`, command {UNKNOWN}" if record.commands[0] == UNKNOWN else f"`{record.commands[0]}`",
    ]
    changed = departures(record)
    return (
        sentence("; ".join(facts))
        + (f". Settings that differ from today's recipe: {', '.join(changed)}" if changed else "")
        + "."
    )


def measured(record: Record) -> str:
    """The circumstances of a record, its main rows, and all rows folded away."""

    def cells(row: ResultRow) -> list[str]:
        values = [number(row.name, one) for one in (row.trained, row.untrained, row.shuffled)]
        share = ", %" if row.name.endswith(("/top1", "/top5")) else ""
        return [f"`{row.name}`{share}", row.part, *values, escaped(row.detail)]

    head = ["measured", "part of the features", "trained", "untrained", "shuffled targets", ""]
    names = (*_MAIN, *(f"r2/relative/{one}" for one in record.settings["objective"].get("parameters", [""])))
    main = table(head[:-1], (cells(row)[:-1] for row in record.rows if row.name.startswith(names)), range(2, 5))
    everything = table(head, map(cells, record.rows), range(2, 5))
    return "\n\n".join((circumstances(record), main, folded(f"All {len(record.rows)} measurements", everything)))


def on_equal_terms(records: Iterable[Record]) -> list[list[Record]]:
    """Groups of records with the same data, network, budget and evaluation; the group of most objectives first."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        shared = {section: dict(one) for section, one in record.sections().items() if section in _EQUAL_TERMS}
        for setting in _APART:
            shared["evaluation"].pop(setting, None)
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(record)
    return sorted(groups.values(), key=lambda group: (-len({record.objective for record in group}), group[0].name))


def terms(group: Sequence[Record]) -> str:
    """Data, network and budget of a group in words."""
    settings = group[0].sections()
    data, trainer = settings["data"], settings["trainer"]
    length = f"{trainer['steps']:,} steps" if trainer.get("steps") else f"{trainer['epochs']:,} epochs"
    where = f"{data['name']} ({data['path']})" if data.get("path") else str(data["name"])
    judged = f"{settings['evaluation']['protocol']} protocol"
    return f"{where}, {settings['backbone']['name']}, {length} of {trainer['batch_size']:,}, {judged}"


def chosen(group: Sequence[Record]) -> str:
    """The settings of data, network and evaluation that are not defaults; always the size and range of angles."""
    found = []
    for section in ("data", "backbone", "evaluation"):
        settings = group[0].sections()[section]
        known = section_schema(section, settings.get("name") if section == "data" else None).settings
        found += [
            f"`{section}.{name}: {dump_value(value)}`"
            for name, value in settings.items()
            if name in known and name not in (*_APART, "name")
            if name in ("size", "angle_range") or value != known[name].default
        ]
    return ", ".join(found)


Column = tuple[str, tuple[str, ...], str]
"""A heading, the measurements whose mean is shown, and the part of the features."""


def _cell(record: Record, column: Column, kind: str = "trained") -> str:
    _, names, part = column
    rows = [record.find(name, part) for name in names]
    if None in rows:
        return ""
    return number(names[0], tuple(mean(values) for values in zip(*(getattr(row, kind) for row in rows), strict=True)))


def best_known(records: Iterable[Record]) -> list[Record]:
    """Records of most seeds first."""
    return sorted(records, key=lambda one: (-len(one.seeds), one.name))


def rotation_row(record: Record) -> ResultRow | None:
    """R2 of the relative rotation in the part that should know it, or None."""
    return record.find(_ROTATION, "equivariant") or record.find(_ROTATION, "all")


def side_by_side(group: Sequence[Record], link: Link, root: str) -> str:
    """One row per record, the best R2 of the rotation (or else the best classes) first, and a row of the untrained
    network; then a table of several views at once, if any record has one.
    """

    def rank(record: Record) -> tuple[float, str]:
        row = rotation_row(record) or record.find("linear/top1", "all")
        return (-(mean(row.trained) or 0.0) if row else 1.0, record.name)

    ordered = sorted(group, key=rank)
    names = list(dict.fromkeys(row.name for record in group for row in record.rows))
    relative = [name for name in names if name.startswith("r2/relative/")]
    columns: list[Column] = [("linear top-1, %", ("linear/top1",), "all"), ("kNN top-1, %", ("knn/top1",), "all")]
    for name in [_ROTATION] if _ROTATION in relative else relative:
        what = name.removeprefix("r2/relative/")
        columns += [(f"R2 {what}, {part}", (name,), part) for part in ("all", "invariant", "equivariant")]
    columns += [("R2 hues, all", _HUES, "all")] if set(_HUES) <= set(relative) else []
    columns += [("MRR", (_MAIN[2],), "prediction space"), ("H@1", (_MAIN[3],), "prediction space")]
    costs = {cost["recipe"]: (f"{cost['step_ms']:.0f}", f"{cost['step_mb']:.0f}") for cost in step_costs()["costs"]}
    shown = [_comparison(ordered, columns, link, root, costs)]
    parts = dict.fromkeys(row.part for record in ordered for row in record.rows if row.part.endswith(" views"))
    if looking := [record for record in ordered if any(row.part in parts for row in record.rows)]:
        several = [("one view", ("linear/top1",), "all"), *((part, ("linear/top1",), part) for part in parts)]
        shown += ["Linear top-1, %, of several views of an object at once:", _comparison(looking, several, link, root)]
    return "\n\n".join(shown)


def _comparison(
    records: Sequence[Record], columns: Sequence[Column], link: Link, root: str, costs: Mapping[str, Any] | None = None
) -> str:
    """A row per record. `costs` by recipe are shown where objective and network are still the recipe's."""
    shown = [column for column in columns if any(_cell(record, column) for record in records)]
    rows = []
    for record in records:
        changed = departures(record)
        several = sum(one.recipe == record.recipe for one in records) > 1
        otherwise = [one for one in changed if one.startswith("`objective.")] if several else []
        as_today = not any(one.startswith(("`objective.", "`backbone.")) for one in changed)
        cost = (costs or {}).get(record.recipe if as_today else "", ("", ""))
        recipe = ", ".join([f"[`{record.recipe}`]({root}/recipes/{record.recipe}.yaml)", *otherwise])
        opening = [link(record.objective), recipe, str(len(record.seeds))]
        rows.append([*opening, *(_cell(record, column) for column in shown), *cost])
    known = best_known(records)
    untrained = [next(filter(None, (_cell(one, column, "untrained") for one in known)), "") for column in shown]
    head = ["objective", "recipe", "seeds", *(one[0] for one in shown), "step of 16, ms", "step of 16, MB"]
    return table(head, [*rows, ["untrained", "", "", *untrained, "", ""]], range(2, len(head)))


def headline(record: Record) -> tuple[str, str]:
    """Linear top-1, and R2 of the relative rotation on the part that should know it; empty if either is missing."""
    classes, rotation = record.find("linear/top1", "all"), rotation_row(record)
    if classes is None or rotation is None:
        return "", ""
    return number(classes.name, classes.trained), number(rotation.name, rotation.trained)


_DEMO = {
    "linear top-1, 16 classes, %": ("linear/top1", "all"),
    "rotation, R2": ("r2/relative/rotation", "equivariant"),
    "hue of the floor, R2": ("r2/relative/floor_hue", "equivariant"),
    "height of the light, R2": ("r2/relative/light_theta", "equivariant"),
    "hue of the light, R2": ("r2/relative/light_hue", "equivariant"),
    "direction of the light, R2": ("r2/relative/light_phi", "equivariant"),
    "rotation in the invariant part, R2": ("r2/relative/rotation", "invariant"),
    "MRR of the predicted view among 4": ("retrieval/val-val/mrr", "prediction space"),
}
"""Rows of the README's table."""


def demo(told: Record, rotation: Record) -> str:
    """The README's table: the demo, the same told the rotation alone, and untrained networks; means over seeds with the
    standard deviation.
    """
    rows = []
    for words, (name, part) in _DEMO.items():
        ours, other = told.find(name, part), rotation.find(name, part)
        assert ours is not None
        assert other is not None
        best = number(name, ours.trained)
        rows.append([words, best, number(name, other.trained), number(name, ours.untrained)])
    seeds = len(told.seeds)
    head = [f"mean ± standard deviation over {seeds} seeds; R2 in the equivariant part", "the demo"]
    return table([*head, "told the rotation alone", "untrained"], rows, range(1, 4))


def step_costs() -> dict[str, Any]:
    """What benchmarks/step_cost.py measured."""
    content: dict[str, Any] = json.loads((DOCS / "step-cost.json").read_text(encoding="utf-8"))
    return content


LOADING_COLUMNS = {
    "start_s": "start, s",
    "first_batch_s": "to the first batch, s",
    "images_per_s": "images/s",
    "main_rss_mb": "main process, MB",
    "worker_rss_mb": "loader process, MB",
    "worker_pss_mb": "its share, MB",
}
"""What benchmarks/loading.py measures of every contestant, and its heading."""


def loading() -> str:
    """What benchmarks/forms_of_data.py and benchmarks/millions.py measured, a table for each number of files."""
    content: dict[str, Any] = json.loads((DOCS / "loading.json").read_text(encoding="utf-8"))
    parts = []
    for run in content["runs"]:
        for what, rows in run["tables"].items():
            head = [what, *LOADING_COLUMNS.values()]
            cells = [[name, *(_measure(key, one[key]) for key in LOADING_COLUMNS)] for name, one in rows.items()]
            parts.append(table(head, cells, range(1, len(head))))
        parts.append(f"`{run['command']}`, torch {run['versions']['torch']}, {run['workers']} loader process(es).")
    return "\n\n".join(parts)


def _measure(key: str, value: float) -> str:
    return f"{value:.2f}" if key in ("start_s", "first_batch_s") else f"{value:,.0f}"


def cost_table(link: Link) -> str:
    """The cost of a step of each objective, the largest ratio of time first."""
    head = ["objective", "recipe", "views a step", "networks, ms", "step / networks", "networks, MB"]
    costs = sorted(step_costs()["costs"], key=lambda cost: (-cost["time_ratio"], cost["objective"]))
    digits = {"images": 0, "networks_ms": 0, "time_ratio": 2, "networks_mb": 0, "memory_ratio": 2}
    rows = (
        [link(cost["objective"]), f"`{cost['recipe']}`", *(f"{cost[key]:.{digits[key]}f}" for key in digits)]
        for cost in costs
    )
    return table([*head, "step / networks, memory"], rows, range(2, len(head) + 1))
