"""The tables that `make docs` puts between two comments of a page that is otherwise written by hand."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aggregate_tables
import benchmark_tables
import equal_time_tables
import mesh_tables
import one_budget
import photographs
import plateau_tables
import split_tables
import tables
from record import Record

PAGES = ("README.md", "docs/results.md", "docs/speed.md", "docs/choosing.md", "docs/kornia.md", "docs/splits.md")
_NOT_YET = "Not measured yet: there is no `{}`."

_ROTATION = "r2/relative/rotation"
_SIE = {
    "linear top-1, %": ("linear/top1", "all"),
    "kNN top-1, %": ("knn/top1", "all"),
    "rotation R2, all features": (_ROTATION, "all"),
    "rotation R2, invariant part": (_ROTATION, "invariant"),
    "rotation R2, equivariant part": (_ROTATION, "equivariant"),
    "MRR among 8 views": ("retrieval/val-val/mrr", "prediction space"),
    "H@1 among 8 views": ("retrieval/val-val/hit@1", "prediction space"),
}
_TURNTABLE = {
    "linear top-1, %": ("linear/top1", "all"),
    "kNN top-1, %": ("knn/top1", "all"),
    "azimuth R2, all features": ("r2/relative/azimuth_deg", "all"),
    "azimuth R2, equivariant part": ("r2/relative/azimuth_deg", "equivariant"),
    "MRR among 36 views": ("retrieval/val-val/mrr", "prediction space"),
}
_CLASSES = {"kNN top-1, %": ("knn/top1", "all"), "linear top-1, %": ("linear/top1", "all")}
_TRANSITIVE = {
    "views of one object alone": "transitive-rendered-intra",
    "neighbours alone, from half-way on": "transitive-rendered-inter",
    "all kinds, neighbours from a moving average of the network": "transitive-rendered",
    "all kinds, neighbours from a frozen teacher": "transitive-rendered-teacher",
}


def blocks(records: Sequence[Record], others: Mapping[str, Mapping[str, Any]]) -> dict[str, Callable[[], str]]:
    """What makes each block, by the source that its first line names.

    Args:
        records: all of docs/results.
        others: the files of docs/results that are no records.
    """
    by_name = {record.name: record for record in records}

    budgets = others.get("one-budget", {"runs": {}})

    def of(name: str, make: Callable[[Mapping[str, Any]], str]) -> Callable[[], str]:
        return lambda: make(others[name]) if name in others else _NOT_YET.format(f"docs/results/{name}.json")

    def photos(budget: str) -> Callable[[], str]:
        return of("recorded-transforms", lambda content: photographs.recorded_transforms(content, budget))

    plain = {name: content for name, content in others.items() if content["table"] == "plain"}
    return {
        "docs/results": lambda: tables.demo(by_name["demo"], by_name["demo-told-rotation"]),
        "docs/results/one-budget.json, meshes": lambda: one_budget.meshes(budgets) or "Not measured yet.",
        "docs/results/one-budget.json, meshes in short": lambda: one_budget.meshes_in_short(budgets),
        **{
            f"docs/results/one-budget.json, {budget}": lambda budget=budget, beside=beside: one_budget.frontier(
                budgets, budget, beside
            )
            for budget, beside in {"solids-small": [], "solids": tables.on_equal_terms(records)[0]}.items()
            if one_budget.by_candidate(budgets, budget)
        },
        "docs/results/rivals.json": of("rivals", benchmark_tables.rivals),
        "docs/results/one-budget.json, meshes-shifted": lambda: (
            mesh_tables.shifted(budgets) if one_budget.by_candidate(budgets, "meshes-shifted") else "Not measured yet."
        ),
        "docs/results/reasons.json": of("reasons", lambda content: mesh_tables.reasons(content, budgets)),
        "docs/results/unseen-angles.json": of("unseen-angles", mesh_tables.unseen_angles),
        "docs/results/equal-time.json": of("equal-time", equal_time_tables.equal_time),
        "docs/results/aggregates.json": of("aggregates", aggregate_tables.aggregates),
        "docs/results/plateau.json": of("plateau", plateau_tables.plateau),
        **{
            f"docs/results/split-study.json, {part}": of("split-study", make) for part, make in split_tables.ALL.items()
        },
        **{f"docs/results/recorded-transforms.json, {budget}": photos(budget) for budget in photographs.COLUMNS},
        "docs/loading.json": tables.loading,
        "the records of SIE and VICReg": lambda: benchmark_tables.beside(
            {
                "SIE, begun as a multiplication": by_name["sie-quaternion-rendered"],
                "SIE as published": by_name["sie-rendered"],
                "VICReg": by_name["vicreg-rendered"],
            },
            _SIE,
        ),
        "the records on rendered solids": lambda: rotations(records),
        "the record sie-turntable": lambda: benchmark_tables.beside({"SIE": by_name["sie-turntable"]}, _TURNTABLE),
        "the records of transitive invariance": lambda: benchmark_tables.beside(
            {heading: by_name[name] for heading, name in _TRANSITIVE.items()}, _CLASSES
        ),
        **{f"docs/results/{name}.json": of(name, benchmark_tables.plain) for name in plain},
    }


def rotations(records: Sequence[Record]) -> str:
    """Classes and rotation of the recipes that were compared on equal terms on most objectives."""
    group = tables.on_equal_terms(records)[0]
    rows = []
    for record in group:
        classes, near, rotation = (
            record.find("linear/top1", "all"),
            record.find("knn/top1", "all"),
            tables.rotation_row(record),
        )
        if classes and near and rotation:
            cells = [tables.number(row.name, row.trained) for row in (classes, near, rotation)]
            centre = tables.mean(rotation.trained) or 0.0
            rows.append((-centre, [f"`{record.name}`", str(len(record.seeds)), *cells, rotation.part]))
    known = tables.best_known(group)[0]
    untrained = [known.find(name, "all") for name in ("linear/top1", "knn/top1", _ROTATION)]
    base = [
        "untrained",
        "",
        *("" if row is None else tables.number(row.name, row.untrained) for row in untrained),
        "all",
    ]
    head = ["record", "seeds", "linear, %", "kNN, %", "rotation R2", "part"]
    return tables.table(head, [*(row for _, row in sorted(rows)), base], range(1, 5))
