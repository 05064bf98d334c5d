"""Intersections of rays with a sphere, a cube and a frustum of unit size, in closed form.

Components are separate tensors that broadcast together: the common origin of a tile of rays, `(T, 1)`, and their
directions, `(T, R)`, combine without a copy. IEEE 754 rounds every operation exactly, so a ray gives the same bits in
every batch.
"""

import math

import torch
from torch import Tensor

Vector = tuple[Tensor, Tensor, Tensor]
"""The x, y and z components of vectors, as tensors whose shapes broadcast together."""

_HUGE = 1e20


def dot(a: Vector, b: Vector) -> Tensor:
    """Scalar products, added in a fixed order."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def hit_sphere(origin: Vector, direction: Vector) -> tuple[Tensor, Vector]:
    """The first intersection with the unit sphere, of rays that start outside it.

    Args:
        origin: starts of the rays.
        direction: their directions, of any length but zero.

    Returns:
        The distance in multiples of `direction`, infinite for rays that miss; and an outward normal of any length,
        without meaning for rays that miss.
    """
    a, b = dot(direction, direction), dot(origin, direction)
    discriminant = b * b - a * (dot(origin, origin) - 1)
    distance = (-b - discriminant.clamp_min(0).sqrt()) / a
    point = tuple(o + distance * d for o, d in zip(origin, direction, strict=True))
    return torch.where((discriminant > 0) & (distance > 0), distance, math.inf), (point[0], point[1], point[2])


def hit_cube(origin: Vector, direction: Vector) -> tuple[Tensor, Vector]:
    """As `hit_sphere`, for the cube [-1, 1]^3, by the slab method of Kay and Kajiya (1986)."""
    # A ray parallel to a slab gets a huge finite reciprocal: infinity would turn into NaN in a product with zero.
    inverse = [(1 / d).clamp(-_HUGE, _HUGE) for d in direction]
    middle = [-o * i for o, i in zip(origin, inverse, strict=True)]
    near = [m - i.abs() for m, i in zip(middle, inverse, strict=True)]
    far = [m + i.abs() for m, i in zip(middle, inverse, strict=True)]
    enter = torch.maximum(torch.maximum(near[0], near[1]), near[2])
    leave = torch.minimum(torch.minimum(far[0], far[1]), far[2])
    normal = tuple(torch.where(n == enter, -i.sign(), 0.0) for n, i in zip(near, inverse, strict=True))
    return torch.where((enter < leave) & (enter > 0), enter, math.inf), (normal[0], normal[1], normal[2])


def hit_frustum(origin: Vector, direction: Vector, top: Tensor) -> tuple[Tensor, Vector]:
    """As `hit_sphere`, for the frustum |z| <= 1 with radius 1 at z = -1 and radius `top` at z = 1: a cone for 0 and a
    cylinder for 1.
    """
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    slope = (1 - top) / 2
    # The radius along the ray is radius + t * growth; the side is the zero set of x^2 + y^2 - radius^2.
    radius, growth = (1 + top) / 2 - slope * oz, -slope * dz
    a = dx * dx + dy * dy - growth * growth
    b = ox * dx + oy * dy - radius * growth
    c = ox * ox + oy * oy - radius * radius
    discriminant = b * b - a * c
    root = discriminant.clamp_min(0).sqrt()
    # Both roots without cancellation (Press et al., Numerical Recipes, section 5.6), where a is zero or negative too.
    q = -(b + torch.where(b < 0, -root, root))
    side = torch.full_like(a, math.inf)
    for candidate in (q / a, c / q):
        valid = (discriminant > 0) & (candidate > 0) & ((oz + candidate * dz).abs() <= 1)
        side = torch.where(valid, torch.minimum(side, candidate), side)
    # Only the cap that faces the origin can be met first.
    facing = oz.sign()
    cap = (facing - oz) / dz
    x, y, rim = ox + cap * dx, oy + cap * dy, (1 + top) / 2 - slope * facing
    cap = torch.where((cap > 0) & (x * x + y * y <= rim * rim) & (oz.abs() > 1), cap, math.inf)
    distance, on_cap = torch.minimum(side, cap), cap < side
    flat = torch.where(on_cap, 0.0, distance)
    normal_z = torch.where(on_cap, facing, slope * (radius + distance * growth))
    return distance, (torch.where(on_cap, 0.0, ox + flat * dx), torch.where(on_cap, 0.0, oy + flat * dy), normal_z)
