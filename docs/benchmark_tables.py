"""Tables of docs/results that compare more than one recipe: rivals, and measurements without a run folder.

Each says with what, on what and with which seeds it was measured. What a file does not know is `unknown`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from record import UNKNOWN, Record, Values
from tables import circumstances, number, sentence, table

from ssl_inv.run.side_by_side.over_seeds import mean

Content = Mapping[str, Any]
"""A file of docs/results with a key `table`."""


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
