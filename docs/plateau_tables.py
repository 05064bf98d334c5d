"""The table of docs/results.md on when a run leaves its plateau, from docs/results/plateau.json.

The file is made by benchmarks/plateau.py: one entry for each way, number of objects, seed and number of steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark_tables import facts
from tables import number, table

WAYS = {
    "supervised": "supervised",
    "supervised-growth": "supervised, views that grow apart",
    "sie": "SIE as published",
    "group": "SIE, begun as the group",
    "held": "SIE, begun as the group and held",
    "within": "SIE, variance within objects",
    "negatives": "SIE, other views as negatives",
    "inverse": "SIE, a head tells the action",
    "growth": "SIE, views that grow apart",
}
"""Names of the ways of the benchmark, in the order of the table."""


def plateau(content: Mapping[str, Any]) -> str:
    """A row for each way, number of objects and number of steps."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    order = list(WAYS)
    for one in sorted(content["cells"], key=lambda one: (one["objects"], order.index(one["way"]), one["steps"])):
        groups.setdefault((one["way"], one["objects"], one["steps"]), []).append(one)
    head = ["", "objects", "steps", "seeds", "left on known objects at", "on new objects at"]
    head += ["R2 of known objects at the end", "R2 of new objects"]
    rows = []
    for (way, objects, steps), cells in groups.items():
        left = [_steps([one[key] for one in cells]) for key in ("known_left", "new_left")]
        ends = [number("r2", tuple(one["scores"][-1][place] for one in cells)) for place in (1, 2)]
        rows.append([WAYS[way], f"{objects:,}", str(steps), str(len(cells)), *left, *ends])
    cells = content["cells"]
    commands = list(dict.fromkeys(one["command"] for one in cells))
    told = facts(
        {
            "seeds": sorted({one["seed"] for one in cells}),
            "machine": f"{cells[0]['threads']} thread, {cells[0]['machine']}",
            "command": commands[0],
            "note": f"torch {cells[0]['versions']['torch']}",
        }
    )
    return f"{table(head, rows, range(1, len(head)))}\n\n{told}"


def _steps(found: Sequence[int | None]) -> str:
    """The steps of every seed; a run may never leave its plateau."""
    return ", ".join("never" if one is None else str(one) for one in found)
