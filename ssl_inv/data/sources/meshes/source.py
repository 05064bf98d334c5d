"""Rendered meshes: your own, or a set of them in an `.npz`, in poses and lights that are known exactly.

The scene, its latents and the meaning of a rotation are those of the rendered solids.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import SettingError, require_above, require_at_least, require_between
from ssl_inv.data.images import MAX_CACHE_BYTES
from ssl_inv.data.source import Data, Indices, Labels, Subset
from ssl_inv.data.sources.meshes import renderer
from ssl_inv.data.sources.meshes.casting import Caster
from ssl_inv.data.sources.meshes.choosing import chosen_rows, fewer, held_out
from ssl_inv.data.sources.meshes.collection import Collection, open_collection
from ssl_inv.data.sources.meshes.mesh import BrokenMeshError, TooManyFacesError, centred
from ssl_inv.data.sources.rendered.posed import PosedObjects, Poses, scenes_of
from ssl_inv.data.sources.rendered.renderer import Scenes
from ssl_inv.data.sources.rendered.surfaces import surfaces_at
from ssl_inv.data.splits import labels_from_names
from ssl_inv.transforms.annotations import Surface

_ALWAYS_TOLERATED = 10

_MOST_READ_FIRST = 20_000
"""Of more meshes so many, spread over all, are read before anything else: ten milliseconds or more each."""

_NAMED = 10
"""Broken meshes that a message names; there can be thousands."""

_LOG = logging.getLogger("ssl_inv.data")


def _memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class RenderedMeshes(PosedObjects):
    """Meshes, each in some poses and lights, which are functions of the seed, the mesh and the number of the view.

    Every mesh is read once before any view is asked for, so that one verdict on the broken ones holds for all processes
    and comes before anything is written. Views of a broken mesh are zero and not readable. Of more than 20,000 meshes
    only so many are read at first, and each process counts the broken ones that it meets later.

    Args:
        collection: all meshes.
        rows: those that are the objects, as numbers in `collection`.
        poses: see `Poses`.
        cache: whether rendered views stay in memory; None: if all of them fit in `MAX_CACHE_BYTES`.
        memory_gb: the most memory of meshes that are ready to be rendered, in each process; the one that was used
            longest ago goes first.
        max_faces: a mesh with more is broken.
        max_broken: share of the meshes that may be broken. Ten are always tolerated, unless they are over half of all.

    Attributes:
        broken: the broken meshes met so far, with the reasons.

    Raises:
        SettingError: if an argument is out of its range, or too many meshes are broken.
    """

    def __init__(
        self,
        collection: Collection,
        rows: Indices,
        poses: Poses,
        cache: bool | None = None,
        memory_gb: float = 1.0,
        max_faces: int = 300_000,
        max_broken: float = 0.01,
    ) -> None:
        require_above(0, memory_gb=memory_gb)
        require_at_least(1, max_faces=max_faces)
        require_between(0, 1, max_broken=max_broken)
        needed = len(rows) * poses.views * 3 * poses.size**2
        if cache and needed > (there := _memory()):
            what = f"all {len(rows) * poses.views:,} views take {needed / 1e9:,.0f} GB, and this machine has"
            raise SettingError("cache", f"{what} {there / 1e9:,.0f}; leave it at null, or set it to false")
        super().__init__(poses, collection.keys[rows], needed <= MAX_CACHE_BYTES if cache is None else cache)
        self._collection, self._rows = collection, rows
        self._most_bytes, self._max_faces = int(memory_gb * 1e9), max_faces
        self._tolerated = max(int(max_broken * len(rows)), min(_ALWAYS_TOLERATED, len(rows) // 2))
        classes = collection.classes[rows].tolist()
        self._labels = labels_from_names(classes, None, collection.where) if any(classes) else None
        self.broken: dict[str, str] = {}
        self._bad: set[int] = set()
        self._too_large: dict[int, int] = {}
        self._lacking: set[int] = set()
        self._checked = self._told = False
        self._forget()
        self._check_meshes()

    def _check_meshes(self) -> None:
        """Read the meshes. What is ready stays in memory as far as `memory_gb` goes, so it is not read again."""
        count = len(self._rows)
        some = np.unique(np.linspace(0, count - 1, min(count, _MOST_READ_FIRST)).astype(np.int64))
        for item in some.tolist():
            self._caster(item)
        self._checked = True
        self._require_few_broken(len(some))

    def _forget(self) -> None:
        self._ready: OrderedDict[int, Caster] = OrderedDict()
        self._bytes, self._process = 0, os.getpid()

    def __getstate__(self) -> dict[str, object]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_ready", "_bytes", "_process")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self._forget()
        super().__setstate__(state)

    @property
    def labels(self) -> Labels | None:
        return self._labels

    @property
    def preferred_workers(self) -> int | None:
        # Each loader process would render all views and keep its own pixels.
        return 0 if self.cached else None

    @property
    def tolerated_images(self) -> int | None:
        return self._tolerated

    @property
    def stamp(self) -> str:
        return self._collection.stamp

    def name_of(self, item: int) -> str:
        """The name of a mesh: its file, or its number and name in an `.npz`."""
        return self._collection.names[int(self._rows[item])]

    def describe(self, object_index: int, view: int) -> str:
        name = self.name_of(object_index)
        # All views of a broken mesh are one broken thing.
        return name if object_index in self._bad else f"{name}, view {view}"

    @property
    def _chunk(self) -> int:
        return self.views

    def _caster(self, item: int) -> Caster | None:
        """A mesh that is ready to be rendered; None if it is broken."""
        if item in self._bad:
            return None
        if self._process != os.getpid():
            # A forked process must not use what was built on the device of its parent.
            self._forget()
        if (ready := self._ready.get(item)) is not None:
            self._ready.move_to_end(item)
            return ready
        try:
            mesh = centred(self._collection.read(int(self._rows[item])), self.poses.radius, self._max_faces)
        except BrokenMeshError as error:
            self._note_broken(item, error)
            return None
        if mesh.missing and item not in self._lacking:
            self._lacking.add(item)
            names = ", ".join(mesh.missing)
            _LOG.warning(
                "%s: %s lacks %s; plain colours take its place", self._collection.where, self.name_of(item), names
            )
        caster = self._ready[item] = Caster(mesh)
        self._bytes += caster.nbytes
        while self._bytes > self._most_bytes and len(self._ready) > 1:
            self._bytes -= self._ready.popitem(last=False)[1].nbytes
        return caster

    def _note_broken(self, item: int, error: BrokenMeshError) -> None:
        self._bad.add(item)
        self.broken[self.name_of(item)] = str(error)
        if isinstance(error, TooManyFacesError):
            self._too_large[item] = error.faces
        if self._checked:
            self._tell_broken(self.name_of(item), str(error))
            self._require_few_broken(len(self._rows))

    def tell_broken(self) -> None:
        """Name the broken meshes in the log, once: when all that would refuse the data has been asked, or before the
        first view.
        """
        if not self._told:
            self._told = True
            for name, reason in self.broken.items():
                self._tell_broken(name, reason)

    def tell(self) -> None:
        """`tell_broken`, and what its owner may not have meant."""
        for remark in self._collection.remarks:
            _LOG.warning("%s: %s", self._collection.where, remark)
        self.tell_broken()

    def hold_back(self) -> None:
        """Name no broken mesh in the log: who asks lists all of them."""
        self._told = True

    def broken_of_all(self, tell: Callable[[int, int], None]) -> dict[str, str]:
        """The broken meshes with the reasons, also those that have not been read yet.

        Args:
            tell: is told how many meshes are done, and of how many.
        """
        self._checked = False  # all of them may be broken
        for item in range(len(self._rows)):
            self._caster(item)
            tell(item + 1, len(self._rows))
        self._checked = True
        return self.broken

    def _tell_broken(self, name: str, reason: str) -> None:
        _LOG.warning("%s: %s is left out: %s", self._collection.where, name, reason)

    def _require_few_broken(self, read: int) -> None:
        """Raise a `SettingError` if too many of the meshes are broken, or all that were read."""
        bad, count, where = len(self._bad), len(self._rows), self._collection.where
        if bad <= self._tolerated and bad < read:
            return
        # Where those over the limit of faces make too many of them, that limit is to blame, and not the files.
        if (rest := bad - len(self._too_large)) <= self._tolerated and rest < read:
            have = f"{len(self._too_large):,} of {count:,} meshes of {where} have more faces than {self._max_faces:,}"
            most = f"the largest has {max(self._too_large.values()):,}"
            raise SettingError("max_faces", f"{have}: {self._named(self._too_large)}; {most}; raise it")
        names, why = self._named(self._bad), f"the first: {self.broken[self.name_of(min(self._bad))]}"
        if bad >= read:
            raise SettingError("path", f"no mesh of {where} can be rendered: {names}; {why}")
        cannot = f"{bad:,} of {count:,} meshes of {where} cannot be rendered, more than {self._tolerated:,}"
        raise SettingError("max_broken", f"{cannot}: {names}; {why}; raise it to go on without them")

    def _named(self, items: Iterable[int]) -> str:
        names = [self.name_of(item) for item in sorted(items)]
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        return f"{', '.join(names[:_NAMED])}{more}"

    def require_readable(self, items: Indices, part: str) -> None:
        """Raise a `SettingError` if all meshes of a part of the data are broken."""
        if len(items) and self._bad.issuperset(items.tolist()):
            name = self.name_of(int(items[0]))
            what = f"no mesh {part} can be rendered ({self._named(items.tolist())}); the first: {self.broken[name]}"
            other = "" if self._collection.splits else ", or choose another `seed`"
            raise SettingError("path", f"{what}; mend or remove them{other}")

    def _readable(self, objects: Indices) -> Tensor:
        return torch.tensor([item not in self._bad for item in objects.tolist()], dtype=torch.bool)

    def _render(self, objects: Indices, scenes: Scenes) -> Tensor:
        pixels = np.zeros((len(objects), 3, self.size, self.size), dtype=np.uint8)
        for row, caster, view in self._each(objects, scenes):
            pixels[row] = renderer.render(caster, view, self.size, self.samples, self.poses.radius)
        return torch.from_numpy(pixels)

    def _each(self, objects: Indices, scenes: Scenes) -> Iterator[tuple[int, Caster, renderer.View]]:
        """Row, mesh and view of all that can be rendered, mesh by mesh."""
        self.tell_broken()
        views = list(renderer.views_of(scenes))
        for row in np.argsort(objects, kind="stable").tolist():
            if (caster := self._caster(int(objects[row]))) is not None:
                yield row, caster, views[row]

    def masks(self, objects: Indices, views: Indices) -> Tensor:
        """1 where the mesh covers at least half of a pixel, and 0 on the floor."""
        rows, scenes = np.asarray(objects, dtype=np.int64), scenes_of(torch.from_numpy(self.latents(objects, views)))
        found = np.zeros((len(rows), self.size, self.size), dtype=np.int64)
        for row, caster, view in self._each(rows, scenes):
            found[row] = renderer.coverage(caster, view, self.size, self.samples) >= 0.5
        return torch.from_numpy(found)

    def surface(self, objects: Tensor, views: Tensor, side: int) -> Surface:
        rows = objects.numpy()
        scenes = scenes_of(torch.from_numpy(self.latents(rows, views.numpy())))
        depths = np.full((len(rows), side, side), np.inf)
        for row, caster, view in self._each(rows, scenes):
            depth, faces = renderer.surface(caster, view, side)
            depths[row] = np.where(faces >= 0, depth, np.inf)
        return surfaces_at(torch.from_numpy(depths), scenes)

    def surfaces(self, objects: Indices, views: Indices) -> tuple[Tensor, Tensor, Tensor]:
        """What is seen through the middle of every pixel of `load`, each `(B, size, size)`; zero for broken meshes.

        Returns:
            The distance from the camera along its axis, float32, in units in which objects have a radius of 0.8 and the
            camera a distance of 2.5 from the middle of the frame, also of the floor.
            The number of the face among those of the mesh that are rendered, int32; -1 on the floor.
            The number of the part, uint8; 0 on the floor.
        """
        rows, scenes = np.asarray(objects, dtype=np.int64), scenes_of(torch.from_numpy(self.latents(objects, views)))
        shape = (len(rows), self.size, self.size)
        depths, faces = np.zeros(shape, dtype=np.float32), np.full(shape, -1, dtype=np.int32)
        parts = np.zeros(shape, dtype=np.uint8)
        for row, caster, view in self._each(rows, scenes):
            depths[row], faces[row] = renderer.surface(caster, view, self.size)
            parts[row] = np.where(faces[row] >= 0, caster.mesh.parts[faces[row]], 0)
        return torch.from_numpy(depths), torch.from_numpy(faces), torch.from_numpy(parts)

    def beside(self, names: Sequence[str], item: int, views: Indices) -> dict[str, NDArray[Any]]:
        """Some of `depth`, `faces` and `parts` of an object's views, each `(views, size, size)`; see `surfaces`."""
        if not names:
            return {}
        found = dict(zip(("depth", "faces", "parts"), self.surfaces(np.full(len(views), item), views), strict=True))
        return {name: found[name].numpy() for name in names}


