"""Depth, and the place on the object, of every pixel of rendered solids: as exact as the rays."""

import math

import torch
from torch import Tensor

from ssl_inv.data.sources.rendered.renderer import (
    CAMERA_DISTANCE,
    FIELD,
    FORWARD,
    RIGHT,
    UP,
    Scenes,
    Solids,
    apply,
    constant,
    nearest,
    padded_side,
    pose,
    trace,
)
from ssl_inv.transforms.annotations import Surface
from ssl_inv.transforms.quaternions import quaternion_to_matrix


def surfaces(solids: Solids, scenes: Scenes, size: int) -> Surface:
    """What `render` shows through the middle of every pixel; arguments as there."""
    batch, padded = len(solids.kinds), padded_side(size)
    rays = trace(pose(solids, scenes, size), size)
    seen, ray = nearest(rays, batch * padded**2)
    # The rays' directions have length 1 along the optical axis, so the distance is the depth.
    depth = torch.full((batch * padded**2,), math.inf, dtype=torch.float64, device=seen.device)
    depth[seen] = rays.distance.index_select(0, ray).double()
    return surfaces_at(depth.view(batch, padded, padded)[:, :size, :size], scenes)


def surfaces_at(depth: Tensor, scenes: Scenes) -> Surface:
    """The surface whose depths `(B, S, S)` the scenes show, float64; infinite on the ground."""
    size = depth.shape[-1]
    forward, right, up = (constant(axis, depth) for axis in (FORWARD, RIGHT, UP))
    half = size / 2
    lens = torch.stack((half * (right / FIELD + forward), half * (forward - up / FIELD), forward))
    turn = quaternion_to_matrix(scenes.rotation)
    position = torch.zeros_like(turn[..., 0]) if scenes.position is None else scenes.position
    shift = (position + CAMERA_DISTANCE * forward)[..., None]
    camera = torch.cat((lens @ turn, lens @ shift), dim=-1)
    middle = torch.arange(size, dtype=torch.float64, device=depth.device) + 0.5
    rows, columns = torch.meshgrid(middle, middle, indexing="ij")
    places = torch.stack((columns, rows, torch.ones_like(rows)), dim=-1)
    scaled = torch.where(depth < math.inf, depth, 1.0)[..., None] * places
    back = torch.linalg.inv(camera[..., :3])[:, None, None]
    points = apply(back, scaled - camera[:, None, None, :, 3])
    return Surface(points, depth, camera)
