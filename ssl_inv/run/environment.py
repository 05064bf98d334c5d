"""Set-up of the process before torch is loaded: OpenMP's threads and glibc's malloc."""

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt, in glibc's malloc.h


def prepare_process() -> None:
    """Let OpenMP's threads sleep while they wait, and keep freed memory. What the environment sets stays.

    torch reads `OMP_WAIT_POLICY` when it is loaded. Waiting threads that spin gain little on idle cores and cost most
    of the speed on busy ones.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next request.

    By default glibc returns large blocks to the system. A training step asks for the same large tensors every time, and
    each then costs one page fault per page. Does nothing without glibc, or if the environment configures malloc itself:
    any value of `MALLOC_TRIM_THRESHOLD_` switches it off, to compare.
    """
    if platform.libc_ver()[0] != "glibc" or any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
