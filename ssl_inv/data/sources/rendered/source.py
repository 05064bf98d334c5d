"""The embedded data set: procedural solids with exact 3-D poses and light, rendered when they are asked for.

It needs no file and no download, has 3DIEBench's seven latents, and arguments set its difficulty. A class is a
prototype of several coloured primitives; an object is a jittered copy of its class. Like the categories of ShapeNet,
the classes share a canonical frame: the first primitive is a body stretched along x, and the others sit around it on
the same sides and in the same order of hues in every class. So shape and layout show the class, and colours show the
pose. No two primitives have the same place or colour, so no rotation maps an object onto itself.
"""

from operator import itemgetter
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ssl_inv.catalogue import SettingError, require_at_least, require_at_most, require_between
from ssl_inv.data.source import Data, Indices, Labels, Subset, split_objects
from ssl_inv.data.sources.rendered.objects import class_prototypes, jittered
from ssl_inv.data.sources.rendered.posed import PosedObjects, Poses, scenes_of
from ssl_inv.data.sources.rendered.renderer import Scenes, render, silhouettes
from ssl_inv.data.sources.rendered.surfaces import surfaces
from ssl_inv.transforms.annotations import Surface

_MOST_EACH = 1000
"""Primitives of an object, at most."""

_MOST_PRIMITIVES = 10_000_000
"""Of all objects together: they take some gigabytes."""

_SAMPLES_PER_CHUNK = {"cpu": 2**19, "cuda": 2**25}
"""Samples rendered together: on a CPU as many as fit in its cache, on a GPU enough to fill it."""


class RenderedSolids(PosedObjects):
    """Procedural solids: object i has class `i % classes` and `views` poses and lights, all functions of `seed`.

    Args:
        classes: number of classes.
        objects: number of objects, at least `classes`.
        views: views of every object, at most 100,000.
        size: side of the images in pixels, at most 4096; with `samples`, so many rays.
        angle_range: each Euler angle is uniform within plus or minus this many degrees, at most 180.
        angle_from: no Euler angle is closer to zero than this many degrees, below `angle_range`: angles that were never
            trained on, where training's `angle_range` was this.
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
        angle_from: float = 0.0,
    ) -> None:
        require_at_least(1, classes=classes)
        require_at_least(classes, objects=objects)
        require_at_least(3, primitives=primitives)
        require_at_most(_MOST_EACH, primitives=primitives)
        require_at_most(_MOST_PRIMITIVES // primitives, objects=objects)
        require_between(0, 0.99, instance_jitter=instance_jitter)
        shifts = (translation_range, translation_frame, pose)
        poses = Poses(views, size, angle_range, angle_from, hue_range, samples, *shifts, seed)
        gigabytes = objects * views * 3 * size**2 / 1e9
        if cache and gigabytes > cache_gigabytes:
            need = f"{objects} objects x {views} views at {size} pixels take {gigabytes:,.1f} GB"
            raise SettingError("cache", f"{need}, and {cache_gigabytes:g} GB are kept at most; set it to false")
        super().__init__(poses, np.arange(objects, dtype=np.int64), cache, device)
        self._classes = torch.arange(objects) % classes
        self._names = tuple(f"solid-{index:02d}" for index in range(classes))
        prototypes = class_prototypes(classes, primitives, seed).select(self._classes)
        self._solids = jittered(prototypes, instance_jitter, seed, poses.radius).to(self.device)

    @property
    def labels(self) -> Labels:
        return Labels(self._classes, torch.ones(len(self._classes), dtype=torch.bool), self._names)

    @property
    def preferred_workers(self) -> int:
        return 0

    def masks(self, objects: Indices, views: Indices) -> Tensor:
        """1 where the object covers at least half of a pixel, and 0 on the floor."""
        rows, scenes = np.asarray(objects, dtype=np.int64), scenes_of(torch.from_numpy(self.latents(objects, views)))
        scenes = scenes.map(lambda value: value.to(self.device))
        found = torch.empty(len(rows), self.size, self.size, dtype=torch.int64, device=self.device)
        for start in range(0, len(rows), self._chunk):
            some = slice(start, start + self._chunk)
            solids = self._solids.select(torch.from_numpy(rows[some]).to(self.device))
            found[some] = silhouettes(solids, scenes.map(itemgetter(some)), self.size, self.samples) >= 0.5
        return found

    def surface(self, objects: Tensor, views: Tensor, side: int) -> Surface:
        scenes = scenes_of(torch.from_numpy(self.latents(objects.numpy(), views.numpy())))
        solids = self._solids.select(objects.to(self.device))
        return surfaces(solids, scenes.map(lambda value: value.to(self.device)), side)

    @property
    def _chunk(self) -> int:
        samples = _SAMPLES_PER_CHUNK.get(self.device.type, _SAMPLES_PER_CHUNK["cpu"])
        return max(samples // (self.size * self.samples) ** 2, 1)

    def _render(self, objects: Indices, scenes: Scenes) -> Tensor:
        """The pixels of objects in these scenes, `(B, 3, size, size)`."""
        pixels = torch.empty(len(objects), 3, self.size, self.size, dtype=torch.uint8, device=self.device)
        scenes = scenes.map(lambda value: value.to(self.device))
        for start in range(0, len(objects), self._chunk):
            rows = slice(start, start + self._chunk)
            solids = self._solids.select(torch.from_numpy(objects[rows]).to(self.device))
            pixels[rows] = render(solids, scenes.map(itemgetter(rows)), self.size, self.samples)
        return pixels


def rendered(
    *,
    classes: int = 55,
    objects: int = 5500,
    views: int = 50,
    size: int = 64,
    angle_range: float = 90.0,
    angle_from: float = 0.0,
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
        views: views of every object, at most 100,000.
        size: side of the images in pixels, at most 4096; with `samples`, so many rays.
        angle_range: each Euler angle is uniform within plus or minus this many degrees, at most 180.
        angle_from: no Euler angle is closer to zero than this many degrees, below `angle_range`. Where a run was
            trained with an `angle_range` of 45, a value of 45 here gives angles that it has never seen.
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
        angle_from=angle_from,
    )
    train, validation = split_objects(objects, validation_share, seed)
    return Data(Subset(source, train), Subset(source, validation))
