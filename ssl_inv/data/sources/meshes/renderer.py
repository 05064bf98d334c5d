"""Views of meshes: the camera, floor, lights and colours of rendered solids, with rays cast by Embree.

The scene is that of `ssl_inv.data.sources.rendered.renderer`, and its constants are used. Shadows are those of the
mesh, on the floor and on the mesh itself, with hard edges. Every view is computed alone, from its own numbers, and by
operations that IEEE 754 rounds exactly (+ - * / sqrt, comparisons). So its pixels depend neither on other views nor on
their order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_inv.data.sources.meshes.casting import Caster, Vectors
from ssl_inv.data.sources.meshes.mesh import Colours, Numbers
from ssl_inv.data.sources.rendered.renderer import (
    AMBIENT,
    BEAM_RADIUS,
    BOUNDING_RADIUS,
    CAMERA_DISTANCE,
    FIELD,
    FLOOR_AMBIENT,
    FORWARD,
    LIGHT_STRENGTH,
    RIGHT,
    SHADOW_DEPTH,
    SUN,
    SUN_STRENGTH,
    UP,
    Scenes,
)
from ssl_inv.transforms.hsv import hsv_to_rgb
from ssl_inv.transforms.quaternions import quaternion_to_matrix

_FORWARD, _RIGHT, _UP, _SUN = (np.array(axis) for axis in (FORWARD, RIGHT, UP, SUN))

_CAMERA = -CAMERA_DISTANCE * _FORWARD


@dataclass(frozen=True)
class View:
    """One scene, float64.

    Attributes:
        to_object: `(3, 3)`, from the world's axes to the object's.
        position: `(3,)`, the object's origin in the world.
        light: `(3,)`, unit vector towards the light, in the world.
        light_colour: `(3,)`.
        floor_colour: `(3,)`, albedo.
    """

    to_object: Numbers
    position: Numbers
    light: Numbers
    light_colour: Numbers
    floor_colour: Numbers

    def turned(self, vector: Numbers) -> Numbers:
        """A vector `(3,)` of the world in the object's axes, summed in a fixed order."""
        columns = self.to_object * vector
        summed: Numbers = columns[:, 0] + columns[:, 1] + columns[:, 2]
        return summed

    @property
    def camera(self) -> Numbers:
        """The camera in the object's frame, `(3,)`."""
        return self.turned(_CAMERA - self.position)

    @property
    def axes(self) -> tuple[Numbers, Numbers, Numbers]:
        """The camera's axes forward, right and up, in the object's."""
        return self.turned(_FORWARD), self.turned(_RIGHT), self.turned(_UP)


def views_of(scenes: Scenes) -> Iterator[View]:
    """The scenes, one by one."""
    # The transpose of the rotation is its inverse.
    matrix = quaternion_to_matrix(scenes.rotation).transpose(1, 2)
    position = torch.zeros(len(matrix), 3, dtype=torch.float64) if scenes.position is None else scenes.position
    floor = hsv_to_rgb(scenes.floor_hue, 0.6, 0.6)
    columns = (matrix, position, scenes.light_direction(), scenes.light_colour(), floor)
    for row in zip(*(column.double().numpy() for column in columns), strict=True):
        yield View(*row)


@dataclass(frozen=True)
class Hits:
    """The rays of a view that meet the mesh.

    Attributes:
        samples: `(R,)`, indices into the grid of samples, row by row.
        faces: `(R,)`.
        depths: `(R,)`, distance from the camera along its axis.
        points: where, in the object's frame.
        outward: unit vectors across the faces, on the side of the camera.
    """

    samples: NDArray[np.int64]
    faces: NDArray[np.int32]
    depths: Numbers
    points: Vectors
    outward: Vectors


def hits_of(caster: Caster, view: View, side: int) -> Hits:
    """What the rays through the middles of `side` x `side` samples meet."""
    forward, right, up = view.axes
    origin, grid = view.camera, _grid(side)
    columns, rows = _covered(caster, origin, view.axes, side)
    across, down = grid[columns], -grid[rows]
    rays = np.empty((len(down), len(across), 3), dtype=np.float32)
    for axis in range(3):
        rays[..., axis] = (forward[axis] + down * up[axis])[:, None] + across * right[axis]
    found = caster.first(origin, rays.reshape(-1, 3))
    seen = np.flatnonzero(found >= 0)
    row, column = np.divmod(seen, len(across))
    faces, low, over = found[seen], down[row], across[column]
    x, y, z = ((forward[axis] + low * up[axis]) + over * right[axis] for axis in range(3))
    depths, outward = caster.distances(faces, origin, (x, y, z))
    # Nothing is farther from the middle of the frame than the ball that the frame shows.
    depths = np.clip(depths, CAMERA_DISTANCE - BOUNDING_RADIUS, CAMERA_DISTANCE + BOUNDING_RADIUS)
    points = (origin[0] + x * depths, origin[1] + y * depths, origin[2] + z * depths)
    return Hits((rows.start + row) * side + columns.start + column, faces, depths, points, outward)


