"""A small copy of a large folder of images, for `exam_encoders.py`."""

import contextlib
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ssl_inv.catalogue import RecipeError


def first_images(images: Path, place: Path, counts: Mapping[str, int]) -> None:
    """Copy the first images, by name, of every class and split.

    Raises:
        RecipeError: if there are no images in `SPLIT/CLASS/FILE`.
    """
    splits = {"train": "train", "val": "val", "test": "val"}
    with contextlib.ExitStack() as stack:
        if images.is_dir():
            found: dict[str, Callable[[], bytes]]
            found = {file.relative_to(images).as_posix(): file.read_bytes for file in images.rglob("*.*")}
        elif zipfile.is_zipfile(images):
            archive = stack.enter_context(zipfile.ZipFile(images))
            found = {one: partial(archive.read, one) for one in archive.namelist()}
        else:
            raise RecipeError(f"--images: {str(images)!r} is neither a folder nor a zip")
        names = [name for name in sorted(found) if len(parts := name.split("/")) == 3 and parts[0] in splits]
        # Where there are both, val is for choosing settings, and nothing is chosen here.
        tests = any(name.startswith("test/") for name in names)
        copied: dict[tuple[str, str], int] = {}
        for name in names:
            top, label, file = name.split("/")
            split = splits[top]
            number = copied.get((split, label), 0)
            if (tests and top == "val") or number >= counts[split] or not file.lower().endswith((".jpg", ".png")):
                continue
            copied[split, label] = number + 1
            target = place / split / label / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(found[name]())
    if {split for split, _ in copied} != {"train", "val"}:
        raise RecipeError(f"--images: {str(images)!r} has no images in train/CLASS and in val/CLASS or test/CLASS")
