"""Filters with a width of each sample's own."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_IMPERCEPTIBLE = 0.2
"""A Gaussian of this many pixels leaves a pixel all but four millionths of its weight on itself."""


def gaussian(pixels: Tensor, deviations: NDArray[np.float64], most: int = 64) -> Tensor:
    """Blur every image along x and along y, in place; beyond the border it is mirrored.

    Args:
        pixels: `(n, C, H, W)`.
        deviations: standard deviations along x and along y in pixels, `(n, 2)`; 0 leaves an image as it is.
        most: radius of the largest kernel in pixels. Smaller ones end where less than 3 per mille of the weight lie
            outside.
    """
    limit = np.minimum(most, [pixels.shape[-1] - 1, pixels.shape[-2] - 1])
    radii = np.where(deviations < _IMPERCEPTIBLE, 0, np.minimum(np.ceil(3 * deviations), limit)).astype(int)
    for across, down in {(x, y) for x, y in radii.tolist() if x or y}:
        rows = np.flatnonzero((radii == (across, down)).all(axis=1))
        index = torch.from_numpy(rows).to(pixels.device, non_blocking=True)
        chosen = pixels[rows[0] : rows[0] + 1] if len(rows) == 1 else pixels.index_select(0, index)
        smooth = _convolve(_convolve(chosen, deviations[rows, 0], across, -1), deviations[rows, 1], down, -2)
        if len(rows) == 1:
            chosen.copy_(smooth)
        else:
            pixels.index_copy_(0, index, smooth)
    return pixels


def smooth(pixels: Tensor, variances: NDArray[np.float64]) -> Tensor:
    """Every image as means of three neighbours along x and along y; at the border the outer pixel is its own neighbour.

    Args:
        pixels: `(n, C, H, W)`.
        variances: of the weights along x and along y in pixels^2, `(n, 2)`; what lies outside 0 to 2/3 is brought
            there.
    """
    weights = torch.from_numpy((variances.clip(0, 2 / 3) / 2).astype(np.float32)).to(pixels.device, non_blocking=True)
    for axis, weight in ((-1, weights[:, 0]), (-2, weights[:, 1])):
        pixels = _three(pixels, weight.view(-1, 1, 1, 1), axis)
    return pixels


def _three(pixels: Tensor, weight: Tensor, axis: int) -> Tensor:
    inner = pixels.shape[axis] - 1
    total = pixels * (1 - 2 * weight)
    total.narrow(axis, 1, inner).addcmul_(pixels.narrow(axis, 0, inner), weight)
    total.narrow(axis, 0, inner).addcmul_(pixels.narrow(axis, 1, inner), weight)
    for edge in (0, inner):
        total.narrow(axis, edge, 1).addcmul_(pixels.narrow(axis, edge, 1), weight)
    return total


def _convolve(pixels: Tensor, deviation: NDArray[np.float64], radius: int, axis: int) -> Tensor:
    """Every image blurred along one axis by its Gaussian, cut off at `radius`."""
    if not radius:
        return pixels
    weights = np.exp(-0.5 * (np.arange(-radius, 1) / deviation[:, None]) ** 2).astype(np.float32)
    weights /= 2 * weights.sum(axis=1, keepdims=True) - 1
    factors = (
        torch.from_numpy(weights).to(pixels.device, non_blocking=True).view(len(weights), radius + 1, 1, 1, 1).unbind(1)
    )
    padded = F.pad(pixels, (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius), mode="reflect")
    extent = pixels.shape[axis]
    total = factors[radius] * pixels
    for place in range(radius):
        total.addcmul_(padded.narrow(axis, place, extent), factors[place])
        total.addcmul_(padded.narrow(axis, 2 * radius - place, extent), factors[place])
    return total
