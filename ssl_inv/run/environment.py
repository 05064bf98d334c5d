"""What becomes of memory that is freed."""

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt, in glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next request instead of giving it back to the system, which hands it out page
    by page again.

    A training step asks for the same large tensors every time, and a large tensor given back costs as many page faults
    when it is asked for again as it has pages. Does nothing elsewhere, or where the environment sets up malloc itself:
    `MALLOC_TRIM_THRESHOLD_` set to anything switches it off, to compare.
    """
    if platform.libc_ver()[0] != "glibc" or any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
