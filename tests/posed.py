"""Feature tables of encoders whose knowledge of pose and class is known by construction."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.transforms import Circle, Rotation, Transform
from ssl_inv.transforms.quaternions import canonical_sign, quaternion_to_matrix

Encoder = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""Maps poses `(N, ...)` and classes `(N,)` to features."""


def _table(poses: dict[str, tuple[Tensor, object]], objects: int, views: int, encoder: Encoder) -> FeatureTable:
    ids = torch.arange(objects).repeat_interleave(views)
    transform = Transform(
        {name: value for name, (value, _) in poses.items()}, {name: group for name, (_, group) in poses.items()}
    )
    first = next(iter(transform.values.values()))
    numbers = torch.arange(views).repeat(objects)
    return FeatureTable(encoder(first, ids % 3), ids, numbers, ids % 3, transform=transform)


def rotated(encoder: Encoder, objects: int = 60, views: int = 4) -> Encoded:
    """Views from random rotations."""
    tables = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        turns = canonical_sign(
            torch.nn.functional.normalize(torch.randn(objects * views, 4, generator=generator), dim=1)
        )
        tables.append(_table({"rotation": (turns, Rotation())}, objects, views, encoder))
    return Encoded(*tables)


def turntable(encoder: Encoder, objects: int = 30, views: int = 6, turns: int = 1) -> Encoded:
    """Views from equal steps around every object, so many times around."""
    angles = (torch.arange(views * turns) % views * (2 * math.pi / views)).repeat(objects)
    poses = {"azimuth": (angles, Circle(2 * math.pi))}
    return Encoded(*(_table(poses, objects, views * turns, encoder) for _ in range(2)))


def matrices(turns: Tensor) -> Tensor:
    """The nine numbers of rotations, `(N, 9)`."""
    return quaternion_to_matrix(turns).flatten(1)


def noise(rows: int, width: int, seed: int = 7) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
