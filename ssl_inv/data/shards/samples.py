"""The samples of shards: which members belong together, which of them are images, and what is said of each."""

import json
import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_inv.catalogue import suggest
from ssl_inv.data.archives import Files
from ssl_inv.data.images import ARRAY_SUFFIXES, IMAGE_SUFFIXES
from ssl_inv.data.names import unpacked, utf8_name
from ssl_inv.data.shards.index import Index
from ssl_inv.data.shards.store import Store
from ssl_inv.data.source import Indices
from ssl_inv.plain import parse_json

_SUFFIXES, _ARRAYS = (
    frozenset(suffix.removeprefix(".").encode() for suffix in some) for some in (IMAGE_SUFFIXES, ARRAY_SUFFIXES)
)

_LARGEST = 1e300

_OWN = ("object", "class", "split", "views")
"""Names in `.json` that have a meaning of their own, although their values be numbers."""

_META = b"__"
"""Names that begin and end so are notes of a shard's writer, not members of a sample."""


@dataclass
class Samples:
    """Every image of some shards, and what its sample says of it. Lists and arrays have one entry for each image.

    Attributes:
        shard: its shard.
        member: its place among the members of the shard.
        keys: what is equal for images of one object.
        classes: name of its class, or its number as a text; empty if unknown.
        splits: the split that its sample names; empty if it names none.
        columns: numbers by their name, with words in brackets or without; NaN where a sample has none.
        numbered: the number of a class in `.cls`, by the name in `.json`.
        left_out: what is in the shards and not used, in words.
    """

    shard: Indices
    member: Indices
    keys: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    columns: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    numbered: dict[str, set[int]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def split_name(name: bytes) -> tuple[bytes, bytes]:
    """The key of a member and its suffix in lower case: the name up to the first dot of its last part, and the rest."""
    folder, slash, last = name.rpartition(b"/")
    stem, _, suffix = last.partition(b".")
    return folder + slash + stem, suffix.lower()


def are_samples(files: Files) -> bool:
    """Whether the files of a tar are samples: some images have a `.cls` beside them, or all a `.json` that says what
    `shards` understands. Programs that draw boxes write a `.json` beside each image too.
    """
    if not files.is_tar:
        return False
    keys = {split_name(name)[0] for name in files.with_suffix(IMAGE_SUFFIXES)}
    if not keys.isdisjoint(split_name(name)[0] for name in files.with_suffix(frozenset((".cls",)))):
        return True
    texts = files.with_suffix(frozenset((".json",)))
    if not keys or not keys <= {split_name(name)[0] for name in texts}:
        return False
    try:
        said = parse_json(files.read(texts[0]).decode())
    except ValueError:
        return False
    return isinstance(said, dict) and any(name in _OWN or name.endswith("]") for name in said)


def samples_of(store: Store, members: Sequence[str]) -> Samples:
    """All images of some shards, in the order of the shards and of the samples in them.

    Args:
        store: the shards.
        members: suffixes of the images of a sample, in the order of its views; empty: see `_images`.

    Raises:
        ValueError: if it is not clear which members of a sample are its images, or a text cannot be understood.
    """
    reader = _Reader(members)
    for number, shard in enumerate(store.shards):
        reader.add(number, shard.address.name, shard.index)
    return reader.samples()


class _Reader:
    def __init__(self, members: Sequence[str]) -> None:
        self._wanted = [one.removeprefix(".").lower().encode() for one in members]
        self._shard, self._member = list[int](), list[int]()
        self._found = Samples(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
        self._numbers: dict[str, array[float]] = {}
        self._others: Counter[str] = Counter()
        self._without, self._first_without = 0, ""

    def add(self, shard: int, name: str, index: Index) -> None:
        """Take in the samples of a shard."""
        places, texts = index.text_places(), index.texts
        grouped: dict[bytes, dict[bytes, int]] = {}
        for row, member in enumerate(index.members["name"].tolist()):
            key, suffix = split_name(member)
            if not (member.startswith(_META) and member.endswith(_META)):
                grouped.setdefault(key, {})[suffix] = row
        for key, sample in grouped.items():
            where = f"{name}/{utf8_name(key)}"
            read = {
                kind: texts[places[sample[kind]] : places[sample[kind] + 1]].tobytes()
                for kind in (b"json", b"cls")
                if kind in sample
            }
            said = _json(read[b"json"], where) if b"json" in read else {}
            images = self._images(sample, said, where)
            used = {*read, *images}
            self._others.update(unpacked(suffix) or "no suffix" for suffix in sample if suffix not in used)
            if not images:
                self._without += 1
                self._first_without = self._first_without or where
            self._say(said, read.get(b"cls"), len(images), where)
            self._shard += [shard] * len(images)
            self._member += [sample[suffix] for suffix in images]

    def _images(self, sample: dict[bytes, int], said: dict[str, Any], where: str) -> list[bytes]:
        """The suffixes of the images of a sample: those that the setting names, else those that `views` in its json
        lists, else the only one; an array if there is no other.
        """
        if self._wanted:
            return [one for one in self._wanted if one in sample]
        if "views" in said:
            listed = said["views"]
            if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
                raise ValueError(f"{where}.json: views must list the suffixes of images, got {listed!r}")
            views = [one.removeprefix(".").lower().encode() for one in listed]
            if missing := [unpacked(one) for one in views if one not in sample]:
                there = suggest(missing[0], map(unpacked, sample))
                raise ValueError(f"{where}.json: there is no {missing[0]!r} for views; {there}")
            return views
        found = [one for one in sample if one.rpartition(b".")[2] in _SUFFIXES]
        found = found or [one for one in sample if one.rpartition(b".")[2] in _ARRAYS]
        if len(found) > 1:
            names = ", ".join(map(unpacked, found))
            advice = f"name those that are views of one object: `members: [{unpacked(found[0])}]`"
            raise ValueError(f"{where} has several images, {names}; {advice}")
        return found

    def _say(self, said: dict[str, Any], cls: bytes | None, images: int, where: str) -> None:
        """Note what is said of the images of a sample."""
        found, first = self._found, len(self._found.keys)
        found.keys += [str(said["object"]) if said.get("object") is not None else f"/{where}"] * images
        found.splits += [str(said.get("split") or "")] * images
        number = "" if cls is None else _text(cls, f"{where}.cls").strip()
        # Many data sets write -1 for an image without a class.
        number = "" if _is_integer(number) and int(number) < 0 else number
        named = said.get("class")
        name = number if named is None else str(named).strip()
        if named is not None and _is_integer(number):
            found.numbered.setdefault(name, set()).add(int(number))
        found.classes += [name] * images
        for column, value in said.items():
            if column in _OWN:
                continue
            values = value if isinstance(value, list) and len(value) == images else [value] * images
            if values and all(isinstance(one, int | float) and abs(one) < _LARGEST for one in values):
                numbers = self._numbers.setdefault(column, array("d"))
                numbers.extend([math.nan] * (first - len(numbers)))
                numbers.extend(values)

    def samples(self) -> Samples:
        """Everything that was taken in."""
        found = self._found
        found.shard, found.member = (np.array(one, dtype=np.int64) for one in (self._shard, self._member))
        for column, numbers in self._numbers.items():
            numbers.extend([math.nan] * (len(found.keys) - len(numbers)))
            found.columns[column] = np.array(numbers)
        if self._others:
            kinds = ", ".join(f"{count} .{suffix}" for suffix, count in self._others.most_common(5))
            found.left_out.append(f"{sum(self._others.values())} member(s) with other endings ({kinds})")
        if self._without:
            found.left_out.append(f"{self._without} sample(s) without an image, the first {self._first_without}")
        return found


def class_names(samples: Samples) -> list[str] | None:
    """The names of the classes in the order of their numbers; None if they have none, for the order of the alphabet."""
    present = sorted(set(samples.classes) - {""})
    if all(map(_is_integer, present)):
        return sorted(present, key=int)
    numbers = [samples.numbered.get(name, set()) for name in present]
    if any(len(one) != 1 for one in numbers) or len(set().union(*numbers)) != len(present):
        return None
    return sorted(present, key=lambda name: min(samples.numbered[name]))


def _is_integer(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not UTF-8 text") from None


def _json(content: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(_text(content, f"{where}.json"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where}.json is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}.json is no JSON object")
    return found
