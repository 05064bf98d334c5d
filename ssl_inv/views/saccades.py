"""Where a saccade goes, and the patch that it sees (predictive learning across saccades of seq-JEPA, 2505.03176)."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment.kernels import gaussian
from ssl_inv.views.pieces import Inhibition

_SPECTRUM_SIDE = 64
"""Pixels of an image's side in the spectral residual: the scale that its authors use."""


def spectral_residual(pixels: Tensor) -> Tensor:
    """The salient parts of an image: the part of its log spectrum that the mean of neighbouring frequencies does not
    predict (Hou and Zhang, CVPR 2007).

    The constants are the authors': 64 pixels a side, a 3 x 3 mean of the spectrum, and a final Gaussian of 2.5 pixels.

    Args:
        pixels: `(B, 3, H, W)`, in [0, 1].

    Returns:
        Maps `(B, h, w)` of at most 64 x 64, non-negative, of arbitrary scale; zero where an image is black.
    """
    light = pixels.float().mean(dim=1, keepdim=True)
    size = [min(side, _SPECTRUM_SIDE) for side in light.shape[-2:]]
    light = F.interpolate(light, size, mode="bilinear", antialias=True, align_corners=False)
    spectrum = torch.fft.fft2(light)
    amplitude = spectrum.abs()
    # Below a millionth of the mean brightness an amplitude is rounding noise, and its phase means nothing.
    floored = amplitude.clamp_min(1e-12).maximum(1e-6 * amplitude[..., :1, :1])
    logarithm = floored.log()
    expected = F.avg_pool2d(F.pad(logarithm, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    salient = torch.fft.ifft2((logarithm - expected).exp() * spectrum / floored).abs().square()
    return gaussian(salient, np.full((len(salient), 2), 2.5)).squeeze(1)


def draw_fixations(
    maps: NDArray[np.float64], random: NDArray[np.float64], inhibition: Inhibition, radius: int
) -> NDArray[np.int64]:
    """Pixels drawn one after the other with probabilities proportional to a map. After each draw its surroundings are
    inhibited.

    Args:
        maps: `(B, H, W)`, non-negative; in a map of zeros, all pixels are equally likely.
        random: numbers from [0, 1), `(B, n)`.
        inhibition: shape of the inhibited surroundings.
        radius: of the inhibited surroundings, in pixels.

    Returns:
        Rows and columns, `(B, n, 2)`.
    """
    weights = np.where(maps.sum(axis=(1, 2), keepdims=True) > 0, maps, 1.0)
    fixations = np.empty((*random.shape, 2), dtype=np.int64)
    for number, unit in enumerate(random.T):
        if number:
            inhibit(weights, fixations[:, number - 1], inhibition, radius)
        fixations[:, number] = _invert_distribution(weights, unit)
    return fixations


def inhibit(weights: NDArray[np.float64], fixations: NDArray[np.int64], inhibition: Inhibition, radius: int) -> None:
    """Set the surroundings of one fixation in each map to zero, in place, and scale the rest to a sum of 1.

    Every pixel keeps 1e-16, as in the authors' code. So if all pixels are inhibited, all are equally likely.

    Args:
        weights: `(B, H, W)`, non-negative.
        fixations: rows and columns, `(B, 2)`.
        inhibition: a `disc`, a `square`, or `none`.
        radius: in pixels; the rim is inhibited too.
    """
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    if inhibition == "none":
        return
    steps = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1)
    near = steps[:, (steps**2).sum(axis=0) <= radius**2] if inhibition == "disc" else steps
    rows, columns = (fixations[:, axis, None] + near[axis] for axis in (0, 1))
    samples, points = np.nonzero(
        (rows >= 0) & (rows < weights.shape[1]) & (columns >= 0) & (columns < weights.shape[2])
    )
    weights[samples, rows[samples, points], columns[samples, points]] = 0
    weights += 1e-16
    weights /= weights.sum(axis=(1, 2), keepdims=True)


def _invert_distribution(weights: NDArray[np.float64], unit: NDArray[np.float64]) -> NDArray[np.int64]:
    """The pixel at which the sum of the weights, row by row, exceeds the share `unit` of their total, `(B, 2)`."""
    samples = np.arange(len(weights))
    rows = weights.sum(axis=2)
    row, left = _exceeding(rows, unit * rows.sum(axis=1))
    column, _ = _exceeding(weights[samples, row], left)
    return np.stack((row, column), axis=1)


def _exceeding(
    weights: NDArray[np.float64], amount: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where the running sum exceeds an amount, never at a weight of zero, and the part of the amount that is left."""
    total = weights.cumsum(axis=1)
    amount = np.clip(amount, 0, np.nextafter(total[:, -1], 0))
    place = (total <= amount[:, None]).sum(axis=1)
    before = np.take_along_axis(total - weights, place[:, None], axis=1)[:, 0]
    return place, amount - before


def cut_squares(views: Tensor, top: NDArray[np.int64], left: NDArray[np.int64], side: int) -> Tensor:
    """Squares of `side` pixels, one of each view, black beyond its border.

    Args:
        views: `(B, 3, H, W)`.
        top: first row of each square, `(B,)`; may lie outside of the view.
        left: first column.
        side: in pixels.
    """
    place = np.arange(side) + 0.5
    x, y = (
        2 * (first[:, None] + place) / extent - 1 for first, extent in ((left, views.shape[-1]), (top, views.shape[-2]))
    )
    grid = np.stack(np.broadcast_arrays(x[:, None, :], y[:, :, None]), axis=-1).astype(np.float32)
    # At the centres of pixels, the nearest neighbour is the pixel itself.
    coordinates = torch.from_numpy(grid).to(views.device, non_blocking=True)
    return F.grid_sample(views, coordinates, mode="nearest", padding_mode="zeros", align_corners=False)


def official_patches(views: Tensor, fixations: Tensor, side: int) -> Tensor:
    """Patches as seq-JEPA's code cuts them: row and column exchanged, `side` points on `side` + 1 pixels, cut off to 8
    bits.

    Args:
        views: `(B, 3, S, S)`, in [0, 1].
        fixations: (row, column) in fractions of the view, `(B, 2)`.
        side: of the patches in pixels.
    """
    reach = torch.linspace(-1, 1, side, device=views.device) * (side / views.shape[-1])
    centre = 2 * fixations.to(views.device) - 1
    x = (centre[:, :1] + reach)[:, None, :].expand(-1, side, -1)
    y = (centre[:, 1:] + reach)[:, :, None].expand(-1, -1, side)
    patches = F.grid_sample(
        views, torch.stack((x, y), dim=-1), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return patches.mul(255).byte().float() / 255
