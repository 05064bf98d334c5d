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

from ssl_inv.data.sources.meshes.casting import Caster
from ssl_inv.data.sources.meshes.mesh import Colours, Mesh, Numbers
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
    """One scene in the axes of the object, float64.

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
        """Vectors `(..., 3)` of the world in the object's axes."""
        return _apply(self.to_object, vector)

    def placed(self, points: Numbers) -> Numbers:
        """Points `(..., 3)` of the world in the object's frame."""
        return self.turned(points - self.position)


def views_of(scenes: Scenes) -> Iterator[View]:
    """The scenes, one by one."""
    # The transpose of the rotation: its inverse.
    matrix = quaternion_to_matrix(scenes.rotation).transpose(1, 2)
    position = torch.zeros(len(matrix), 3, dtype=torch.float64) if scenes.position is None else scenes.position
    floor = hsv_to_rgb(scenes.floor_hue, 0.6, 0.6)
    columns = (matrix, position, scenes.light_direction(), scenes.light_colour(), floor)
    for row in zip(*(column.double().numpy() for column in columns), strict=True):
        yield View(*row)


def _apply(matrix: Numbers, vector: Numbers) -> Numbers:
    """A matrix `(3, 3)` times vectors `(..., 3)`, summed in a fixed order."""
    x, y, z = vector[..., 0, None], vector[..., 1, None], vector[..., 2, None]
    summed: Numbers = x * matrix[:, 0] + y * matrix[:, 1] + z * matrix[:, 2]
    return summed


@dataclass(frozen=True)
class Hits:
    """The rays of a view that meet the mesh.

    Attributes:
        samples: `(R,)`, indices into the grid of samples, row by row.
        faces: `(R,)`.
        directions: `(R, 3)`, in the object's axes; their length along the camera's axis is one.
        depths: `(R,)`, distance from the camera along its axis.
    """

    samples: NDArray[np.int64]
    faces: NDArray[np.int32]
    directions: Numbers
    depths: Numbers


def hits_of(caster: Caster, view: View, side: int) -> Hits:
    """What the rays through the middles of `side` x `side` samples meet."""
    columns, rows = _covered(caster.mesh, view, side)
    across, down = _grid(side)[columns], -_grid(side)[rows]
    forward, right, up = (view.turned(axis) for axis in (_FORWARD, _RIGHT, _UP))
    directions = ((forward + down[:, None] * up)[:, None] + across[:, None] * right).reshape(-1, 3)
    origin = view.placed(_CAMERA)
    faces = caster.first(origin, directions)
    seen = np.flatnonzero(faces >= 0)
    faces, directions = faces[seen], directions[seen]
    width = columns.stop - columns.start
    samples = (rows.start + seen // width) * side + columns.start + seen % width
    # No point of the mesh is farther from the middle of the frame than the ball that the frame shows.
    near, far = CAMERA_DISTANCE - BOUNDING_RADIUS, CAMERA_DISTANCE + BOUNDING_RADIUS
    return Hits(samples, faces, directions, np.clip(caster.distances(faces, origin, directions), near, far))


def _covered(mesh: Mesh, view: View, side: int) -> tuple[slice, slice]:
    """Columns and rows of the samples that can see the mesh."""
    forward, right, up = (view.turned(axis) for axis in (_FORWARD, _RIGHT, _UP))
    from_camera = mesh.vertices - view.placed(_CAMERA)

    def along(axis: Numbers) -> Numbers:
        found: Numbers = from_camera[:, 0] * axis[0] + from_camera[:, 1] * axis[1] + from_camera[:, 2] * axis[2]
        return found

    per_depth = side / (2 * FIELD) / along(forward)
    ends = []
    for place in (along(right) * per_depth, -along(up) * per_depth):
        first, last = int(np.floor(place.min() + side / 2)), int(np.floor(place.max() + side / 2))
        ends.append(slice(min(max(first, 0), side - 1), min(max(last, 0), side - 1) + 1))
    return ends[0], ends[1]


@lru_cache(maxsize=8)
def _grid(side: int) -> Numbers:
    """Tangents of the angles from the axis of the camera to the middles of samples, `(side,)`."""
    grid: Numbers = ((np.arange(side) + 0.5) * 2 / side - 1) * FIELD
    return grid


@lru_cache(maxsize=8)
def _floor(side: int) -> tuple[Numbers, Numbers]:
    """World coordinates `(side**2, 3)` of the floor behind every sample, and its depth `(side**2,)`."""
    grid = _grid(side)
    rays = (_FORWARD + grid[None, :, None] * _RIGHT - grid[:, None, None] * _UP).reshape(-1, 3)
    depths: Numbers = (-BOUNDING_RADIUS - _CAMERA[2]) / rays[:, 2]
    return _CAMERA + rays * depths[:, None], depths


def _albedo(caster: Caster, faces: NDArray[np.int32], points: Numbers) -> Numbers:
    """Colours in [0, 1] of points `(R, 3)` on their faces."""
    mesh = caster.mesh
    if mesh.colours.ndim == 2 and mesh.corners is None:
        return mesh.colours[faces] * (1 / 255)
    weights = caster.weights(faces, points)
    colours: Numbers = (
        mesh.colours[faces] * (1 / 255) if mesh.colours.ndim == 2 else _mixed(mesh.colours[faces] * (1 / 255), weights)
    )
    if mesh.corners is None or mesh.texture is None:
        return colours
    places, chosen = _mixed(mesh.corners[faces].astype(np.float64), weights), mesh.texture[faces]
    for number, texture in enumerate(mesh.textures):
        here = np.flatnonzero(chosen == number)
        if len(here):
            colours[here] *= _looked_up(texture, places[here]) * (1 / 255)
    return colours


def _mixed(corners: Numbers, weights: Numbers) -> Numbers:
    """Values at three corners `(R, 3, C)`, mixed by weights `(R, 3)`."""
    mixed: Numbers = sum(
        (corners[:, corner] * weights[:, corner, None] for corner in (1, 2)), corners[:, 0] * weights[:, 0, None]
    )
    return mixed


def _looked_up(texture: Colours, places: Numbers) -> Colours:
    """The pixels of a texture that repeats without end at places `(R, 2)`, from its lower left corner on."""
    height, width = texture.shape[:2]
    place = places - np.floor(places)
    column = np.minimum((place[:, 0] * width).astype(np.int64), width - 1)
    row = np.minimum(((1 - place[:, 1]) * height).astype(np.int64), height - 1)
    return texture[row, column]


def _on_mesh(caster: Caster, view: View, hits: Hits) -> Numbers:
    """The colours that the rays of `hits` bring back, `(R, 3)`."""
    normals = caster.normals[hits.faces]
    away = _dot(normals, hits.directions)
    outward = normals * np.where(away > 0, -1.0, 1.0)[:, None]
    points = view.placed(_CAMERA) + hits.directions * hits.depths[:, None]
    towards = view.turned(view.light)
    light = np.maximum(_scaled(outward, towards), 0)
    lit = np.flatnonzero(light)
    light[lit] *= 1 - SHADOW_DEPTH * caster.shaded(points[lit], outward[lit], towards)
    fill = _scaled(outward, view.turned(_SUN)) * (SUN_STRENGTH / 2) + (AMBIENT + SUN_STRENGTH / 2)
    shade = fill[:, None] + light[:, None] * (LIGHT_STRENGTH * view.light_colour)
    coloured: Numbers = _albedo(caster, hits.faces, points) * shade
    return coloured


def _dot(first: Numbers, second: Numbers) -> Numbers:
    added: Numbers = first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1] + first[:, 2] * second[:, 2]
    return added


