"""How many cores there are, and who has them."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssl_inv.distributed import world_size


def available_cores(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use, which a scheduler or a container may have made fewer than the machine has.

    Args:
        control_group: where Linux says how much time on processors a container may take.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _quota(control_group)
    return min(cores, math.ceil(quota / period)) if quota > 0 and period > 0 else cores


def _quota(control_group: Path) -> tuple[int, int]:
    """Microseconds of processor time in a period and the length of the period; both 0 if there is no limit."""
    try:
        content = (control_group / "cpu.max").read_text().split()
    except OSError:
        try:
            content = [(control_group / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
        except OSError:
            return 0, 0
    return (0, 0) if content[0] == "max" else (int(content[0]), int(content[1]))


@contextmanager
def faiss_on_cores_of_all_processes() -> Iterator[None]:
    """Give faiss the threads of all processes, as far as there are cores, for what the first does while the others wait for it."""
    import faiss

    own = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(max(own, min(available_cores(), own * world_size())))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(own)
