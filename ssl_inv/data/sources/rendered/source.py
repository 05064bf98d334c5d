"""The embedded data set: procedural solids with exact 3-D poses and light, rendered when they are asked for.

It needs no file and no download, has 3DIEBench's seven latents, and arguments set its difficulty. A class is a
prototype of several coloured primitives; an object is a jittered copy of its class. Like the categories of ShapeNet,
the classes share a canonical frame: the first primitive is a body stretched along x, and the others sit around it on
the same sides and in the same order of hues in every class. So shape and layout show the class, and colours show the
pose. No two primitives have the same place or colour, so no rotation maps an object onto itself.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import require_at_least, require_between
from ssl_inv.data.latents import MotionRecord
from ssl_inv.data.source import Data, Images, Indices, Labels, Source, Subset, split_objects
from ssl_inv.data.sources.rendered.objects import VIEW_KEY, class_prototypes, jittered
from ssl_inv.data.sources.rendered.renderer import BOUNDING_RADIUS, Scenes, render, silhouettes
from ssl_inv.transforms import Circle, Group, Real, Rotation, Transform
from ssl_inv.transforms.keyed_random import uniform
from ssl_inv.transforms.quaternions import quaternion_from_euler, quaternion_rotate

_SAMPLES_PER_CHUNK = {"cpu": 2**19, "cuda": 2**25}
"""Samples rendered together: on a CPU as many as fit in its cache, on a GPU enough to fill it."""


class RenderedSolids(Source):
    """Procedural solids: object i has class `i % classes` and `views` poses and lights, all functions of `seed`.

    Args:
        classes: number of classes.
        objects: number of objects, at least `classes`.
        views: views of every object.
        size: side of the images in pixels.
        angle_range: each Euler angle is uniform within plus or minus this many degrees, at most 180.
        hue_range: hues of floor and light are uniform in `[0, hue_range)`, in turns.
        primitives: primitives of an object, at least 3: fewer could be symmetric.
        instance_jitter: how much the objects of a class differ, a fraction of the sizes; below 1. See `jittered`.
        samples: rays per pixel along each axis; 2 smooths the edges and costs three to four times as much.
        translation_range: each coordinate of an object's shift along its own axes, before the rotation, is uniform
            within plus or minus this, at most 0.3; the frame shows a ball of radius 0.8. Objects are scaled down to
            stay in the frame. Rotations, light and hues are the same with and without shifts.
        translation_frame: how shifts are recorded; see `MotionRecord`.
        pose: whether rotation and shift are also recorded together; see `MotionRecord`.
        cache: whether to keep every rendered view, as uint8 on `device`.
        cache_gigabytes: largest size of the full cache.
        device: where views are rendered and returned.
        seed: of everything random.

    Attributes:
        cached: whether rendered views are kept.

    Raises:
        ValueError: if an argument is out of its range or the full cache does not fit in `cache_gigabytes`.
    """

    def __init__(
        self,
        classes: int = 55,
        objects: int = 5500,
        views: int = 50,
        size: int = 64,
        angle_range: float = 90.0,
        hue_range: float = 1.0,
        primitives: int = 5,
        instance_jitter: float = 0.15,
        samples: int = 1,
        translation_range: float = 0.0,
        translation_frame: Literal["object", "base"] = "object",
        pose: bool = False,
        cache: bool = True,
        cache_gigabytes: float = 4.0,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        require_at_least(1, classes=classes, views=views, samples=samples)
        require_at_least(classes, objects=objects)
        require_at_least(8, size=size)
        require_at_least(3, primitives=primitives)
        require_between(0, 180, angle_range=angle_range)
        require_between(0, 1, hue_range=hue_range)
        require_between(0, 0.99, instance_jitter=instance_jitter)
        require_between(0, 0.3, translation_range=translation_range)
        gigabytes = objects * views * 3 * size**2 / 1e9
        if cache and gigabytes > cache_gigabytes:
            need = f"the cache of {objects} objects x {views} views at {size} pixels takes {gigabytes:.1f} GB"
            advice = "raise it or set cache to false"
            raise ValueError(f"{need}, more than cache_gigabytes = {cache_gigabytes:g}; {advice}")
        self.size, self.views, self.samples, self.seed = size, views, samples, seed
        self.angle_range, self.hue_range = math.radians(angle_range), hue_range
        self.translation_range = translation_range
        self._motion = MotionRecord(translation_range > 0, translation_frame, pose)
        self.device = torch.device(device)
        self.cached = cache
        self._classes = torch.arange(objects) % classes
        self._names = tuple(f"solid-{index:02d}" for index in range(classes))
        prototypes = class_prototypes(classes, primitives, seed).select(self._classes)
        # The longest shift is to a corner of its cube.
        radius = BOUNDING_RADIUS - math.sqrt(3) * translation_range
        self._solids = jittered(prototypes, instance_jitter, seed, radius).to(self.device)
        self._reset_cache()

    def _reset_cache(self) -> None:
        stored = len(self._classes) * self.views if self.cached else 0
        self._pixels = torch.empty(stored, 3, self.size, self.size, dtype=torch.uint8, device=self.device)
        self._filled = np.zeros(stored, dtype=np.bool_)

    def __getstate__(self) -> dict[str, object]:
        """Everything but the cached pixels: they can be rendered again anywhere."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_pixels", "_filled")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._reset_cache()

    @property
    def view_counts(self) -> Indices:
        return np.full(len(self._classes), self.views, dtype=np.int64)

    @property
    def groups(self) -> dict[str, Group]:
        return {
            "rotation": Rotation(),
            "floor_hue": Circle(),
            "light_theta": Real(scale=math.pi / 4),
            "light_phi": Circle(2 * math.pi),
            "light_hue": Circle(),
            **self._motion.groups,
        }

    @property
    def labels(self) -> Labels:
        return Labels(self._classes, torch.ones(len(self._classes), dtype=torch.bool), self._names)

    @property
    def image_size(self) -> int:
        return self.size

    @property
    def preferred_workers(self) -> int:
        return 0

    def latents(self, objects: Indices, views: Indices) -> NDArray[np.float64]:
        """3DIEBench's latents `(B, 7)`: Euler angles x, y, z, floor hue, light theta, light phi, light hue; radians and
        turns.

        With translations they are 3DIEBench-T's, `(B, 10)`: three more columns for the shift along the object's own x,
        y, z.

        Raises:
            ValueError: if an object or a view does not exist.
        """
        objects, views = np.asarray(objects, dtype=np.int64), np.asarray(views, dtype=np.int64)
        _check_indices("object", objects, len(self._classes))
        _check_indices("view", views, self.views)
        shift = [self.translation_range] * 3 if self.translation_range else []
        low = np.array([-self.angle_range] * 3 + [0.0] * 4 + [-most for most in shift])
        high = np.array([self.angle_range] * 3 + [self.hue_range, math.pi / 4, 2 * math.pi, self.hue_range, *shift])
        unit = uniform(self.seed, VIEW_KEY, objects, views, count=len(low))
        latents: NDArray[np.float64] = low + (high - low) * unit
        return latents

    def load(self, objects: Indices, views: Indices) -> Images:
        latents = torch.from_numpy(self.latents(objects, views))
        rows = np.asarray(objects, dtype=np.int64)
        if self.cached:
            flat = rows * self.views + np.asarray(views, dtype=np.int64)
            self._fill(np.unique(flat[~self._filled[flat]]))
            pixels = self._pixels[torch.from_numpy(flat).to(self.device)]
        else:
            pixels = self._render(rows, _scenes(latents))
        return Images(pixels, self._transform(latents), self._readable(len(rows)))

    def record(self, objects: Indices, views: Indices) -> Transform:
        return self._transform(torch.from_numpy(self.latents(objects, views)))

    def masks(self, objects: Indices, views: Indices) -> Tensor:
        """1 where the object covers at least half of a pixel, and 0 on the floor."""
        rows, scenes = np.asarray(objects, dtype=np.int64), _scenes(torch.from_numpy(self.latents(objects, views)))
        scenes = scenes.map(lambda value: value.to(self.device))
        found = torch.empty(len(rows), self.size, self.size, dtype=torch.int64, device=self.device)
        for start in range(0, len(rows), self._chunk):
            some = slice(start, start + self._chunk)
            solids = self._solids.select(torch.from_numpy(rows[some]).to(self.device))
            found[some] = silhouettes(solids, scenes.map(itemgetter(some)), self.size, self.samples) >= 0.5
        return found

    @property
    def renders(self) -> bool:
        return True

    def render(self, objects: Indices, transform: Transform) -> Images:
        rows = np.asarray(objects, dtype=np.int64)
        _check_indices("object", rows, len(self._classes))
        # In float32 a quaternion has norm one to seven digits only, and its matrix would scale the object.
        rotation = torch.nn.functional.normalize(transform["rotation"].double(), dim=-1)
        light = [transform[name].double() for name in ("floor_hue", "light_theta", "light_phi", "light_hue")]
        scenes = replace(Scenes(rotation, *light), position=self._motion.position(rotation, transform))
        recorded = transform.only(list(self.groups)).to(self.device)
        return Images(self._render(rows, scenes), recorded, self._readable(len(rows)))

    def _readable(self, count: int) -> Tensor:
        return torch.ones(count, dtype=torch.bool, device=self.device)

    def all_latents(self) -> NDArray[np.float64]:
        """The latents of every view of every object, `(N, V, 7)` or `(N, V, 10)`; see `latents`."""
        objects = np.repeat(np.arange(len(self), dtype=np.int64), self.views)
        views = np.tile(np.arange(self.views, dtype=np.int64), len(self))
        return self.latents(objects, views).reshape(len(self), self.views, -1)

    def render_all(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Render every view into the cache; `progress` is called with the number of rendered views and of all views.

        Raises:
            ValueError: if the data set has no cache.
        """
        if not self.cached:
            raise ValueError("render_all needs a cache: set cache to true")
        missing = np.flatnonzero(~self._filled)
        for start in range(0, len(missing), self._chunk):
            self._fill(missing[start : start + self._chunk])
            if progress is not None:
                progress(int(self._filled.sum()), len(self._filled))

    @property
    def _chunk(self) -> int:
        samples = _SAMPLES_PER_CHUNK.get(self.device.type, _SAMPLES_PER_CHUNK["cpu"])
        return max(samples // (self.size * self.samples) ** 2, 1)

    def _fill(self, flat: Indices) -> None:
        """Render the views with these numbers, object by object, into the cache."""
        objects, views = flat // self.views, flat % self.views
        scenes = _scenes(torch.from_numpy(self.latents(objects, views)))
        self._pixels[torch.from_numpy(flat).to(self.device)] = self._render(objects, scenes)
        self._filled[flat] = True

    def _render(self, objects: Indices, scenes: Scenes) -> Tensor:
        """The pixels of objects in these scenes, `(B, 3, size, size)`."""
        pixels = torch.empty(len(objects), 3, self.size, self.size, dtype=torch.uint8, device=self.device)
        scenes = scenes.map(lambda value: value.to(self.device))
        for start in range(0, len(objects), self._chunk):
            rows = slice(start, start + self._chunk)
            solids = self._solids.select(torch.from_numpy(objects[rows]).to(self.device))
            pixels[rows] = render(solids, scenes.map(itemgetter(rows)), self.size, self.samples)
        return pixels

    def _transform(self, latents: Tensor) -> Transform:
        scenes = _scenes(latents)
        columns = {**vars(scenes), **self._motion.values(scenes.rotation, latents[:, 7:])}
        return Transform({name: columns[name].float().to(self.device) for name in self.groups}, self.groups)


def _scenes(latents: Tensor) -> Scenes:
    """The scenes with these latents `(B, 7)` or `(B, 10)`; see `RenderedSolids.latents`."""
    rotation, shift = quaternion_from_euler(latents[:, :3]), latents[:, 7:]
    scenes = Scenes(rotation, *latents[:, 3:7].unbind(1))
    return replace(scenes, position=quaternion_rotate(rotation, shift)) if shift.shape[1] else scenes


def rendered(
    *,
    classes: int = 55,
    objects: int = 5500,
    views: int = 50,
    size: int = 64,
    angle_range: float = 90.0,
    hue_range: float = 1.0,
    primitives: int = 5,
    instance_jitter: float = 0.15,
    samples: int = 1,
    translation_range: float = 0.0,
    translation_frame: Literal["object", "base"] = "object",
    pose: bool = False,
    cache: bool = True,
    validation_share: float = 0.2,
    seed: int = 0,
) -> Data:
    """Procedural solids with 3DIEBench's seven latents, or 3DIEBench-T's ten; narrower ranges and fewer classes make
    them easier.

    Args:
        classes: number of classes.
        objects: number of objects of both splits together, at least `classes`.
        views: views of every object.
        size: side of the images in pixels.
        angle_range: each Euler angle is uniform within plus or minus this many degrees, at most 180.
        hue_range: hues of floor and light are uniform within this part of the circle, from 0 to 1.
        primitives: boxes, ellipsoids, cylinders and cones of an object, at least 3.
        instance_jitter: how much the objects of a class differ, as a share of the sizes; below 1.
        samples: rays per pixel along each axis; 2 smooths the edges and costs three to four times as much.
        translation_range: each coordinate of an object's shift is uniform within plus or minus this, from 0 to 0.3; the
            frame shows a ball of radius 0.8, and objects are scaled down to stay in it.
        translation_frame: how shifts are recorded: `object` as `translation`, along the object's own axes; `base` as
            `position`, the object's place in the world.
        pose: whether rotation and shift, in that frame, are also recorded as one parameter `pose`; its step is the
            rigid motion from one view to the other.
        cache: whether to render every view once and keep it in memory; otherwise views are rendered each time.
        validation_share: share of the objects held out for validation.
        seed: decides objects, views and split.
    """
    source = RenderedSolids(
        classes,
        objects,
        views,
        size,
        angle_range,
        hue_range,
        primitives,
        instance_jitter,
        samples,
        translation_range,
        translation_frame,
        pose,
        cache,
        seed=seed,
    )
    train, validation = split_objects(objects, validation_share, seed)
    return Data(Subset(source, train), Subset(source, validation))


def _check_indices(what: str, indices: Indices, count: int) -> None:
    outside = indices[(indices < 0) | (indices >= count)]
    if len(outside):
        raise ValueError(f"there is no {what} {outside[0]}; the last one is {count - 1}")
