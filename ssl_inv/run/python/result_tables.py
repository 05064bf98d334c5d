"""Results and metrics of runs as tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssl_inv.run.tables import Table

_ALWAYS = "measure", "part", "value", "spread", "untrained", "shuffled"
_IF_ANY = "reference", "remark"


def result_table(results: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "") -> Table:
    """A row for each result of each encoder, with its baselines.

    Args:
        results: encoder -> its results, as results.json has them. A single encoder without a name has no column.
        title: see `Table`.
    """
    rows = [{"encoder": encoder, **_row(one)} for encoder, ones in results.items() for one in ones]
    columns = [] if list(results) == [""] else ["encoder"]
    columns += [*_ALWAYS, *(name for name in _IF_ANY if any(row[name] not in (None, "") for row in rows))]
    return Table(rows, columns, title)


def _row(one: Mapping[str, Any]) -> dict[str, Any]:
    trained = one["trained"]
    baselines = {name: None if one[name] is None else one[name].get("value") for name in ("untrained", "shuffled")}
    return {
        "measure": trained["name"],
        "part": trained["part"],
        "value": trained.get("value"),
        "spread": trained.get("spread"),
        **baselines,
        "reference": one.get("reference"),
        "remark": trained.get("detail", ""),
    }


def metric_table(entries: Iterable[Mapping[str, Any]], title: str = "") -> Table:
    """A row for each entry of metrics.jsonl, with a column for each number: `step`, `loss/invariance`, ..."""
    return Table([_flat(entry) for entry in entries], title=title)


def _flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}/")
        else:
            found[f"{prefix}{name}"] = value
    return found
