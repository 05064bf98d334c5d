"""Keep the results of finished runs in the repository.

    python docs/record.py RUN [RUN ...] [--recipe RECIPE] [--name NAME] [--command COMMAND] [--add]

RUN is the folder of a run. Runs of one recipe that differ only in their seed become one file, docs/results/RECIPE.json,
with the numbers of every seed and what a reader must know of them: commands, commits, versions, machine, days, seconds
and settings. --add keeps the seeds that the file already has. `make docs` then shows the numbers, in the head of the
recipe too. Other files of docs/results have a key `table`, which says what they are; see `read_tables`.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ssl_inv.catalogue import suggest
from ssl_inv.run.cli import parse
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.plain_yaml import parse_yaml
from ssl_inv.run.recipe import RecipeError, difference, resolve, shipped_recipes
from ssl_inv.run.side_by_side.grouping import NO_RESULT, SEED

RESULTS = Path(__file__).parent / "results"
UNKNOWN = "unknown"
Values = tuple[float | None, ...]
_LATER = ("commands", "days", "versions")  # columns of a record that older files do not have
_ASIDE = ("--output", "--data.path", "--objective.teacher_path")  # options whose path says nothing elsewhere


@dataclass(frozen=True)
class Row:
    """One line of the results table. Each tuple has one number per run, None where a run has no number.

    Attributes:
        name: the measurement: `linear/top1`.
        part: the part of the features that was probed.
        detail: a remark, if all runs have the same one.
        trained: the numbers of the trained encoder.
        spread: their standard errors over validation objects.
        untrained: the numbers of the network with random weights.
        shuffled: the numbers with shuffled training targets.
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
    """Runs that differ only in their seed.

    Attributes:
        name: the name of the file.
        recipe: the recipe with which the runs began.
        seeds: one per run.
        commits: the version of the code, one per run.
        machine: the hardware.
        seconds: time from start to end with evaluation, one per run; None where unknown.
        settings: the recipe's settings by section, without the seed.
        rows: the results.
        commands: with which each run began, with the last part of paths; `unknown` in records of before they had it.
        days: on which each run began, or `unknown`.
        versions: Python and torch of each run, or `unknown`.
    """

    name: str
    recipe: str
    seeds: tuple[int, ...]
    commits: tuple[str, ...]
    machine: str
    seconds: Values
    settings: dict[str, dict[str, Any]]
    rows: tuple[Row, ...]
    commands: tuple[str, ...] = ()
    days: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in _LATER:
            object.__setattr__(self, name, getattr(self, name) or (UNKNOWN,) * len(self.seeds))

    @property
    def objective(self) -> str:
        """The name of the objective."""
        return str(self.settings["objective"]["name"])

    def sections(self) -> Mapping[str, Mapping[str, Any]]:
        """The settings as today's recipes have them: newer settings get their defaults.

        A record with settings that no longer exist stays as it is.
        """
        try:
            today = comparable(resolve(self.settings, f"{self.name}.json").sections())
        except RecipeError:
            return self.settings
        return {section: settings for section, settings in today.items() if section in self.settings}

    def find(self, name: str, part: str) -> Row | None:
        """The row of a measurement on a part of the features, or None."""
        return next((row for row in self.rows if (row.name, row.part) == (name, part)), None)


