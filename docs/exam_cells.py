"""The numbers of the encoders in the exam: a file for each data set and encoder, docs/exam/DATA/ENCODER.json.

    python docs/exam_cells.py docs/exam.json docs/exam

A cell is one encoder on one data set with one seed. A file has the cells of all seeds: facts that all of them share
once, and a line for each result, with value, standard error and the value with shuffled targets of each seed. The
command above brings the cells of a file of the former kind, which had all cells in one list, to this form.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_inv.atomic import write_text

FOLDER = Path(__file__).parent / "exam"

Cell = Mapping[str, Any]

_KEYS = ("data", "encoder", "seed")
_BY_RESULT = ("results", "shuffled", "lacking")


def read(folder: Path = FOLDER) -> list[Cell]:
    """All cells of a folder, by data set, encoder and seed; none if there is no folder.

    Cells of a file of the former kind beside it, `docs/exam.json` for `docs/exam`, count too. Of two equal cells it is
    the later one.
    """
    return _sorted(_latest([*_former(folder.with_suffix(".json")), *_own(folder)]))


def merge(folder: Path, cells: Iterable[Cell]) -> None:
    """Write cells in the place of those of the same data set, encoder and seed."""
    new = {_key(one): one for one in cells}
    for data, encoder in sorted({key[:2] for key in new}):
        file = folder / data / f"{encoder}.json"
        known = {_key(one): one for one in _of_file(file)} if file.is_file() else {}
        both = [one for key, one in {**known, **new}.items() if key[:2] == (data, encoder)]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text_of(_sorted(both)))


def text_of(cells: Sequence[Cell]) -> str:
    """The content of the file of some seeds of one encoder on one data set."""
    facts = [{key: value for key, value in one.items() if key not in (*_BY_RESULT, "seed")} for one in cells]
    shared = {key: value for key, value in facts[0].items() if all(one.get(key) == value for one in facts)}
    own = [
        {"seed": one["seed"], **{key: value for key, value in fact.items() if key not in shared}}
        for one, fact in zip(cells, facts, strict=True)
    ]
    lines = [f'"shared": {_json(shared)}', f'"cells": [\n{_lines(map(_json, own))}\n]']
    numbers = {key: [_numbers(one, key) for one in cells] for key in _names(cells, "results", "shuffled")}
    reasons: dict[str, dict[str, list[int]]] = {}
    for key in _names(cells, "lacking"):
        for place, one in enumerate(cells):
            if (why := one["lacking"].get(key)) is not None:
                reasons.setdefault(why, {}).setdefault(key, []).append(place)
    for name, rows in (("results", numbers), ("lacking", reasons)):
        lines.append(f'"{name}": {{\n{_lines(f"{_json(key)}: {_json(row)}" for key, row in rows.items())}\n}}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _of_file(file: Path) -> list[Cell]:
    found = json.loads(file.read_text(encoding="utf-8"))
    cells: list[dict[str, Any]] = [{**found["shared"], **one} for one in found["cells"]]
    for place, one in enumerate(cells):
        rows = {key: row[place] for key, row in found["results"].items() if row[place] is not None}
        one["results"] = {key: row[:2] for key, row in rows.items() if len(row) != 1}
        one["shuffled"] = {key: row[-1] for key, row in rows.items() if len(row) != 2}
        one["lacking"] = {
            key: why for why, keys in found["lacking"].items() for key, places in keys.items() if place in places
        }
    return list(cells)


def _numbers(cell: Cell, key: str) -> list[float | None] | None:
    """Value and standard error, and the value with shuffled targets if there is one; that alone without a value."""
    shuffled = [cell["shuffled"][key]] if key in cell["shuffled"] else []
    return [*cell["results"].get(key, []), *shuffled] or None


def _names(cells: Sequence[Cell], *kinds: str) -> dict[str, None]:
    return dict.fromkeys(key for kind in kinds for one in cells for key in one[kind])


def _own(folder: Path) -> list[Cell]:
    return [one for file in sorted(folder.glob("*/*.json")) for one in _of_file(file)]


def _former(file: Path) -> list[Cell]:
    return list(json.loads(file.read_text(encoding="utf-8"))["cells"]) if file.is_file() else []


def _key(cell: Cell) -> tuple[str, str, int]:
    data, encoder, seed = (cell[key] for key in _KEYS)
    return data, encoder, seed


def _latest(cells: Iterable[Cell]) -> list[Cell]:
    found: dict[tuple[str, str, int], Cell] = {}
    for one in cells:
        known = found.get(_key(one))
        if known is None or one["date"] >= known["date"]:
            found[_key(one)] = one
    return list(found.values())


def _sorted(cells: Iterable[Cell]) -> list[Cell]:
    return sorted(cells, key=_key)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _lines(rows: Iterable[str]) -> str:
    return ",\n".join(rows)


def main(words: Sequence[str]) -> int:
    """Convert a file of the former kind."""
    if len(words) != 2 or not Path(words[0]).is_file():
        sys.stderr.write("error: give a file of the former kind and a folder: docs/exam.json docs/exam\n")
        return 2
    cells = _former(Path(words[0]))
    own = {_key(one): one for one in _own(Path(words[1]))}
    merge(Path(words[1]), [one for one in cells if one["date"] >= own.get(_key(one), one)["date"]])
    sys.stdout.write(f"{len(cells)} cells in {words[1]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
