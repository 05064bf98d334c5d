"""The folder of a run: recipe, record, metrics, checkpoint, export, report.

torch is imported only where a checkpoint is read, so that the command line refuses a wrong folder at once.
"""

import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from ssl_inv.atomic import link_or_copy, remove_leftovers, write_text
from ssl_inv.catalogue import RecipeError, suggest
from ssl_inv.run.continuing import trains_on
from ssl_inv.run.environment import host_facts, versions, what_rounds
from ssl_inv.run.recipe import Recipe, as_saved, read_yaml, resolve

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None  # type: ignore[assignment]


class RunFolder:
    """One run on disk.

    `recipe.yaml` is the resolved recipe, `run.json` the record, `metrics.jsonl` has one line of JSON per log entry, and
    a run continues from `checkpoints/last.ckpt`. Files are written aside, synced and renamed, so they are always whole.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.record_file = path / "run.json"
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoint_file = path / "checkpoints" / "last.ckpt"
        self.best_file = path / "checkpoints" / "best.ckpt"
        self.export_folder = path / "export"
        self.report_file = path / "report.html"

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
        if not run.recipe_file.is_file() or not run.record_file.is_file():
            raise RecipeError(f"{str(path)!r} is not a run folder: it has no recipe.yaml and run.json")
        return run

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder, if the file system has locks. The lock of a killed process is released.

        Raises:
            RecipeError: if another process has locked it.
        """
        lock = self.path / "run.lock"
        with lock.open("w") as file:
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
                lock.unlink(missing_ok=True)

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
        """The resolved recipe of the run."""
        return resolve(as_saved(read_yaml(self.recipe_file)), str(self.recipe_file))

    def as_begun(self, recipe: Recipe, overrides: Sequence[str]) -> Recipe:
        """A recipe that is given again when the run is resumed, with what the run did before a setting was there.

        Args:
            recipe: as it resolves now.
            overrides: settings from the command line. What they say is not replaced.
        """
        said = any(one.partition("=")[0] == "--data.photographs" for one in overrides)
        if said or "photographs" in (read_yaml(self.recipe_file).get("data") or {}):
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

    def record(self) -> dict[str, Any]:
        """The content of run.json."""
        try:
            text = self.record_file.read_text(encoding="utf-8") if self.record_file.is_file() else "{}"
            content: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise RecipeError(f"{self.record_file}: cannot be read: {error}") from None
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
        record, here = self.record(), {"host": host_facts(), "versions": versions()}
        if step == 0:
            self.update(began=now(), **here)
            return []
        pauses = record.get("resumed", [])
        before, after = what_rounds(pauses[-1] if pauses else record), what_rounds(here)
        self.update(resumed=[*pauses, {"step": step, "at": now(), **here}])
        return [
            f"{name} {before.get(name)} -> {after.get(name)}"
            for name in {**before, **after}
            if before.get(name) != after.get(name)
        ]

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl. JSON has no infinite numbers and no NaN: they become null."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(values), allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The entries of metrics.jsonl, without a last line that was cut off."""
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines() if self.metrics_file.is_file() else []
        entries = []
        for line in lines:
            with suppress(json.JSONDecodeError):
                entries.append(json.loads(line))
        return entries

    def forget_results(self) -> None:
        """Remove the results of an evaluation."""
        for name in ("results.json", "results.txt"):
            (self.path / name).unlink(missing_ok=True)

    def forget_metrics_after(self, step: int) -> None:
        """Drop the entries after `step`, which a run that continues from there logs again."""
        kept = [entry for entry in self.metrics() if entry.get("step", 0) <= step]
        if self.metrics_file.is_file():
            write_text(self.metrics_file, "".join(json.dumps(entry) + "\n" for entry in kept))

    def remove_leftovers(self) -> None:
        """Remove files that a killed run was writing aside."""
        for written in (self.recipe_file, self.record_file, self.metrics_file, self.checkpoint_file, self.best_file):
            remove_leftovers(written)

    def keep_checkpoint(self, step: int, count: int) -> None:
        """Keep the last checkpoint, which is of `step`, beside the `count` - 1 before it, and remove older ones."""
        folder = self.checkpoint_file.parent
        if count > 1:
            link_or_copy(self.checkpoint_file, folder / f"step-{step}.ckpt")
        numbers = sorted(int(one.stem.removeprefix("step-")) for one in folder.glob("step-*.ckpt"))
        for number in numbers[: max(0, len(numbers) - count) if count > 1 else None]:
            (folder / f"step-{number}.ckpt").unlink()

    def checkpoints(self) -> dict[str, Path]:
        """All checkpoints by name: `last`, `best`, `step-100`."""
        return {one.stem: one for one in sorted((self.path / "checkpoints").glob("*.ckpt"))}

    def is_unfinished(self) -> bool:
        """Whether a run has begun here that is not complete."""
        begun = self.recipe_file.is_file() and self.record_file.is_file()
        return begun and self.record().get("state") != "complete"

    def at_checkpoint(self, name: str) -> "RunFolder":
        """The same folder, whose checkpoint is another one that was kept.

        Args:
            name: `last`, `best`, or the number of a step.

        Raises:
            RecipeError: if there is none of that name.
        """
        name = f"step-{name}" if name.isdecimal() else name
        if not (there := self.checkpoints()):
            raise RecipeError(f"{str(self.path)!r} has no checkpoint yet")
        if name not in there:
            raise RecipeError(f"{str(self.path)!r} has no checkpoint {name!r}; {suggest(name, there)}")
        other = RunFolder(self.path)
        other.checkpoint_file = there[name]
        return other

    @property
    def at_end(self) -> bool:
        """Whether the checkpoint is the last one, of which the results are."""
        return self.checkpoint_file.name == "last.ckpt"

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The content of last.ckpt; None if the run ended before its first checkpoint.

        Raises:
            RecipeError: if the file is no checkpoint of this version.
        """
        from ssl_inv.engine.checkpoints import load_checkpoint

        if not self.checkpoint_file.is_file():
            return None
        try:
            return load_checkpoint(self.checkpoint_file)
        except ValueError as error:
            raise RecipeError(str(error)) from error


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


def finite(value: Any) -> Any:
    """A copy of nested mappings and lists with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
