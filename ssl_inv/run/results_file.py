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
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "trained" in row for row in rows):
        raise RecipeError(f"{file}: is not what a run writes: no list of rows with `trained`")
    return rows


def _told(record: Path) -> dict[str, Any]:
    try:
        found = read_json(record).get("checksums", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}
