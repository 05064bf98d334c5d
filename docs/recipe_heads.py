"""The line `score:` at the head of every recipe that has a record of its own name, made from that record."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from record import Record, Row
from tables import departures

from ssl_inv.run.side_by_side.over_seeds import deviation, mean

_WIDTH = 120
_SCORE = re.compile(r"^# score:.*\n(?:#   .*\n)*", re.MULTILINE)
_RELATIVE = "r2/relative/"


def with_score(text: str, record: Record) -> str:
    """A recipe with the score of a record.

    Raises:
        ValueError: if its head has no line `# score:`.
    """
    head, body = _head_and_body(text)
    if not _SCORE.search(head):
        raise ValueError(f"recipes/{record.recipe}.yaml: the opening comment needs a line that begins with `# score:`")
    lines = textwrap.wrap(
        f"score: {score(record)}", _WIDTH - 2, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )
    made = "".join(f"# {line}\n" for line in lines)
    return _SCORE.sub(lambda found: made, head, count=1) + body


def _head_and_body(text: str) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    end = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[:end]), "".join(lines[end:])


def score(record: Record) -> str:
    """The main numbers of a record beside the untrained network, its seeds and its commits."""
    found = "; ".join([", ".join(_numbers(record)), f"{_seeds(record.seeds)}, {_commits(record.commits)}"])
    changed = ", ".join(one.strip("`") for one in departures(record) if not one.startswith("`data.path"))
    return f"{found}; measured with {changed}" if changed else found


def _numbers(record: Record) -> Iterator[str]:
    told = [str(one) for one in record.settings["objective"].get("parameters", [])]
    relative = dict.fromkeys(row.name.removeprefix(_RELATIVE) for row in record.rows if row.name.startswith(_RELATIVE))
    yield from _number("linear", record.find("linear/top1", "all"))
    yield from _number("kNN", record.find("knn/top1", "all"))
    for name in (one for one in dict.fromkeys([*relative][:1] + told) if one in relative):
        part = "equivariant" if record.find(_RELATIVE + name, "equivariant") else "all"
        where = " in the equivariant part" if part == "equivariant" else ""
        yield from _number(f"{_words(name)} R2{where}", record.find(_RELATIVE + name, part))
    yield from _number("MRR", record.find("retrieval/val-val/mrr", "prediction space"))
    for row in record.rows:
        if row.name == "linear/top1" and row.part.startswith("aggregate of"):
            yield from _number(f"linear of the {row.part.replace(' 1 views', ' 1 view')}", row)


def _words(name: str) -> str:
    return name.replace("_deg", "").replace("_", " ")


def _number(what: str, row: Row | None) -> Iterator[str]:
    if row is None or (centre := mean(row.trained)) is None:
        return
    spread, untrained = deviation(row.trained), mean(row.untrained)
    beside = "" if untrained is None else f" (untrained {untrained:.3f})"
    yield f"{what} {centre:.3f}" + ("" if spread is None else f" ± {spread:.3f}") + beside


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _commits(commits: Sequence[str]) -> str:
    different = list(dict.fromkeys(one[:7] for one in commits))
    return f"commit{'s' * (len(different) > 1)} {', '.join(different)}"


def made(recipes: Mapping[str, Path], records: Sequence[Record]) -> dict[str, str]:
    """The text of every recipe that has a record of its own name, by its place in the repository."""
    own = {record.name: record for record in records if record.name == record.recipe}
    return {
        f"recipes/{name}.yaml": with_score(path.read_text(encoding="utf-8"), own[name])
        for name, path in recipes.items()
        if name in own
    }
