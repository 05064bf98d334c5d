"""Objects and their views, written in the layout of 3DIEBench; see `ssl_inv.data.sources.threediebench`."""

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ssl_inv.catalogue import SettingError
from ssl_inv.data.latents import recorded_frame, recorded_shift
from ssl_inv.data.reading import SETTINGS_OF_KEEPING
from ssl_inv.data.source import Images, Indices, Source
from ssl_inv.data.sources.threediebench import GROUPS, LATENTS, Latents
from ssl_inv.transforms import Transform
from ssl_inv.transforms.quaternions import quaternion_to_matrix

_RECORD, _OBJECTS = "render.json", "objects.csv"

_BYTES_AT_ONCE = 2**26
"""Of pixels in memory while an object is written, about."""


@dataclass(frozen=True)
class Writing:
    """What is written beside images and latents, and whether an interrupted write goes on.

    Attributes:
        record: everything that decides what is written, as JSON can hold it; it is written too, as `render.json`. An
            interrupted write that has the same record goes on; settings of its `data` that change no picture, and are
            in `SETTINGS_OF_KEEPING`, may differ. Empty: an interrupted write stays as it is.
        skip_unreadable: whether objects with an unreadable view are left out; otherwise they are an error.
        beside: from an object and its views to arrays `(views, H, W)` by name, which are written as `NAME_{i}.png` if
            they are uint8, else as `NAME_{i}.npy`.
        name_of: the name that an object had. They are written as `objects.csv`.
    """

    record: Mapping[str, Any] = field(default_factory=dict)
    skip_unreadable: bool = False
    beside: Callable[[int, Indices], Mapping[str, NDArray[Any]]] = lambda item, views: {}
    name_of: Callable[[int], str] | None = None


def write_threediebench(
    root: str | Path,
    source: Source,
    latents: Latents | None,
    split: tuple[Indices, Indices],
    quality: int = 95,
    progress: Callable[[int, int], None] | None = None,
    share: tuple[int, int] = (0, 1),
    wait: Callable[[str], None] = lambda stage: None,
    writing: Writing | None = None,
) -> int:
    """Write objects and their views in the layout of 3DIEBench, or of 3DIEBench-T if they have translations.

    Everything is written into `ROOT.partial`, which is renamed to `ROOT` at the end; an interrupted write leaves it
    behind. Without labels, all objects are in one folder called `object`, and there are no label files.

    Args:
        root: folder to write; it must not exist, or be empty.
        source: the objects, all with the same number of views.
        latents: the numbers of every view, `(N, views, 7)` or `(N, views, 10)`; None takes them from the transforms
            of the source.
        split: the train objects and the validation objects.
        quality: of the JPEG files, 1 to 95.
        progress: called after every object with the number of written objects and of all objects.
        share: number of this process among those that write the same data, and how many they are. Each of them calls
            this function with the same latents, which must not be None.
        wait: called with the name of a stage; returns when all processes are there.
        writing: see `Writing`.

    Returns:
        How many objects were written by all processes together; 0 on processes but the first.

    Raises:
        ValueError: if the folder is not empty, another interrupted write was left behind, or the source or the split
            does not fit the layout.
        SettingError: for `classes`, if some objects have no class, or the name of a class cannot be that of a folder.
    """
    root, writing = Path(root), writing or Writing()
    partial = root.with_name(root.name + ".partial")
    _check_writable(root, partial, writing.record)
    views, numbers = _check_layout(source, latents, split)
    synsets, classes = _synsets(source, writing.name_of)
    (number, processes), total, met = share, len(split[0]) + len(split[1]), 0
    if latents is None and processes > 1:
        raise ValueError("several processes can write only latents that all of them know")
    wait("checked")
    if number == 0:
        partial.mkdir(parents=True, exist_ok=True)
        if writing.record:
            (partial / _RECORD).write_text(json.dumps(writing.record, indent=1, default=str) + "\n", encoding="utf-8")
    wait("begun")
    folders = [partial / synset / f"{item:06d}" for item, synset in enumerate(synsets)]
    tables = []
    for objects in split:
        tables.append(np.empty((len(objects), views, numbers), dtype=np.float64))
        for row, item in enumerate(objects.tolist()):
            given = None if latents is None else latents[item]
            if met % processes == number:
                given = _written_object(folders[item], source, item, views, given, quality, writing)
            tables[-1][row] = given
            met += 1
            if progress is not None:
                progress(met, total)
    wait("written")
    if number:
        return 0
    left = [np.array([folders[item].is_dir() for item in objects.tolist()], dtype=np.bool_) for objects in split]
    if not all(part.any() for part in left):
        raise ValueError(f"{root}: no object of the {'train' if not left[0].any() else 'validation'} split is readable")
    kept = [objects[there] for objects, there in zip(split, left, strict=True)]
    for name, objects, table, there in zip(("train", "val"), kept, tables, left, strict=True):
        np.save(partial / f"all_latents_{name}.npy", table[there].reshape(-1, numbers))
        if classes is not None:
            np.save(partial / f"{name}_labels.npy", classes[objects])
        places = [f"/{synsets[item]}/{item:06d}/" for item in objects.tolist()]
        np.save(partial / f"{name}_images.npy", np.array(places))
    everything = sorted(np.concatenate(kept).tolist())
    np.save(partial / "all_objects.npy", np.array([(synsets[item], f"{item:06d}") for item in everything]))
    if writing.name_of is not None:
        with (partial / _OBJECTS).open("w", encoding="utf-8", newline="") as file:
            table_of_names = csv.writer(file)
            table_of_names.writerow(("synset", "object", "name"))
            table_of_names.writerows((synsets[item], f"{item:06d}", writing.name_of(item)) for item in everything)
    partial.replace(root)
    return len(everything)


