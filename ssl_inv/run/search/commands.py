"""The command `neighbours`, after the command line has checked its arguments."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssl_inv.atomic import write_text
from ssl_inv.engine.progress import Progress
from ssl_inv.run.search import Index
from ssl_inv.run.search.page import (
    duplicates_table,
    neighbours_table,
    told,
    write_duplicates,
    write_neighbours,
)


def neighbours(index: Index, images: list[str], k: int, part: str | None, output: Path | None, as_json: bool) -> None:
    """Print the nearest pictures of some queries, and write them as a page or as JSON."""
    show = Progress()
    index.warn = show.warn
    found = index.neighbours(images, k, part)
    content = [one.to_json() for one in found]
    _give(content, str(neighbours_table(found)), output, as_json, lambda path: write_neighbours(index, found, path))


def duplicates(index: Index, threshold: float, part: str | None, output: Path | None, as_json: bool) -> None:
    """Print the near duplicates of an index, and write them as a page or as JSON."""
    show = Progress()
    try:
        found = index.duplicates(threshold, part, show.counting("comparing"))
    finally:
        show.close()
    table = duplicates_table(found)
    text = f"{told(found)}\n{table}" if len(table) else told(found)
    if found.advice:
        show.warn(found.advice)
    _give(found.to_json(), text, output, as_json, lambda path: write_duplicates(index, found, path))


def _give(content: Any, text: str, output: Path | None, as_json: bool, write_page: Callable[[Path], None]) -> None:
    plain = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.suffix.lower() == ".json":
            write_text(output, plain + "\n")
        else:
            write_page(output)
    sys.stdout.write(f"{plain if as_json else text}\n")
