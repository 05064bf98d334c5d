"""The folder of a run: recipe, record, metrics, checkpoint, export, report.

torch is imported only where a checkpoint is read, so that the command line refuses a wrong folder at once.
"""

import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from ssl_inv.atomic import remove_leftovers, write_text
from ssl_inv.catalogue import RecipeError
from ssl_inv.plain import read_json
from ssl_inv.run.continuing import trains_on, unsaid, worded
from ssl_inv.run.environment import host_facts, versions, what_rounds
from ssl_inv.run.kept_checkpoints import KeptCheckpoints
from ssl_inv.run.metrics_file import append_entry, read_entries, write_entries
from ssl_inv.run.recipe import Recipe, as_saved, changes, read_yaml, resolve
from ssl_inv.run.results_file import RESULTS, checksums

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None  # type: ignore[assignment]


class RunFolder(KeptCheckpoints):
    """One run on disk.

    `recipe.yaml` is the resolved recipe, `run.json` the record, `metrics.jsonl` has one line of JSON per log entry, and
    a run continues from `checkpoints/last.ckpt`, or from the one before it, `checkpoints/previous.ckpt`, if the last is
    damaged. Files are written aside, synced and renamed, so they are always whole.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.recipe_file = path / "recipe.yaml"
        self.record_file = path / "run.json"
        self.metrics_file = path / "metrics.jsonl"
        self.export_folder = path / "export"
        self.report_file = path / "report.html"
        self._told = False
        """Whether the user knows that run.json cannot be read."""
        self._told_of_lines = False

    @classmethod
    def create(cls, path: Path, recipe: Recipe, command: list[str], numbered: bool = False) -> "RunFolder":
        """A new folder with the recipe and the record of how the run began.

        Args:
            path: the folder.
            recipe: every setting.
            command: the command line.
            numbered: whether to append a number to the name if a folder of that name exists.

        Raises:
            RecipeError: if the folder is not empty, or cannot be written.
        """
        try:
            path = _claimed(path) if numbered else path
            require_new(path)
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecipeError(f"output {str(path)!r} cannot be written: {error.strerror}") from None
        run = cls(path)
        write_text(run.recipe_file, recipe.dump())
        run.update(state="started", command=command, began=now(), host=host_facts(), versions=versions())
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of a run that has begun.

        Raises:
            RecipeError: if it is none.
        """
        run = cls(path)
        if not run.has_checkpoint and not (run.recipe_file.is_file() and run.record_file.is_file()):
            raise RecipeError(f"{str(path)!r} is not a run folder: it has no recipe.yaml and run.json")
        return run

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder, if the file system has locks. The lock of a killed process is released.

        Raises:
            RecipeError: if another process has locked it, or it cannot be written.
        """
        lock = self.path / "run.lock"
        with self._lock_file(lock) as file:
            try:
                if fcntl is not None:
                    # This lock belongs to the process. A lock of the open file would live on in the loader processes
                    # of a killed run.
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise RecipeError(f"{str(self.path)!r} is being written by another process") from None
            except OSError:
                pass
            if not _is_file_at(file, lock):
                # Its owner has just removed it, and another process may hold a new one.
                raise RecipeError(f"{str(self.path)!r} is being written by another process")
            try:
                yield
            finally:
                with suppress(OSError):  # the folder may be gone, or not be writable any more
                    lock.unlink(missing_ok=True)

    def _lock_file(self, lock: Path) -> TextIO:
        try:
            return lock.open("w")
        except OSError as error:
            raise RecipeError(f"{str(self.path)!r} cannot be written: {error.strerror}") from None

    def is_held(self) -> bool:
        """Whether another process writes the folder, as far as its file system tells."""
        try:
            with (self.path / "run.lock").open("r+") as file:
                held = True
                if fcntl is not None:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held = False
        except (BlockingIOError, PermissionError):
            return True
        except OSError:
            return False
        return held

    def recipe(self) -> Recipe:
        """The resolved recipe of the run; that of its checkpoint if recipe.yaml is gone, empty or no YAML."""
        return resolve(as_saved(self._saved_recipe()), str(self.recipe_file))

    def _saved_recipe(self) -> dict[str, Any]:
        try:
            return read_yaml(self.recipe_file)
        except RecipeError as error:
            if not self.has_checkpoint:
                raise
            _say(f"{self.recipe_file} cannot be read, so the recipe is that of the checkpoint: {error}")
            content: dict[str, Any] = self.last_good()[0]["recipe"]
            return content

    def require_own(self, state: Mapping[str, Any], recipe: Recipe, changed: Mapping[str, Any]) -> None:
        """Raise a `RecipeError` unless a checkpoint is of a recipe, besides what may change.

        Args:
            state: the content of the checkpoint.
            recipe: of the run.
            changed: settings that may differ, or all settings of a section. So may those that change no result, and
                what run.json says that the run went on with.
        """
        # A setting that is newer than the checkpoint has its default in both.
        saved = resolve(as_saved(state["recipe"]), str(self.checkpoint_file))
        other = unsaid(changes(saved, recipe), self.record().get("continued", []))
        other = {key: both for key, both in other.items() if not {key, key.partition(".")[0]}.intersection(changed)}
        if other:
            other_run = f"or {self.checkpoint_file.name} is of another run"
            advice = "put back what it said, or the checkpoint that belongs to it"
            raise RecipeError(
                f"{str(self.recipe_file)!r} has changed since the run's last checkpoint, {other_run}: "
                f"{'; '.join(worded(other))}; {advice}"
            )

    def as_begun(self, recipe: Recipe, overrides: Sequence[str]) -> Recipe:
        """A recipe that is given again when the run is resumed, with what the run did before a setting was there.

        Args:
            recipe: as it resolves now.
            overrides: settings from the command line. What they say is not replaced.
        """
        said = any(one.partition("=")[0] == "--data.photographs" for one in overrides)
        if said or "photographs" in (self._saved_recipe().get("data") or {}):
            return recipe
        began, content = self.recipe().data.settings.get("photographs"), recipe.sections()
        if began is None or "photographs" not in content["data"]:
            return recipe
        # The recipe may say by now what the run began without.
        return resolve({**content, "data": {**content["data"], "photographs": began}}, str(self.recipe_file))

    def change(self, recipe: Recipe, said: Mapping[str, tuple[Any, Any]], step: int) -> None:
        """Go on with another recipe from a step on.

        What the owner says that they change is recorded in run.json. What the run was before it goes on, such as its
        scores, is no fact any more. An early end holds if the evaluation alone changes.
        """
        record = self.record()
        if said:
            changed = {key: list(both) for key, both in said.items()}
            continued = [*record.get("continued", []), {"step": step, "at": now(), "changes": changed}]
            stopped = None if trains_on(said) else record.get("stopped")
            if loggers := record.get("loggers"):
                for kept in loggers["kept"].values():
                    kept.pop("concluded", None)  # they are told the new results
            self.update(continued=continued, stopped=stopped, ended=None, score=None, loggers=loggers)
        write_text(self.recipe_file, recipe.dump())

    def mend(self, recipe: Recipe) -> None:
        """Write recipe.yaml again if it is gone or cannot be read."""
        try:
            read_yaml(self.recipe_file)
        except RecipeError:
            write_text(self.recipe_file, recipe.dump())

    def record(self) -> dict[str, Any]:
        """The content of run.json. If it cannot be read, a run with a checkpoint begins a new one with a warning."""
        try:
            return self.read_record()
        except RecipeError as error:
            if not self.has_checkpoint:
                raise
            if not self._told:
                _say(f"{error}; it is made again without what stood there")
            self._told = True
            return {"warnings": [f"run.json was made again without what stood there: {error}"]}

    def read_record(self) -> dict[str, Any]:
        """The content of run.json; empty if there is none.

        Raises:
            RecipeError: if it cannot be read.
        """
        try:
            content: dict[str, Any] = read_json(self.record_file) if self.record_file.is_file() else {}
        except ValueError as error:
            raise RecipeError(f"{self.record_file}: cannot be read: {error}") from None
        if not isinstance(content, dict):
            raise RecipeError(f"{self.record_file}: cannot be read: it is no mapping")
        return content

    def update(self, **facts: Any) -> None:
        """Add facts to run.json, or replace them. None removes one."""
        known = {name: fact for name, fact in {**self.record(), **facts}.items() if fact is not None}
        write_text(self.record_file, json.dumps(known, indent=2) + "\n")

    def warn(self, what: str) -> None:
        """Add a warning to run.json, unless it is there."""
        self.update(warnings=list(dict.fromkeys([*self.record().get("warnings", []), what])))

    def goes_on(self, step: int) -> list[str]:
        """Record in run.json that the run continues from a step, when, and with which versions and machine.

        If training starts at step 0, they replace the run's own.

        Returns:
            Differences that change the last bits, such as `"torch 2.11.0 -> 2.14.1"`.
        """
        record: dict[str, Any] = self.record()
        here: dict[str, Any] = {"host": host_facts(), "versions": versions()}
        if step == 0:
            self.update(began=now(), **here)
            return []
        pauses = record.get("resumed", [])
        before, after = what_rounds(pauses[-1] if pauses else record), what_rounds(here)
        self.update(resumed=[*pauses, {"step": step, "at": now(), **here}])
        return [
            f"{name} {before.get(name)} -> {after.get(name)}"
            for name in {**before, **after}
            if "versions" in record and before.get(name) != after.get(name)
        ]

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl. JSON has no infinite numbers and no NaN: they become null."""
        append_entry(self.metrics_file, values)

    def metrics(self) -> list[dict[str, Any]]:
        """The entries of metrics.jsonl, without lines that cannot be read. The user is told of those but the last."""
        entries, lost = read_entries(self.metrics_file)
        if lost and not self._told_of_lines:
            _say(f"{self.metrics_file}: {lost}")
            self._told_of_lines = True
        return entries

    def forget_results(self) -> None:
        """Remove the results of an evaluation."""
        for name in (RESULTS, "results.txt"):
            (self.path / name).unlink(missing_ok=True)
        if "checksums" in self.record():
            self.update(checksums=None)

    def keep_results(self, rows: str, text: str) -> None:
        """Write the results of an evaluation.

        Args:
            rows: JSON.
            text: for people.
        """
        self.update(checksums=None)
        write_text(self.path / RESULTS, rows)
        write_text(self.path / "results.txt", text)
        self.update(checksums=checksums(self.path))

    def forget_metrics_after(self, step: int) -> None:
        """Drop the entries after `step`, which a run that continues from there logs again."""
        entries, (_, lost) = self.metrics(), read_entries(self.metrics_file)
        if lost:
            self.warn(f"{self.metrics_file.name}: {lost}")
        write_entries(self.metrics_file, [entry for entry in entries if entry["step"] <= step])

    def is_unfinished(self) -> bool:
        """Whether a run has begun here that is not complete."""
        begun = self.recipe_file.is_file() and self.record_file.is_file()
        return begun and self.record().get("state") != "complete"

    def remove_leftovers(self) -> None:
        """Remove files that a killed run was writing aside."""
        named = ("recipe.yaml", "run.json", "metrics.jsonl", "results.json", "results.txt", "report.html", "export")
        for written in (*(self.path / name for name in named), *self.checkpoints().values(), self.checkpoint_file):
            remove_leftovers(written)
        for written in (self.best_file, self.previous_file):
            remove_leftovers(written)


