"""Ray tracer for solids of coloured primitives: closed-form intersections and light, in batched tensor operations.

The scene is 3DIEBench's: a fixed camera at distance 2.5 looks down at 45 degrees on an object above a coloured floor. A
coloured light moves on a cap of the sky. Every primitive is the image of a unit shape (sphere, cube or frustum) under a
scaling, a rotation and a shift. Rays are mapped into the frame of the unit shape; the intersection there is a quadratic
or a slab test. Only the image tiles that a primitive's bounding box covers are traced.

Pixels of a view do not depend on its batch: the operations per ray are exactly rounded by IEEE 754 (+ - * / sqrt,
comparisons). There are no matrix products and no sums over an axis, because their order could change with the batch.
Numbers per view are computed in float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ssl_inv.data.sources.rendered.rays import dot, hit_cube, hit_frustum, hit_sphere
from ssl_inv.transforms.hsv import hsv_to_rgb
from ssl_inv.transforms.quaternions import quaternion_to_matrix

ELLIPSOID, BOX, CYLINDER, CONE = range(4)

KINDS = ("ellipsoid", "box", "cylinder", "cone")

CAMERA_DISTANCE = 2.5

BOUNDING_RADIUS = 0.8
"""All objects have this bounding radius. The floor lies as far below the origin, so that no pose touches it."""

FIELD = BOUNDING_RADIUS / math.sqrt(CAMERA_DISTANCE**2 - BOUNDING_RADIUS**2)
"""Tangent of half the field of view: the bounding sphere fills the frame."""

_DIAGONAL = math.sqrt(0.5)

FORWARD, RIGHT, UP = (0.0, -_DIAGONAL, -_DIAGONAL), (-1.0, 0.0, 0.0), (0.0, -_DIAGONAL, _DIAGONAL)
"""The camera's axes in the world, whose z points up: polar angle 45 degrees, azimuth 90 degrees."""

SUN = (-0.48, 0.60, 0.64)
"""Direction to the white fill light, beside the camera. It is fixed, so that the faces of a solid differ under every
coloured light."""

AMBIENT, SUN_STRENGTH, LIGHT_STRENGTH = 0.15, 0.45, 0.60

FLOOR_AMBIENT = 0.45

TINT = 0.5
"""Share of the light that has its hue. The rest is white, so that the object's colours stay visible under every hue."""

BEAM_RADIUS = 3.0
"""Distance from the axis of the light at which its intensity is zero; the light makes a pool on the floor."""

SHADOW_DEPTH = 0.75

SHADOW_SOFTNESS = 1.3
"""Radius of the soft shadow of a primitive, in multiples of the root mean square of its half sizes."""

TILE = 8

_NO_HIT = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Solids:
    """Objects, each made of P primitives; one row per object, float64.

    Attributes:
        kinds: `(N, P)`, int64, indices into `KINDS`. Cylinders and cones stand along z, a cone's tip at positive z.
        half_sizes: `(N, P, 3)`, half the extent along the primitive's own axes.
        positions: `(N, P, 3)`, the centres of the primitives' boxes in the object's frame.
        orientations: `(N, P, 3, 3)`, rotations from the primitives' axes to the object's.
        colours: `(N, P, 3)`, albedo, RGB in [0, 1].
    """

    kinds: Tensor
    half_sizes: Tensor
    positions: Tensor
    orientations: Tensor
    colours: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "Solids":
        """The objects with `change` applied to every tensor."""
        return Solids(**{name: change(value) for name, value in vars(self).items()})

    def select(self, rows: Tensor) -> "Solids":
        """Some of the objects, in the order of `rows`."""
        return self.map(lambda value: value[rows])

    def to(self, device: torch.device) -> "Solids":
        return self.map(lambda value: value.to(device))


