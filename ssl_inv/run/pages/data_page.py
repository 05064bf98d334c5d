"""What a data set is, in words and numbers, and a sheet of some of its images."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ssl_inv.data.decoding import UnreadableImageError
from ssl_inv.data.images import StoredImages
from ssl_inv.data.looks import broken_images, odd_looks
from ssl_inv.data.pixels import as_colours, shown_channels
from ssl_inv.data.source import Data, Source
from ssl_inv.data.sources.meshes.source import RenderedMeshes
from ssl_inv.engine.progress import Progress
from ssl_inv.run.build import innermost
from ssl_inv.run.pages.sheet import INK, Look, Page, Strip, Tile
from ssl_inv.transforms import Circle, Group
from ssl_inv.transforms.words import describe_view

_SAMPLE = 64
"""Images whose sides and latents are looked at."""

_SIDE, _ABREAST = 128, 8


def facts(data: Data) -> dict[str, Any]:
    """What the data are, by the name of the fact. Values are texts and numbers."""
    source = innermost(data.train)
    counts = source.view_counts
    found: dict[str, Any] = {
        "training objects": len(data.train),
        "validation objects": len(data.validation),
        "views of an object": _between(int(counts.min()), int(counts.max())),
    }
    if source.labels is not None:
        found |= _classes(data)
    else:
        found["classes"] = 0
    if isinstance(source, StoredImages):
        found |= _sides(source)
    found["image size"] = source.image_size
    if source.channels != 3:
        found["channels"] = source.channels
    found |= _values(data.train)
    for name, text in data.notes.items():
        found.setdefault(name, text)
    if isinstance(source, StoredImages) and source.broken:
        name, reason = next(iter(source.broken.items()))
        found["cannot be read"] = f"{len(source.broken)} of those looked at, the first {name}: {reason}"
    if isinstance(source, RenderedMeshes) and source.broken:
        name, reason = next(iter(source.broken.items()))
        found["cannot be rendered"] = f"{len(source.broken)} of {len(source)} meshes, the first {name}: {reason}"
    if (odd := odd_looks(data.train)) is not None:
        found["warning"] = odd
    return found


def _between(low: object, high: object) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _classes(data: Data) -> dict[str, Any]:
    labels = data.train.labels
    assert labels is not None
    counts = np.bincount(labels.classes[labels.known].numpy(), minlength=len(labels.names))
    found: dict[str, Any] = {"classes": len(labels.names)}
    if len(counts):
        most, least = int(counts.argmax()), int(counts.argmin())
        found["training objects of a class"] = (
            f"{counts[least]} ({labels.names[least]}) to {counts[most]} ({labels.names[most]})"
        )
    if unknown := int((~labels.known).sum()):
        found["training objects without a class"] = unknown
    return found


def _sides(source: StoredImages) -> dict[str, Any]:
    """The sides of some files, as they are stored."""
    chosen = np.unique(np.linspace(0, int(source.view_counts.sum()) - 1, _SAMPLE).astype(np.int64))
    sides = []
    for image in chosen.tolist():
        try:
            sides.append(source.sides_of(image))
        except UnreadableImageError:
            continue
    if not sides:
        return {}
    heights, widths = np.array(sides).T
    words = f"{_between(widths.min(), widths.max())} wide, {_between(heights.min(), heights.max())} high"
    return {"files": f"{words} (of {len(sides)} looked at)"}


def _sample(source: Source, most: int) -> tuple[Any, Any]:
    objects = np.unique(np.linspace(0, len(source) - 1, most).astype(np.int64))
    return objects, np.zeros_like(objects)


def _values(source: Source) -> dict[str, Any]:
    """The range of pixels and of each latent, of some images."""
    images = source.load(*_sample(source, _SAMPLE))
    pixels = images.pixels[images.readable]
    found: dict[str, Any] = {}
    if len(pixels):
        found["values"] = f"{int(pixels.min())} to {int(pixels.max())} of 255, mean {float(pixels.float().mean()):.0f}"
    for name, group in images.transform.groups.items():
        found[f"latent {name}"] = _latent(group, images.transform[name])
    return found


def _latent(group: Group, values: torch.Tensor) -> str:
    kind = type(group).__name__.lower()
    if isinstance(group, Circle):
        units = {1.0: "turns", 2 * math.pi: "radians"}
        kind = f"circle, {units.get(group.period, f'period {group.period:g}')}"
    if values.dim() > 1:
        return f"{kind}, {values.shape[1]} numbers"
    return f"{kind}, {float(values.min()):.3g} to {float(values.max()):.3g}"


def text(what: Mapping[str, Any]) -> str:
    """Facts as aligned lines."""
    width = max(map(len, what))
    return "".join(
        f"{name:{width}}  {f'{value:,}' if isinstance(value, int) else _in_line(value)}\n"
        for name, value in what.items()
    )


def _in_line(value: object) -> str:
    """A value whose ends of lines are shown: names of files and folders may have some."""
    return str(value).replace("\n", r"\n").replace("\r", r"\r")


def broken(data: Data) -> dict[str, str]:
    """Open every image of both parts: those that cannot be read, with the reasons. Progress goes to standard error."""
    progress = Progress()
    try:
        return {
            name: why
            for source in _sources(data)
            for name, why in broken_images(source, progress.counting("opening images")).items()
        }
    finally:
        progress.close()


def hold_back(data: Data) -> None:
    """Keep broken meshes out of the log, where all of them are listed."""
    for source in _sources(data):
        if isinstance(source, RenderedMeshes):
            source.hold_back()


def list_of(found: Mapping[str, str], data: Data) -> str:
    """Images that cannot be read, or meshes that cannot be rendered: their number, and a line for each."""
    sources = _sources(data)
    made = isinstance(sources[0], RenderedMeshes)
    total = sum(len(source) if made else int(source.view_counts.sum()) for source in sources)
    lines = [
        f"{len(found):,} of {total:,} {'meshes cannot be rendered' if made else 'images cannot be read'}",
        *(_in_line(f"{name}: {why}") for name, why in found.items()),
    ]
    return "".join(f"{line}\n" for line in lines)


def _sources(data: Data) -> list[Source]:
    """The sources of both parts, one if both are parts of the same."""
    train, validation = innermost(data.train), innermost(data.validation)
    return [train] if train is validation else [train, validation]


def write_sheet(data: Data, name: str, path: Path, count: int) -> None:
    """Write a sheet of some training and validation images, spread over all objects, with what is known of each."""
    strips = []
    for part, source in (("training", data.train), ("validation", data.validation)):
        objects, views = _sample(source, count)
        images, labels = source.load(objects, views), source.labels
        tiles = []
        for row, item in enumerate(objects.tolist()):
            classes = labels is not None and bool(labels.known[item])
            words = [labels.names[int(labels.classes[item])]] if classes and labels is not None else []
            words += [describe_view(images.transform, row)] if images.transform.names else []
            words += [] if bool(images.readable[row]) else ["cannot be read"]
            picture = Image.fromarray(as_colours(images.pixels[row]).permute(1, 2, 0).contiguous().numpy())
            tiles.append(Tile(picture.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), ", ".join(filter(None, words))))
        strips.append(Strip(f"{part}: {len(source):,} objects", tiles))
    look = Look(side=_SIDE, gap=12, apart=32, text=12, names=INK)
    odd = odd_looks(data.train)
    foot = [f"{key}: {value}" for key, value in data.notes.items()] + ([f"warning: {odd}"] if odd else [])
    foot += [shown] if (shown := shown_channels(data.train.channels)) else []
    Page(name, "Some images, spread over all objects, as evaluations take them.", strips, _ABREAST, foot, look).write(
        path
    )
