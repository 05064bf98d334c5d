"""Calls a function on several ranks of a process group on this machine."""

import importlib
import io
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
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
    group = _kept.pop(count, None) or _Group(count)
    try:
        results = group.call(function, arguments)
    except BaseException:
        group.end()
        raise
    if _keeping:
        _kept[count] = group
    else:
        group.end()
    return results


_keeping = False
_kept: dict[int, "_Group"] = {}


@contextmanager
def kept_processes() -> Iterator[None]:
    """Within this, calls of `on_processes` share their processes, which saves about half a second a call.

    Shared processes import a module once: they do not see later changes of its file.
    """
    global _keeping
    _keeping = True
    try:
        yield
    finally:
        _keeping = False
        for group in _kept.values():
            group.end()
        _kept.clear()


class _Group:
    """Processes of one group, which wait for calls."""

    def __init__(self, count: int) -> None:
        context = _start_method()
        self.folder = tempfile.TemporaryDirectory()
        self.connections: list[Connection] = []
        self.processes = []
        for rank in range(count):
            here, there = context.Pipe()
            arguments = (rank, count, Path(self.folder.name) / "store", there)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            there.close()
            self.connections.append(here)
            self.processes.append(process)

    def call(self, function: Callable[..., Result], arguments: tuple[Any, ...]) -> list[Result]:
        call = _packed((function, arguments))
        for connection in self.connections:
            with suppress(BrokenPipeError):  # a process that has ended has said why
                connection.send((os.getcwd(), sys.path))
                connection.send_bytes(call)
        waiting: dict[Any, int] = {connection: rank for rank, connection in enumerate(self.connections)}
        results: dict[int, Result] = {}
        while waiting:
            for ready in wait(list(waiting)):
                rank = waiting.pop(ready)
                try:
                    failure, result = self.connections[rank].recv()
                except EOFError:
                    self.processes[rank].join()
                    code = self.processes[rank].exitcode
                    raise AssertionError(
                        f"process {rank} of {len(self.processes)} ended with exit code {code}"
                    ) from None
                if failure:
                    raise AssertionError(failure)
                results[rank] = _unpacked(result)
        return [results[rank] for rank in range(len(self.processes))]

    def end(self) -> None:
        for process, connection in zip(self.processes, self.connections, strict=True):
            process.terminate()
            process.join()
            connection.close()
        self.folder.cleanup()


def _start_method() -> SpawnContext | ForkServerContext:
    """Processes that begin clean, and where the system can, are forked from one that has imported torch already."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Every process imports the main module of this process, which is pytest in a test.
    context.set_forkserver_preload(["ssl_inv.testing", *(["pytest"] if "pytest" in sys.modules else [])])
    return context


def _serve(rank: int, count: int, store: Path, calls: Connection) -> None:
    torch.set_num_threads(1)
    try:
        # If a rank fails, the others must not wait for it for half an hour, the default.
        place, limit = store.as_uri(), timedelta(seconds=60)
        dist.init_process_group("gloo", init_method=place, rank=rank, world_size=count, timeout=limit)
        random = torch.get_rng_state()
        while True:
            folder, sys.path[:] = calls.recv()
            os.chdir(folder)
            importlib.invalidate_caches()
            torch.set_rng_state(random)
            function, arguments = _unpacked(calls.recv_bytes())
            calls.send((None, _packed(function(*arguments))))
    except Exception:
        calls.send((traceback.format_exc(limit=-3), None))


def _packed(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _unpacked(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=False)