@dataclass(frozen=True)
class Scenes:
    """Pose and light of B objects, float64; hues in turns, angles in radians.

    Attributes:
        rotation: `(B, 4)`, unit quaternions from the object's frame to the world.
        floor_hue: `(B,)`; the floor has saturation and value 0.6.
        light_theta: `(B,)`, angle of the light from the vertical, below pi / 2.
        light_phi: `(B,)`, azimuth of the light.
        light_hue: `(B,)`.
        position: `(B, 3)`, the object's origin in the world; None: the world's origin.
    """

    rotation: Tensor
    floor_hue: Tensor
    light_theta: Tensor
    light_phi: Tensor
    light_hue: Tensor
    position: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Scenes":
        """The scenes with `change` applied to every tensor."""
        return replace(self, **{name: change(value) for name, value in vars(self).items() if value is not None})

    def place(self, points: Tensor) -> Tensor:
        """Points `(B, P, 3)` of the objects in the world."""
        turned = apply(quaternion_to_matrix(self.rotation)[:, None], points)
        return turned if self.position is None else turned + self.position[:, None]

    def light_direction(self) -> Tensor:
        """Unit vectors towards the light, `(B, 3)`."""
        sine = self.light_theta.sin()
        return torch.stack((sine * self.light_phi.cos(), sine * self.light_phi.sin(), self.light_theta.cos()), dim=-1)

    def light_colour(self) -> Tensor:
        """RGB of the light, `(B, 3)`: white blended with the pure hue."""
        return (1 - TINT) + TINT * hsv_to_rgb(self.light_hue, 1.0, 1.0)


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices `(..., 3, 3)` times vectors `(..., 3)`, summed in a fixed order whatever the batch."""
    parts = matrix * vector[..., None, :]
    return parts[..., 0] + parts[..., 1] + parts[..., 2]


@dataclass(frozen=True)
class _Posed:
    """The primitives of a batch in the world, one row per primitive, ordered by kind.

    Attributes:
        kinds: `(M,)`, ascending.
        views: `(M,)`, the view of each.
        table: `(27, M)`, float32: origin, three terms of the ray direction (constant, per column, per row), reciprocal
            half sizes, direction to the light and to the sun, all in the frame of the unit shape (3 rows each), then
            the colours under the fill light and under the coloured light (3 rows each).
        start: `(M, 2)`, first column and row of the samples that the primitive's box covers.
        tiles: `(M, 2)`, number of tiles along columns and rows that cover the box.
    """

    kinds: Tensor
    views: Tensor
    table: Tensor
    start: Tensor
    tiles: Tensor


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Numbers as a tensor of the type and on the device of another."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def pose(solids: Solids, scenes: Scenes, side: int) -> _Posed:
    """The primitives as seen by the camera on a grid of `side` x `side` samples."""
    primitives = solids.kinds.shape[1]
    object_axes = quaternion_to_matrix(scenes.rotation)[:, None]
    turned = (object_axes[..., :, :, None] * solids.orientations[..., None, :, :]).unbind(-2)
    axes = (turned[0] + turned[1] + turned[2]).flatten(0, 1)
    centre = scenes.place(solids.positions).flatten(0, 1)
    half, kinds = solids.half_sizes.flatten(0, 1), solids.kinds.flatten()
    # A stable sort: the order of the primitives of one view depends on that view alone.
    order = torch.argsort(kinds, stable=True)
    axes, centre, half, kinds = axes[order], centre[order], half[order], kinds[order]
    views = order // primitives
    forward, right, up = (constant(axis, half) for axis in (FORWARD, RIGHT, UP))
    camera = -CAMERA_DISTANCE * forward
    step = 2 * FIELD / side
    corner = forward + (step / 2 - FIELD) * right + (FIELD - step / 2) * up
    inverse_axes = axes.transpose(-1, -2)

    def to_unit(vector: Tensor) -> Tensor:
        return apply(inverse_axes, vector) / half

    light, sun = scenes.light_direction()[views], constant(SUN, half)
    colours = solids.colours.flatten(0, 1)[order]
    ray = [to_unit(vector) for vector in (camera - centre, corner, step * right, -step * up)]
    lit = (colours, colours * LIGHT_STRENGTH * scenes.light_colour()[views])
    table = torch.cat((*ray, 1 / half, to_unit(light), to_unit(sun), *lit), dim=-1)
    start, tiles = _covered(axes, centre - camera, half, side)
    return _Posed(kinds, views, table.float().T.contiguous(), start, tiles)


def _covered(axes: Tensor, centre: Tensor, half: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """First sample (column, row) and number of tiles of the rectangle that covers each primitive's box, seen by a
    camera at the origin.
    """
    signs = torch.cartesian_prod(*[constant((-1.0, 1.0), half)] * 3)
    corners = centre[:, None] + apply(axes[:, None], signs * half[:, None])
    forward, right, up = ((corners * constant(axis, half)).sum(-1) for axis in (FORWARD, RIGHT, UP))
    on_grid = (torch.stack((right, -up), dim=-1) / (forward[..., None] * FIELD) + 1) * (side / 2)
    first = on_grid.amin(1).floor().long().clamp(0, side - 1)
    last = on_grid.amax(1).floor().long().clamp(0, side - 1)
    tiles = (last - first) // TILE + 1
    # Tiles over the border are moved back into the padded grid.
    return torch.minimum(first, padded_side(side) - TILE * tiles), tiles


def padded_side(side: int) -> int:
    """The side of a grid of samples, in whole tiles."""
    return -(-side // TILE) * TILE


@dataclass(frozen=True)
class _Rays:
    """Samples, each traced against one primitive.

    Attributes:
        sample: `(R,)`, index into the padded grid of all views.
        primitive: `(R / TILE**2,)`, the row of `_Posed` of each tile.
        distance: `(R,)`, infinite where the ray misses the primitive.
        light: `(R,)`, Lambert's cosine towards the coloured light.
        sun: `(R,)`, cosine towards the fill light, in [-1, 1].
    """

    sample: Tensor
    primitive: Tensor
    distance: Tensor
    light: Tensor
    sun: Tensor


def trace(posed: _Posed, side: int) -> _Rays:
    """Trace every primitive against all samples of its tiles."""
    device, area = posed.kinds.device, TILE * TILE
    counts = posed.tiles[:, 0] * posed.tiles[:, 1]
    primitive = torch.repeat_interleave(counts)
    rank = torch.arange(len(primitive), device=device) - (counts.cumsum(0) - counts)[primitive]
    across = posed.tiles[primitive, 0]
    start = posed.start[primitive] + TILE * torch.stack((rank % across, rank // across), dim=-1)
    offset = torch.arange(TILE, device=device)
    padded = padded_side(side)
    first = posed.views[primitive] * padded**2 + start[:, 1] * padded + start[:, 0]
    sample = first[:, None] + (offset[:, None] * padded + offset).flatten()
    column, row = ((start[:, axis, None] + offset).float() for axis in (0, 1))
    traced = torch.empty(3, len(primitive), area, device=device)
    kinds = posed.kinds[primitive]
    # Cylinders and cones are frusta: three routines for four kinds.
    first_of_routine = torch.searchsorted(kinds, torch.tensor((ELLIPSOID, BOX, CYLINDER), device=device)).tolist()
    for low, high in pairwise((*first_of_routine, len(kinds))):
        if low < high:
            parameters = posed.table.index_select(1, primitive[low:high])[:21, :, None]
            traced[:, low:high] = _trace_tiles(kinds[low:high, None], parameters, column[low:high], row[low:high])
    distance, light, sun = traced.flatten(1)
    return _Rays(sample.flatten(), primitive, distance, light, sun)


def _trace_tiles(kinds: Tensor, parameters: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Distance and cosines to light and sun, `(3, T, TILE**2)`, of tiles with the same intersection routine."""
    origin, constant, per_column, per_row, inverse_half, light, sun = ((p[0], p[1], p[2]) for p in parameters.chunk(7))
    terms = zip(constant, per_column, per_row, strict=True)
    x, y, z = (((c + r * row)[:, :, None] + (k * column)[:, None, :]).flatten(1) for c, k, r in terms)
    towards = (x, y, z)
    if kinds[0, 0] == ELLIPSOID:
        distance, gradient = hit_sphere(origin, towards)
    elif kinds[0, 0] == BOX:
        distance, gradient = hit_cube(origin, towards)
    else:
        distance, gradient = hit_frustum(origin, towards, (kinds == CYLINDER).float())
    normal = (gradient[0] * inverse_half[0], gradient[1] * inverse_half[1], gradient[2] * inverse_half[2])
    # A normal has length zero or infinity only where a ray misses, and such samples are dropped.
    scale = 1 / dot(normal, normal).sqrt()
    return torch.stack((distance, (dot(gradient, light) * scale).clamp_min(0), dot(gradient, sun) * scale))