def _covered(caster: Caster, camera: Numbers, axes: tuple[Numbers, Numbers, Numbers], side: int) -> tuple[slice, slice]:
    """Columns and rows of the samples that can see the mesh."""
    x, y, z = (points - start for points, start in zip(caster.points, camera, strict=True))
    depth, right, up = (x * axis[0] + y * axis[1] + z * axis[2] for axis in axes)
    scale = side / (2 * FIELD) / depth
    ends = []
    for place in (right * scale, -up * scale):
        first, last = int(np.floor(place.min() + side / 2)), int(np.floor(place.max() + side / 2))
        ends.append(slice(min(max(first, 0), side - 1), min(max(last, 0), side - 1) + 1))
    return ends[0], ends[1]


@lru_cache(maxsize=8)
def _grid(side: int) -> Numbers:
    """Tangents of the angles from the axis of the camera to the middles of samples, `(side,)`."""
    grid: Numbers = ((np.arange(side) + 0.5) * 2 / side - 1) * FIELD
    return grid


@lru_cache(maxsize=8)
def _floor(side: int) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """World x and y of the floor behind every sample, their squared distance from the origin, and its depth; each
    `(side**2,)`.
    """
    grid = _grid(side)
    rays = (_FORWARD + grid[None, :, None] * _RIGHT - grid[:, None, None] * _UP).reshape(-1, 3)
    depths: Numbers = (-BOUNDING_RADIUS - _CAMERA[2]) / rays[:, 2]
    x, y = (_CAMERA[axis] + rays[:, axis] * depths for axis in (0, 1))
    return x, y, x * x + y * y + BOUNDING_RADIUS**2, depths


def _light_on_floor(caster: Caster, view: View, free: NDArray[np.bool_], side: int, radius: float) -> Numbers:
    """Share of the light's beam that reaches the floor behind every sample, `(side**2,)`; without shadow where the mesh
    hides the floor.
    """
    x, y, squared, _ = _floor(side)
    light, at = view.light, view.position
    along = x * light[0] + y * light[1] + -BOUNDING_RADIUS * light[2]
    share: Numbers = np.maximum(1 - (squared - along * along) * (1 / BEAM_RADIUS**2), 0)
    # Only points whose way to the light passes through the ball around the mesh can lie in its shadow.
    own = along - float(at[0] * light[0] + at[1] * light[1] + at[2] * light[2])
    length = float(at[0] * at[0] + at[1] * at[1] + at[2] * at[2]) + 2 * BOUNDING_RADIUS * at[2]
    from_object = squared - (x * (2 * at[0]) + y * (2 * at[1])) + length
    near = np.flatnonzero((from_object - own * own < radius * radius) & free)
    east, north, height = x[near] - at[0], y[near] - at[1], -BOUNDING_RADIUS - at[2]
    turn = view.to_object
    a, b, c = (turn[axis, 0] * east + turn[axis, 1] * north + turn[axis, 2] * height for axis in range(3))
    share[near] *= 1 - SHADOW_DEPTH * caster.occluded((a, b, c), view.turned(light))
    return share


def _on_mesh(caster: Caster, view: View, hits: Hits) -> list[Numbers]:
    """The red, green and blue that the rays of `hits` bring back, `(R,)` each."""
    towards = view.turned(view.light)
    light = np.maximum(_along(hits.outward, towards), 0)
    lit = np.flatnonzero(light)
    (x, y, z), (u, v, w) = (tuple(axis[lit] for axis in vectors) for vectors in (hits.points, hits.outward))
    light[lit] *= 1 - SHADOW_DEPTH * caster.shaded((x, y, z), (u, v, w), towards)
    fill = _along(hits.outward, view.turned(_SUN)) * (SUN_STRENGTH / 2) + (AMBIENT + SUN_STRENGTH / 2)
    albedo = _albedo(caster, hits)
    return [albedo[channel] * (fill + light * (LIGHT_STRENGTH * view.light_colour[channel])) for channel in range(3)]


