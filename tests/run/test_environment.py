"""Freed memory is kept on the command line, and left to the user where the environment says how malloc shall work."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from ssl_inv.run.environment import keep_freed_memory
keep_freed_memory()
for _ in range(20):  # until what is free lies together
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(4_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**environment: str) -> int:
    """Of the last of twenty tensors of 16 MB, each of which takes the place of one before it."""
    ours = ("MALLOC_", "GLIBC_TUNABLES", "THP_")
    given = {**{name: value for name, value in os.environ.items() if not name.startswith(ours)}, **environment}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=given, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="does something with glibc only")
def test_a_large_tensor_finds_the_pages_of_the_one_before_it() -> None:
    assert page_faults() < 100 < page_faults(MALLOC_MMAP_THRESHOLD_="1000000")
