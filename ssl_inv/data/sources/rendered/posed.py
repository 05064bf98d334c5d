"""Objects in poses and lights that a key decides: what rendered solids and rendered meshes have in common."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.catalogue import SettingError, require_at_least, require_at_most, require_between
from ssl_inv.data.latents import Frame, MotionRecord
from ssl_inv.data.source import Images, Indices, Source
from ssl_inv.data.sources.rendered.objects import VIEW_KEY
from ssl_inv.data.sources.rendered.renderer import BOUNDING_RADIUS, Scenes
from ssl_inv.transforms import Circle, Group, Real, Rotation, Transform
from ssl_inv.transforms.keyed_random import uniform
from ssl_inv.transforms.quaternions import quaternion_from_euler, quaternion_rotate

MOST_RAYS = 4096
"""Rays along a side of a view, at most. A view of so many takes four gigabytes while it is rendered."""

MOST_VIEWS = 100_000
"""Views of an object, at most: 3DIEBench has 50."""

MOST_LATENTS = 50_000_000
"""Views of all objects whose latents are made at once, at most: they take some gigabytes."""

MOST_SHIFT = 0.3
"""Largest coordinate of a shift: the frame shows a ball of radius 0.8."""


@dataclass(frozen=True)
class Poses:
    """How many views objects have, of which size, and where poses and lights are drawn from; see `RenderedSolids`.

    Raises:
        SettingError: if a number is out of its range.
        ValueError: if a pose is to be recorded of objects that are not shifted.
    """

    views: int = 50
    size: int = 64
    angle_range: float = 90.0
    angle_from: float = 0.0
    hue_range: float = 1.0
    samples: int = 1
    translation_range: float = 0.0
    translation_frame: Frame = "object"
    pose: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, views=self.views, samples=self.samples)
        require_at_least(8, size=self.size)
        require_at_most(MOST_VIEWS, views=self.views)
        require_at_most(MOST_RAYS, size=self.size)
        if (rays := self.size * self.samples) > MOST_RAYS:
            what = f"{self.samples:,} rays along each of {self.size:,} pixels are {rays:,}, more than {MOST_RAYS:,}"
            raise SettingError("samples", f"{what}; at this size it can be {MOST_RAYS // self.size} at most")
        require_between(0, 180, angle_range=self.angle_range)
        if not 0 <= self.angle_from < self.angle_range and self.angle_from != 0:
            bound = f"must be at least 0 and below angle_range, {self.angle_range:g}"
            raise SettingError("angle_from", f"{bound}, got {self.angle_from:g}")
        require_between(0, 1, hue_range=self.hue_range)
        require_between(0, MOST_SHIFT, translation_range=self.translation_range)
        self.motion()

    def motion(self) -> MotionRecord:
        """How shifts are recorded."""
        return MotionRecord(self.translation_range > 0, self.translation_frame, self.pose)

    @property
    def radius(self) -> float:
        """The bounding radius of all objects. The longest shift is to a corner of its cube."""
        return BOUNDING_RADIUS - math.sqrt(3) * self.translation_range


class PosedObjects(Source):
    """Base of the sources that render objects when they are asked for, with 3DIEBench's seven latents or 3DIEBench-T's
    ten. A view is a function of the seed, the object and the number of the view.

    Args:
        poses: of all views.
        keys: what stands for every object in the key of its views, `(N,)`.
        cached: whether to keep every rendered view, as uint8 on `device`.
        device: where views are rendered and returned.

    Attributes:
        cached: whether rendered views are kept.
    """

    def __init__(self, poses: Poses, keys: Indices, cached: bool, device: str = "cpu") -> None:
        self.poses, self.cached, self.device = poses, cached, torch.device(device)
        self.size, self.views, self.samples, self.seed = poses.size, poses.views, poses.samples, poses.seed
        self._keys, self._motion = keys, poses.motion()
        self._reset_cache()

    @abstractmethod
    def _render(self, objects: Indices, scenes: Scenes) -> Tensor:
        """The pixels of objects in these scenes, `(B, 3, size, size)`, uint8."""

    @property
    @abstractmethod
    def _chunk(self) -> int:
        """How many views are best rendered together."""

    def _readable(self, objects: Indices) -> Tensor:
        """Which of some objects could be rendered, `(B,)`; asked after `_render`."""
        return torch.ones(len(objects), dtype=torch.bool, device=self.device)

    def _reset_cache(self) -> None:
        stored = len(self._keys) * self.views if self.cached else 0
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
        return np.full(len(self._keys), self.views, dtype=np.int64)

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
    def image_size(self) -> int:
        return self.size

    def latents(self, objects: Indices, views: Indices) -> NDArray[np.float64]:
        """3DIEBench's latents `(B, 7)`: Euler angles x, y, z, floor hue, light theta, light phi, light hue; radians and
        turns.

        With translations they are 3DIEBench-T's, `(B, 10)`: three more columns for the shift along the object's own x,
        y, z.

        Raises:
            ValueError: if an object or a view does not exist.
        """
        objects, views = np.asarray(objects, dtype=np.int64), np.asarray(views, dtype=np.int64)
        check_indices("object", objects, len(self._keys))
        check_indices("view", views, self.views)
        poses = self.poses
        shift = [poses.translation_range] * 3 if poses.translation_range else []
        most, least = math.radians(poses.angle_range), math.radians(poses.angle_from)
        low = np.array([-most] * 3 + [0.0] * 4 + [-each for each in shift])
        high = np.array([most] * 3 + [poses.hue_range, math.pi / 4, 2 * math.pi, poses.hue_range, *shift])
        unit = uniform(self.seed, VIEW_KEY, self._keys[objects], views, count=len(low))
        latents: NDArray[np.float64] = low + (high - low) * unit
        if least > 0:
            signed = 2 * unit[:, :3] - 1
            latents[:, :3] = np.where(signed < 0, -1.0, 1.0) * (least + (most - least) * np.abs(signed))
        return latents

    def record(self, objects: Indices, views: Indices) -> Transform:
        return self._transform(torch.from_numpy(self.latents(objects, views)))

    def load(self, objects: Indices, views: Indices) -> Images:
        latents = torch.from_numpy(self.latents(objects, views))
        rows = np.asarray(objects, dtype=np.int64)
        if self.cached:
            flat = rows * self.views + np.asarray(views, dtype=np.int64)
            self._fill(np.unique(flat[~self._filled[flat]]))
            pixels = self._pixels[torch.from_numpy(flat).to(self.device)]
        else:
            pixels = self._render(rows, scenes_of(latents))
        return Images(pixels, self._transform(latents), self._readable(rows))

    @property
    def renders(self) -> bool:
        return True

    def render(self, objects: Indices, transform: Transform) -> Images:
        rows = np.asarray(objects, dtype=np.int64)
        check_indices("object", rows, len(self._keys))
        # In float32 a quaternion has norm one to seven digits only, and its matrix would scale the object.
        rotation = torch.nn.functional.normalize(transform["rotation"].double(), dim=-1)
        light = [transform[name].double() for name in ("floor_hue", "light_theta", "light_phi", "light_hue")]
        scenes = replace(Scenes(rotation, *light), position=self._motion.position(rotation, transform))
        recorded = transform.only(list(self.groups)).to(self.device)
        return Images(self._render(rows, scenes), recorded, self._readable(rows))

    def all_latents(self) -> NDArray[np.float64]:
        """The latents of every view of every object, `(N, V, 7)` or `(N, V, 10)`; see `latents`.

        Raises:
            SettingError: if there are too many views.
        """
        if (total := len(self) * self.views) > MOST_LATENTS:
            what = (
                f"{self.views:,} of {len(self):,} objects are {total:,}, more than the {MOST_LATENTS:,} written at once"
            )
            raise SettingError("views", what)
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

    def _fill(self, flat: Indices) -> None:
        """Render the views with these numbers, object by object, into the cache."""
        objects, views = flat // self.views, flat % self.views
        scenes = scenes_of(torch.from_numpy(self.latents(objects, views)))
        self._pixels[torch.from_numpy(flat).to(self.device)] = self._render(objects, scenes)
        self._filled[flat] = True

    def _transform(self, latents: Tensor) -> Transform:
        scenes = scenes_of(latents)
        columns = {**vars(scenes), **self._motion.values(scenes.rotation, latents[:, 7:])}
        return Transform({name: columns[name].float().to(self.device) for name in self.groups}, self.groups)


def scenes_of(latents: Tensor) -> Scenes:
    """The scenes with these latents `(B, 7)` or `(B, 10)`; see `PosedObjects.latents`."""
    rotation, shift = quaternion_from_euler(latents[:, :3]), latents[:, 7:]
    scenes = Scenes(rotation, *latents[:, 3:7].unbind(1))
    return replace(scenes, position=quaternion_rotate(rotation, shift)) if shift.shape[1] else scenes


def check_indices(what: str, indices: Indices, count: int) -> None:
    """Refuse numbers of objects or views that do not exist, by a `ValueError`."""
    outside = indices[(indices < 0) | (indices >= count)]
    if len(outside):
        raise ValueError(f"there is no {what} {outside[0]}; the last one is {count - 1}")
