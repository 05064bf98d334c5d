"""Inter-image objectives beside their bases at equal time, from docs/results/equal-time.json.

benchmarks/equal_time.py writes the file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import one_budget
from benchmark_tables import facts
from tables import number, table

Content = Mapping[str, Any]

ROWS = {
    "simclr": "SimCLR",
    "transitive": "transitive invariance, on SimCLR",
    "moco-v2": "MoCo v2",
    "interclr": "InterCLR, on MoCo v2",
    "byol": "BYOL",
    "obow": "OBoW",
}
"""Names of the candidates: each base before what stands on it."""


def equal_time(content: Content) -> str:
    """A row for each objective: steps, classes, and what was watched of its mechanism."""
    by_name: dict[str, list[Content]] = {}
    for key in sorted(content["runs"]):
        by_name.setdefault(key.split(" ")[1], []).append(content["runs"][key])
    head = ["", "seeds", "steps", "linear, %", "kNN, %", "neighbours or clusters of one class, %"]
    rows = []
    for name, runs in by_name.items():
        classes = [number(one, one_budget.values(runs, one)) for one in ("linear/top1", "knn/top1")]
        rows.append([ROWS[name], str(len(runs)), _steps(runs), *classes, _of_one_class(runs)])
    order = list(ROWS.values())
    rows.sort(key=lambda row: order.index(row[0]))
    most = max(by_name.values(), key=len)
    plain = [number(one, one_budget.values(most, one, 2)) for one in ("linear/top1", "knn/top1")]
    rows.append(["untrained", "", "", *plain, ""])
    one = most[0]
    seeds = sorted({int(key.rpartition(" ")[2]) for key in content["runs"]})
    command = f"python benchmarks/equal_time.py runs --images grocery_96px.zip --seconds {one['seconds']:g}"
    command += f" --seeds {' '.join(map(str, seeds))}"
    note = f"torch {one['torch']}, {one['threads']} thread; {one['seconds']:g} s of processor time each"
    commits = [run["commit"] for run in content["runs"].values()]
    told = facts({"seeds": seeds, "machine": one["machine"], "note": note, "command": command, "commits": commits})
    return f"{table(head, rows, range(1, len(head)))}\n\n{told}"


def _steps(runs: Sequence[Content]) -> str:
    """The steps of every seed, and those of the teacher before."""
    return ", ".join(
        f"{run['steps_of_teacher']:,} + {run['steps']:,}" if "steps_of_teacher" in run else f"{run['steps']:,}"
        for run in runs
    )


def _of_one_class(runs: Sequence[Content]) -> str:
    found = [run["watched"].get("precision_inter", run["watched"].get("purity")) for run in runs]
    known = tuple(one for one in found if one is not None)
    return number("linear/top1", known) if known else ""
