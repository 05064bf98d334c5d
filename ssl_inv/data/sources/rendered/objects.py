"""The objects of rendered solids: for every class a prototype of coloured primitives, and jittered copies of it."""

import math

import numpy as np
import torch
from torch import Tensor

from ssl_inv.data.source import Indices
from ssl_inv.data.sources.rendered.renderer import (
    BOUNDING_RADIUS,
    BOX,
    CONE,
    CYLINDER,
    ELLIPSOID,
    KINDS,
    Solids,
)
from ssl_inv.transforms.hsv import hsv_to_rgb
from ssl_inv.transforms.keyed_random import uniform
from ssl_inv.transforms.quaternions import quaternion_from_euler, quaternion_to_matrix

CLASS_KEY, OBJECT_KEY, VIEW_KEY = range(3)
"""Second part of every key, so that classes, objects and views draw from different streams."""

_ANCHORS = ((1.0, 0.05, 0.15), (-0.35, 0.1, 1.0), (0.15, 1.0, -0.1), (-0.9, -0.45, -0.2), (0.45, -0.9, 0.45))
"""Places of the parts around the body, in units of its half sizes. Parts beyond the fifth have another place in each
class.
"""


def _random_rotations(draws: Tensor) -> Tensor:
    """Uniform unit quaternions `(..., 4)` from three numbers in [0, 1) each (Shoemake, Graphics Gems III, 1992)."""
    first, second, third = draws.unbind(-1)
    near, far = (1 - first).sqrt(), first.sqrt()
    a, b = 2 * math.pi * second, 2 * math.pi * third
    return torch.stack((near * a.sin(), near * a.cos(), far * b.sin(), far * b.cos()), dim=-1)


def _draw(*key: int | Indices, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers in [0, 1), shape `(B, *shape)`, float64."""
    return torch.from_numpy(uniform(*key, count=math.prod(shape))).reshape(-1, *shape)


def _signed(draws: Tensor) -> Tensor:
    return 2 * draws - 1


def class_prototypes(classes: int, primitives: int, seed: int) -> Solids:
    """One object per class, before jitter and scaling."""
    draws = _draw(seed, CLASS_KEY, np.arange(classes), shape=(primitives, 12))
    body, parts = draws[:, 0], draws[:, 1:]
    kinds = (draws[..., 0] * len(KINDS)).long()
    # A cone makes a poor body: parts placed around its tip would float.
    kinds[:, 0] = torch.tensor((ELLIPSOID, BOX, CYLINDER))[(body[:, 0] * 3).long()]
    half_body = torch.tensor((0.52, 0.34, 0.28), dtype=torch.float64) * (0.75 + 0.5 * body[:, 1:4])
    half_parts = (0.20 + 0.12 * parts[..., 1:2]) * (0.8 + 0.5 * parts[..., 2:5])
    anchors = 0.9 * _signed(parts[..., 5:8])
    known = torch.tensor(_ANCHORS, dtype=torch.float64)[: primitives - 1]
    anchors[:, : len(known)] = known + 0.25 * _signed(parts[:, : len(known), 5:8])
    positions = anchors * (half_body[:, None] + 0.4 * half_parts)
    rotations = _random_rotations(draws[..., 8:11])
    rotations[:, 0] = torch.tensor((0.0, 0.0, 0.0, 1.0), dtype=torch.float64)
    # The golden ratio spreads the hues of the bodies over the circle, however many classes there are.
    body_hue = torch.arange(classes, dtype=torch.float64) * (math.sqrt(5) - 1) / 2 % 1
    part_hues = torch.arange(primitives - 1, dtype=torch.float64) / (primitives - 1) + 0.03 * _signed(parts[..., 11])
    hues = torch.cat((body_hue[:, None], part_hues), dim=1)
    # Saturation and value are the same everywhere. Otherwise a colour histogram told the classes apart, whatever the
    # shapes.
    is_part = (torch.arange(primitives) > 0).double().expand_as(hues)
    colours = hsv_to_rgb(hues, 0.35 + 0.55 * is_part, 0.75 + 0.15 * is_part)
    return Solids(
        kinds,
        torch.cat((half_body[:, None], half_parts), dim=1),
        torch.cat((torch.zeros(classes, 1, 3, dtype=torch.float64), positions), dim=1),
        quaternion_to_matrix(rotations),
        colours,
    )


def jittered(prototypes: Solids, jitter: float, seed: int, radius: float = BOUNDING_RADIUS) -> Solids:
    """Object i from row i of `prototypes`: sizes, places, orientations and colours changed by up to `jitter`, then
    centred and scaled.

    Args:
        prototypes: for every object the prototype of its class.
        jitter: largest relative change of a size, shift in multiples of a primitive's half size, turn in radians, and
            change of red, green and blue.
        seed: of the data set.
        radius: every object is scaled to touch a sphere of this radius around the middle of its bounding box; curved
            parts may reach beyond it by a few per cent.
    """
    objects, primitives = prototypes.kinds.shape
    moves = jitter * _signed(_draw(seed, OBJECT_KEY, np.arange(objects), shape=(primitives, 12)))
    half = prototypes.half_sizes * (1 + moves[..., 0:3])
    positions = prototypes.positions + moves[..., 3:6] * prototypes.half_sizes
    turns = quaternion_to_matrix(quaternion_from_euler(moves[..., 6:9]))
    moved = Solids(
        prototypes.kinds,
        half,
        positions,
        turns @ prototypes.orientations,
        (prototypes.colours + moves[..., 9:12]).clamp(0, 1),
    )
    return _centred(moved, radius)


def _centred(solids: Solids, radius: float) -> Solids:
    """The objects shifted to the middle of their bounding box, as in 3DIEBench, and scaled to the common bounding
    radius.
    """
    points = surface_points(solids).flatten(1, 2)
    middle = (points.amin(1) + points.amax(1)) / 2
    scale = radius / (points - middle[:, None]).norm(dim=-1).amax(1)[:, None, None]
    positions = (solids.positions - middle[:, None]) * scale
    return Solids(solids.kinds, solids.half_sizes * scale, positions, solids.orientations, solids.colours)


def surface_points(solids: Solids) -> Tensor:
    """Points on the surface of every primitive, towards the corners, edges and faces of its box: `(N, P, 26, 3)` in the
    object's frame.
    """
    directions = torch.cartesian_prod(*[torch.tensor((-1.0, 0.0, 1.0), dtype=torch.float64)] * 3)
    cube = directions[directions.abs().sum(-1) > 0]
    disk = cube[:, :2] / cube[:, :2].norm(dim=-1, keepdim=True).clamp_min(1)
    cylinder = torch.cat((disk, cube[:, 2:]), dim=-1)
    cone = torch.cat((disk * (1 - cube[:, 2:]) / 2, cube[:, 2:]), dim=-1)
    of_kind = {ELLIPSOID: cube / cube.norm(dim=-1, keepdim=True), BOX: cube, CYLINDER: cylinder, CONE: cone}
    unit = torch.stack([of_kind[kind] for kind in range(len(KINDS))])[solids.kinds]
    own = unit * solids.half_sizes[:, :, None]
    return own @ solids.orientations.transpose(-1, -2) + solids.positions[:, :, None]
