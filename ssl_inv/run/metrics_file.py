"""metrics.jsonl: one line of JSON per log entry. Lines that cannot be read are left out, and counted."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_inv.atomic import write_text, writing
from ssl_inv.plain import parse_json

Entries = list[dict[str, Any]]


def append_entry(file: Path, entry: Mapping[str, Any]) -> None:
    """Append a line. JSON has no infinite numbers and no NaN: they become null."""
    with writing(file), file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(finite(entry), allow_nan=False) + "\n")


def read_entries(file: Path) -> tuple[Entries, str]:
    """The entries of a file, if it is there, and what is to be said of lines that cannot be read.

    A run that is killed cuts off the last line, of which nothing is said.
    """
    if not file.is_file():
        return [], ""
    found = [_entry(line) for line in file.read_text(encoding="utf-8", errors="backslashreplace").splitlines()]
    lost = found[:-1].count(None)
    entries = [entry for entry in found if entry is not None]
    return entries, f"{lost} line(s) cannot be read and are left out" if lost else ""


def write_entries(file: Path, entries: Entries) -> None:
    """Replace a file, if it is there."""
    if file.is_file():
        write_text(file, "".join(json.dumps(entry) + "\n" for entry in entries))


def _entry(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None if it is none."""
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def finite(value: Any) -> Any:
    """A copy of nested mappings and lists with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
