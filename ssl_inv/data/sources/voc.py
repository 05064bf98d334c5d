"""Images with boxes of objects, in the layout of Pascal VOC (Everingham et al., IJCV 2010)."""

import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch

from ssl_inv.catalogue import SettingError, suggest
from ssl_inv.data.archives import Files
from ssl_inv.data.images import IMAGE_SUFFIXES
from ssl_inv.data.names import unpacked
from ssl_inv.data.roots import open_files
from ssl_inv.data.source import Data
from ssl_inv.data.splits import part, split_of
from ssl_inv.data.squashed import SquashedFiles
from ssl_inv.transforms.annotations import Boxes

IMAGES, ANNOTATIONS, SETS = "JPEGImages", "Annotations", "ImageSets/Main"

Found = tuple[tuple[str, tuple[float, float, float, float], bool], ...]
"""The class, the box and whether it is difficult, of every object of an image."""


def voc(
    *,
    path: str,
    size: int | None = 96,
    sets: dict[str, str] = {},
    validation_share: float = 0.2,
    split_seed: int = 0,
    cache: bool | None = None,
    max_broken: float = 0.01,
) -> Data:
    """Images with boxes, in a folder or an archive in the layout of Pascal VOC.

    An image is an object with one view. Images are squashed to squares, and the protocol `detection` reads their boxes.

    Args:
        path: has the folders `JPEGImages`, `Annotations` with a file of XML for each image, and, where the split is
            given, `ImageSets/Main` with text files of names; such as `VOCdevkit/VOC2012`.
        size: side of the square images.
        sets: the text files of the split, `{train: train, validation: val}`; empty takes those whose names say so, such
            as `val.txt`. Without any, objects are held out at random.
        validation_share: share of the images held out for validation where there is no set of them.
        split_seed: which images are held out.
        cache: whether decoded images stay in memory; None: if all of them fit in 2 GB.
        max_broken: share of the images that may be unreadable.
    """
    source = VOC(path, size, sets, cache, max_broken)
    return part(source, source.splits, None, validation_share, split_seed, source.notes)


class VOC(SquashedFiles):
    """Images with boxes; arguments as of `voc`.

    Attributes:
        class_names: the classes of the boxes.
        splits: the objects of every split by its name.
        notes: facts for the run's record.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        SettingError: if the layout is another one, or a set names an image that is not there.
        ValueError: if an annotation cannot be read.
    """

    def __init__(
        self,
        path: str,
        size: int | None = 96,
        sets: Mapping[str, str] | None = None,
        cache: bool | None = None,
        max_broken: float = 0.01,
    ) -> None:
        self.files = files = open_files(path)
        top = _top(files)
        notes = {_stem(name): name for name in _below(files, f"{top}{ANNOTATIONS}/") if name.endswith(".xml")}
        images = {_stem(name): name for name in _images(files, f"{top}{IMAGES}/")}
        chosen = _sets(files, top, dict(sets or {}))
        wanted = list(dict.fromkeys(name for names in chosen.values() for name in names)) or sorted(notes)
        for name in wanted:
            for folder, known in ((IMAGES, images), (ANNOTATIONS, notes)):
                if name not in known:
                    raise SettingError("path", f"{files}: there is no {folder}/{name}, which belongs to the data")
        if not wanted:
            raise SettingError("path", f"{files}: {top}{ANNOTATIONS} has no annotation")
        numbers = {name: number for number, name in enumerate(wanted)}
        self.splits = {split: np.array([numbers[name] for name in names]) for split, names in chosen.items()}
        self._found = [_objects(files, notes[name]) for name in wanted]
        self.class_names = tuple(sorted({kind for found in self._found for kind, _, _ in found}))
        counts = np.ones(len(wanted), dtype=np.int64)
        super().__init__(files, [images[name] for name in wanted], counts, size, cache, max_broken, "squares")
        boxes = sum(map(len, self._found))
        self.notes = {"images": f"{len(wanted)} from {files}, {boxes} boxes of {len(self.class_names)} classes"}

    def boxes(self, number: int) -> Boxes:
        try:
            pixels = torch.from_numpy(self._decode(number, None).copy()).movedim(-1, 0)
        except ValueError as error:
            raise ValueError(f"{self.files}: {self._name(number)} cannot be read: {error}") from error
        found = self._found[number]
        places = torch.tensor([box for _, box, _ in found], dtype=torch.float32).view(-1, 4)
        limits = torch.tensor([pixels.shape[2], pixels.shape[1]] * 2)
        return Boxes(
            pixels,
            torch.minimum(places, limits),
            torch.tensor([self.class_names.index(kind) for kind, _, _ in found], dtype=torch.int64),
            torch.tensor([difficult for _, _, difficult in found], dtype=torch.bool),
            self.class_names,
        )


