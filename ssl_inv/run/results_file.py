"""results.json: its rows, checked against the checksum that the record beside it has of them."""

from pathlib import Path
from typing import Any

from ssl_inv.atomic import checksum
from ssl_inv.catalogue import RecipeError
from ssl_inv.plain import MOST_BYTES, parse_json, read_json, require_file

RESULTS = "results.json"

_RECORDS = {"run.json": "ssl-inv pretrain --resume RUN", "evaluation.json": "ssl-inv evaluate"}
"""The records that may lie beside results, and what measures again."""


def checksums(folder: Path) -> dict[str, str]:
    """What the record of a folder is told of its results."""
    return {RESULTS: checksum(folder / RESULTS)}


def checked_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a results.json; none if there is no such file.

    Raises:
        RecipeError: if it is damaged, or is no JSON list of rows.
    """
    if not file.is_file():
        return []
    for name, again in _RECORDS.items():
        written = _told(file.with_name(name)).get(RESULTS)
        if written is not None and written != checksum(file):
            raise RecipeError(f"{file} is damaged: it does not fit its checksum in {name}; `{again}` measures again")
    try:
        require_file(file, MOST_BYTES)
        rows = parse_json(file.read_text(encoding="utf-8"), finite=True)
    except ValueError as error:
        raise RecipeError(f"{file}: cannot be read: {error}") from None
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise RecipeError(f"{file}: is not what a run writes: no list of results with their baselines")
    return rows


def _is_row(row: Any) -> bool:
    """Whether a value has the form of `Comparison`."""
    try:
        results = [row["trained"], *(row[name] for name in ("untrained", "shuffled") if row[name] is not None)]
        texts = [one[key] for one in results for key in ("name", "part")]
        numbers = [row.get("reference"), *(one.get(key) for one in results for key in ("value", "spread"))]
    except (AttributeError, IndexError, KeyError, TypeError):
        return False
    return all(isinstance(one, str) for one in texts) and all(
        one is None or isinstance(one, float | int) for one in numbers
    )


def _told(record: Path) -> dict[str, Any]:
    try:
        found = read_json(record).get("checksums", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}
