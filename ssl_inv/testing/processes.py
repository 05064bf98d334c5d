"""Calls a function on several processes that speak with each other, on this machine."""

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
    """What a function gives on each process of a group, in the order of their ranks.

    Args:
        count: of processes; with one, the function is called here, without a group.
        function: at the top level of a module, so that it can be found by its name there.
        arguments: what every process calls it with.

    Raises:
        AssertionError: if it fails on any process, with the end of the traceback.
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
    """Processes that begin clean; where the system can, forked from one that has imported torch already."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Every process imports the main module of this one, which in a test is pytest.
    context.set_forkserver_preload(["ssl_inv.testing", *(["pytest"] if "pytest" in sys.modules else [])])
    return context


def _run(rank: int, count: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        # A process whose peer has failed must not wait for it for half an hour, as is the default.
        store = (folder / "store").as_uri()
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count, timeout=timedelta(seconds=60))
        torch.save(function(*arguments), folder / f"result-{rank}")
        dist.destroy_process_group()
    except Exception:
        (folder / f"failure-{rank}").write_text(traceback.format_exc(limit=-3), encoding="utf-8")
