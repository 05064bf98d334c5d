"""Many runs of recipes: one folder and one process each, several at a time, continued after a kill.

What a sweep has done is read from the folders of its runs, so a second call goes on wherever the first one ended, and
two calls on one folder share the work.
"""

import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ssl_inv
from ssl_inv.atomic import remove_leftovers, write_text
from ssl_inv.catalogue import RecipeError
from ssl_inv.engine.cluster import without_launch
from ssl_inv.engine.progress import Progress, clock
from ssl_inv.plain import read_json
from ssl_inv.run.continuing import early_end
from ssl_inv.run.folder import RunFolder, has_not_begun, require_writable
from ssl_inv.run.python.asked import allow_modules
from ssl_inv.run.recipe import difference
from ssl_inv.run.side_by_side.runs import Saved, is_saved, last_step, read_saved
from ssl_inv.run.side_by_side.sweep_grid import Combination, combinations, typed
from ssl_inv.run.tables import Table
from ssl_inv.trust import allowed

_PROGRAM = ("-P", "-m", "ssl_inv.run.cli")
"""The program. `-P` lets no file of the current folder stand in the place of an installed module."""

_FILES = ("sweep.json", "sweep.csv")
_PATIENCE = 60.0  # seconds for runs to write their record after an interruption
_POLL = 0.3  # seconds


class SweepError(RuntimeError):
    """Runs of a sweep have failed. The others are done."""


@dataclass
class _Job:
    """A run in progress, in a process of its own."""

    number: int
    process: subprocess.Popen[bytes]
    device: str | None
    begun: float
    log: IO[bytes]


