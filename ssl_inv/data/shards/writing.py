"""Writes any source as tar shards, one sample for each view, so that webdataset can read them too."""

import io
import json
import math
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from ssl_inv.atomic import remove_leftovers, write_text, written_aside
from ssl_inv.data.decoding import Pixels, UnreadableImageError
from ssl_inv.data.folder_index import size_and_time
from ssl_inv.data.images import IMAGE_SUFFIXES, StoredImages
from ssl_inv.data.reading import SETTINGS_OF_KEEPING
from ssl_inv.data.shards.index import make_index, shard_stamp, write_index
from ssl_inv.data.shards.store import INDEX_SUFFIX
from ssl_inv.data.source import Data, Indices, Source, Subset
from ssl_inv.data.wide_files import NPY
from ssl_inv.transforms import Category, Circle, Flag, Group, Real, Rotation, Transform
from ssl_inv.transforms.keyed_random import permutation

RECORD = "shards.json"
"""What is written and from what, in the folder of the shards."""

_FORMAT = 1

_SHUFFLE_SEED = 0

_KINDS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "GIF": ".gif"}

_AT_A_TIME = 64

Order = Literal["shuffled", "kept"]


@dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        shards: their number.
        objects: their number.
        images: their number.
        unreadable: images that could not be read and are left out, by name.
        changed: what becomes of parameters of views that words in names cannot describe.
    """

    shards: int
    objects: int
    images: int
    unreadable: dict[str, str]
    changed: tuple[str, ...]


def write_shards(
    data: Data,
    output: Path,
    asked: dict[str, Any],
    size_mb: float,
    order: Order,
    progress: Callable[[int, int], None],
) -> Summary:
    """Write training and validation objects as `train-000000.tar`, ... and `val-000000.tar`, ..., with their indices.

    After an interruption, a new call continues behind the last whole shard. The same call writes the same bytes.

    Args:
        data: what is written.
        output: the folder; a new or empty one, or one of the same call that is not finished.
        asked: the data in words, for the record; another call continues only if they are equal, but for settings that
            change no image.
        size_mb: a shard is closed when it has so many million bytes. No object is in two shards.
        order: `shuffled`, by a fixed key, because neighbours are read together; or as they are.
        progress: called with the objects done, and all.

    Raises:
        ValueError: if the folder holds something else, or is finished.
    """
    asked = {"format": _FORMAT, "data": asked, "stamps": _stamps(data), "size_mb": size_mb, "order": order}
    record = _begun(output, asked)
    output.mkdir(parents=True, exist_ok=True)
    _write_record(output, record)
    total, before = len(data.train) + len(data.validation), 0
    for part, source in (("train", data.train), ("val", data.validation)):
        objects = np.arange(len(source)) if order == "kept" else permutation(_SHUFFLE_SEED, length=len(source))
        written = record["parts"].setdefault(part, [])
        writer = _Writer(source, part, int(size_mb * 1e6))
        done = sum(one["objects"] for one in written)
        while done < len(objects):
            path = output / f"{part}-{len(written):06d}.tar"
            remove_leftovers(path)
            facts = writer.write(path, objects, done, partial(_report, progress, before + done, total))
            done += facts["objects"]
            written.append(facts)
            _write_record(output, record)
        before += len(objects)
    every = [one for part in record["parts"].values() for one in part]
    unreadable = {name: why for one in every for name, why in one["unreadable"].items()}
    changed = tuple(_columns(data.train.groups)[1])
    counts = sum(one["objects"] - one["empty"] for one in every), sum(one["images"] for one in every)
    _write_record(output, {**record, "complete": True})
    return Summary(len(every), *counts, unreadable, changed)


def _report(progress: Callable[[int, int], None], before: int, total: int, held: int) -> None:
    progress(before + held, total)


def _write_record(output: Path, record: dict[str, Any]) -> None:
    write_text(output / RECORD, json.dumps(record, indent=1) + "\n")


def _stamps(data: Data) -> list[str]:
    return [data.train.stamp, data.validation.stamp]


def _begun(output: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The record of an unfinished call, or a new one."""
    new = {**asked, "complete": False, "parts": {}}
    remove_leftovers(output / RECORD)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return new
    try:
        known: dict[str, Any] = json.loads((output / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"{str(output)!r} holds something else; choose an empty folder") from None
    if other := [key for key, value in asked.items() if _that_counts(known.get(key)) != _that_counts(value)]:
        what = "other data" if other[0] in ("data", "stamps") else f"another {other[0]}, {known.get(other[0])}"
        raise ValueError(f"{str(output)!r} was begun with {what}; choose an empty folder")
    if known["complete"]:
        raise ValueError(f"{str(output)!r} holds these shards already, and is finished")
    return known


def _that_counts(value: object) -> object:
    """A part of a record without the settings of data that change no image."""
    if not isinstance(value, dict):
        return value
    return {key: one for key, one in value.items() if key not in SETTINGS_OF_KEEPING}


class _Writer:
    """Writes the shards of one part.

    Args:
        source: its objects.
        part: train or val.
        most: bytes after which a shard is closed.
    """

    def __init__(self, source: Source, part: str, most: int) -> None:
        self._source, self._most = source, most
        self._counts, self._labels = source.view_counts, source.labels
        self._digits, self._part = len(str(max(len(source) - 1, 0))), part
        self._several = bool((self._counts > 1).any())
        self._view_digits = len(str(int(self._counts.max()) - 1))

    def write(self, path: Path, objects: Indices, first: int, progress: Callable[[int], None]) -> dict[str, Any]:
        """Write a shard, from an object of an order on; returns how much is in it.

        Args:
            path: the shard.
            objects: all objects of the part, in their order.
            first: the place of the shard's first object.
            progress: called with the number of objects that are in it already.
        """
        held, images, empty, unreadable = 0, 0, 0, dict[str, str]()
        # Names are short and plain, so that the oldest form of tar holds them, which every program reads.
        form = tarfile.USTAR_FORMAT
        with written_aside(path) as aside, tarfile.open(aside, "w", format=form) as shard:
            for item, views in originals(self._source, objects[first:]):
                progress(held)
                written = 0
                for view, original in enumerate(views):
                    if isinstance(original, UnreadableImageError):
                        unreadable[self._source.describe(item, view)] = str(original)
                        continue
                    for name, content in self._members(first + held, item, view, *original):
                        header = tarfile.TarInfo(name)
                        header.size, header.mode = len(content), 0o644
                        shard.addfile(header, io.BytesIO(content))
                    written += 1
                held, images, empty = held + 1, images + written, empty + (written == 0)
                if shard.offset >= self._most:
                    break
        with path.open("rb") as content_of_all:
            index = make_index(content_of_all, shard_stamp(*size_and_time(path)))
        write_index(index, path.with_name(path.name + INDEX_SUFFIX))
        return {"objects": held, "images": images, "empty": empty, "unreadable": unreadable}

    def _members(
        self, number: int, item: int, view: int, original: bytes | Pixels, transform: Transform
    ) -> Iterator[tuple[str, bytes]]:
        """The names and contents of the sample of one view."""
        name, labels = self._source.describe(item, view), self._labels
        key, said = f"{number:0{self._digits}d}", {"name": name}
        if self._several:
            said["object"] = f"{self._part}/{key}"
            key = f"{key}-{view:0{self._view_digits}d}"
        if labels is not None and bool(labels.known[item]):
            number_of_class = int(labels.classes[item])
            said["class"] = labels.names[number_of_class]
            yield f"{key}.cls", str(number_of_class).encode()
        numbers: dict[str, float] = {}
        for parameter, columns in _columns(self._source.groups)[0].items():
            values = transform[parameter].reshape(-1).double().tolist()
            numbers.update(zip(columns, values, strict=True))
        yield f"{key}.json", json.dumps({**said, **numbers}, ensure_ascii=False).encode("utf-8", "backslashreplace")
        if isinstance(original, bytes):
            yield f"{key}{_suffix(name, original)}", original
        else:
            yield f"{key}{_suffix_of_pixels(original)}", _encoded(original)


Original = tuple[bytes | Pixels, Transform]
"""The file of a view, or its pixels `(H, W, C)`, and how it was made."""


def originals(source: Source, objects: Indices) -> Iterator[tuple[int, list[Original | UnreadableImageError]]]:
    """Every one of some objects of a source, and its views as they are stored, or why one cannot be read."""
    inner, counts = source, source.view_counts[objects]
    inside = np.repeat(objects, counts), np.concatenate([np.empty(0, np.int64), *(np.arange(one) for one in counts)])
    while isinstance(inner, Subset):
        inside, inner = inner.inside(*inside), inner.source
    if isinstance(inner, StoredImages):
        every = zip(*(one.tolist() for one in inside), strict=True)
        for item, count in zip(objects.tolist(), counts.tolist(), strict=True):
            yield item, [_stored(inner, *next(every)) for _ in range(count)]
        return
    ends = np.cumsum(counts)
    for begin in range(0, len(objects), _AT_A_TIME):
        of_each = counts[begin : begin + _AT_A_TIME]
        end = int(ends[begin + len(of_each) - 1])
        images = inner.load(*(one[end - int(of_each.sum()) : end] for one in inside))
        pixels = images.pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        transform, row = images.transform.to("cpu"), 0
        for item, count in zip(objects[begin : begin + _AT_A_TIME].tolist(), of_each.tolist(), strict=True):
            views: list[Original | UnreadableImageError] = []
            for place in range(row, row + count):
                readable = bool(images.readable[place])
                made = pixels[place], transform.select(torch.tensor([place]))
                views.append(made if readable else UnreadableImageError("its source cannot read it"))
            row += count
            yield item, views


def copies_files(source: Source) -> bool:
    """Whether shards of a source hold its files as they are, and not pixels, as its first readable image says."""
    every = (view for _, views in originals(source, np.arange(len(source))) for view in views)
    first = next((view for view in every if not isinstance(view, UnreadableImageError)), None)
    return first is not None and isinstance(first[0], bytes)


def _stored(source: StoredImages, item: int, view: int) -> Original | UnreadableImageError:
    try:
        return source.original(item, view)
    except UnreadableImageError as error:
        return error


def _suffix_of_pixels(pixels: Pixels) -> str:
    return ".png" if pixels.shape[2] in (1, 3) else ".npy"


def _encoded(pixels: Pixels) -> bytes:
    """Pixels as PNG; as an array if they are neither grey nor red, green and blue."""
    buffer = io.BytesIO()
    if pixels.shape[2] not in (1, 3):
        np.save(buffer, pixels)
    else:
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _suffix(name: str, content: bytes) -> str:
    """The ending of the name of an image file."""
    if content.startswith(NPY):
        return ".npy"
    if (suffix := PurePosixPath(name).suffix.lower()) in IMAGE_SUFFIXES:
        return suffix
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _KINDS.get(str(image.format), ".png")
    except (OSError, SyntaxError, ValueError):
        return ".png"


def _columns(groups: dict[str, Group]) -> tuple[dict[str, list[str]], list[str]]:
    """The names of the numbers of every parameter in `.json`, with words that give back its group; and what becomes of
    parameters that no words describe.
    """
    columns: dict[str, list[str]] = {}
    changed = []
    for name, group in groups.items():
        if isinstance(group, Rotation):
            prefix = "" if name == "rotation" else f"{name}_"
            columns[name] = [f"{prefix}{one}" for one in ("qx", "qy", "qz", "qw")]
        elif isinstance(group, Real) and group.dimensions:
            words = _words(replace(group, dimensions=0))
            columns[name] = [f"{name}_{number}[{words}]" for number in range(group.dimensions)]
            changed.append(f"{name} becomes {group.dimensions} parameters, from {name}_0 on")
        elif (words := _words(group)) is not None:
            columns[name] = [f"{name}[{words}]"]
        else:
            changed.append(f"{name} is left out")
    return columns, changed


def _words(group: Group) -> str | None:
    if isinstance(group, Circle):
        short = {2 * math.pi: "rad", 1.0: "turn"}
        return short.get(group.period, f"circle period={group.period!r}")
    if isinstance(group, Real):
        return "real" if group.scale == 1 else f"real scale={group.scale!r}"
    if isinstance(group, Category):
        return f"category count={group.count}"
    return "flag" if isinstance(group, Flag) else None
