"""The process and the machine: threads and malloc before torch is loaded, and the facts that results depend on."""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("ssl-inv", "torch", "torchvision", "timm", "kornia", "kornia-rs", "pillow"),
    *("faiss-cpu", "pytorch-lightning", "numpy"),
)

_CODE = ("ssl_inv", "evaluation", "recipes")
"""The folders of the repository that results depend on. In `ssl_inv`, the last two are links."""

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


def versions() -> dict[str, str]:
    """The versions that results depend on. In a repository also its commit and the files that differ from it."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):  # installed under another name
            found[name] = version(name)
    root = Path(__file__).resolve().parent.parent.parent
    if (root / ".git").exists() and (commit := _git(root, "rev-parse", "HEAD")):
        found["commit"] = commit[0]
        differing = _git(root, "diff", "--name-only", "HEAD", "--", *_CODE)
        unknown = _git(root, "ls-files", "--others", "--exclude-standard", "--", *_CODE)
        if differing or unknown:
            found["uncommitted"] = ", ".join([*differing, *unknown])
    return found


def _git(folder: Path, *command: str) -> list[str]:
    """The lines that git prints, none if it fails."""
    arguments = ["git", "-C", str(folder), *command]
    try:
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.splitlines()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return []


def host_facts() -> dict[str, Any]:
    """The machine, as far as run times depend on it."""
    import torch

    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": sys.executable,
    }


def what_rounds(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The `versions` and `host` facts that the last bits of a run depend on; on a CPU also the number of threads."""
    host = facts.get("host", {})
    return {
        **facts.get("versions", {}),
        **{name: host.get(name) for name in ("machine", "gpu")},
        "threads": None if host.get("gpu") else host.get("threads"),
    }
