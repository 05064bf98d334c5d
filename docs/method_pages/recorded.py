"""Our own results: what runs measured, kept as small files in docs/results."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from ssl_inv.run.recipe import RecipeError, difference, resolve

RESULTS = Path(__file__).parent.parent / "results"
_DIGITS = 5
_NUMBERS = ("trained", "spread", "untrained", "shuffled")
_NO_RESULT = {"trainer": ("seed", "workers", "log_every", "checkpoint_every"), "monitor": ("every", "objects", "share")}
"""Settings that no record has: the seed, of which it has several, and what does not change a result."""

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Row:
    """One line of the results table of several runs; each tuple has one number a run, None where there is none.

    Attributes:
        name: what was measured: `linear/top1`.
        part: the part of the features it was measured on.
        detail: what the runs say beside the number, where all say the same.
        trained: the numbers.
        spread: their standard errors over validation objects.
        untrained: the same measured with random weights.
        shuffled: the same with shuffled training targets.
    """

    name: str
    part: str
    detail: str
    trained: Values
    spread: Values
    untrained: Values
    shuffled: Values


@dataclass(frozen=True)
class Record:
    """Runs that differ in their seed alone.

    Attributes:
        name: of the file.
        recipe: the recipe they were begun with.
        seeds: one a run.
        commits: the version of the code, one a run.
        machine: what they ran on.
        seconds: how long each took, from beginning to end with evaluation; None where a run does not say.
        settings: every setting of the recipe but the seed, section by section.
        rows: the results.
    """

    name: str
    recipe: str
    seeds: tuple[int, ...]
    commits: tuple[str, ...]
    machine: str
    seconds: Values
    settings: dict[str, dict[str, Any]]
    rows: tuple[Row, ...]

    @property
    def complete_settings(self) -> Mapping[str, Mapping[str, Any]]:
        """The settings as a recipe of today has them: those that came later have their defaults, unless some have gone
        since.
        """
        try:
            return comparable(resolve(self.settings, f"{self.name}.json", list(self.settings)))
        except RecipeError:
            return self.settings

    @property
    def objective(self) -> str:
        """The name of the objective that was trained."""
        return str(self.settings["objective"]["name"])

    def find(self, name: str, part: str) -> Row | None:
        """The row of a measurement on a part of the features, or None."""
        return next((row for row in self.rows if (row.name, row.part) == (name, part)), None)


def comparable(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings of a recipe that have a part in its results; of paths to data and teachers, which are one machine's,
    the last part.
    """
    kept = {
        section: {
            key: _portable(section, value) for key, value in values.items() if key not in _NO_RESULT.get(section, ())
        }
        for section, values in settings.items()
    }
    return {section: values for section, values in kept.items() if values}


def _portable(section: str, value: Any) -> Any:
    return Path(value).name if section in ("data", "objective") and isinstance(value, str) and "/" in value else value


def rows_of(results: Iterable[Mapping[str, Any]]) -> tuple[Row, ...]:
    """The results table of one run, the content of its results.json."""
    return tuple(map(_row, results))


def _row(line: Mapping[str, Any]) -> Row:
    trained = line["trained"]
    numbers = (
        trained["value"],
        trained["spread"],
        *((line[column] or {}).get("value") for column in ("untrained", "shuffled")),
    )
    return Row(trained["name"], trained["part"], trained["detail"], *((_rounded(number),) for number in numbers))


def joined(records: Sequence[Record]) -> Record:
    """Records of one recipe as one, in the order of their seeds.

    Raises:
        ValueError: if two have a seed in common, other settings or another machine, or did not measure the same.
    """
    first, *others = records
    for other in others:
        _require_alike(first, other)
    seeds = tuple(seed for record in records for seed in record.seeds)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"two runs of {first.recipe} have the same seed: {seeds}")

    def column(parts: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
        return tuple(
            value for _, value in sorted(zip(seeds, chain.from_iterable(parts), strict=True), key=itemgetter(0))
        )

    def row(rows: Sequence[Row]) -> Row:
        numbers = {name: column(getattr(row, name) for row in rows) for name in _NUMBERS}
        return replace(rows[0], detail=rows[0].detail if len({row.detail for row in rows}) == 1 else "", **numbers)

    return replace(
        first,
        rows=tuple(row(rows) for rows in zip(*(record.rows for record in records), strict=True)),
        **{name: column(getattr(record, name) for record in records) for name in ("seeds", "commits", "seconds")},
    )


def _require_alike(first: Record, other: Record) -> None:
    who = f"{first.recipe}, seeds {other.seeds} beside {first.seeds}"
    if changed := difference(first.complete_settings, other.complete_settings):
        raise ValueError(f"{who}: other settings: {'; '.join(changed)}")
    if first.machine != other.machine:
        raise ValueError(f"{who}: another machine, {other.machine} and {first.machine}; record them apart with --name")
    if odd := sorted({(row.name, row.part) for row in first.rows} ^ {(row.name, row.part) for row in other.rows}):
        raise ValueError(f"{who}: the runs did not measure the same; only some have {odd}")


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def mean(values: Values) -> float | None:
    """The mean, or None if a run has no number."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def deviation(values: Values) -> float | None:
    """The standard deviation over runs, with n - 1; None for one run or if a run has no number."""
    return (
        statistics.stdev(value for value in values if value is not None)
        if len(values) > 1 and mean(values) is not None
        else None
    )


def write_record(record: Record, folder: Path = RESULTS) -> Path:
    """Write a record, a line of the file for each of its settings' sections and each of its rows."""
    facts = asdict(record)
    rows, settings = facts.pop("rows"), facts.pop("settings")
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in facts.items() if key != "name"]
    sections = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in settings.items())
    table = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
    path = folder / f"{record.name}.json"
    content = "\n".join(["{", *lines, ' "settings": {', sections, " },", ' "rows": [', table, " ]", "}", ""])
    path.write_text(content, encoding="utf-8")
    return path


def read_records(folder: Path = RESULTS) -> list[Record]:
    """Every record in the folder, by name."""
    return list(_read(folder))


def _read(folder: Path) -> Iterator[Record]:
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(Row(**_tuples(row)) for row in content.pop("rows"))
        yield Record(name=path.stem, rows=rows, **_tuples(content))


def _tuples(content: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
