"""What the folders of images mean: a split, and classes."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssl_inv.catalogue import SettingError
from ssl_inv.data.archives import Files
from ssl_inv.data.names import Names, unpacked, utf8_name
from ssl_inv.data.pages import Pages
from ssl_inv.data.roots import Links, ListedFiles, SeveralFiles
from ssl_inv.data.source import Indices, Labels
from ssl_inv.data.splits import SPLIT_NAMES, labels_from_names, labels_from_numbers, split_of

LabelsFrom = Literal["folders", "list", "none"]

SplitFrom = Literal["folders", "top", "none"]


@dataclass(frozen=True)
class Choice:
    """What is read, and what its folders mean; see `folder`. Meshes have one path, and no setting `split`."""

    labels: LabelsFrom | None = None
    label_level: int = 1
    split: SplitFrom | None = None
    exclude: tuple[str, ...] = ()
    links: Links = "follow"
    outside: bool = False
    pages: Pages = "first"
    what: Literal["images", "meshes"] = "images"


class Layout:
    """The folders of some images.

    Args:
        files: where the images are.
        names: the images.
        choice: what the owner says of the folders.

    Attributes:
        splits: the images of every split by its name; empty if the folders are no split.
        unused: a folder that is called like a split but is none here; None if there is none.

    Raises:
        SettingError: if no image lies so deep as `label_level` says.
        ValueError: if a split is asked for or begun that cannot be told from the folders.
    """

    def __init__(self, files: Files, names: Names, choice: Choice) -> None:
        self._files, self._names, self._choice = files, names, choice
        self._of, folders = files.below(names).parents()
        self._parts = [unpacked(one).split("/") if one else [] for one in folders]
        self.unused: str | None = None
        depth = None if choice.split == "none" else self._depth_of_split()
        self.splits: dict[str, Indices] = {}
        if depth is not None:
            self.splits = self._split_at(depth)
        elif choice.split != "none":
            self._require_no_other_split()
        self._level = choice.label_level - 1 + (0 if depth is None else depth + 1)

    def _at(self, depth: int) -> list[str]:
        """The part at a depth of every folder, empty for those that are less deep."""
        return [parts[depth] if len(parts) > depth else "" for parts in self._parts]

    def _depth_of_split(self) -> int | None:
        """At which depth the folders of a split stand: at the top, or inside the folders around all images."""
        shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*self._parts, strict=False))
        around = len(list(shared))
        for depth in range(1 if self._choice.split == "top" else around + 1):
            if any(map(split_of, self._at(depth))):
                return depth
        return None

    def _split_at(self, depth: int) -> dict[str, Indices]:
        """The images of every split."""
        found = [split_of(part) for part in self._at(depth)]
        if None in found:
            other = "/".join(self._parts[found.index(None)][: depth + 1]) or "."
            place = f"in {'/'.join(self._parts[0][:depth])!r}" if depth else "at the top"
            advice = f"move or rename it, {self._or_no_split('name it in `exclude`')}"
            what = f"some folders {place} are splits ({SPLIT_NAMES}), but {self._choice.what} lie in {other!r} too"
            raise ValueError(f"{self._files}: {what}; {advice}")
        splits = np.array(found, dtype=np.str_)
        return {
            str(name): np.flatnonzero(np.isin(self._of, np.flatnonzero(splits == name))) for name in np.unique(splits)
        }

    def _require_no_other_split(self) -> None:
        """Refuse a split of some images, or one in each of several folders: a random one would mix its parts."""
        inside: dict[str, dict[str, str]] = {}
        for top, name in self._steps():
            if (meaning := split_of(name)) is not None:
                inside.setdefault(top, {}).setdefault(meaning, name)
        tops = sorted(top for top, found in inside.items() if "train" in found and len(found) > 1)
        if tops and self._choice.split != "top":
            parts = " and ".join(map(repr, inside[tops[0]].values()))
            what = f"{tops[0]!r} has the folders {parts} of a split, but {self._choice.what} lie outside it too"
            below = ", ".join(f"{self._files}/{top}" for top in tops[:3]) + (", ..." if len(tops) > 3 else "")
            on_disk = not isinstance(self._files, SeveralFiles | ListedFiles) and self._files.path.is_dir()
            advice = f"take such folders alone, `path: [{below}]`" if on_disk else "name the others in `exclude`"
            if self._choice.what == "meshes":
                alone = f"take it alone, `path: {self._files}/{tops[0]}`, " if on_disk and len(tops) == 1 else ""
                advice = f"{alone}rename these folders"
                raise ValueError(f"{self._files}: {what}; {advice}, or name the others in `exclude`")
            raise ValueError(f"{self._files}: {what}; {advice}, or set `split: none`")
        if self._choice.split == "folders":
            raise ValueError(f"{self._files}: split is 'folders', but no top folder is called {SPLIT_NAMES}")
        self.unused = next((f"{top}/{name}" for top, found in sorted(inside.items()) for name in found.values()), None)

    def _or_no_split(self, advice: str) -> str:
        return f"or {advice}" if self._choice.what == "meshes" else f"{advice}, or set `split: none`"

    def _steps(self) -> Iterator[tuple[str, str]]:
        """Every folder and a folder in it."""
        for parts in self._parts:
            for depth in range(1, len(parts)):
                yield "/".join(parts[:depth]), parts[depth]

    def labels(self, classes: Sequence[str] | None) -> tuple[LabelsFrom, Labels | None]:
        """What gives the classes, and these; see `ImageFolder`.

        Raises:
            SettingError: if no image lies so deep as `label_level` says.
            ValueError: if there are no classes although the owner says so, or another one than in `classes`.
        """
        labels, where = self._choice.labels, str(self._files)
        if labels not in ("folders", "list", "none", None):
            raise SettingError("labels", f"must be 'folders', 'list', 'none' or null, got {labels!r}")
        listed = self._listed() if labels in ("list", None) else None
        if labels == "list" and listed is None:
            raise ValueError(f"{where}: labels is 'list', but no text file of paths gives classes")
        folders = [utf8_name(part) for part in self._at(self._level)]
        present = len(set(folders if listed is None else listed) - {""})
        if labels != "none" and listed is None and self._choice.label_level > 1 and not present:
            level = self._choice.label_level
            raise SettingError("label_level", f"no {self._one} of {where} lies {level} folders deep")
        if labels == "none" or (labels is None and present < 2):
            return "none", None
        if not present:
            raise ValueError(f"{where}: labels is 'folders', but no {self._one} lies in a class folder")
        if listed is not None:
            return "list", labels_from_names(listed, classes, where)
        return "folders", labels_from_numbers(self._of, folders, classes, where)

    @property
    def _one(self) -> str:
        return "mesh" if self._choice.what == "meshes" else "image"

    def _listed(self) -> list[str] | None:
        """The class of every image by text files of paths; None if there is none."""
        found = [self._files.class_of(name) for name in self._names]
        known = [one for one in found if one is not None]
        if known and len(known) < len(found):
            what = "a text file of paths gives classes, but other paths do not"
            raise ValueError(f"{self._files}: {what}; set `labels: folders` or `labels: none`")
        return known or None