def meshes(
    *,
    path: str,
    classes: list[str] = [],
    objects: int | None = None,
    train_objects: int | None = None,
    csv_file: str | None = None,
    labels: Literal["folders", "none"] | None = None,
    label_level: int = 1,
    exclude: list[str] = [],
    up: Literal["auto", "y", "z"] = "auto",
    views: int = 50,
    size: int = 64,
    angle_range: float = 90.0,
    angle_from: float = 0.0,
    hue_range: float = 1.0,
    samples: int = 2,
    translation_range: float = 0.0,
    translation_frame: Literal["object", "base"] = "object",
    pose: bool = False,
    cache: bool | None = None,
    memory_gb: float = 1.0,
    max_faces: int = 300_000,
    max_broken: float = 0.01,
    validation_share: float = 0.2,
    seed: int = 0,
) -> Data:
    """Meshes with 3DIEBench's seven latents, or 3DIEBench-T's ten, rendered when they are asked for.

    Args:
        path: a folder, zip or tar of glTF, OBJ, STL, PLY or OFF files, or an `.npz` of meshes.
        classes: names of the classes that are taken; empty takes all of them, but in an `.npz` those alone that are
            said to be of objects.
        objects: the most objects of both splits together, as many of each class as of others; null takes all. A
            smaller number takes some of those that a larger one takes.
        train_objects: the most objects to train on, chosen in the same way after the split: the validation objects
            stay the same.
        csv_file: a table in the folder with the columns `path`, and `class`, `group`, `split` as far as they are known;
            meshes of one `group` are never on both sides of the split.
        labels: `folders`: the class is the name of a mesh's folder; `none`: no classes; null: `folders` if there are at
            least two class folders, else `none`.
        label_level: which folder names the class, counted from the top or from the folder of the split.
        exclude: patterns of files to leave out, such as `old/*` or `*_lod2.glb`.
        up: the axis that points up in the files; `auto`: y in glTF and OBJ, and in an `.npz`; z in STL, PLY and OFF.
        views: views of every object, at most 100,000.
        size: side of the images in pixels, at most 4096; with `samples`, so many rays.
        angle_range: each Euler angle is uniform within plus or minus this many degrees, at most 180.
        angle_from: no Euler angle is closer to zero than this many degrees, below `angle_range`. Where a run was
            trained with an `angle_range` of 45, a value of 45 here gives angles that it has never seen.
        hue_range: hues of floor and light are uniform within this part of the circle, from 0 to 1.
        samples: rays per pixel along each axis; 2 smooths the edges and costs nearly three times as much.
        translation_range: each coordinate of an object's shift is uniform within plus or minus this, from 0 to 0.3; the
            frame shows a ball of radius 0.8, and objects are scaled down to stay in it.
        translation_frame: how shifts are recorded: `object` as `translation`, along the object's own axes; `base` as
            `position`, the object's place in the world.
        pose: whether rotation and shift, in that frame, are also recorded as one parameter `pose`; its step is the
            rigid motion from one view to the other.
        cache: whether rendered views stay in memory; null: if all of them fit in 2 GB.
        memory_gb: the most memory of meshes that are ready to be rendered, in each process.
        max_faces: a mesh with more is broken.
        max_broken: share of the meshes that may be broken. Ten are always tolerated, unless they are over half of all.
        validation_share: share of the groups of every class held out for validation, if the data have no split.
        seed: decides views, split and which objects are taken.
    """
    shifts = (translation_range, translation_frame, pose)
    poses = Poses(views, size, angle_range, angle_from, hue_range, samples, *shifts, seed)
    collection = open_collection(path, csv_file, labels, label_level, exclude, up)
    rows = chosen_rows(collection, classes, objects, seed)
    train, judged, how = held_out(collection, rows, validation_share, seed)
    if train_objects is not None:
        if train_objects < 1:
            raise SettingError("train_objects", f"must be at least 1, got {train_objects}")
        train = fewer(train, collection.classes[train], train_objects, seed)
    rows = np.sort(np.concatenate((train, judged)))
    source = RenderedMeshes(collection, rows, poses, cache, memory_gb, max_faces, max_broken)
    named = "no classes" if source.labels is None else f"{len(source.labels.names)} classes"
    left = len(collection.names) - len(rows)
    notes = {"objects": f"{len(rows)} meshes of {named} from {collection.where}", "split": how, **collection.notes}
    if left:
        notes["left out"] = f"{left} meshes of other classes or beyond the number that was asked for"
    part, other = (Subset(source, np.searchsorted(rows, side)) for side in (train, judged))
    return Data(part, other, notes)
