"""Text files of rows and columns: CSV with commas, semicolons, tabs or bars, and JSON lines."""

import codecs
import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from ssl_inv.data.archives import Files

SHEET_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")

_DELIMITERS = ",;\t|"

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""How a text begins that is not plain UTF-8, and its encoding. Excel writes the latter as "Unicode text"."""


def is_sheet(name: str) -> bool:
    """Whether a name is one of a table, by its ending."""
    return name.lower().endswith(SHEET_SUFFIXES)


def read_sheet(files: Files, name: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table in UTF-8 or UTF-16, with cells stripped of blanks and empty lines left out.

    The delimiter is the one of comma, semicolon, tab and bar that the header has most often. In JSON lines, every line
    is an object of texts and numbers; a column that a line lacks is empty there.

    Raises:
        ValueError: if it is no such table or too large, has no header, a column twice, or a row of another length than
            the header.
    """
    where = f"{files.path}: {name}"
    try:
        content = files.read(name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    encoding = next((one for mark, one in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        kind = encoding.removesuffix("-sig").upper()
        raise ValueError(f"{where} is not {kind} text (byte {error.start + 1}); save it as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{where} is no text in UTF-8, or in UTF-16 with its mark; save it as UTF-8")
    if PurePosixPath(name).suffix.lower() in (".jsonl", ".ndjson"):
        return _json_lines(text, where)
    text, delimiter = _delimited(text)
    try:
        lines = [
            [cell.strip() for cell in line]
            for line in csv.reader(io.StringIO(text, ""), delimiter=delimiter)
            if any(cell and not cell.isspace() for cell in line)
        ]
    except csv.Error as error:
        raise ValueError(f"{where} cannot be read as CSV: {error}; is a quote not closed?") from None
    if not lines:
        raise ValueError(f"{where} is empty")
    header, rows = lines[0], lines[1:]
    if twice := [column for column in header if header.count(column) > 1]:
        raise ValueError(f"{where} has two columns called {twice[0]!r}")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(f"{where}, row {number} has {len(row)} cells, but the header has {len(header)}")
    return header, rows


def _delimited(text: str) -> tuple[str, str]:
    """A text and its delimiter. Excel can name it in a line of its own, `sep=;`, which is then taken away."""
    first, _, rest = text.partition("\n")
    if first.startswith("sep=") and len(first.rstrip("\r")) == len("sep=;"):
        return rest, first[4]
    return text, _delimiter(text)


def _delimiter(text: str) -> str:
    """The delimiter of the first line that is not empty; words in brackets or quotes may have others."""
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    depth, quoted, counts = 0, False, dict.fromkeys(_DELIMITERS, 0)
    for letter in first:
        quoted ^= letter == '"'
        depth += (letter == "[") - (letter == "]")
        if letter in counts and not quoted and depth <= 0:
            counts[letter] += 1
    return max(_DELIMITERS, key=lambda one: counts[one])


def _json_lines(text: str, where: str) -> tuple[list[str], list[list[str]]]:
    rows: list[dict[str, Any]] = []
    # Texts in JSON may have other line ends, such as U+2028, as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise ValueError(f"{where}, line {number} is no JSON: {why}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}, line {number} is no JSON object")
        rows.append(row)
    if not rows:
        raise ValueError(f"{where} is empty")
    header = list(dict.fromkeys(name for row in rows for name in row))
    return header, [
        [_cell(row.get(name), name, number, where) for name in header] for number, row in enumerate(rows, 1)
    ]


def _cell(value: Any, name: str, row: int, where: str) -> str:
    if isinstance(value, Sequence | dict) and not isinstance(value, str):
        raise ValueError(f"{where}, row {row}: {name} is a list or an object; one text or number is needed")
    text = "" if value is None else str(int(value)) if isinstance(value, bool) else str(value).strip()
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"{where}, row {row}: {name} is {text!a}, which is no text") from None
    return text
