"""How well feature maps follow small motions of the image: the sums that `LieDerivative` makes numbers of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_inv.evaluation.protocols.motions import COLOUR, Motion, generator, stride_of

LEAST_CELLS = 4
"""A map of fewer cells along an axis has no derivative to compare with: even maps of images without any frequency that
the cells could not hold score 1.00 on 2 x 2 cells, 0.24 on 4 x 4 and 0.01 on 8 x 8.
"""

TOO_SMALL = f"a map of fewer than {LEAST_CELLS} cells along an axis has no derivative to compare with"

_IMAGES = 16
"""Images whose maps are held at a time: early layers have large ones."""


@dataclass(frozen=True)
class MapErrors:
    """Of every image, the mean squared error of its map, and what it is divided by, `(M,)`.

    Attributes:
        error: of the derivative of the map from that of the moved map.
        scale: how much both move; of colours, the variance of the map over images.
        varies: how much the map moves.
    """

    error: Tensor
    scale: Tensor
    varies: Tensor


def map_errors(
    maps: Callable[[Tensor], Tensor], pixels: Tensor, velocity: Tensor, reach: Tensor, motion: Motion
) -> MapErrors | None:
    """The errors of the derivative of feature maps; None where a motion of space finds maps too small for it.

    Args:
        maps: from images to maps `(B, C, h, w)`.
        pixels: images `(M, C, H, W)`.
        velocity: of the images.
        reach: the half step of the central difference of each image, `(M,)`.
        motion: what moves them.
    """
    if motion in COLOUR:
        return _of_colours(maps, pixels, velocity, reach)
    rows = []
    for images, still, moved in _derivatives(maps, pixels, velocity, reach):
        if min(still.shape[-2:]) < LEAST_CELLS:
            return None
        wanted = generator(still, motion, stride_of(images.shape[-1], still.shape[-1]))
        columns = ((moved - wanted).square(), moved.square() + wanted.square(), moved.square())
        rows.append(torch.stack([one.flatten(1).mean(dim=1) for one in columns], dim=1))
    return MapErrors(*torch.cat(rows).unbind(1))


def _of_colours(maps: Callable[[Tensor], Tensor], pixels: Tensor, velocity: Tensor, reach: Tensor) -> MapErrors:
    total: Tensor | None = None
    for images in torch.split(pixels, _IMAGES):
        found = maps(images).cpu().double().sum(dim=0)
        total = found if total is None else total + found
    assert total is not None
    rows = []
    for _, still, moved in _derivatives(maps, pixels, velocity, reach):
        columns = (moved.square(), (still - total / len(pixels)).square())
        rows.append(torch.stack([one.flatten(1).mean(dim=1) for one in columns], dim=1))
    error, variance = torch.cat(rows).unbind(1)
    return MapErrors(error, variance, error)


def _derivatives(
    maps: Callable[[Tensor], Tensor], pixels: Tensor, velocity: Tensor, reach: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Some images, their maps and the derivatives of these, in float64 on the CPU."""
    pieces = (torch.split(one, _IMAGES) for one in (pixels, velocity, reach))
    for images, speed, step in zip(*pieces, strict=True):
        apart = step.view(-1, 1, 1, 1) * speed
        still, after, before = (maps(one).cpu().double() for one in (images, images + apart, images - apart))
        yield images, still, (after - before) / (2 * step.cpu().double()).view(-1, 1, 1, 1)
