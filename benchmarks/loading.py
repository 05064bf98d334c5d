"""What benchmarks of loaders share: a process for each contestant, its memory, its first batch and its speed."""

import importlib.metadata
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ssl_inv.data.batches import StepBatches, StepLoader
from ssl_inv.data.source import Source

Numbers = dict[str, float]


def memory_mb(process: int) -> tuple[float, float]:
    """Resident memory of a process in MB, and its own share of it: what n processes share counts as one nth."""
    content = Path(f"/proc/{process}/smaps_rollup").read_text()
    found = {line.split(":")[0]: line.split() for line in content.splitlines()[1:]}
    return int(found["Rss"][1]) / 1000, int(found["Pss"][1]) / 1000


def our_batches(source: Source, batch: int, workers: int) -> Iterator[int]:
    """The sizes of the batches that `pretrain` would read, without end."""
    for one in StepLoader(StepBatches(source, batch, 1, seed=0), 0, 2**40, workers):
        yield len(one.index)


def torch_batches(files: Dataset[Any], batch: int, workers: int) -> Iterator[int]:
    """The sizes of the batches of torch's loader, epoch after epoch."""
    loader = DataLoader(files, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)
    while True:
        for images, _ in loader:
            yield len(images)


def measured(begin: Callable[[], Iterator[int]], seconds: float) -> Numbers:
    """Seconds to the start and to the first batch, memory of this process and of a loader process, and images a second.

    Args:
        begin: finds the files and gives the batches.
        seconds: for how long to read.
    """
    start = time.perf_counter()
    batches = begin()
    ready = time.perf_counter()
    next(batches)
    first = time.perf_counter()
    # What was read ahead while the first batch waited is not counted.
    for _ in range(4):
        next(batches)
    images, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds or not images:
        images += next(batches)
    found = {"start_s": ready - start, "first_batch_s": first - ready, "images_per_s": images / passed}
    found |= dict(zip(("main_rss_mb", "main_pss_mb"), memory_mb(os.getpid()), strict=True))
    if children := multiprocessing.active_children():
        found |= dict(zip(("worker_rss_mb", "worker_pss_mb"), memory_mb(children[0].pid or 0), strict=True))
    return {name: round(value, 3) for name, value in found.items()}


def in_a_process(script: str, contestant: str, arguments: dict[str, Any], timeout: float = 1800) -> Numbers:
    """What `script --contestant NAME` prints last: a line of JSON."""
    command = [sys.executable, script, "--contestant", contestant]
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=timeout)
    if done.returncode:
        raise SystemExit(f"{contestant} failed: {' '.join(command)}")
    numbers: Numbers = json.loads(done.stdout.splitlines()[-1])
    return numbers


def markdown(what: str, rows: dict[str, Numbers]) -> str:
    """A table of the contestants."""
    names = list(next(iter(rows.values())))
    lines = [f"| {what} | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {one} | {' | '.join(f'{numbers[name]:,.2f}' for name in names)} |" for one, numbers in rows.items()]
    return "\n".join(lines)


def record(file: Path, tables: dict[str, dict[str, Numbers]], workers: int) -> None:
    """Put the tables of a script into a file of numbers, in the place of its earlier ones."""
    script, *options = (one for one in sys.argv if one not in ("--json", str(file)))
    command = " ".join(["python", f"benchmarks/{Path(script).name}", *options])
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "pyarrow")}
    runs = json.loads(file.read_text())["runs"] if file.exists() else []
    others = [one for one in runs if one["command"].split()[1] != command.split()[1]]
    run = {"command": command, "versions": versions, "workers": workers, "tables": tables}
    file.write_text(json.dumps({"runs": [*others, run]}, indent=1) + "\n")
