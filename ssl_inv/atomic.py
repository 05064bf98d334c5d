"""Files and folders that appear whole or not at all: written aside, synced to the disk, renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A path beside `target` for a new file or folder, which replaces `target` when the block ends without an error.

    If the block raises, whatever was written there is removed and `target` is as it was. A folder that is replaced is
    missing for an instant; a file never is.
    """
    aside = _aside(target)
    try:
        yield aside
        for one in [aside, *aside.rglob("*")] if aside.is_dir() else [aside]:
            _sync(one)
        if target.is_dir():
            old = target.with_name(f"{aside.name}.old")
            os.replace(target, old)
            os.replace(aside, target)
            shutil.rmtree(old)
        else:
            os.replace(aside, target)
        _sync(target.parent)
    finally:
        _remove(aside)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, or replace one."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def remove_leftovers(path: Path) -> None:
    """Remove what was being written aside for `path` by a process that was killed."""
    for aside in path.parent.glob(f".{path.name}.*"):
        _remove(aside)


def _aside(target: Path) -> Path:
    # The number of the process keeps two writers of one file apart.
    return target.with_name(f".{target.name}.{os.getpid()}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):  # Windows syncs no folders
        return
    # Windows syncs only what may be written to.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