def _written_object(
    folder: Path, source: Source, item: int, views: int, given: Latents | None, quality: int, writing: Writing
) -> Latents:
    """Write the views of one object, unless they are there; returns its latents `(views, 7)` or `(views, 10)`.

    The folder of an object appears when it is complete. An object that is left out has none.
    """
    if folder.is_dir():
        return np.stack([np.load(folder / f"latent_{view}.npy") for view in range(views)]) if given is None else given
    unfinished = folder.with_name(folder.name + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    at_once, made = max(_BYTES_AT_ONCE // (3 * source.image_size**2), 1), []
    for first in range(0, views, at_once):
        some = np.arange(first, min(first + at_once, views), dtype=np.int64)
        images = source.load(np.full(len(some), item, dtype=np.int64), some)
        if not bool(images.readable.all()):
            shutil.rmtree(unfinished, ignore_errors=True)
            if writing.skip_unreadable:
                return np.zeros((views, 1)) if given is None else given
            name = source.describe(item, first + int(images.readable.int().argmin()))
            raise ValueError(f"{name} is unreadable and cannot be written")
        made.append(_latents_of(images.transform) if given is None else given[some])
        unfinished.mkdir(parents=True, exist_ok=True)
        _write_views(unfinished, images, made[-1], quality, writing.beside(item, some), first)
    unfinished.replace(folder)
    return np.concatenate(made)


def _write_views(
    folder: Path, images: Images, latents: Latents, quality: int, beside: Mapping[str, NDArray[Any]], first: int
) -> None:
    """Write some views of an object; `first` is the number of the first."""
    for row, pixels in enumerate(images.pixels.permute(0, 2, 3, 1).cpu().numpy()):
        view = first + row
        Image.fromarray(pixels).save(folder / f"image_{view}.jpg", quality=quality)
        np.save(folder / f"latent_{view}.npy", latents[row].astype(np.float64))
        for name, arrays in beside.items():
            if arrays.dtype == np.uint8:
                Image.fromarray(arrays[row]).save(folder / f"{name}_{view}.png")
            else:
                np.save(folder / f"{name}_{view}.npy", arrays[row])


def _latents_of(transform: Transform) -> Latents:
    """The inverse of `transform_of`, as `(B, 7)` or `(B, 10)`, for y angles within a quarter turn."""
    columns = {name: transform[name].detach().cpu().double() for name in GROUPS}
    matrix = quaternion_to_matrix(columns.pop("rotation"))
    x = torch.atan2(matrix[:, 2, 1], matrix[:, 2, 2])
    y = torch.asin((-matrix[:, 2, 0]).clamp(-1, 1))
    z = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
    shift = recorded_shift(transform)
    shifts = () if shift is None else shift.cpu().unbind(1)
    stacked: Latents = torch.stack((x, y, z, *columns.values(), *shifts), dim=1).numpy()
    return stacked


def _check_writable(root: Path, partial: Path, record: Mapping[str, Any]) -> None:
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} exists and is not an empty folder; choose another name or remove it")
    if not partial.exists():
        return
    left = f"{partial} is left by an interrupted write"
    if not record or not (partial / _RECORD).is_file():
        raise ValueError(f"{left}; remove it and write again")
    try:
        before = json.loads((partial / _RECORD).read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{left} before it had begun; remove it and write again") from None
    if change := _first_change(before, json.loads(json.dumps(record, default=str)), ""):
        if change.startswith("stamp: ") and isinstance(of := before.get("data"), dict):
            what = f"the {of.get('name', 'files')} in {of.get('path', 'it')} have changed since"
            raise ValueError(f"{left}, and {what}; remove it, or choose another name")
        raise ValueError(f"{left} of something else ({change}); remove it, or choose another name")


def _first_change(before: Any, now: Any, name: str) -> str | None:
    """The first difference between two records, in words; None if there is none."""
    if isinstance(before, dict) and isinstance(now, dict):
        changes = (
            _first_change(before.get(key), now.get(key), f"{name}.{key}" if name else key)
            for key in dict.fromkeys((*before, *now))
            if name != "data" or key not in SETTINGS_OF_KEEPING
        )
        return next(filter(None, changes), None)
    return None if before == now else f"{name}: {json.dumps(before)} -> {json.dumps(now)}"


def _check_layout(source: Source, latents: Latents | None, split: tuple[Indices, Indices]) -> tuple[int, int]:
    """The number of views of every object and of latents of every view; an error if the source does not fit."""
    counts = np.unique(source.view_counts)
    if len(counts) != 1:
        found = f"there are {counts[0]} to {counts[-1]}"
        raise ValueError(f"the layout of 3DIEBench needs the same number of views for every object; {found}")
    views = int(counts[0])
    numbers = recorded = LATENTS[recorded_frame(source.groups) is not None]
    if latents is not None:
        numbers = latents.shape[-1]
        if latents.shape != (len(source), views, numbers) or numbers not in (recorded, LATENTS[1]):
            raise ValueError(f"latents have shape {latents.shape}, expected {(len(source), views, recorded)}")
    elif missing := GROUPS.keys() - source.groups.keys():
        lacks = f"the source lacks {', '.join(sorted(missing))}"
        raise ValueError(f"the layout of 3DIEBench needs the parameters {', '.join(GROUPS)}; {lacks}")
    if not all(map(len, split)) or len(np.unique(np.concatenate(split))) != sum(map(len, split)):
        raise ValueError("the train and the validation split must each have an object, and none in both")
    return views, numbers


def _synsets(source: Source, name_of: Callable[[int], str] | None) -> tuple[list[str], Indices | None]:
    """The folder of every object, and its class: the rank of the folder's name, as in 3DIEBench."""
    labels = source.labels
    if labels is None:
        return ["object"] * len(source), None
    if not bool(labels.known.all()):
        without = np.flatnonzero(~labels.known.cpu().numpy())
        first = int(without[0])
        name = source.describe(first, 0) if name_of is None else name_of(first)
        what = f"{len(without):,} of {len(source):,} objects have no class, the first {name}"
        advice = f"take those with a class alone, `[{', '.join(labels.names)}]`, or give it one"
        raise SettingError("classes", f"{what}, and the layout of 3DIEBench has no place for them; {advice}")
    if unfit := [name for name in labels.names if not name or "/" in name or name.startswith(".")]:
        raise SettingError(
            "classes", f"{unfit[0]!r} cannot be the name of a folder; rename it, or take the others alone"
        )
    ranks: Indices = np.argsort(np.argsort(np.array(labels.names)))
    classes = labels.classes.cpu().numpy()
    return [labels.names[label] for label in classes.tolist()], ranks[classes]
