"""Where seq-JEPA's aggregate loses classes, from docs/results/aggregates.json.

benchmarks/aggregates.py writes the file.
"""

from collections.abc import Mapping
from typing import Any

from benchmark_tables import facts
from tables import number, table

from ssl_inv.run.side_by_side.over_seeds import mean

COMMAND = "python benchmarks/aggregates.py runs/aggregates"
_MOST = "4"


def aggregates(content: Mapping[str, Any]) -> str:
    """A row for each way to make one vector of several views, and the numbers of views of the first variant and the
    most views of the others as columns.
    """
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for key, run in content["runs"].items():
        by_variant.setdefault(key.rpartition(", seed ")[0], []).append(run)
    names = sorted(by_variant, key=lambda one: one != "as it is")
    usual = by_variant[names[0]]
    columns = [
        (f"{views} view{'s' * (views != '1')}", usual, views) for views in next(iter(usual[0]["linear"].values()))
    ]
    columns += [(f"{name}, {_MOST} views", by_variant[name], _MOST) for name in names[1:]]
    ways = list(dict.fromkeys(way for runs in by_variant.values() for run in runs for way in run["linear"]))
    # By depth, and what is compared with the whole aggregate last.
    ways.sort(key=lambda way: (way in ("random aggregator", "told of no movement"), way.startswith("[AGG]"), way))
    rows = []
    for way in ways:
        cells = []
        for _, runs, views in columns:
            found = tuple(run["linear"][way][views] for run in runs if way in run["linear"])
            cells.append(number("linear/top1", found) if mean(found) is not None else "")
        rows.append([way, *cells])
    runs = list(content["runs"].values())
    seeds = sorted({int(key.rpartition(" ")[2]) for key in content["runs"]})
    note = f"torch {runs[0]['torch']}, {runs[0]['threads']} thread"
    commits = [run["commit"] for run in runs]
    told = facts({"seeds": seeds, "machine": runs[0]["machine"], "note": note, "command": COMMAND, "commits": commits})
    head = ["linear top-1, %, of", *(heading for heading, _, _ in columns)]
    return f"{table(head, rows, range(1, len(head)))}\n\n{told}"
