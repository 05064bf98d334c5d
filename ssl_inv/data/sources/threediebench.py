"""3DIEBench and 3DIEBench-T on disk: objects rendered in random poses and lights.

The layout is that of https://github.com/facebookresearch/SIE:

    ROOT/SYNSET/OBJECT/image_{i}.jpg     view i
    ROOT/SYNSET/OBJECT/latent_{i}.npy    seven float64: Euler angles x, y, z; floor hue; light theta, phi; light hue
                                         ten in 3DIEBench-T: then the shift along the object's own x, y, z
    train_images.npy, val_images.npy     the objects of a split as "/SYNSET/OBJECT/"
    train_labels.npy, val_labels.npy     their classes, int64
    all_latents_{train,val}.npy          the latents of a split, objects in the order of the split, views in order

Angles are radians, hues turns in [0, 1]. Rotations are extrinsic about x, y, z. The published images have red and blue
exchanged, so hues do not match the colours of the pixels; `threediebench_writing` does not exchange them.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_inv.data.archives import Files
from ssl_inv.data.array_files import array_of_file
from ssl_inv.data.image_files import ImageFiles
from ssl_inv.data.images import Photographs
from ssl_inv.data.latents import UNMOVED, Frame, MotionRecord
from ssl_inv.data.source import Data, Indices, Labels
from ssl_inv.transforms import Circle, Group, Real, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler

Split = Literal["train", "val"]

Latents = NDArray[np.float64]

GROUPS: dict[str, Group] = {
    "rotation": Rotation(),
    "floor_hue": Circle(),
    "light_theta": Real(scale=math.pi / 4),
    "light_phi": Circle(2 * math.pi),
    "light_hue": Circle(),
}
"""The parameters of the seven latents of 3DIEBench. `MotionRecord` records the other three of 3DIEBench-T."""

LATENTS = (7, 10)
"""Numbers of a view in 3DIEBench and in 3DIEBench-T."""

_LOG = logging.getLogger("ssl_inv.data")


def threediebench(
    *,
    path: str,
    size: int | None = 128,
    split_folder: str | None = None,
    translation_frame: Literal["object", "base"] = "object",
    pose: bool = False,
    cache: bool | None = None,
    max_broken: float = 0.01,
    photographs: Literal["whole", "squares"] = "whole",
) -> Data:
    """3DIEBench, 3DIEBench-T, or another data set of their layout, with its own split by object.

    Args:
        path: the folder or archive with the SYNSET folders.
        size: side in pixels to which the images (256 in 3DIEBench) are resized; None keeps them as they are.
        split_folder: folder with the split, label and latent tables; None if they are in `path`.
        translation_frame: how 3DIEBench-T's shifts are recorded: `object` as `translation`, along the object's own
            axes; `base` as `position`, the object's place in the world.
        pose: whether rotation and shift, in that frame, are also recorded as one parameter `pose`; its step is the
            rigid motion from one view to the other.
        cache: whether decoded images stay in memory; None: if all of them fit in 2 GB.
        max_broken: share of the images that may be unreadable.
        photographs: whether views are cut out of the `whole` images, of any size and shape, or out of the centre
            `squares`, which small machines decode and keep more cheaply; the same without a `size`. Evaluations take
            the squares.
    """
    train, validation = (
        ThreeDIEBench(path, split, size, split_folder, cache, max_broken, translation_frame, pose, photographs)
        for split in ("train", "val")
    )
    return Data(train, validation, {"split": "the data's own, by object", "views": f"{train.views} of every object"})


class ThreeDIEBench(ImageFiles):
    """One split of a data set in the layout of 3DIEBench.

    Latents are read once and kept in memory (112 MB for the train split of 3DIEBench): from `all_latents_{split}.npy`
    if it is there, else from one file per view.

    Args:
        path: see `threediebench`.
        split: which objects.
        size: see `threediebench`.
        split_folder: see `threediebench`.
        cache: see `StoredImages`.
        max_broken: see `StoredImages`.
        translation_frame: see `threediebench`.
        pose: see `threediebench`.
        photographs: see `StoredImages`.

    Attributes:
        views: views of every object.
        latents: `(N, views, 7)` or `(N, views, 10)`, float64, as stored.

    Raises:
        FileNotFoundError: if the folder, a split file or the views of the first object are missing.
        ValueError: if the tables do not fit together, or `pose` is true for data without translations.
    """

    def __init__(
        self,
        path: str,
        split: Split = "train",
        size: int | None = 128,
        split_folder: str | None = None,
        cache: bool | None = None,
        max_broken: float = 0.01,
        translation_frame: Frame = "object",
        pose: bool = False,
        photographs: Photographs = "whole",
    ) -> None:
        files = Files(path)
        self._tables = files if split_folder is None else Files(split_folder)
        objects = _objects(self._tables, split)
        self.views = _count_views(files, str(objects[0]))
        self.latents = _latents(files, self._tables, split, objects, self.views)
        self._motion = MotionRecord(self.latents.shape[2] > LATENTS[0], translation_frame, pose)
        labels = _labels(self._tables, split, objects)
        names, counts = _ViewNames(objects, self.views), np.full(len(objects), self.views, dtype=np.int64)
        super().__init__(files, names, counts, size, cache, max_broken, photographs)
        self._labels = labels

    @property
    def groups(self) -> dict[str, Group]:
        return {**GROUPS, **self._motion.groups}

    @property
    def stamp(self) -> str:
        return " ".join(files.stamp for files in dict.fromkeys((self._files, self._tables)))

    def _transform(self, images: Indices) -> Transform:
        return transform_of(self.latents.reshape(-1, self.latents.shape[2])[images], self._motion)

    def _worth_threads(self, image: int) -> bool:
        return True


class _ViewNames(Sequence[str]):
    """The name of every image file, made when it is asked for: a list would hold millions."""

    def __init__(self, objects: NDArray[np.str_], views: int) -> None:
        self.objects, self.views = objects, views

    def __len__(self) -> int:
        return len(self.objects) * self.views

    def __getitem__(self, image: Any) -> Any:
        return f"{self.objects[image // self.views]}/image_{image % self.views}.jpg"


def transform_of(latents: Latents, motion: MotionRecord = UNMOVED) -> Transform:
    """The stored numbers `(B, 7)`, or `(B, 10)` for shifted objects, as named parameters."""
    stored = torch.from_numpy(np.ascontiguousarray(latents, dtype=np.float64))
    columns = (quaternion_from_euler(stored[:, :3]), *stored[:, 3:7].unbind(1))
    values = {**dict(zip(GROUPS, columns, strict=True)), **motion.values(columns[0], stored[:, 7:])}
    return Transform({name: value.float() for name, value in values.items()}, {**GROUPS, **motion.groups})


def _table(tables: Files, name: str) -> NDArray[np.generic]:
    content = tables.read(name)
    try:
        return array_of_file(content)
    except ValueError as error:
        raise ValueError(f"{tables.path}: {name} is no array of numbers: {error}") from error


def _objects(tables: Files, split: Split) -> NDArray[np.str_]:
    name = f"{split}_images.npy"
    if name not in tables:
        reason = "it is written last, so either writing was interrupted or `split_folder` is needed"
        raise FileNotFoundError(f"{tables.path}: no {name}; {reason}")
    objects = np.char.strip(_table(tables, name).astype(np.str_), "/")
    if not len(objects):
        raise ValueError(f"{tables.path}: {name} lists no objects")
    return objects


def _count_views(files: Files, first: str) -> int:
    names = set(files.inside(first))
    views = sum(name.startswith("image_") and name.endswith(".jpg") for name in names)
    if not views or any(f"image_{view}.jpg" not in names for view in range(views)):
        found = sorted(names)[:3] or "nothing"
        raise FileNotFoundError(f"{files.path}: {first} should have image_0.jpg, image_1.jpg, ..., but has {found}")
    return views


def _latents(files: Files, tables: Files, split: Split, objects: NDArray[np.str_], views: int) -> Latents:
    name = f"all_latents_{split}.npy"
    if name not in tables:
        _LOG.info("%s: no %s, so %d latent files are read one by one", tables.path, name, len(objects) * views)
        numbers = len(_latent(files, str(objects[0]), 0))
        return np.stack([[_latent(files, item, view, numbers) for view in range(views)] for item in objects.tolist()])
    table = _table(tables, name)
    if table.size not in [len(objects) * views * numbers for numbers in LATENTS]:
        expected = f"{len(objects)} objects, {views} views and {LATENTS[0]} or {LATENTS[1]} latents"
        raise ValueError(f"{tables.path}: {name} has shape {table.shape}, which does not fit {expected}")
    latents = table.astype(np.float64).reshape(len(objects), views, -1)
    if not np.isfinite(latents).all():
        row = int(np.isfinite(latents).all(axis=(1, 2)).argmin())
        raise ValueError(f"{tables.path}: {name} has numbers that are not finite, first for {objects[row]}")
    # The order in the table is a convention; a few files show whether it holds here.
    for row in sorted({0, len(objects) // 2, len(objects) - 1}):
        item, last = str(objects[row]), f"{objects[row]}/latent_{views - 1}.npy"
        if last in files and not np.allclose(_latent(files, item, views - 1, latents.shape[2]), latents[row, -1]):
            raise ValueError(f"{tables.path}: {name} disagrees with {last}; it was made for another split or order")
    return latents


def _latent(files: Files, item: str, view: int, numbers: int | None = None) -> Latents:
    """The stored numbers of a view, `(numbers,)`; None allows the numbers of both data sets."""
    name = f"{item}/latent_{view}.npy"
    latent = _table(files, name).astype(np.float64)
    fitting = [(count,) for count in (LATENTS if numbers is None else (numbers,))]
    if latent.shape not in fitting:
        raise ValueError(f"{files.path}: {name} has shape {latent.shape}, expected {' or '.join(map(str, fitting))}")
    if not np.isfinite(latent).all():
        raise ValueError(f"{files.path}: {name} has numbers that are not finite")
    return latent


def _labels(tables: Files, split: Split, objects: NDArray[np.str_]) -> Labels | None:
    """The classes, named by their synsets in both splits; None if there is no table of labels."""
    if f"{split}_labels.npy" not in tables:
        return None
    named: dict[int, str] = {}
    for other in ("train", "val"):
        if f"{other}_labels.npy" not in tables or f"{other}_images.npy" not in tables:
            continue
        items, classes = _objects(tables, other), _table(tables, f"{other}_labels.npy").astype(np.int64)
        if len(items) != len(classes) or classes.min() < 0:
            found = f"{len(classes)} classes from {classes.min()} on for {len(items)} objects"
            raise ValueError(f"{tables.path}: {other}_labels.npy has {found}")
        for synset, label in zip((item.split("/")[0] for item in items.tolist()), classes.tolist(), strict=True):
            if named.setdefault(label, synset) != synset:
                both = f"{named[label]} and {synset}"
                raise ValueError(f"{tables.path}: {other}_labels.npy gives class {label} to both {both}")
    own = torch.from_numpy(_table(tables, f"{split}_labels.npy").astype(np.int64))
    names = tuple(named.get(label, str(label)) for label in range(max(named) + 1))
    return Labels(own, torch.ones(len(objects), dtype=torch.bool), names)
