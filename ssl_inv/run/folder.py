"""The folder that a run leaves: recipe, record, metrics, checkpoint, export, report.

torch is imported where a checkpoint is touched, so that the command line refuses a wrong folder at once.
"""

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from ssl_inv.atomic import remove_leftovers, write_text
from ssl_inv.catalogue import RecipeError
from ssl_inv.run.recipe import Recipe, difference, read_yaml, resolve

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None  # type: ignore[assignment]


_PACKAGES = (
    "ssl-inv",
    "torch",
    "torchvision",
    "timm",
    "kornia-rs",
    "pillow",
    "faiss-cpu",
    "pytorch-lightning",
    "numpy",
)


_CODE = ("ssl_inv", "evaluation", "recipes")
"""What of the repository a result depends on; the last two are links within the first."""


class RunFolder:
    """One run on disk.

    `recipe.yaml` is the resolved recipe, `run.json` the record, `metrics.jsonl` one line of JSON a log entry,
    `checkpoints/last.ckpt` the state to continue from. Files are written aside, synced and renamed, so a reader never
    meets half of one.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.record_file = path / "run.json"
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoint_file = path / "checkpoints" / "last.ckpt"
        self.export_folder = path / "export"
        self.report_file = path / "report.html"

    @classmethod
    def create(cls, path: Path, recipe: Recipe, command: list[str], numbered: bool = False) -> "RunFolder":
        """A new folder with the recipe and the record of how it was begun.

        Args:
            path: where.
            recipe: every setting.
            command: the command line.
            numbered: whether the folder may have a number behind its name, if there is one of that name.

        Raises:
            RecipeError: if the folder exists and holds something, or cannot be written.
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
        """A folder that a run began.

        Raises:
            RecipeError: if there is none.
        """
        run = cls(path)
        if not run.recipe_file.is_file() or not run.record_file.is_file():
            raise RecipeError(f"{str(path)!r} is not a run folder: it has no recipe.yaml and run.json")
        return run

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing here meanwhile, as far as the file system has locks; one that is killed
        lets go.

        Raises:
            RecipeError: if another process writes here.
        """
        lock = self.path / "run.lock"
        with lock.open("w") as file:
            try:
                if fcntl is not None:
                    # A lock of the process: one of the open file would live on in the loader processes of a run that
                    # was killed.
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise RecipeError(f"{str(self.path)!r} is being written by another process") from None
            except OSError:
                pass
            if not _is_file_at(file, lock):
                # Its owner has just removed it, and somebody else may hold a new one.
                raise RecipeError(f"{str(self.path)!r} is being written by another process")
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)

    def recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        return resolve(read_yaml(self.recipe_file), str(self.recipe_file))

    def refuse_another_recipe(self, recipe: Recipe) -> None:
        """Raise a `RecipeError` with the differences if `recipe` is not the one that the run began with."""
        if changed := difference(self.recipe(), recipe):
            raise RecipeError(f"{str(self.path)!r} began with another recipe: {'; '.join(changed)}")

    def record(self) -> dict[str, Any]:
        """The content of run.json."""
        content: dict[str, Any] = (
            json.loads(self.record_file.read_text(encoding="utf-8")) if self.record_file.is_file() else {}
        )
        return content

    def update(self, **facts: Any) -> None:
        """Put facts into run.json, over those of the same name."""
        write_text(self.record_file, json.dumps({**self.record(), **facts}, indent=2) + "\n")

    def warn(self, what: str) -> None:
        """Keep a warning in run.json, once, for whoever reads the run's results."""
        self.update(warnings=list(dict.fromkeys([*self.record().get("warnings", []), what])))

    def goes_on(self, step: int) -> list[str]:
        """Note in run.json that a run goes on from a step, when, and with which versions and machine.

        Of a run of which no step is left, these are simply its own.

        Returns:
            What is not as it was before, such as `"torch 2.11.0 -> 2.14.1"`; with that, a run does not go on bit for
            bit.
        """
        record, here = self.record(), {"host": host_facts(), "versions": versions()}
        if step == 0:
            self.update(began=now(), **here)
            return []
        pauses = record.get("resumed", [])
        before, after = _what_rounds(pauses[-1] if pauses else record), _what_rounds(here)
        self.update(resumed=[*pauses, {"step": step, "at": now(), **here}])
        return [
            f"{name} {before.get(name)} -> {after.get(name)}"
            for name in {**before, **after}
            if before.get(name) != after.get(name)
        ]

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl; numbers that are not finite, which JSON does not know, are null there."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(values), allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without a last one that was cut off."""
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines() if self.metrics_file.is_file() else []
        entries = []
        for line in lines:
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return entries

    def forget_metrics_after(self, step: int) -> None:
        """Drop what was logged after `step`: a run that continues from there logs it again."""
        kept = [entry for entry in self.metrics() if entry.get("step", 0) <= step]
        if self.metrics_file.is_file():
            write_text(self.metrics_file, "".join(json.dumps(entry) + "\n" for entry in kept))

    def remove_leftovers(self) -> None:
        """Remove files that were being written aside when the run was killed."""
        for written in (self.recipe_file, self.record_file, self.metrics_file, self.checkpoint_file):
            remove_leftovers(written)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The content of last.ckpt, or None if the run was ended before its first.

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


