"""Runs and evaluations on disk: where they lie, what they were told, how far they came and what they scored."""

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ssl_inv.catalogue import RecipeError, suggest
from ssl_inv.plain import parse_json, read_json
from ssl_inv.run.continuing import early_end
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.plain_yaml import YAMLError, parse_yaml
from ssl_inv.run.recipe import SECTIONS, read_yaml
from ssl_inv.run.results_file import RESULTS, checked_rows
from ssl_inv.run.tables import Table

STATES = ("complete", "training", "stopped", "interrupted", "failed", "evaluation", "broken")
"""What `Saved.state` can be. A run that stopped was killed: its record says that it trains, and no process holds it."""

Key = tuple[str, str]
"""The name of a measurement, and the part of the features that it was made on."""

_OF_TRAINING = ("loss/", "monitor/")
"""How the names of `Saved.last_values` begin."""

_TAIL = 1 << 16  # bytes at the end of metrics.jsonl that surely hold its last lines


@dataclass(frozen=True)
class Measured:
    """One number of an encoder, and the same number of its baselines; None where there is none.

    Attributes:
        value: of the trained encoder.
        spread: its standard error over validation objects.
        untrained: of the same network with random weights.
        shuffled: with shuffled training targets.
    """

    value: float | None
    spread: float | None = None
    untrained: float | None = None
    shuffled: float | None = None


@dataclass(frozen=True)
class Saved:
    """A run, or an evaluation that `ssl-inv evaluate --output` wrote.

    Attributes:
        path: its folder.
        name: a short name for it.
        state: one of `STATES`.
        reason: why it failed, or why its folder cannot be read.
        settings: every setting by dotted key, `trainer.seed`.
        record: the content of run.json or evaluation.json.
    """

    path: Path
    name: str
    state: str
    reason: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        """The seed of the training; None for encoders that are from no run."""
        seed = self.settings.get("trainer.seed")
        return None if seed is None else int(seed)

    @property
    def scores(self) -> dict[str, float]:
        """The few numbers that stand for it, such as `linear/top1 (all)`."""
        return dict(self.record.get("score") or {})

    @cached_property
    def results(self) -> dict[Key, Measured]:
        """Everything that results.json holds; empty if there is no such file.

        Raises:
            RecipeError: if it cannot be read.
        """
        file = self.path / RESULTS

        def value(one: Mapping[str, Any] | None) -> float | None:
            return None if one is None else one.get("value")

        try:
            found = {}
            for row in checked_rows(file):
                trained = row["trained"]
                baselines = value(row.get("untrained")), value(row.get("shuffled"))
                measured = Measured(trained["value"], trained.get("spread"), *baselines)
                found[str(trained["name"]), str(trained["part"])] = measured
            return found
        except RecipeError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecipeError(f"{file}: is not what a run writes ({error.__class__.__name__}: {error})") from None

    @cached_property
    def last_values(self) -> dict[Key, Measured]:
        """The last loss terms and monitor scores of the training, as `loss/NAME` and `monitor/NAME`."""
        entries = RunFolder(self.path).metrics()
        last = {
            (f"{group}/{name}", "last step"): Measured(value)
            for entry in entries
            for group in ("loss", "monitor")
            for name, value in _mapping(entry.get(group)).items()
        }
        return {key: one for key, one in last.items() if isinstance(one.value, int | float)}

    def measured(self, key: Key) -> Measured | None:
        """A measurement of `results` or `last_values`, or None."""
        return (self.last_values if key[0].startswith(_OF_TRAINING) else self.results).get(key)

    @property
    def step(self) -> int | None:
        """The last step that was logged; None for an evaluation, and before the first."""
        return last_step(RunFolder(self.path).metrics_file)

    @property
    def seconds(self) -> float | None:
        """From start to end with evaluation; None if the run did not end, or was interrupted between."""
        if "ended" not in self.record or "began" not in self.record or "resumed" in self.record:
            return None
        began, ended = (datetime.strptime(self.record[key], "%Y-%m-%dT%H:%M:%S%z") for key in ("began", "ended"))
        return (ended - began).total_seconds()

    @property
    def device(self) -> str:
        """The hardware, in a word or two."""
        host = self.record.get("host") or {}
        gpu, cores = host.get("gpu"), host.get("cores")
        return str(gpu) if gpu else f"{cores} cores" if cores else ""

    @property
    def recipe(self) -> str:
        """The name of the recipe that the run began with; empty if its command line does not tell."""
        # The command line imports this module for its own commands.
        from ssl_inv.run.cli import parse

        command = [str(word) for word in self.record.get("command") or []]
        if command[:1] == ["ssl_inv.pretrain"]:
            return "".join(command[1:2])
        try:
            parsed = parse(command[1:])
        except (RecipeError, SystemExit):
            return ""
        return Path(parsed.recipe).stem if getattr(parsed, "recipe", None) else ""


