"""Files and texts of others, read as plain values and shown as plain text: bounded, and without surprises."""

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

MOST_BYTES = 64 * 2**20
"""Size of the largest JSON file that is read. The features and pixels of runs are in other files."""

DEEPEST = 100
"""Most lists and mappings inside each other."""

# C0 and C1 controls without tabs and ends of lines, what turns the direction of text or separates lines, and bytes that
# are no UTF-8.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]|\r(?!\n)"
)


def printable(text: str) -> str:
    r"""A text whose control characters are written as `\x1b`, so that a terminal shows them and does not obey them."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def require_file(path: Path, most: int | None = None) -> None:
    """Raise a `ValueError` unless a path is a regular file of at most `most` bytes.

    A pipe would be waited for, and a device such as /dev/zero never ends.
    """
    told = path.stat()
    if not stat.S_ISREG(told.st_mode):
        kind = "a folder" if stat.S_ISDIR(told.st_mode) else "a pipe or a device"
        raise ValueError(f"it is {kind}, and no regular file")
    if most is not None and told.st_size > most:
        raise ValueError(f"it has {told.st_size:,} bytes, and at most {most:,} are read")


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: if it is no regular file, too large or nested too deeply, or no JSON.
        OSError: if it cannot be read.
    """
    require_file(path, most)
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str, finite: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: the JSON.
        finite: whether to refuse NaN and infinity, which Python writes and JSON does not have.

    Raises:
        ValueError: if it is none, or nested more than `DEEPEST` times.
    """
    try:
        value = json.loads(text, parse_constant=_no_number if finite else None)
    except RecursionError:
        raise ValueError(f"lists and mappings are nested more than {DEEPEST} times") from None
    if any(depth > DEEPEST for depth in _depths(value)):
        raise ValueError(f"lists and mappings are nested more than {DEEPEST} times")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _depths(value: Any) -> Iterator[int]:
    """How deep each list and mapping lies."""
    level, depth = [value], 0
    while level := [one for one in level if isinstance(one, list | dict)]:
        depth += 1
        yield depth
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