class Sweep:
    """The runs of a sweep in one folder.

    `FOLDER/NAME` is the folder of a run, `FOLDER/logs/NAME.log` what it printed. `sweep.csv` and `sweep.json` have a
    row for each run; they are written whenever a run begins or ends.

    Args:
        output: the folder.
        runs: the runs.
        jobs: how many at a time, on each device.
        devices: GPUs as CUDA counts them; empty leaves the choice to each run.
    """

    def __init__(self, output: Path, runs: Sequence[Combination], jobs: int = 1, devices: Sequence[str] = ()) -> None:
        self.output, self.runs, self.jobs, self.devices = output, list(runs), jobs, tuple(devices)
        for one in self.runs if devices else ():
            if one.resolved.trainer.devices > 1:
                problem = "--devices gives each run one GPU"
                raise RecipeError(f"trainer.devices: {one.resolved.trainer.devices}, but {problem}")

    def folder(self, number: int) -> RunFolder:
        """The folder of a run."""
        return RunFolder(self.output / self.runs[number].name)

    def check(self) -> None:
        """Raise a `RecipeError` if a folder in the place of a run has another recipe or is something else."""
        if is_saved(self.output):
            raise RecipeError(f"{str(self.output)!r} is a run, not the folder of a sweep; choose another --output")
        for number, one in enumerate(self.runs):
            folder = self.folder(number)
            if folder.recipe_file.is_file() and folder.record_file.is_file():
                if changed := difference(folder.recipe(), one.resolved):
                    problem = f"{str(folder.path)!r} is of another sweep: {'; '.join(changed)}"
                    raise RecipeError(f"{problem}; choose another --output")
            elif folder.path.exists() and not has_not_begun(folder.path):
                raise RecipeError(
                    f"{str(folder.path)!r} is in the place of a run, and is none; choose another --output"
                )

    def state(self, number: int) -> Saved:
        """A run as it lies on the disk; its state is "new" if it has not begun."""
        path, name = self.folder(number).path, self.runs[number].name
        return Saved(path, name, "new") if has_not_begun(path) else read_saved(path, name, settings=False)

    def planned(self) -> Table:
        """Every run with its number, its settings and its state."""
        return Table(
            {"run": number, "name": one.name, **one.varied, "state": self.state(number).state}
            for number, one in enumerate(self.runs)
        )

    def run(self, only: Sequence[int] | None = None, progress: Progress | None = None) -> Table:
        """Make every run that is not complete.

        A run that was interrupted or killed continues from its last checkpoint, and so does one that failed: the reason
        may be gone. A run that another process holds is left to it.

        Args:
            only: the numbers of some runs; None makes all.
            progress: where to show how far they are.

        Returns:
            The table of all runs, as in sweep.csv.

        Raises:
            SweepError: if runs failed; the others are made first.
            KeyboardInterrupt: after every run has stopped and can continue.
        """
        self.check()
        (self.output / "logs").mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            remove_leftovers(self.output / name)
        show = progress or Progress()
        wanted = list(range(len(self.runs)) if only is None else only)
        waiting = [number for number in wanted if self.state(number).state != "complete"]
        if done := len(wanted) - len(waiting):
            show.keep(f"{done} of {len(wanted)} runs are complete already")
        try:
            self._make(waiting, show)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command continues") from None
        finally:
            show.close()
            table = self.write_table()
        states = {number: self.state(number) for number in wanted}
        failed = {number: one for number, one in states.items() if one.state != "complete"}
        if failed:
            first = next(iter(failed.values()))
            log = self.output / "logs" / f"{first.name}.log"
            what = f"{len(failed)} of {len(wanted)} runs are not complete"
            raise SweepError(
                f"{what}: {', '.join(_said(one) for one in failed.values())}; the first one's log is {log}"
            )
        return table

    def _make(self, waiting: list[int], show: Progress) -> None:
        places: list[str | None] = [*self.devices] if self.devices else [None]
        free = [place for _ in range(self.jobs) for place in places]
        working: list[_Job] = []
        try:
            while waiting or working:
                while waiting and free:
                    number = waiting.pop(0)
                    if self.state(number).state == "training":
                        show.keep(f"{self.runs[number].name}: another process makes it")
                        continue
                    working.append(self._begun(number, free.pop(0), show))
                    self.write_table()
                time.sleep(_POLL)
                for job in [one for one in working if one.process.poll() is not None]:
                    working.remove(job)
                    free.append(job.device)
                    self._ended(job, show)
                    self.write_table()
                show.update(self._line(working, len(waiting)))
        except BaseException:
            _stop(working)
            raise

    def _begun(self, number: int, device: str | None, show: Progress) -> _Job:
        one, folder = self.runs[number], self.folder(number)
        if has_not_begun(folder.path):
            # A run that was killed while it made its folder has left nothing to continue from.
            shutil.rmtree(folder.path, ignore_errors=True)
            words = ["pretrain", one.recipe, *one.overrides, "--output", str(folder.path)]
        else:
            words = ["pretrain", "--resume", str(folder.path)]
        show.keep(f"{one.name}: {'continues' if words[1] == '--resume' else 'begins'}{f' on {device}' * bool(device)}")
        log = (self.output / "logs" / f"{one.name}.log").open("ab")
        command = [sys.executable, *_PROGRAM, *words, "--quiet"]
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._environment(device),
            # Ctrl-C reaches the sweep alone, which tells its runs once.
            start_new_session=True,
            preexec_fn=_in_the_new_process if os.name == "posix" else None,
        )
        return _Job(number, process, device, time.monotonic(), log)

    def _environment(self, device: str | None) -> dict[str, str]:
        # A run is alone, however the sweep was started.
        environment = without_launch(os.environ)
        if (checkout := _checkout()) is not None:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [checkout, environment.get("PYTHONPATH")]))
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        at_once = self.jobs * max(1, len(self.devices))
        if at_once > 1:
            # Runs that each start a thread for every core wait for each other.
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
        return environment

    def _ended(self, job: _Job, show: Progress) -> None:
        job.log.close()
        state = self.state(job.number)
        scores = ", ".join(f"{name} {value:.3f}" for name, value in state.scores.items())
        took = clock(time.monotonic() - job.begun)
        show.keep(f"{_said(state)}, {took}{f': {scores}' if scores else ''}")
        if state.state == "new":
            # It was refused before it had a folder; the log has the reason.
            lines = Path(job.log.name).read_text(encoding="utf-8", errors="replace").splitlines()
            show.warn(f"{state.name}: {lines[-1] if lines else f'exit code {job.process.returncode}'}")

    def _line(self, working: Sequence[_Job], waiting: int) -> str:
        def one(job: _Job) -> str:
            name, total = self.runs[job.number].name, self.runs[job.number].resolved.trainer.steps
            step = last_step(self.folder(job.number).metrics_file) or 0
            return f"{name} {step}/{total}" if total else f"{name} {step}"

        return f"{'  '.join(map(one, working))}  {waiting} waiting"

    def table(self) -> Table:
        """A row for each run, and for each of earlier sweeps in this folder."""
        rows = [_row(self.state(number), one) for number, one in enumerate(self.runs)]
        names = {row["run"] for row in rows}
        earlier = [row for row in self._earlier_rows() if row.get("run") not in names]
        table = Table([*rows, *earlier])
        last = ("reason", "began", "seconds", "device", "path")
        return Table(table.rows, [*(name for name in table.columns if name not in last), *last])

    def _earlier_rows(self) -> list[dict[str, Any]]:
        with suppress(OSError, ValueError):
            content = read_json(self.output / "sweep.json")
            return [row for row in content["runs"] if (self.output / str(row["run"])).is_dir()]
        return []

    def write_table(self) -> Table:
        """Write sweep.csv and sweep.json, and return the table."""
        with _alone(self.output / "sweep.lock"):
            table = self.table()
            varied: dict[str, list[str]] = {key: [] for one in self.runs for key in one.varied}
            for one in self.runs:
                for key, value in one.varied.items():
                    varied[key] += [] if value in varied[key] else [value]
            fixed = {key: value for key, value in self.runs[0].settings.items() if key not in varied}
            recipes = list(dict.fromkeys(one.recipe for one in self.runs))
            content = {"recipes": recipes, "varied": varied, "fixed": fixed, "runs": json.loads(table.to_json())}
            write_text(self.output / "sweep.json", json.dumps(content, indent=1) + "\n")
            write_text(self.output / "sweep.csv", table.to_csv())
        return table


