"""Tables of docs/results that compare more than one recipe: meshes, rivals, and measurements without a run folder.

Each says with what, on what and with which seeds it was measured. What a file does not know is `unknown`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from record import UNKNOWN, Record, Values
from tables import circumstances, number, sentence, table

from ssl_inv.catalogue import suggest
from ssl_inv.run.side_by_side.over_seeds import mean

Content = Mapping[str, Any]
"""A file of docs/results with a key `table`."""


# Meshes.

SPLITS = {"new objects": "objects", "new views of known objects": "views"}
"""The two questions, and the setting `data.held_out` of the runs that answer them."""

MESHES = {
    "linear": ("linear, %", ("linear/top1",)),
    "knn": ("kNN, %", ("knn/top1",)),
    "rotation": ("R2 rotation", ("r2/relative/rotation",)),
    "floor_hue": ("R2 floor hue", ("r2/relative/floor_hue",)),
    "light_hue": ("R2 light hue", ("r2/relative/light_hue",)),
    "mrr": ("MRR", ("retrieval/val-val/mrr",)),
    "hit1": ("H@1", ("retrieval/val-val/hit@1",)),
}
"""Columns: key in the file, heading, measurement."""

_CLASSES, _RETRIEVAL = ("linear", "knn"), ("mrr", "hit1")
_SHARES = {"linear": "of the bound's linear, %", "rotation": "of the bound's rotation, %"}
_ROW_KEYS = {"method", "baseline", "part", *SPLITS}


def meshes(content: Content, records: Mapping[str, Record], split: str | None = None) -> str:
    """The benchmark on meshes: a table for each split, or for one, and how its numbers were measured.

    The content has `bound`, the name of the row of the supervised network, or a name for each of `linear` and
    `rotation`, and `rows`. A row has `method`; for each split
    the name of a record, or numbers by the keys of `MESHES` with one number per seed and the facts `seeds`, `command`,
    `commit`, `machine`; `part` for classes from several views at once; and `baseline: untrained` or `shuffled` for
    that column of the records.

    Raises:
        ValueError: if a row names no record, one of another split, or has unknown keys, or if the bound is no row.
    """
    rows = content["rows"]
    for row in rows:
        if unknown := sorted(row.keys() - _ROW_KEYS):
            raise ValueError(
                f"meshes.json: {row['method']!r} has a key {unknown[0]!r}; {suggest(unknown[0], _ROW_KEYS)}"
            )
    names = [row["method"] for row in rows]
    bound = content.get("bound")
    bounds = dict.fromkeys(_SHARES, bound) if bound is None or isinstance(bound, str) else dict(bound)
    for name in bounds.values():
        if name is not None and name not in names:
            raise ValueError(f"meshes.json: bound: no row is called {name!r}; {suggest(name, names)}")
    parts = []
    for question in [split] if split else SPLITS:
        there = {row["method"]: _mesh_row(row, question, records) for row in rows if question in row}
        if not there:
            continue
        parts += [*([] if split else [f"**{question.capitalize()}**"]), _mesh_table(there, bounds)]
        if not split:
            parts.append("\n".join(_mesh_facts(rows, question, records)))
    return "\n\n".join(parts)


def _mesh_row(row: Content, question: str, records: Mapping[str, Record]) -> tuple[int, dict[str, Values]]:
    """The number of seeds of a row, and its numbers by the keys of `MESHES`."""
    source = row[question]
    if not isinstance(source, str):
        return len(source.get("seeds", [])), {key: tuple(source[key]) for key in MESHES if key in source}
    if source not in records:
        raise ValueError(f"meshes.json: {row['method']!r}: no record is called {source!r}; {suggest(source, records)}")
    record = records[source]
    if (held_out := record.settings["data"].get("held_out", "objects")) != SPLITS[question]:
        problem = f"data.held_out: {held_out} in the record {source!r}, but {question} needs {SPLITS[question]}"
        raise ValueError(f"meshes.json: {row['method']!r}: {problem}")
    kind, found = row.get("baseline", "trained"), {}
    for key, (_, (name,)) in MESHES.items():
        part = "prediction space" if key in _RETRIEVAL else row.get("part", "all") if key in _CLASSES else "equivariant"
        line = record.find(name, part) or (record.find(name, "all") if part == "equivariant" else None)
        if line is not None:
            found[key] = tuple(getattr(line, kind))
    return len(record.seeds), found


def _mesh_table(there: Mapping[str, tuple[int, dict[str, Values]]], bounds: Mapping[str, str | None]) -> str:
    """One row per method, and the share of what the supervised network reaches."""
    best = {key: there[name][1].get(key, ()) for key, name in bounds.items() if name in there}
    only = {name for name in bounds.values() if name is not None}
    head = ["", "seeds", *(heading for heading, _ in MESHES.values()), *_SHARES.values()]
    cells = []
    for method, (seeds, values) in there.items():
        shown = [number(names[0], values.get(key, ())) for key, (_, names) in MESHES.items()]
        shares = [_share(values.get(key, ()), best.get(key, ())) for key in _SHARES]
        cells.append([f"{method} (the bound)" if {method} == only else method, str(seeds or ""), *shown, *shares])
    return table(head, cells, range(1, len(head)))


def _share(values: Values, bound: Values) -> str:
    ours, best = mean(values) if values else None, mean(bound) if bound else None
    return "" if ours is None or best is None or best <= 0 else f"{100 * ours / best:.0f}"


def _mesh_facts(rows: Iterable[Content], question: str, records: Mapping[str, Record]) -> list[str]:
    """How each row was measured; rows of the same circumstances share a line. What stands after a comma in a name is
    another measurement of the same runs.
    """
    alike: dict[str, list[str]] = {}
    for row in rows:
        if question in row and "baseline" not in row and ", " not in row["method"]:
            source = row[question]
            told = circumstances(records[source]) if isinstance(source, str) else facts(source)
            alike.setdefault(told, []).append(row["method"])
    return [f"- {', '.join(names)}: {told}" for told, names in alike.items()]


# Rivals.


def rivals(content: Content) -> str:
    """Libraries side by side, as benchmarks/rivals.py has measured them; unfinished cells are left out."""
    settings, cells = content["settings"], content["cells"]
    seconds, steps = f"{settings['seconds']:g} s", f"{settings['steps']} steps"
    head = ["", "library", "images/s", f"steps in {seconds}", f"kNN after {seconds}, %", f"linear after {seconds}, %"]
    head += [f"kNN after {steps}, %", f"linear after {steps}, %", "peak memory, MB", "of it imports"]
    rows = []
    for method in dict.fromkeys(cell["method"] for cell in cells):
        for library in content["versions"]:
            some = [cell for cell in cells if (cell["method"], cell["library"]) == (method, library)]
            if some:
                rows.append([method, library, *_rival_row(some)])
    untrained = {key: number(f"{key}/top1", _column(content["untrained"], key)) for key in ("knn", "linear")}
    rows.append(["untrained", "", "", "", untrained["knn"], untrained["linear"], *untrained.values(), "", ""])
    versions = {f"{name} {one[name]}" for one in content["versions"].values() for name in one if name in _COMPARED}
    clock = "processor time" if settings["clock"] == "processor" else "wall-clock time"
    seeds = sorted({cell["seed"] for cell in cells})
    told = facts(
        content | {"seeds": seeds, "note": f"{clock}; {', '.join(sorted(versions))}; {content['note']}".rstrip("; ")}
    )
    return f"{table(head, rows, range(2, len(head)))}\n\n{told}"


_COMPARED = ("torch", "lightly", "stable-pretraining")


def _rival_row(cells: Sequence[Content]) -> list[str]:
    def whole(values: Values) -> str:
        return f"{mean(values) or 0:,.0f}"

    quality = [
        number(f"{key}/top1", _column([cell[when] for cell in cells], key))
        for when in ("at_seconds", "at_steps")
        for key in ("knn", "linear")
    ]
    counts = [whole(_column(cells, "images_per_s")), whole(_column([cell["at_seconds"] for cell in cells], "step"))]
    return [*counts, *quality, whole(_column(cells, "peak_mb")), whole(_column(cells, "imported_mb"))]


def _column(rows: Iterable[Content], key: str) -> Values:
    return tuple(float(row[key]) for row in rows)


# Measurements without a run folder.


def plain(content: Content) -> str:
    """A table whose cells a file has as texts."""
    head = content["head"]
    return f"{table(head, content['rows'], range(1, len(head)))}\n\n{facts(content)}"


def facts(content: Content) -> str:
    """Seeds, commit or commits, machine, note and command of a file; `unknown` where it has none."""
    seeds, command = content.get("seeds", UNKNOWN), content.get("command", UNKNOWN)
    commits = sorted({str(one)[:7] for one in content.get("commits", [content.get("commit", UNKNOWN)])})
    told = [
        f"seeds {seeds if isinstance(seeds, str) else ', '.join(map(str, seeds))}",
        f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}"
        + (" with changes" if content.get("uncommitted") else ""),
        str(content.get("machine", f"machine {UNKNOWN}")),
        *([content["note"]] if content.get("note") else []),
        f"command {UNKNOWN}" if command == UNKNOWN else f"`{command}`",
    ]
    return sentence("; ".join(told)) + "."


# Records beside each other.


def beside(records: Mapping[str, Record], rows: Mapping[str, tuple[str, str]]) -> str:
    """A column for each record, by its heading, and the baselines of the first one.

    Args:
        records: by heading.
        rows: the measurement and the part of the features, by heading.
    """
    first = next(iter(records.values()))
    head = ["", *records, "untrained", "shuffled targets"]
    cells = []
    for heading, (name, part) in rows.items():
        lines = [record.find(name, part) for record in records.values()]
        trained = ["" if line is None else number(name, line.trained) for line in lines]
        base = first.find(name, part)
        cells.append(
            [
                heading,
                *trained,
                *(["", ""] if base is None else [number(name, base.untrained), number(name, base.shuffled)]),
            ]
        )
    told = "\n".join(f"- {heading}: {circumstances(record)}" for heading, record in records.items())
    return f"{table(head, cells, range(1, len(head)))}\n\n{told}"
