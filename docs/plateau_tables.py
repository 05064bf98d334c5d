"""The tables of docs/results.md on when a run leaves its plateau, from docs/results/plateau.json.

The file is made by benchmarks/plateau.py: one entry for each kind of data, way, number of objects, seed and number of
steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark_tables import facts
from tables import number, table

WAYS = {
    "supervised": "supervised",
    "supervised-growth": "supervised, views that grow apart",
    "supervised-augmented": "supervised, views augmented",
    "supervised-pretrained": "supervised, begun from SimCLR",
    "sie": "SIE as published",
    "group": "SIE, begun as the group",
    "held": "SIE, begun as the group and held",
    "within": "SIE, variance within objects",
    "negatives": "SIE, other views as negatives",
    "negatives-augmented": "the same, views augmented",
    "negatives-pretrained": "the same, begun from SimCLR",
    "inverse": "SIE, a head tells the action",
    "growth": "SIE, views that grow apart",
}
"""Names of the ways of the benchmark, in the order of the tables."""

DATA = {"solids": "Solids", "meshes": "Meshes", "turntable": "Fruits on a turntable, photographs"}
"""Headings of the data, in the order of the tables."""

Cell = Mapping[str, Any]


def plateau(content: Mapping[str, Any]) -> str:
    """A table for each kind of data: a row for each way, a column for each number of objects."""
    cells = content["cells"]
    return "\n\n".join(
        f"**{heading}**\n\n{_of_data([one for one in cells if one['data'] == data])}"
        for data, heading in DATA.items()
        if any(one["data"] == data for one in cells)
    )


def _of_data(cells: Sequence[Cell]) -> str:
    groups: dict[tuple[str, int, int], list[Cell]] = {}
    for one in sorted(cells, key=lambda one: one["seed"]):
        groups.setdefault((one["way"], one["steps"], one["objects"]), []).append(one)
    columns = sorted({(one["steps"], one["objects"]) for one in cells}, key=lambda column: column[::-1])
    lengths = {steps for steps, _ in columns}
    head = [f"{objects:,} objects" + ("" if len(lengths) == 1 else f", {steps} steps") for steps, objects in columns]
    rows = [
        [WAYS[way], *(_shown(groups.get((way, *column), ())) for column in columns)]
        for way in WAYS
        if any(one["way"] == way for one in cells)
    ]
    if all(one["scores"][0][0] == 0 for one in cells):
        of_column = [[one for one in cells if (one["steps"], one["objects"]) == column] for column in columns]
        rows.append(["untrained", *map(_untrained, of_column)])
    told = facts(
        {
            "seeds": sorted({one["seed"] for one in cells}),
            "commits": [one["commit"] for one in cells],
            "machine": f"{cells[0]['threads']} thread, {cells[0]['machine']}",
            "command": _command(cells),
            "note": f"torch {cells[0]['torch']}, {', '.join(map(str, sorted(lengths)))} steps",
        }
    )
    return f"{table(['', *head], rows, range(1, len(head) + 1))}\n\n{told}"


def _command(cells: Sequence[Cell]) -> str:
    """One command that makes all cells, and those of the grid that were left out."""
    words = cells[0]["command"].split()
    kept = [*words[:2]]
    for option in ("--data", "--path"):
        if option in words:
            kept += [option, words[words.index(option) + 1]]
    if "turntable" not in kept:
        kept += ["--objects", *map(str, sorted({one["objects"] for one in cells}))]
    kept += ["--ways", *(way for way in WAYS if any(one["way"] == way for one in cells))]
    (first, *_), (second, *_) = cells[0]["scores"][:2]
    seeds = sorted({one["seed"] for one in cells})
    kept += ["--seeds", *map(str, seeds), "--steps", str(cells[0]["steps"]), "--every", str(second - first)]
    return " ".join([*kept, "--output", "new.json"])


def _shown(cells: Sequence[Cell]) -> str:
    """R2 on known and on new objects at the end, and the steps at which each seed has left its plateau."""
    if not cells:
        return ""
    ends = [number("r2", tuple(one["scores"][-1][place] for one in cells)) for place in (1, 2)]
    left = [_steps([one[key] for one in cells]) for key in ("known_left", "new_left")]
    return f"{ends[0]} / {ends[1]} ({left[0]} / {left[1]})"


def _untrained(cells: Sequence[Cell]) -> str:
    """R2 on known and on new objects before the first step. The ways begin with the same network in each seed."""
    of_seed = {one["seed"]: one["scores"][0] for one in cells}
    return " / ".join(number("r2", tuple(score[place] for score in of_seed.values())) for place in (1, 2))


def _steps(found: Sequence[int | None]) -> str:
    """The steps of every seed; a run may never leave its plateau."""
    return ", ".join("never" if one is None else str(one) for one in found)