def _checkout() -> str | None:
    """The current folder if this package is in it. With `-P`, one that is not installed would not be found."""
    root = str(Path(ssl_inv.__file__).parents[1])
    return root if root == str(Path.cwd()) else None


def _row(one: Saved, run: Combination) -> dict[str, Any]:
    seed = {} if "trainer.seed" in run.varied else {"seed": run.resolved.trainer.seed}
    return {
        **{"run": one.name, "recipe": Path(run.recipe).stem, **run.varied, **seed, "state": one.state},
        **{"step": one.step, **one.scores, "reason": one.reason or early_end(one.record) or None},
        **{
            "began": one.record.get("began"),
            "seconds": one.seconds,
            "device": one.device or None,
            "path": str(one.path),
        },
    }


def _said(one: Saved) -> str:
    state = "did not begin" if one.state == "new" else one.state
    return f"{one.name} {state}{f' ({one.reason})' if one.reason else ''}"


def _in_the_new_process() -> None:
    """Let the run be interrupted, and on Linux when its sweep dies, so that no run of a killed sweep goes on unseen."""
    # A shell's background jobs ignore this signal, and what they start inherits that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


def _stop(working: Sequence[_Job]) -> None:
    """Interrupt runs, and wait until they have written that they can continue."""
    for job in working:
        with suppress(ProcessLookupError):
            job.process.send_signal(signal.SIGINT)
    end = time.monotonic() + _PATIENCE
    for job in working:
        try:
            job.process.wait(max(0.0, end - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            job.process.kill()
            job.process.wait()
        job.log.close()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process at a time write the table, where the file system has locks."""
    with lock.open("w") as file:
        try:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield


def slurm_script(sweep: Sweep, recipes: Sequence[str], overrides: Sequence[str]) -> str:
    """A script for `sbatch` whose task i makes run i."""
    trust = [f"--trust={module}" for module in allowed()]
    words = [*_PROGRAM, "sweep", *recipes, *overrides, *trust, "--output", str(sweep.output)]
    command = " ".join(map(shlex.quote, [sys.executable, *words]))
    last, checkout = len(sweep.runs) - 1, _checkout()
    path = f"export PYTHONPATH={shlex.quote(checkout)}\n" if checkout else ""
    return f"""\
#!/bin/bash
#SBATCH --job-name={sweep.output.resolve().name}
#SBATCH --array=0-{last}
#SBATCH --output=%x-%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Add what the cluster asks for, such as: #SBATCH --gpus=1 --cpus-per-task=8 --time=4:00:00
# A task that was killed continues its run. `ssl-inv compare {sweep.output}` compares them.
cd {shlex.quote(str(Path.cwd()))} || exit
{path}exec {command} --only "$SLURM_ARRAY_TASK_ID"
"""


def sweep(
    recipe: str | Sequence[str],
    settings: Mapping[str, Any],
    output: Path | str,
    *,
    jobs: int = 1,
    devices: Sequence[str | int] = (),
    quiet: bool = False,
    trust: Sequence[str] = (),
) -> Table:
    """Make a run for every combination of some settings, or go on with those that are not complete.

    Args:
        recipe: name or path of a recipe, or several.
        settings: by dotted key; a list, tuple or range has several values: `{"trainer.seed": range(5)}`. One value that
            is a list stands in a list of its own.
        output: folder of the sweep.
        jobs: how many runs at a time, on each device.
        devices: GPUs, each run on one; empty leaves the choice to each run.
        quiet: show only warnings.
        trust: modules whose code the recipes may name. It holds from now on in this process.

    Returns:
        A row for each run with its settings, state and scores.

    Raises:
        RecipeError: before the first run begins, if a combination cannot be run.
        SweepError: if runs failed; the others are made first.
    """
    allow_modules(trust)
    recipes = [recipe] if isinstance(recipe, str) else list(recipe)
    made = Sweep(Path(output), combinations(recipes, typed(settings)), jobs, [str(one) for one in devices])
    require_writable(made.output)
    return made.run(progress=Progress(quiet=quiet))