def nearest(rays: _Rays, samples: int) -> tuple[Tensor, Tensor]:
    """The samples that see a primitive, and the first ray to hit for each."""
    # Positive floats have the order of their bits, so one integer minimum finds the distance and the ray together.
    ranks = torch.arange(len(rays.distance), device=rays.distance.device)
    keys = torch.where(rays.distance < math.inf, (rays.distance.view(torch.int32).long() << 32) + ranks, _NO_HIT)
    buffer = torch.full((samples,), _NO_HIT, device=keys.device).scatter_reduce_(0, rays.sample, keys, "amin")
    seen = (buffer != _NO_HIT).nonzero()[:, 0]
    return seen, buffer.index_select(0, seen) & 0xFFFFFFFF


def _floor_points(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """World x and y, `(size, size)`, of the floor seen through the middle of every pixel."""
    grid = ((torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) * 2 / size - 1) * FIELD
    forward, right, up = (constant(axis, like) for axis in (FORWARD, RIGHT, UP))
    rays = forward + grid[None, :, None] * right - grid[:, None, None] * up
    camera = -CAMERA_DISTANCE * forward
    points = camera + rays * ((-BOUNDING_RADIUS - camera[2]) / rays[..., 2:])
    return points[..., 0].float(), points[..., 1].float()


def _light_on_floor(solids: Solids, scenes: Scenes, size: int) -> Tensor:
    """Share of the light's beam that reaches the floor, `(B, size, size)`; it fades away from its axis and behind every
    primitive.

    In the plane across the light, the shadow of a primitive is round: one squared distance per primitive.
    """
    sine, cosine = scenes.light_theta.sin(), scenes.light_theta.cos()
    east, north = scenes.light_phi.cos(), scenes.light_phi.sin()
    zero = torch.zeros_like(sine)
    rows = (cosine * east, cosine * north, -sine, -north, east, zero, zero, zero, zero)
    to_plane = torch.stack(rows, dim=-1).reshape(-1, 3, 3)
    x, y = _floor_points(size, sine)

    def column(values: Tensor) -> Tensor:
        return values.float()[:, None, None]

    u, v = (
        x * column(axis[:, 0]) + y * column(axis[:, 1]) - column(BOUNDING_RADIUS * axis[:, 2])
        for axis in to_plane.unbind(1)[:2]
    )
    light = (1 - (u * u + v * v) * (1 / BEAM_RADIUS**2)).clamp_min(0)
    shadows = apply(to_plane[:, None], scenes.place(solids.positions))
    sharpness = 1 / (SHADOW_SOFTNESS**2 * (solids.half_sizes**2).mean(-1))
    for primitive in range(solids.kinds.shape[1]):
        du, dv = u - column(shadows[:, primitive, 0]), v - column(shadows[:, primitive, 1])
        inside = (1 - (du * du + dv * dv) * column(sharpness[:, primitive])).clamp_min(0)
        light = light * (1 - SHADOW_DEPTH * inside)
    return light


def _floor(solids: Solids, scenes: Scenes, size: int) -> list[Tensor]:
    """The floor with the shadows of the objects, without the objects: red, green and blue, each `(B, size, size)`."""
    light = _light_on_floor(solids, scenes, size)
    ground = hsv_to_rgb(scenes.floor_hue, 0.6, 0.6)
    lit = (ground * scenes.light_colour() * scenes.light_theta.cos()[:, None]).float()
    ambient = (ground * FLOOR_AMBIENT).float()
    return [light * lit[:, channel, None, None] + ambient[:, channel, None, None] for channel in range(3)]


def render(solids: Solids, scenes: Scenes, size: int, samples: int = 1) -> Tensor:
    """Images of B objects, one scene each.

    Args:
        solids: B objects.
        scenes: their B poses and lights, on the same device.
        size: side of the images in pixels.
        samples: rays per pixel along each axis: `samples**2` rays per pixel for the object, one for the smooth floor.

    Returns:
        `(B, 3, size, size)`, uint8.
    """
    batch, side = len(solids.kinds), size * samples
    padded = padded_side(side)
    posed = pose(solids, scenes, side)
    rays = trace(posed, side)
    seen, ray = nearest(rays, batch * padded**2)
    light = rays.light.index_select(0, ray)
    fill = rays.sun.index_select(0, ray) * (SUN_STRENGTH / 2) + (AMBIENT + SUN_STRENGTH / 2)
    primitive = rays.primitive.index_select(0, ray // TILE**2)
    sunny, lit = posed.table[21:].index_select(1, primitive).chunk(2)
    covered = _per_pixel(seen, torch.ones_like(fill), batch, size, samples)
    pixels = torch.empty(batch, 3, size, size, dtype=torch.uint8, device=seen.device)
    for channel, floor in enumerate(_floor(solids, scenes, size)):
        colour = (sunny[channel] * fill + lit[channel] * light).clamp_max(1.0)
        image = floor.clamp_max(1.0) * (1 - covered) + _per_pixel(seen, colour, batch, size, samples)
        pixels[:, channel] = (image * 255 + 0.5).to(torch.uint8)
    return pixels


def silhouettes(solids: Solids, scenes: Scenes, size: int, samples: int = 1) -> Tensor:
    """The share of each pixel that the object covers in `render`, `(B, size, size)`; arguments as there."""
    batch, side = len(solids.kinds), size * samples
    seen, _ = nearest(trace(pose(solids, scenes, side), side), batch * padded_side(side) ** 2)
    return _per_pixel(seen, torch.ones(len(seen), device=seen.device), batch, size, samples)


def _per_pixel(seen: Tensor, values: Tensor, batch: int, size: int, samples: int) -> Tensor:
    """Values of the seen samples, else zero, averaged over each pixel in a fixed order: `(B, size, size)`."""
    padded = padded_side(size * samples)
    grid = torch.zeros(batch * padded**2, device=values.device)
    grid[seen] = values
    grid = grid.view(batch, padded, padded)[:, : size * samples, : size * samples]
    if samples == 1:
        return grid
    total = torch.zeros(batch, size, size, device=values.device)
    for row in range(samples):
        for column in range(samples):
            total = total + grid[:, row::samples, column::samples]
    return total * (1 / samples**2)
