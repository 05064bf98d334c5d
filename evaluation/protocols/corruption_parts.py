"""What corruptions of images are made of: keyed numbers, lengths in pixels, sampling, streaks, clouds."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from ssl_inv.transforms.keyed_random import uniform

Keys = NDArray[np.uint64]
"""A key for each image, `(B,)`."""

Corruption = Callable[[Tensor, int, Keys], Tensor]
"""Maps colours in [0, 1], `(B, 3, H, W)`, a severity from 0 to 4 and keys to colours that may leave [0, 1]."""

_SIDE = 224
"""Side of the images for which lengths are given in pixels."""


def ratio_of(colours: Tensor) -> float:
    """The side of the images as a share of the side for which lengths are given."""
    return min(colours.shape[-2:]) / _SIDE


def numbers(colours: Tensor, keys: Keys, *shape: int, part: int = 0) -> Tensor:
    """Numbers from [0, 1), `(B, *shape)`, where the images are."""
    drawn = uniform(keys, part, count=math.prod(shape)).reshape(len(keys), *shape)
    return torch.from_numpy(drawn).to(colours.device, colours.dtype)


def normal(colours: Tensor, keys: Keys) -> Tensor:
    """Normal numbers of the shape of the images."""
    one, two = uniform(keys, count=2 * colours[0].numel()).reshape(len(keys), 2, *colours.shape[1:]).swapaxes(0, 1)
    return torch.from_numpy(np.sqrt(-2 * np.log1p(-one)) * np.cos(2 * np.pi * two)).to(colours)


def sampled(colours: Tensor, theta: Tensor) -> Tensor:
    """Images after affine maps `(B, 2, 3)` of the places that they are read at."""
    grid = affine_grid(theta, list(colours.shape), align_corners=False)
    return grid_sample(colours, grid, mode="bilinear", padding_mode="border", align_corners=False)


def streaked(colours: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """The mean along a line to one side, with the weights of half a Gaussian.

    Args:
        colours: `(B, C, H, W)`.
        radius: half the length of the line, in pixels of an image of 224.
        sigma: of the Gaussian, in the same unit.
        angle: of the line of each image, `(B,)`, in radians.
    """
    ratio, (height, width) = ratio_of(colours), colours.shape[-2:]
    steps = torch.arange(max(round(2 * radius * ratio), 1) + 1, dtype=torch.float64)
    weights = torch.exp(-(steps / (sigma * ratio)).square() / 2)
    blurred, one = torch.zeros_like(colours), torch.ones_like(angle)
    for step, weight in zip(steps.tolist(), (weights / weights.sum()).tolist(), strict=True):
        theta = torch.stack(
            (
                *(one, 0 * one, -2 * step / width * angle.cos()),
                *(0 * one, one, -2 * step / height * angle.sin()),
            ),
            dim=1,
        )
        blurred = blurred + weight * sampled(colours, theta.view(-1, 2, 3))
    return blurred


def plasma(keys: Keys, size: int, decay: float) -> Tensor:
    """Clouds from 0 to 1, `(B, size, size)`, float64, by the diamond-square algorithm on a torus.

    Every point is the mean of four neighbours and a random number; at each halving of their distance, the random number
    becomes smaller by `decay` squared. The size is a power of two.
    """
    clouds = torch.zeros(len(keys), size, size, dtype=torch.float64)
    step, amount = size, 1.0
    while step >= 2:
        half, cells = step // 2, size // step
        drawn = torch.from_numpy(uniform(keys, step, count=3 * cells**2, low=-1.0).reshape(-1, 3, cells, cells))
        corners = clouds[:, ::step, ::step].clone()
        across, down = corners.roll(-1, 2), corners.roll(-1, 1)
        middles = (corners + across + down + across.roll(-1, 1)) / 4 + amount * drawn[:, 0]
        clouds[:, half::step, half::step] = middles
        clouds[:, ::step, half::step] = (middles + middles.roll(1, 1) + corners + across) / 4 + amount * drawn[:, 1]
        clouds[:, half::step, ::step] = (middles + middles.roll(1, 2) + corners + down) / 4 + amount * drawn[:, 2]
        step, amount = half, amount / decay**2
    lowest, highest = clouds.amin(dim=(1, 2), keepdim=True), clouds.amax(dim=(1, 2), keepdim=True)
    return (clouds - lowest) / (highest - lowest)
