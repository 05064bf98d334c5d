"""Renderings: what a policy makes of an image of every sample, and of photographs of different sizes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ssl_inv.augment.maps import framed, moving
from ssl_inv.augment.operation import Normalisation, Side
from ssl_inv.augment.policy import Policy
from ssl_inv.data.source import Images
from ssl_inv.transforms import Transform

Last = Normalisation | None
"""What is done to finished views."""


class Rendering(NamedTuple):
    """What a policy makes of one of the images of every sample.

    Attributes:
        source: which of the data's own views it is made of.
        policy: makes it.
        transform: how, on the host.
    """

    source: int
    policy: Policy
    transform: Transform


class Made(NamedTuple):
    """One view of every sample.

    Attributes:
        pixels: `(B, 3, H, W)`, in [0, 1], in memory of their own.
        transform: how they were made, on the host.
        source: which of the data's own views they were made of.
    """

    pixels: Tensor
    transform: Transform
    source: int = 0


Extent = tuple[Side, Side]
"""Height and width of the images that views are made of: numbers, or of photographs of different sizes `(B,)` each."""


def in_frame(transform: Transform, extent: Extent) -> Transform:
    """A record with a crop if it is of photographs; see `framed`."""
    height, width = extent
    if isinstance(height, int) or isinstance(width, int):
        return transform
    return framed(transform, np.stack((height, width), axis=1))


def extents_of(images: Sequence[Images]) -> list[Extent]:
    """The sides of the images that views are made of."""
    found: list[Extent] = []
    for one in images:
        height, width = one.pixels.shape[-2:]
        found.append((height, width) if one.sides is None else (one.sides[:, 0], one.sides[:, 1]))
    return found


def moved_by(transform: Transform, policy: Policy) -> dict[str, Tensor]:
    """The recorded parameters by which a policy moves pixels, without those of colours."""
    colours = {name for one in policy.following if not one.moves for name in one.groups}
    return {name: value for name, value in moving(transform, policy.operations).values.items() if name not in colours}
