"""Where in the source image a view lies: crops and flips, as one resampling."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_ATTEMPTS = 10


def draw_crops(
    random: NDArray[np.float64], scale: tuple[float, float], ratio: tuple[float, float], aspect: float = 1.0
) -> NDArray[np.float64]:
    """Crop boxes with an area share uniform in `scale` and the logarithm of their aspect ratio uniform in `ratio`.

    As in torchvision's RandomResizedCrop, up to ten draws are made until one fits into the image; after that the whole image is taken.

    Args:
        random: numbers from [0, 1), shape `(B, 40)`: ten attempts of area, ratio and two positions.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width over height, in pixels.
        aspect: width over height of the source image.

    Returns:
        Boxes (centre x, centre y, width, height) in fractions of the source, shape `(B, 4)`.
    """
    draws = random.reshape(-1, _ATTEMPTS, 4)
    area = scale[0] + (scale[1] - scale[0]) * draws[..., 0]
    log_ratio = math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draws[..., 1]
    width, height = np.sqrt(area * np.exp(log_ratio) / aspect), np.sqrt(area / np.exp(log_ratio) * aspect)
    fits = (width <= 1) & (height <= 1)
    rows = np.arange(len(draws))
    first = fits.argmax(axis=1)
    found = fits.any(axis=1)
    width, height = np.where(found, width[rows, first], 1.0), np.where(found, height[rows, first], 1.0)
    left, top = draws[rows, first, 2] * (1 - width), draws[rows, first, 3] * (1 - height)
    return np.stack((left + width / 2, top + height / 2, width, height), axis=1)


def resample(pixels: Tensor, boxes: Tensor, flipped: Tensor, size: int) -> Tensor:
    """Cut `boxes` out of `pixels` and bring them to `size`, mirrored where `flipped`, in one bilinear resampling.

    Args:
        pixels: `(B, 3, H, W)`.
        boxes: (centre x, centre y, width, height) in fractions of the source, `(B, 4)`.
        flipped: 0.0 or 1.0, `(B,)`.
        size: side of the views in pixels.

    Returns:
        Views `(B, 3, size, size)`.
    """
    if max(pixels.shape[-2:]) < 2 * size:
        return _sample(pixels, boxes, flipped, size)
    # A bilinear sample reads four source pixels. Where a box shrinks by two or more, the source is averaged first: no pixel goes unread.
    shrink = torch.minimum(boxes[:, 2] * pixels.shape[-1], boxes[:, 3] * pixels.shape[-2]) / size
    halvings = shrink.log2().floor().clamp_min(0).long()
    views = pixels.new_empty(len(pixels), pixels.shape[1], size, size)
    for level in sorted(set(halvings.tolist())):
        rows = (halvings == level).nonzero().squeeze(1)
        source = F.avg_pool2d(pixels[rows], 2**level) if level else pixels[rows]
        views[rows] = _sample(source, boxes[rows], flipped[rows], size)
    return views


def _sample(pixels: Tensor, boxes: Tensor, flipped: Tensor, size: int) -> Tensor:
    theta = torch.zeros(len(pixels), 2, 3, dtype=pixels.dtype, device=pixels.device)
    theta[:, 0, 0] = boxes[:, 2] * (1 - 2 * flipped)
    theta[:, 1, 1] = boxes[:, 3]
    theta[:, :, 2] = 2 * boxes[:, :2] - 1
    grid = F.affine_grid(theta, [len(pixels), 3, size, size], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
