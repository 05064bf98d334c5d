"""What the benchmarks share that make one cell of a table after the other, each a run of its own."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as lightning
import torch

from ssl_inv.catalogue import RecipeError, suggest
from ssl_inv.engine.launch import quiet_lightning
from ssl_inv.run.environment import host_facts, versions
from ssl_inv.run.folder import now
from ssl_inv.run.python.run_result import RunResult

Cell = TypeVar("Cell")


def one_by_one(
    runs: Path,
    cells: Callable[[], Iterable[Cell]],
    work: Callable[[Cell], str],
    minutes: float | None = None,
    known: tuple[str, Sequence[str], Sequence[str]] | None = None,
) -> int:
    """Work until every cell is done or the time is over, and tell what each has found.

    Args:
        runs: folder of the runs.
        cells: what is to be done.
        work: does it, and says in a line what it found.
        minutes: no cell begins after so many.
        known: an option, what was asked for by it, and what there is.

    Returns:
        0, or 2 for what cannot be done, which is told in one line.
    """
    began = time.monotonic()
    try:
        if known is not None:
            option, names, there = known
            for one in names:
                if one not in there:
                    raise RecipeError(f"{option}: unknown {one!r}; {suggest(one, there)}")
        runs.mkdir(parents=True, exist_ok=True)
        with quiet_lightning():
            for cell in cells():
                if minutes is not None and time.monotonic() - began > 60 * minutes:
                    sys.stdout.write("the time is over; the same command goes on\n")
                    break
                found = work(cell)
                sys.stdout.write(f"{now()} {found}\n")
                sys.stdout.flush()
    except RecipeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def trainer_alone(steps: int, *callbacks: lightning.Callback) -> lightning.Trainer:
    """A trainer on the processor that writes and shows nothing."""
    return lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


def facts_of(run: RunResult) -> dict[str, Any]:
    """What a reader must know of the numbers of a run."""
    return {
        "commit": run.record["versions"].get("commit"),
        "threads": torch.get_num_threads(),
        "machine": host_facts()["machine"],
        "torch": versions().get("torch"),
        "date": now(),
    }