def _say(what: str) -> None:
    from ssl_inv.engine.launch import say

    say(what)


def has_not_begun(path: Path) -> bool:
    """Whether there is no folder, or only what a run writes before its record."""
    if not path.exists():
        return True
    if not path.is_dir() or (path / "run.json").exists():
        return False
    inside = {one.name for one in path.iterdir() if not one.name.startswith(".")}
    begun = inside <= {"checkpoints", "recipe.yaml"} and "checkpoints" in inside
    return not inside or (begun and not any((path / "checkpoints").iterdir()))


def require_new(path: Path) -> None:
    """Raise a `RecipeError` unless a new folder can be made at `path`; an empty one may be there."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        resume = f" or continue with --resume {path}" if (path / "run.json").is_file() else ""
        raise RecipeError(f"output {str(path)!r} exists already; choose another name{resume}")
    require_writable(path)


def require_results(path: Path) -> None:
    """Raise a `RecipeError` unless `path` can be a folder of results: a new one, or one with cached features."""
    if not (path / "features").is_dir():
        require_new(path)
    require_writable(path)


def require_exam(path: Path) -> None:
    """Raise a `RecipeError` unless `path` can be the folder of an exam: a new one, or one of an exam before."""
    if not (path / "exam.json").is_file():
        require_new(path)
    require_writable(path)


def require_writable(path: Path) -> None:
    """Raise a `RecipeError` if no folder at `path` can be made or written."""
    parent = next(one for one in (path, *path.absolute().parents) if one.exists())
    try:
        # Permissions do not tell: root has all of them, even where nobody can write.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError:
        raise RecipeError(f"output {str(path)!r} cannot be written: {parent} is not a writable folder") from None


def _is_file_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def now() -> str:
    """The current time as run.json writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def default_output(recipe_name: str) -> Path:
    """`runs/<recipe>-<time>`."""
    return Path("runs") / f"{Path(recipe_name).stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def _claimed(path: Path) -> Path:
    """A new folder at `path`, or with a number appended if a run that began in the same second has it."""
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with suppress(FileExistsError):
            candidate.mkdir(parents=True)
            break
    return candidate
