"""Calls a function on several ranks of a process group on this machine."""

import multiprocessing
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Result = TypeVar("Result")


def on_processes(count: int, function: Callable[..., Result], *arguments: Any) -> list[Result]:
    """The results of a function on every rank, by rank.

    Args:
        count: number of ranks; with 1, the function is called in this process, without a group.
        function: a function at the top level of a module, so that other processes can import it.
        arguments: its arguments on every rank.

    Raises:
        AssertionError: with the end of the traceback, if it fails on any rank.
    """
    if count == 1:
        return [function(*arguments)]
    context = _start_method()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        processes = [
            context.Process(target=_run, args=(rank, count, place, function, arguments), daemon=True)
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        for rank, process in enumerate(processes):
            if (failure := place / f"failure-{rank}").exists():
                raise AssertionError(failure.read_text(encoding="utf-8"))
            if process.exitcode:
                raise AssertionError(f"process {rank} of {count} ended with exit code {process.exitcode}")
        return [torch.load(place / f"result-{rank}", weights_only=False) for rank in range(count)]


def _start_method() -> SpawnContext | ForkServerContext:
    """Starts clean processes; if the system can, it forks them from one that has already imported torch."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Every process imports the main module of this process, which is pytest in a test.
    context.set_forkserver_preload(["ssl_inv.testing", *(["pytest"] if "pytest" in sys.modules else [])])
    return context


def _run(rank: int, count: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        # By default, a rank would wait half an hour for one that has failed.
        store = (folder / "store").as_uri()
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count, timeout=timedelta(seconds=60))
        torch.save(function(*arguments), folder / f"result-{rank}")
        dist.destroy_process_group()
    except Exception:
        (folder / f"failure-{rank}").write_text(traceback.format_exc(limit=-3), encoding="utf-8")
