"""The files of an exam: its record, and its table as text, CSV and LaTeX."""

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssl_inv.atomic import write_text
from ssl_inv.evaluation.results import Comparison
from ssl_inv.run.environment import host_facts, versions
from ssl_inv.run.exam.differences import Difference
from ssl_inv.run.exam.examining import Examined
from ssl_inv.run.exam.families import level_of
from ssl_inv.run.folder import now
from ssl_inv.run.pages.report import summary
from ssl_inv.run.tables import Table, shown

RECORD = "exam.json"
"""The record of an exam, which is there from its beginning."""

_LEVEL = "no information"
"""The heading of what is scored without information, see `level_of`."""


def begin(output: Path, encoders: Sequence[str]) -> None:
    """Claim a folder: what is measured there is found again."""
    output.mkdir(parents=True, exist_ok=True)
    facts = {"state": "began", "encoders": list(encoders), "command": shlex.join(sys.argv), "began": now()}
    write_text(output / RECORD, json.dumps(facts, indent=2) + "\n")


def keys_of(found: Mapping[str, Examined]) -> list[tuple[str, str]]:
    """The (name, part) of every result of any encoder: those of a summary first, each name's parts together."""
    tables = [one.table for one in found.values()]
    top = [row.trained.name for table in tables for row in summary(table)]
    names = dict.fromkeys([*top, *(row.trained.name for table in tables for row in table)])
    parts: dict[str, dict[str, None]] = {name: {} for name in names}
    for table in tables:
        for row in table:
            parts[row.trained.name][row.trained.part] = None
    return [(name, part) for name in names for part in parts[name]]


def row_of(one: Examined, key: tuple[str, str]) -> Comparison | None:
    """The result of one encoder."""
    return next((row for row in one.table if (row.trained.name, row.trained.part) == key), None)


def cell(row: Comparison | None) -> str:
    """A value with its standard error."""
    if row is None or row.trained.value is None or not math.isfinite(row.trained.value):
        return ""
    spread = row.trained.spread
    return shown(float(row.trained.value)) + ("" if spread is None else f" ± {shown(float(spread))}")


def wide_table(found: Mapping[str, Examined]) -> Table:
    """A row for each measurement, a column for each encoder, and what no information scores."""
    rows = [
        {
            "measure": key[0],
            "part": key[1],
            **{name: cell(row_of(one, key)) for name, one in found.items()},
            _LEVEL: "" if (level := level_of(found, key)) is None else shown(level),
        }
        for key in keys_of(found)
    ]
    filled = [row for row in rows if any(row[name] for name in found)]
    return Table(filled, ["measure", "part", *found, _LEVEL])


def long_table(found: Mapping[str, Examined]) -> Table:
    """A row for each result of each encoder, with its baselines and all digits."""
    return Table(
        {
            "encoder": name,
            "measure": row.trained.name,
            "part": row.trained.part,
            "value": row.trained.value,
            "standard error": None if row.trained.spread is None else float(row.trained.spread),
            "untrained": None if row.untrained is None else row.untrained.value,
            "shuffled": None if row.shuffled is None else row.shuffled.value,
            "remark": row.trained.detail,
        }
        for name, one in found.items()
        for row in one.table
    )


def difference_table(differences: Sequence[Difference]) -> Table:
    """A row for each difference."""
    return Table(
        {
            "measure": one.name,
            "part": one.part,
            "encoder": one.encoder,
            f"minus {one.other}": one.difference,
            "95 % interval": f"{shown(one.low)} to {shown(one.high)}",
            "p": one.p,
            "p, Holm": one.adjusted,
        }
        for one in differences
    )


def write(
    output: Path, found: Mapping[str, Examined], differences: Sequence[Difference], facts: Any, page: str
) -> None:
    """Write the record, the page and the tables."""
    write_text(output / "exam.html", page)
    write_text(output / "exam.csv", long_table(found).to_csv())
    write_text(output / "exam.tex", wide_table(found).to_latex())
    record = {
        "state": "complete",
        "encoders": {
            name: {
                "description": one.description,
                "costs": {protocol: asdict(cost) for protocol, cost in one.costs.items()},
                "skipped": one.skipped,
                "facts": one.remarks.facts,
                "warnings": one.remarks.warnings,
                "classes": None if one.remarks.classes is None else asdict(one.remarks.classes),
            }
            for name, one in found.items()
        },
        "differences": [asdict(one) for one in differences],
        "command": shlex.join(sys.argv),
        "ended": now(),
        "host": host_facts(),
        "versions": versions(),
        **facts,
    }
    write_text(output / RECORD, json.dumps(record, indent=2) + "\n")