def _below(files: Files, folder: str) -> list[str]:
    return [name for name in map(unpacked, files.names) if name.startswith(folder)]


def _images(files: Files, folder: str) -> list[str]:
    return [name for name in map(unpacked, files.with_suffix(IMAGE_SUFFIXES)) if name.startswith(folder)]


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _top(files: Files) -> str:
    """The folder that has those of the layout, with a slash behind it; empty for the path itself."""
    tops = {folder: set[str]() for folder in (IMAGES, ANNOTATIONS)}
    for name in map(unpacked, files.names):
        for folder, found in tops.items():
            before, inside, _ = f"/{name}".partition(f"/{folder}/")
            if inside:
                found.add(before)
    both = sorted(tops[IMAGES] & tops[ANNOTATIONS])
    if not both:
        lacking = next((folder for folder, found in tops.items() if not found), ANNOTATIONS)
        raise SettingError("path", f"{files} is not in the layout of Pascal VOC: it has no folder {lacking}")
    if len(both) > 1:
        names = ", ".join(one.strip("/") or "." for one in both)
        raise SettingError("path", f"{files} holds several data sets; give the path of one of {names}")
    return f"{both[0]}/".lstrip("/")


def _sets(files: Files, top: str, asked: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of the images of each split; empty if there is none."""
    folder = f"{top}{SETS}/"
    there = {_stem(name): name for name in _below(files, folder) if name.endswith(".txt")}
    for split, name in asked.items():
        if split not in ("train", "validation"):
            raise SettingError("sets", f"must be of train and validation, got {split!r}")
        if name not in there:
            raise SettingError("sets", f"{SETS} has no {name}.txt; {suggest(name, sorted(there))}")
    if asked and "train" not in asked:
        raise SettingError("sets", "names no set to train on")
    meant = {split_of(name): name for name in sorted(there, reverse=True)}
    chosen = dict(asked) or {split: meant[split] for split in ("train", "validation", "test") if split in meant}
    if "train" not in chosen:
        return {}
    found = {split: _names(files, there[name]) for split, name in chosen.items()}
    for split, names in found.items():
        if not names:
            raise SettingError("sets", f"{SETS}/{chosen[split]}.txt names no image")
        if split != "train" and (both := set(names) & set(found["train"])):
            pair = f"{chosen['train']}.txt and {chosen[split]}.txt"
            raise SettingError("sets", f"{pair} share {len(both)} image(s), such as {min(both)}")
    return found


def _names(files: Files, name: str) -> list[str]:
    # Sets of one class have 1, 0 or -1 behind each name.
    lines = files.read(name).decode("utf-8", "replace").splitlines()
    return list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))


def _objects(files: Files, name: str) -> Found:
    try:
        content = files.read(name)
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise ValueError("it defines entities, which no annotation needs")
        root = ElementTree.fromstring(content)  # noqa: S314 - without entities it cannot grow
        return tuple(_object(one) for one in root.iter("object"))
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise ValueError(f"{files}: {name} is no annotation of Pascal VOC: {error}") from error


def _object(element: Any) -> tuple[str, tuple[float, float, float, float], bool]:
    kind = (element.findtext("name") or "").strip()
    if not kind:
        raise ValueError("an object has no name")
    # The first pixel has the number 1, and the last one belongs to the box.
    sides = [_number(element, side) for side in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = sides[0] - 1, sides[1] - 1, sides[2], sides[3]
    if not (0 <= left < right and 0 <= top < bottom):
        raise ValueError(f"the box of {kind!r} is empty or lies outside: {', '.join(f'{one:g}' for one in sides)}")
    return kind, (left, top, right, bottom), (element.findtext("difficult") or "0").strip() == "1"


def _number(element: Any, side: str) -> float:
    text = element.findtext(f"bndbox/{side}")
    value = math.nan
    if text is not None:
        value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a box has no {side}")
    return value