def flattened(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted key. A mapping without keys stays."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def read_saved(path: Path, name: str | None = None, resolved: bool = False, settings: bool = True) -> Saved:
    """A folder of a run or of an evaluation.

    Args:
        path: the folder.
        name: a short name; that of the folder by default.
        resolved: whether a run's settings are completed with those that are newer than the run. This may import the
            modules that its recipe names.
        settings: whether to read the settings of a run, which takes most of the time.

    Returns:
        What the folder holds. If it cannot be read, the state is "broken" and `reason` says why.
    """
    name = name or path.resolve().name
    try:
        if (path / "evaluation.json").is_file():
            return _read_evaluation(path, name)
        run = RunFolder(path)
        if not run.recipe_file.is_file() or not run.record_file.is_file():
            raise RecipeError(f"has no {run.record_file.name if run.recipe_file.is_file() else run.recipe_file.name}")
        content, record = read_yaml(run.recipe_file) if settings else {}, run.read_record()
        sections = run.recipe().sections() if resolved else content
        state, _, reason = str(record.get("state", "")).partition(": ")
        if state in ("started", "training"):
            state = "training" if run.is_held() else "stopped"
        return Saved(path, name, state, reason, flattened(sections), record)
    except json.JSONDecodeError as error:
        return Saved(path, name, "broken", f"run.json cannot be read: {error}")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return Saved(path, name, "broken", " ".join(str(error).split()))


def _read_evaluation(path: Path, name: str) -> Saved:
    record = read_json(path / "evaluation.json")
    if not isinstance(record, dict):
        raise ValueError("evaluation.json is no mapping")
    trained_with = record.get("trained_with")
    settings = {**flattened(trained_with or {}), **flattened(record.get("recipe") or {})}
    # Without its run, an encoder is known by its description alone.
    own = {} if trained_with else {"model": record.get("model", str(path))}
    if checkpoint := record.get("checkpoint"):
        own["checkpoint"] = checkpoint
    return Saved(path, name, "evaluation", "", {**own, **settings}, {"began": record.get("judged"), **record})


def is_saved(path: Path) -> bool:
    """Whether a folder is a run or an evaluation, perhaps a broken one."""
    return any((path / name).is_file() for name in ("run.json", "evaluation.json")) or (
        (path / "recipe.yaml").is_file() and (path / "checkpoints").is_dir()
    )


def saved_below(folder: Path) -> Iterator[Path]:
    """The folders of runs and evaluations at and below a folder, in the order of their names."""
    for place, inner, _ in os.walk(folder):
        if is_saved(Path(place)):
            inner.clear()
            yield Path(place)
        inner[:] = sorted(one for one in inner if not one.startswith("."))


def gathered(runs: Any) -> list[Path]:
    """The folders that somebody means by some runs.

    Args:
        runs: folders of runs or evaluations, folders of such folders, patterns such as `runs/sie-*`, objects whose
            `path` or `folder` is one of these, rows of a table with a column `path`, or one such thing.

    Raises:
        RecipeError: if there is nothing at one of them.
    """
    one = isinstance(runs, (str, os.PathLike, Mapping)) or _place_of(runs) is not None
    several = isinstance(runs, Iterable) and not one
    found = [path for one in (runs if several else [runs]) for path in _gathered_from(one)]
    return list({path.resolve(): path for path in found}.values())


def _place_of(one: Any) -> Any:
    """What an object or a row of a table says its folder is; None if it says nothing."""
    if isinstance(one, Mapping):
        return one.get("path")
    return None if isinstance(one, (str, os.PathLike)) else getattr(one, "path", None) or getattr(one, "folder", None)


def _gathered_from(one: Any) -> list[Path]:
    while not isinstance(one, (str, os.PathLike)):
        if (inner := _place_of(one)) is None:
            raise RecipeError(f"{one!r} is no run: it is no path and has neither `path` nor `folder`")
        one = inner
    path = Path(one).expanduser()
    if path.is_dir():
        if found := list(saved_below(path)):
            return found
        raise RecipeError(f"{str(path)!r} is no run, and no run lies below it")
    matches = [Path(match) for match in sorted(glob.glob(str(path)))] if glob.has_magic(str(path)) else []
    if not matches:
        raise RecipeError(f"there is no run at {str(path)!r}")
    return [found for match in matches if match.is_dir() for found in saved_below(match)]


def _mapping(value: Any) -> Mapping[str, Any]:
    """A mapping as it is; whatever else stands in its place is empty."""
    return value if isinstance(value, Mapping) else {}


def last_step(metrics_file: Path) -> int | None:
    """The largest step in the last lines of a metrics.jsonl; None if there is none."""
    try:
        with metrics_file.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    steps = []
    for line in lines:
        try:
            steps.append(int(parse_json(line)["step"]))
        except (ValueError, OverflowError, KeyError, TypeError):
            continue  # cut off at the beginning, or being written at the end
    return max(steps, default=None)


def runs_table(
    folders: Sequence[Path | str] = ("runs",),
    *,
    states: Sequence[str] = (),
    where: Mapping[str, Any] | None = None,
    sort: str = "began",
    reverse: bool = False,
) -> Table:
    """Every run and evaluation below some folders, one row each.

    Args:
        folders: where to look.
        states: keep these of `STATES` alone; empty keeps all.
        where: keep runs whose settings have these values, by dotted key: `{"objective.name": "sie"}`.
        sort: a column.
        reverse: largest first.

    Returns:
        Columns `run`, `path`, `recipe`, `objective`, `data`, `backbone`, `state`, `reason`, `step`, `steps`, `epochs`,
        `seed`, one for each score, `began`, `seconds`, `device`.

    Raises:
        RecipeError: if there is no such folder, state, setting or column.
    """
    if wrong := next((one for one in states if one not in STATES), None):
        raise RecipeError(f"--state: there is no {wrong!r}; {suggest(wrong, STATES)}")
    saved = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise RecipeError(f"there is no folder {str(folder)!r}; `ssl-inv runs FOLDER` lists the runs below FOLDER")
        for path in saved_below(folder):
            inside = path.relative_to(folder)
            named = str(inside) if len(folders) == 1 and inside != Path(".") else str(path)
            saved.append(read_saved(path, named))
    for key in where or {}:
        known = dict.fromkeys(name for one in saved for name in one.settings)
        if saved and key not in known:
            raise RecipeError(f"--where {key}: no run has this setting; {suggest(key, known)}")
    kept = [
        one
        for one in saved
        if (not states or one.state in states)
        and all(key in one.settings and one.settings[key] == value for key, value in (where or {}).items())
    ]
    rows = [_row(one) for one in kept]
    names = list(dict.fromkeys(name for one in kept for name in one.scores))
    before = ("run", "path", "recipe", "objective", "data", "backbone", "state", "reason")
    table = Table(rows, [*before, "step", "steps", "epochs", "seed", *names, "began", "seconds", "device"])
    if sort not in table.columns:
        raise RecipeError(f"--sort: there is no column {sort!r}; {suggest(sort, table.columns, limit=30)}")
    known_rows = [row for row in table if row[sort] is not None]
    # A column may hold numbers in some rows and texts in others, of recipes by hand.
    known_rows.sort(key=lambda row: (isinstance(row[sort], str), row[sort]), reverse=reverse)
    return Table([*known_rows, *(row for row in table if row[sort] is None)], table.columns)


def _row(one: Saved) -> dict[str, Any]:
    settings = one.settings
    of_run = {key: settings.get(f"trainer.{key}") for key in ("steps", "epochs", "seed")}
    return {
        **{"run": one.name, "path": str(one.path), "recipe": one.recipe or None, "state": one.state},
        **{"objective": settings.get("objective.name", settings.get("model")), "data": settings.get("data.name")},
        **{"backbone": settings.get("backbone.name"), "reason": one.reason or early_end(one.record) or None},
        **{"step": one.step, **of_run},
        **{"began": one.record.get("began"), "seconds": one.seconds, "device": one.device or None},
        **one.scores,
    }


def parsed_conditions(texts: Sequence[str]) -> dict[str, Any]:
    """Texts `KEY=VALUE` as settings with the values of YAML.

    Raises:
        RecipeError: if a text has another form.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key.partition(".")[0] not in (*SECTIONS, "model", "checkpoint"):
            raise RecipeError(f"{text!r}: expected a setting and its value, as objective.name=sie")
        try:
            found[key] = parse_yaml(value)
        except YAMLError:
            raise RecipeError(f"{text!r}: {value!r} is not a valid YAML value") from None
    return found
