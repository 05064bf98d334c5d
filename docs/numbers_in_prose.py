"""Which numbers of quality prose quotes, and whether docs/results has them.

A quoted number is `0.694 ± 0.021`, or one with two or three digits in a sentence that names a measure (linear, kNN, R2,
MRR, H@1, purity, precision of edges). It must be that of a record that its section names, or stand in
docs/results/quoted.json, which has what is known of runs without a record. A recipe's opening comment is one section,
which names the recipe.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import UNKNOWN, Record, Row
from tables import Papers

from ssl_inv.run.side_by_side.over_seeds import deviation, mean

_SPREAD = re.compile(r"-?\d\.\d+ ± \d\.\d+")
_NUMBER = re.compile(r"-?\d\.\d+(?: ± \d\.\d+)?")
_MEASURES = re.compile(r"\b(linear|kNN|R2|MRR|H@1|purity|precision|edges)\b")
_PLAIN = re.compile(r"(?<![\w.±])-?0\.\d{2,3}(?!\d|\.\d| ±| %)")
# Settings, code and links: `code`, --option VALUE, name: value, lr 1e-3, momentum 0.97.
_NO_MEASURE = re.compile(
    r"`[^`]*`|--\S+ (\"[^\"]*\"|\S+)|\]\([^)]*\)|<!--.*?-->"
    r"|\b(momentum|lr|weight|rate|temperature|probability|share|With|chance is|chance)( of)? -?\d[\d.e-]*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Quote:
    """Numbers of runs without a record, and what is known of them.

    Attributes:
        places: the files that quote them.
        what: what was run and measured.
        command: how, or `unknown`.
        commit: the version of the code, or `unknown`.
        seeds: of the runs, or `unknown`.
        machine: the hardware, or `unknown`.
        numbers: as they are quoted.
    """

    places: tuple[str, ...]
    what: str
    command: str
    commit: str
    seeds: str
    machine: str
    numbers: tuple[str, ...]


def quotes(others: Mapping[str, Mapping[str, Any]]) -> list[Quote]:
    """What files of docs/results that are no records let prose quote: `quoted.json`, and measurements that name, as
    `quoted_by`, the files that repeat their numbers.
    """
    found = [
        Quote(**{key: tuple(one) if isinstance(one, list) else one for key, one in quote.items()})
        for quote in others["quoted"]["quotes"]
    ]
    for name, content in others.items():
        if "quoted_by" in content:
            cells = " | ".join(cell for row in content["rows"] for cell in row[1:])
            known = (str(content.get(key, UNKNOWN)) for key in ("command", "commit", "seeds", "machine"))
            found.append(Quote(tuple(content["quoted_by"]), name, *known, numbers=tuple(_NUMBER.findall(cells))))
    return found


def quoted(text: str) -> list[str]:
    """The numbers of quality in a section of prose."""
    found = []
    for sentence in _sentences(_NO_MEASURE.sub(" ", " ".join(text.split()))):
        found += _SPREAD.findall(sentence)
        if _MEASURES.search(sentence):
            found += _PLAIN.findall(_SPREAD.sub(" ", sentence))
    return found


def _sentences(text: str) -> Iterator[str]:
    yield from re.split(r"(?<=[.:;])\s+(?=[A-Z*`(-])|\s\|\s", text)


def written(record: Record) -> set[str]:
    """Every way to write a number of a record: means, deviations over seeds, standard errors, single runs."""
    return {text for row in record.rows for text in _written(row)}


def _written(row: Row) -> Iterator[str]:
    for values in (row.trained, row.untrained, row.shuffled):
        known = [one for one in values if one is not None]
        centre, spread = mean(values), deviation(values)
        for digits in (2, 3):
            yield from (f"{one:.{digits}f}" for one in (known if centre is None else [*known, centre]))
            if centre is not None and spread is not None:
                yield f"{centre:.{digits}f} ± {spread:.{digits}f}"
    for value, error in zip(row.trained, row.spread, strict=True):
        if value is not None and error is not None:
            yield f"{value:.3f} ± {error:.3f}"


def sections_of(path: Path) -> Iterator[str]:
    """The sections of a page of Markdown without its code and the tables that `make docs` makes; of a recipe, its
    opening comment, after the name of the recipe.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        lines = text.splitlines()
        comment = lines[: next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))]
        yield f"`{path.stem}` " + "\n".join(
            line.removeprefix("#") for line in comment if not line.startswith("# command")
        )
        return
    text = re.sub(r"```.*?```|<!-- made by .*?<!-- end -->", "", text, flags=re.DOTALL)
    yield from re.split(r"^(?=#+ )", text, flags=re.MULTILINE)


def named_in(section: str, records: Iterable[Record]) -> list[Record]:
    """The records that a section names, by their own name or that of their recipe."""
    names = set(re.findall(r"[a-z0-9][a-z0-9-]*[a-z0-9]", section))
    return [record for record in records if record.name in names or record.recipe in names]


def without_source(
    path: Path, place: str, records: Sequence[Record], quotes: Sequence[Quote], published: Iterable[str] = ()
) -> list[str]:
    """The numbers in a file that no record which their section names has, no quote, and no paper in `published`."""
    allowed = set(published) | {number for quote in quotes if place in quote.places for number in quote.numbers}
    missing = []
    for section in sections_of(path):
        here = allowed.union(*(written(record) for record in named_in(section, records)))
        missing += [number for number in quoted(section) if number not in here]
    return missing


def stale(places: Mapping[str, Path], quotes: Iterable[Quote]) -> list[str]:
    """The quotes of quoted.json whose numbers stand in none of the files that they name."""
    texts = {place: {one for section in sections_of(path) for one in quoted(section)} for place, path in places.items()}
    return [
        f"{place}: {number}"
        for quote in quotes
        for place in quote.places
        for number in quote.numbers
        if number not in texts.get(place, ())
    ]


def published(papers: Papers, method: str) -> set[str]:
    """The numbers that papers report of a method, as docs/papers.yaml has them, and with three digits."""
    texts = {text for row in papers.rows if row["method"] == method for text in row.values() if _NUMBER.fullmatch(text)}
    return texts | {f"{float(text):.3f}" for text in texts}