def _along(vectors: Vectors, axis: Numbers) -> Numbers:
    summed: Numbers = vectors[0] * axis[0] + vectors[1] * axis[1] + vectors[2] * axis[2]
    return summed


def _albedo(caster: Caster, hits: Hits) -> Numbers:
    """Colours in [0, 1] at the hits, `(3, R)`."""
    mesh = caster.mesh
    colours: Numbers = mesh.colours[hits.faces].astype(np.float64) * (1 / 255)
    if mesh.colours.ndim == 2 and mesh.corners is None:
        return colours.T
    weights = caster.weights(hits.faces, hits.points)
    if mesh.colours.ndim == 3:
        colours = _mixed(colours, weights)
    if mesh.corners is not None and mesh.texture is not None:
        places = _mixed(mesh.corners[hits.faces].astype(np.float64), weights)
        chosen = mesh.texture[hits.faces]
        for number, texture in enumerate(mesh.textures):
            here = np.flatnonzero(chosen == number)
            colours[here] *= _looked_up(texture, places[here]) * (1 / 255)
    return colours.T


def _mixed(corners: Numbers, weights: Numbers) -> Numbers:
    """Values at three corners `(R, 3, C)`, mixed by weights `(R, 3)`."""
    first, second, third = (corners[:, corner] * weights[:, corner, None] for corner in range(3))
    mixed: Numbers = first + second + third
    return mixed


def _looked_up(texture: Colours, places: Numbers) -> Colours:
    """The pixels of a texture that repeats without end at places `(R, 2)`, from its lower left corner on."""
    height, width = texture.shape[:2]
    place = places - np.floor(places)
    column = np.minimum((place[:, 0] * width).astype(np.int64), width - 1)
    row = np.minimum(((1 - place[:, 1]) * height).astype(np.int64), height - 1)
    found: Colours = texture[row, column]
    return found


def render(caster: Caster, view: View, size: int, samples: int, radius: float) -> Colours:
    """An image of a mesh.

    Args:
        caster: the mesh.
        view: pose and light.
        size: side of the image in pixels.
        samples: rays per pixel along each axis.
        radius: of the ball around the mesh.

    Returns:
        `(3, size, size)`, uint8.
    """
    side = size * samples
    hits = hits_of(caster, view, side)
    free = np.ones(side * side, dtype=np.bool_)
    free[hits.samples] = False
    light = _light_on_floor(caster, view, free, side, radius)
    pixels = np.empty((3, size, size), dtype=np.uint8)
    for channel, coloured in enumerate(_on_mesh(caster, view, hits)):
        ground = view.floor_colour[channel]
        colour = light * (ground * view.light_colour[channel] * view.light[2]) + ground * FLOOR_AMBIENT
        colour[hits.samples] = coloured
        np.minimum(colour, 1.0, out=colour)
        pixels[channel] = _per_pixel(colour.reshape(side, side), samples) * 255 + 0.5
    return pixels


def coverage(caster: Caster, view: View, size: int, samples: int) -> Numbers:
    """The share of each pixel that the mesh covers in `render`, `(size, size)`."""
    side = size * samples
    covered = np.zeros(side * side)
    covered[hits_of(caster, view, side).samples] = 1
    return _per_pixel(covered.reshape(side, side), samples)


def _per_pixel(grid: Numbers, samples: int) -> Numbers:
    """Means over the samples of each pixel, added in a fixed order: from `(S * samples, S * samples)`."""
    if samples == 1:
        return grid
    rows = grid[::samples]
    for row in range(1, samples):
        rows = rows + grid[row::samples]
    total = rows[:, ::samples]
    for column in range(1, samples):
        total = total + rows[:, column::samples]
    return total * (1 / samples**2)


def surface(caster: Caster, view: View, size: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """What the rays through the middles of pixels meet.

    Returns:
        The distance from the camera along its axis, `(size, size)`, also of the floor; and the face, or -1 on the
        floor, `(size, size)`.
    """
    hits = hits_of(caster, view, size)
    depths, faces = _floor(size)[3].astype(np.float32), np.full(size * size, -1, dtype=np.int32)
    depths[hits.samples], faces[hits.samples] = hits.depths, hits.faces
    return depths.reshape(size, size), faces.reshape(size, size)