def require_new(path: Path) -> None:
    """Raise a `RecipeError` unless `path` is free, or an empty folder, and can be written."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        resume = f" or continue with --resume {path}" if (path / "run.json").is_file() else ""
        raise RecipeError(f"output {str(path)!r} exists already; choose another name{resume}")
    require_writable(path)


def require_writable(path: Path) -> None:
    """Raise a `RecipeError` if a folder at `path` could not be made or written to, before anything slow is done."""
    parent = next(one for one in (path, *path.absolute().parents) if one.exists())
    try:
        # Permissions do not tell: an administrator has them all, where nobody can write too.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError:
        raise RecipeError(f"output {str(path)!r} cannot be written: {parent} is not a writable folder") from None


def _is_file_at(file: TextIO, path: Path) -> bool:
    """Whether an open file is the one that a path leads to now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def finite(value: Any) -> Any:
    """A value of mappings, lists and plain things with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    """Versions of what the result depends on; if the package runs from a repository, its commit and which files are not
    as there.
    """
    found = {
        "python": platform.python_version(),
        **{name: one for name in _PACKAGES if (one := _version(name)) is not None},
    }
    root = Path(__file__).resolve().parent.parent.parent
    if (root / ".git").exists() and (commit := _git(root, "rev-parse", "HEAD")):
        found["commit"] = commit[0]
        differing = _git(root, "diff", "--name-only", "HEAD", "--", *_CODE)
        unknown = _git(root, "ls-files", "--others", "--exclude-standard", "--", *_CODE)
        if differing or unknown:
            found["uncommitted"] = ", ".join([*differing, *unknown])
    return found


def _version(package: str) -> str | None:
    """The version of a package, or None if it is installed under another name."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(folder: Path, *command: str) -> list[str]:
    """The lines that git says, none where it fails."""
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True
        ).stdout.splitlines()  # noqa: S603, S607
    except (OSError, subprocess.CalledProcessError):
        return []


def host_facts() -> dict[str, Any]:
    """The machine, as far as it matters to a time."""
    import torch

    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": sys.executable,
    }


def _what_rounds(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Of where a run was made, what its last bits depend on; a CPU's sums also on how many threads share them."""
    host = facts.get("host", {})
    return {
        **facts.get("versions", {}),
        **{name: host.get(name) for name in ("machine", "gpu")},
        "threads": None if host.get("gpu") else host.get("threads"),
    }


def now() -> str:
    """The time of day in the form of run.json."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def default_output(recipe_name: str) -> Path:
    """`runs/<recipe>-<time>`."""
    return Path("runs") / f"{Path(recipe_name).stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def _claimed(path: Path) -> Path:
    """A new folder at `path`, or with a number behind it if somebody, who began in the same second, has it."""
    candidate, number = path, 1
    while True:
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")
        else:
            return candidate
