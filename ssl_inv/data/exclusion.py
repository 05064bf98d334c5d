"""Patterns of files to leave out."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import translate

import numpy as np
from numpy.typing import NDArray

from ssl_inv.data.names import Names


def hidden(name: str) -> bool:
    """Whether a file is hidden, or one that macOS adds to archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def leaves_out(name: str, exclude: Sequence[str] = ()) -> bool:
    """Whether a file or folder is left out because it is hidden, or by a pattern."""
    folder, _, last = name.rpartition("/")
    return hidden(name) or any(_Pattern(one).matches(folder, last) for one in exclude)


def kept(names: Names, exclude: Sequence[str]) -> tuple[NDArray[np.bool_], list[str]]:
    """Which names match none of some patterns, `(N,)`, and what that leaves out, in words."""
    if not exclude:
        return np.ones(len(names), dtype=bool), []
    patterns = [_Pattern(one) for one in exclude]
    mask = np.ones(len(names), dtype=bool)
    for row, name in enumerate(names):
        folder, _, last = os.fsdecode(name).rpartition("/")
        for one in patterns:
            if one.matches(folder, last):
                one.count += 1
                mask[row] = False
                break
    words = [f"{int(np.count_nonzero(~mask))} excluded"]
    if idle := [one.text for one in patterns if not one.count]:
        words.append(f"nothing more is left out by {', '.join(map(repr, idle))}")
    return mask, words


@dataclass
class _Pattern:
    """A pattern of names to leave out; it remembers which folders match, because many files share them."""

    text: str
    count: int = 0
    _folders: dict[str, bool] = field(default_factory=lambda: {"": False})

    def __post_init__(self) -> None:
        self._whole = "/" in self.text
        self._test = re.compile(translate(self.text.strip("/") if self._whole else self.text)).match

    def matches(self, folder: str, last: str) -> bool:
        """Whether a file, or a folder on the way to it, matches."""
        own = f"{folder}/{last}" if self._whole and folder else last
        return self._below(folder) or self._test(own) is not None

    def _below(self, folder: str) -> bool:
        if folder not in self._folders:
            above, _, last = folder.rpartition("/")
            self._folders[folder] = self.matches(above, last)
        return self._folders[folder]
