"""Writes files and folders whole or not at all: aside first, then synced to the disk, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A path beside `target` for a new file or folder, which replaces `target` if the block raises nothing.

    If the block raises, the new file or folder is removed and `target` stays. While a folder is replaced, it is missing
    for an instant; a file never is.
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
        # Names of files that are not UTF-8 are written with their bytes as `\udcff`.
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the file system has no links."""
    with written_aside(target) as aside:
        try:
            os.link(source, aside)
        except OSError:
            shutil.copyfile(source, aside)


def remove_leftovers(path: Path) -> None:
    """Remove what a killed process was writing aside for `path`."""
    for aside in path.parent.glob(f".{path.name}.*"):
        _remove(aside)


def _aside(target: Path) -> Path:
    # The process number separates two writers of one file.
    return target.with_name(f".{target.name}.{os.getpid()}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):  # Windows cannot sync folders.
        return
    # Windows can sync only files that are open for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
