"""Frosted glass, frost and snow, drawn by noise: no photograph is needed."""

import math

import numpy as np
import torch
from kornia.color import rgb_to_grayscale
from kornia.filters import gaussian_blur2d
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ssl_inv.evaluation.protocols.corruption_parts import Keys, numbers, plasma, ratio_of, streaked
from ssl_inv.transforms.keyed_random import uniform

Shifts = NDArray[np.float64]

_ICE = (0.82, 0.92, 1.0)
"""The colour of frost."""

_SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
"""Mean and deviation of the noise, size of a flake, least brightness, radius and sigma of the streaks, and the share of
the image that is not whitened, at each severity.
"""


def glass_blur(colours: Tensor, level: int, keys: Keys) -> Tensor:
    """Pixels are exchanged with others nearby, one after the other from the last to the first, between two blurs."""
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    ratio, (height, width) = ratio_of(colours), colours.shape[-2:]
    blurred = _blurred(colours, sigma * ratio)
    drawn = uniform(keys, count=rounds * 2 * height * width).reshape(len(keys), rounds, 2, height * width)
    whole = np.floor(scaled := drawn * (2 * reach + 1))
    shifts = _in_pixels((whole - reach) * ratio, scaled - whole)
    rows, columns = (one.ravel() for one in np.mgrid[:height, :width])
    others = (rows + shifts[:, :, 0]).clip(0, height - 1) * width + (columns + shifts[:, :, 1]).clip(0, width - 1)
    # The images of a batch take each step together: what is exchanged is the number of a pixel.
    places, images = np.tile(np.arange(height * width), (len(keys), 1)), np.arange(len(keys))
    for turn in range(rounds):
        for here in range(height * width - 1, -1, -1):
            there = others[:, turn, here]
            taken = places[images, there]
            places[images, there] = places[:, here]
            places[:, here] = taken
    moved = blurred.flatten(2).gather(2, torch.from_numpy(places)[:, None].to(colours.device).expand(-1, 3, -1))
    return _blurred(moved.view_as(colours), sigma * ratio)


def _in_pixels(shifts: Shifts, chances: Shifts) -> NDArray[np.int64]:
    """Shifts in whole pixels with the same mean square: each is rounded up, and made for a share of the pixels."""
    up = np.ceil(np.abs(shifts))
    made = chances * up**2 < shifts**2
    found: NDArray[np.int64] = (np.sign(shifts) * up * made).astype(np.int64)
    return found


def _blurred(colours: Tensor, sigma: float) -> Tensor:
    size = 2 * math.ceil(4 * sigma) + 1
    blurred: Tensor = gaussian_blur2d(colours, (size, size), (sigma, sigma), border_type="replicate")
    return blurred


def frost(colours: Tensor, level: int, keys: Keys) -> Tensor:
    """A layer of ice over the image."""
    image, ice = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[level]
    layer = crystals(keys, (colours.shape[-2], colours.shape[-1])).to(colours)
    tint = torch.tensor(_ICE, dtype=colours.dtype, device=colours.device).view(1, 3, 1, 1)
    return image * colours + ice * layer[:, None] * tint


def crystals(keys: Keys, size: tuple[int, int]) -> Tensor:
    """The brightness of frost from 0 to 1, `(B, H, W)`, float64: sharp veins of ice on a clouded ground."""
    side = 1 << math.ceil(math.log2(max(*size, 2)))
    clouds, *ridges = (plasma(uniform_keys(keys, part), side, decay) for part, decay in ((0, 1.7), (1, 1.45), (2, 1.3)))
    veins = [(1 - (2 * one - 1).abs()) ** 4 for one in ridges]
    layer = 0.45 * clouds + 0.4 * veins[0] + 0.3 * veins[1]
    return layer.clamp(0, 1)[:, : size[0], : size[1]]


def uniform_keys(keys: Keys, part: int) -> Keys:
    """Other keys for another part of what is drawn."""
    return (uniform(keys, part, count=1)[:, 0] * 2**53).astype(np.uint64)


def snow(colours: Tensor, level: int, keys: Keys) -> Tensor:
    """Streaks of flakes from two sides, over an image that is whitened."""
    mean, deviation, size, least, radius, sigma, share = _SNOW[level]
    height, width = colours.shape[-2:]
    flake = max(size * ratio_of(colours), 1)
    cells = max(math.ceil(height / flake), 1), max(math.ceil(width / flake), 1)
    one, two = numbers(colours, keys, 2, *cells).unbind(1)
    noise = mean + deviation * (-2 * torch.log1p(-one)).sqrt() * (2 * math.pi * two).cos()
    layer = interpolate(noise[:, None], (height, width), mode="bilinear")
    layer = torch.where(layer < least, 0.0, layer).clamp(0, 1)
    angle = (-0.25 - 0.5 * numbers(colours, keys, 1, part=1)[:, 0]) * math.pi
    layer = streaked(layer, radius / 2, sigma, angle)
    white = torch.maximum(colours, 1.5 * rgb_to_grayscale(colours) + 0.5)
    return share * colours + (1 - share) * white + layer + layer.rot90(2, (2, 3))