def comparable(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings that affect results, with only the last part of paths to data and teachers.

    The seed is none of them, because a record has several.
    """

    def portable(section: str, value: Any) -> Any:
        is_path = section in ("data", "objective") and isinstance(value, str) and "/" in value
        return Path(value).name if is_path else value

    kept = {
        section: {
            key: portable(section, value)
            for key, value in values.items()
            if f"{section}.{key}" not in (*NO_RESULT, SEED)
        }
        for section, values in sections.items()
    }
    return {section: values for section, values in kept.items() if values}


def record_of(name: str, recipe: str, folder: RunFolder, command: str | None = None) -> Record:
    """The results of one run.

    Args:
        name: of the file.
        recipe: under which the results are filed.
        folder: of the run.
        command: what began it; None takes its own command line.

    Raises:
        ValueError: if the run is not finished, does not know its commit, or did not keep to one commit.
    """
    facts, path = folder.record(), folder.path
    if facts.get("state") != "complete" or not (path / "results.json").is_file():
        raise ValueError(f"{path}: the run is not complete with results, its state is {facts.get('state')!r}")
    if "uncommitted" in facts["versions"]:
        raise ValueError(
            f"{path}: the run used files that its commit does not have: {facts['versions']['uncommitted']}"
        )
    if "commit" not in facts["versions"]:
        raise ValueError(f"{path}: the run does not know its commit; only runs of a checkout can be recorded")
    for pause in facts.get("resumed", []):
        if (commit := pause["versions"].get("commit")) != facts["versions"]["commit"]:
            at = f"the run continued at step {pause['step']} with commit {commit}"
            raise ValueError(f"{path}: {at}; only a run with one commit can be recorded")
    sections = folder.recipe().sections()
    host, versions = facts["host"], facts["versions"]
    machine = str(host["gpu"] or f"{host['cores']} cores, {host['machine']}")
    results = parse_yaml((path / "results.json").read_text(encoding="utf-8"))
    return Record(
        name=name,
        recipe=recipe,
        seeds=(int(sections["trainer"]["seed"]),),
        commits=(str(facts["versions"]["commit"]),),
        machine=machine,
        seconds=(_seconds(facts),),
        settings=comparable(sections),
        rows=tuple(map(_row, results)),
        commands=(command or portable_command(facts["command"]),),
        days=(str(facts["began"])[:10] if "began" in facts else UNKNOWN,),
        versions=(
            ", ".join(f"{name} {versions[name]}" for name in ("python", "torch") if name in versions) or UNKNOWN,
        ),
    )


def portable_command(words: Sequence[str]) -> str:
    """A command as one types it, without its output and with the last part of paths of data and teachers."""
    kept, at = ["ssl-inv"], 1
    while at < len(words):
        option, joined_by, value = words[at].partition("=")
        if option in _ASIDE:
            if not joined_by:
                at += 1
                value = words[at] if at < len(words) else ""
            if option != "--output":
                kept += [option, Path(value).name]
        else:
            kept.append(words[at])
        at += 1
    return shlex.join(kept)


def _seconds(facts: Mapping[str, Any]) -> float | None:
    """From start to end of a run, or None if it was interrupted."""
    if "began" not in facts or "ended" not in facts or "resumed" in facts:
        return None
    began, ended = (datetime.strptime(facts[key], "%Y-%m-%dT%H:%M:%S%z") for key in ("began", "ended"))
    return (ended - began).total_seconds()


def _row(line: Mapping[str, Any]) -> Row:
    trained = line["trained"]
    baselines = ((line[column] or {}).get("value") for column in ("untrained", "shuffled"))
    numbers = (
        None if value is None else float(f"{value:.5g}") for value in (trained["value"], trained["spread"], *baselines)
    )
    return Row(trained["name"], trained["part"], trained["detail"], *((number,) for number in numbers))


def joined(records: Sequence[Record]) -> Record:
    """Records of one recipe as one, in the order of their seeds.

    Raises:
        ValueError: if two records share a seed, or differ in settings, machine or measurements.
    """
    first, *others = records
    for other in others:
        who = f"{first.recipe}, seeds {other.seeds} beside {first.seeds}"
        if changed := difference(first, other):
            raise ValueError(f"{who}: other settings: {'; '.join(changed)}")
        if first.machine != other.machine:
            machines = f"another machine, {other.machine} and {first.machine}"
            raise ValueError(f"{who}: {machines}; record them apart with --name")
        if odd := sorted({(row.name, row.part) for row in first.rows} ^ {(row.name, row.part) for row in other.rows}):
            raise ValueError(f"{who}: the runs did not measure the same; only some have {odd}")
    seeds = [seed for record in records for seed in record.seeds]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"two runs of {first.recipe} have the same seed: {seeds}")

    def column(parts: Sequence[Any], name: str) -> tuple[Any, ...]:
        values = [value for part in parts for value in getattr(part, name)]
        return tuple(values[number] for number in sorted(range(len(seeds)), key=seeds.__getitem__))

    def row(rows: Sequence[Row]) -> Row:
        numbers = {name: column(rows, name) for name in ("trained", "spread", "untrained", "shuffled")}
        return replace(rows[0], detail=rows[0].detail if len({one.detail for one in rows}) == 1 else "", **numbers)

    rows = tuple(row([record.find(one.name, one.part) for record in records]) for one in first.rows)
    return replace(
        first, rows=rows, **{name: column(records, name) for name in ("seeds", "commits", "seconds", *_LATER)}
    )


def write_record(record: Record, folder: Path = RESULTS) -> Path:
    """Write a record with one line per section of settings and per row, so that differences are easy to read."""
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
    """Every record in the folder, by name. Benchmarks keep their cells in files of their own there, without rows."""

    def with_tuples(content: dict[str, Any]) -> dict[str, Any]:
        return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}

    found = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "rows" not in content or "table" in content:
            continue
        rows = tuple(Row(**with_tuples(row)) for row in content.pop("rows"))
        found.append(Record(name=path.stem, rows=rows, **with_tuples(content)))
    return found


def read_tables(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The files of the folder that are no records, by name: what benchmarks wrote (`rivals`), measurements that no
    run of the command line made (`plain`), and numbers of prose (`quoted`).
    """
    contents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    return {name: content for name, content in contents.items() if "table" in content}


def _began_with(folder: RunFolder) -> str:
    """The recipe with which the command line of a run began.

    Raises:
        ValueError: if it began in Python.
    """
    words = folder.record()["command"]
    if words[0] == "ssl_inv.pretrain":
        raise ValueError(f"{folder.path}: the run began in Python; say --recipe and --command")
    return Path(parse(words[1:]).recipe).stem


def main() -> int:
    """Record the runs that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--recipe", help="the recipe to file the results under, if a run began with another one")
    parser.add_argument("--name", help="the name of the file; by default the name of the recipe")
    parser.add_argument("--command", help="what began the runs, if it was not a command line of ssl-inv")
    parser.add_argument("--add", action="store_true", help="keep the seeds that the file already has")
    arguments = parser.parse_args()
    kept = {record.name: record for record in read_records()} if arguments.add else {}
    try:
        groups: dict[str, list[RunFolder]] = {}
        for run in arguments.runs:
            folder = RunFolder.open(run)
            groups.setdefault(arguments.recipe or _began_with(folder), []).append(folder)
        if arguments.name and len(groups) > 1:
            raise ValueError(f"--name is for runs of one recipe, these are of {', '.join(groups)}")
        for recipe, folders in groups.items():
            if recipe not in shipped_recipes():
                raise ValueError(f"no shipped recipe is called {recipe!r}; {suggest(recipe, shipped_recipes())}")
            name = arguments.name or recipe
            records = [record_of(name, recipe, folder, arguments.command) for folder in folders]
            record = joined([*records, *([kept[name]] if name in kept else [])])
            path = write_record(record).relative_to(RESULTS.parent.parent)
            sys.stdout.write(f"{path}: seeds {', '.join(map(str, record.seeds))}\n")
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