def _scaled(vectors: Numbers, axis: Numbers) -> Numbers:
    added: Numbers = vectors[:, 0] * axis[0] + vectors[:, 1] * axis[1] + vectors[:, 2] * axis[2]
    return added


def _light_on_floor(caster: Caster, view: View, points: Numbers, radius: float) -> Numbers:
    """Share of the light's beam that reaches points of the floor `(R, 3)`."""
    light = view.light
    along = _scaled(points, light)
    beam = _dot(points, points) - along * along
    share = np.maximum(1 - beam * (1 / BEAM_RADIUS**2), 0)
    # Only points whose way to the light passes through the ball around the mesh can lie in its shadow.
    from_object = points - view.position
    passing = _scaled(from_object, light)
    near = np.flatnonzero(_dot(from_object, from_object) - passing * passing < radius * radius)
    hidden = caster.occluded(view.placed(points[near]), view.turned(light))
    share[near] *= 1 - SHADOW_DEPTH * hidden
    return share


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
    colours = np.empty((side * side, 3))
    free = np.ones(side * side, dtype=np.bool_)
    free[hits.samples] = False
    ground = np.flatnonzero(free)
    light = _light_on_floor(caster, view, _floor(side)[0][ground], radius)
    strength = view.floor_colour * view.light_colour * view.light[2]
    colours[ground] = light[:, None] * strength + view.floor_colour * FLOOR_AMBIENT
    colours[hits.samples] = _on_mesh(caster, view, hits)
    np.minimum(colours, 1.0, out=colours)
    image = _per_pixel(colours.reshape(side, side, 3), samples) * 255 + 0.5
    return np.ascontiguousarray(image.astype(np.uint8).transpose(2, 0, 1))


def coverage(caster: Caster, view: View, size: int, samples: int) -> Numbers:
    """The share of each pixel that the mesh covers in `render`, `(size, size)`."""
    side = size * samples
    covered = np.zeros(side * side)
    covered[hits_of(caster, view, side).samples] = 1
    return _per_pixel(covered.reshape(side, side, 1), samples)[..., 0]


def _per_pixel(grid: Numbers, samples: int) -> Numbers:
    """Means over the samples of each pixel, added in a fixed order: from `(S * samples, S * samples, C)`."""
    if samples == 1:
        return grid
    total = np.zeros((len(grid) // samples, len(grid) // samples, grid.shape[2]))
    for row in range(samples):
        for column in range(samples):
            total += grid[row::samples, column::samples]
    return total * (1 / samples**2)


def surface(caster: Caster, view: View, size: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """What the rays through the middles of pixels meet.

    Returns:
        The distance from the camera along its axis, `(size, size)`, also of the floor; and the face, or -1 on the
        floor, `(size, size)`.
    """
    hits = hits_of(caster, view, size)
    depths, faces = _floor(size)[1].astype(np.float32), np.full(size * size, -1, dtype=np.int32)
    depths[hits.samples], faces[hits.samples] = hits.depths, hits.faces
    return depths.reshape(size, size), faces.reshape(size, size)
