"""The numbers of papers, from papers.yaml."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ssl_inv.catalogue import suggest
from ssl_inv.run.plain_yaml import parse_yaml

PAPERS = Path(__file__).parent.parent / "papers.yaml"
_PLACE = ("source", "data", "setting")


@dataclass(frozen=True)
class Row:
    """Numbers that one source reports of one method on one data set in one setting.

    Attributes:
        method: the objective, or the key of a method that is none.
        source: key of the source.
        data: what it was pretrained or judged on.
        setting: what distinguishes it from other rows of the method; may be empty.
        values: text of the number, as the source writes it, by measure.
    """

    method: str
    source: str
    data: str
    setting: str
    values: dict[str, str]


@dataclass(frozen=True)
class Column:
    """A column of the overview: what one source reports of one measure on one data set."""

    heading: str
    measure: str
    data: str
    source: str


@dataclass(frozen=True)
class Papers:
    """Everything that papers.yaml says.

    Attributes:
        sources: where numbers are from and how they were measured, by key.
        measures: headings by key.
        overview: the columns that the overview takes from papers.
        names: what to call methods that are no objectives.
        rows: in the order of the file.
    """

    sources: dict[str, str]
    measures: dict[str, str]
    overview: tuple[Column, ...]
    names: dict[str, str]
    rows: tuple[Row, ...]

    def of(self, method: str) -> list[Row]:
        """The rows of one method."""
        return [row for row in self.rows if row.method == method]

    def main(self, method: str, source: str, data: str) -> Row | None:
        """The row that stands for a method among those that a source has of it on a data set, or None."""
        return next((row for row in self.of(method) if (row.source, row.data) == (source, data)), None)


def read_papers(path: Path = PAPERS) -> Papers:
    """Read and check the file.

    Raises:
        ValueError: if a row names no source, data set or setting, or a source or measure that the file does not define.
    """
    text = path.read_text(encoding="utf-8")
    parse_yaml(text)  # refuses what the next line would take without a word, such as a key that stands twice
    content = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - makes texts of everything: 0.50 stays 0.50
    rows = []
    for method, listed in content["objectives"].items():
        for one in listed:
            _check_row(path.name, method, one, content)
            values = {key: value for key, value in one.items() if key not in _PLACE}
            rows.append(Row(method, one["source"], one["data"], one["setting"], values))
    columns = tuple(Column(**one) for one in content["overview"])
    for column in columns:
        _known(path.name, "overview", "measure", column.measure, content["measures"])
        _known(path.name, "overview", "source", column.source, content["sources"])
    return Papers(content["sources"], content["measures"], columns, content["names"], tuple(rows))


def _check_row(file: str, method: str, row: dict[str, Any], content: dict[str, Any]) -> None:
    if (missing := next((key for key in _PLACE if key not in row), None)) is not None:
        raise ValueError(f"{file}: a row of {method!r} has no {missing!r}: {row}")
    _known(file, method, "source", row["source"], content["sources"])
    for key, value in row.items():
        if key not in _PLACE:
            _known(file, method, "measure", key, content["measures"])
            if not re.fullmatch(r"-?\d+(\.\d+)?", value):
                raise ValueError(f"{file}: {key} of a row of {method!r} must be a number, got {value!r}")


def _known(file: str, where: str, kind: str, key: str, defined: dict[str, str]) -> None:
    if key not in defined:
        raise ValueError(f"{file}: {where!r} names the {kind} {key!r}, which is not defined; {suggest(key, defined)}")
