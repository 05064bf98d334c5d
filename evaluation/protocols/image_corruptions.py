"""Corruptions of images in the manner of ImageNet-C, in five severities; every image has its own key.

Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations" (ICLR 2019),
define them for images of 224 pixels. Lengths in pixels are scaled by the side of the image, so that a small image loses
as much of its content. The rendering is our own: nothing is stored as JPEG in between.
"""

import io
import math

import numpy as np
import torch
from kornia.color import hsv_to_rgb, rgb_to_hsv
from kornia.filters import filter2d, gaussian_blur2d
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from ssl_inv.evaluation.protocols.corruption_parts import (
    Corruption,
    Keys,
    normal,
    numbers,
    plasma,
    ratio_of,
    sampled,
    streaked,
)
from ssl_inv.evaluation.protocols.weather import frost, glass_blur, snow
from ssl_inv.transforms.keyed_random import uniform

_FINE = 9
"""Sub-pixels along each axis from which the disk of a lens is drawn."""


def corrupted(colours: Tensor, name: str, severity: int, keys: Keys) -> Tensor:
    """Images with one corruption.

    Args:
        colours: in [0, 1], `(B, 3, H, W)`.
        name: a key of `CORRUPTIONS`.
        severity: from 1 to 5.
        keys: decide what is random, `(B,)`: an image looks the same in any batch and on any device, up to rounding.

    Returns:
        Colours in [0, 1].
    """
    return CORRUPTIONS[name](colours, severity - 1, keys).clamp(0, 1)


def _gaussian_noise(colours: Tensor, level: int, keys: Keys) -> Tensor:
    return colours + (0.08, 0.12, 0.18, 0.26, 0.38)[level] * normal(colours, keys)


def _speckle_noise(colours: Tensor, level: int, keys: Keys) -> Tensor:
    return colours + colours * (0.15, 0.2, 0.35, 0.45, 0.6)[level] * normal(colours, keys)


def _shot_noise(colours: Tensor, level: int, keys: Keys) -> Tensor:
    """Poisson(x c) / c, of the 256 levels that pixels of files have."""
    photons = (60, 25, 12, 5, 3)[level]
    rates = np.arange(256) / 255 * photons
    counts = np.arange(int(photons + 10 * math.sqrt(photons)) + 1)
    logs = np.array([math.lgamma(count + 1) for count in counts])
    below = np.exp(counts * np.log(np.maximum(rates, 1e-300))[:, None] - rates[:, None] - logs).cumsum(axis=1)
    # Each level has its own stretch of one ascending line, so that a single search answers for all levels.
    below[:, -1] = 1
    line = (np.minimum(below, 1) + np.arange(256)[:, None]).ravel()
    levels = (colours * 255).round().long().cpu().numpy()
    drawn = uniform(keys, count=colours[0].numel()).reshape(colours.shape)
    found = np.searchsorted(line, drawn + levels, side="right") - levels * len(counts)
    return torch.from_numpy(found / photons).to(colours)


def _impulse_noise(colours: Tensor, level: int, keys: Keys) -> Tensor:
    """Salt and pepper, in each channel by itself."""
    half = (0.03, 0.06, 0.09, 0.17, 0.27)[level] / 2
    drawn = numbers(colours, keys, *colours.shape[1:])
    return torch.where(drawn < half, 0.0, torch.where(drawn >= 1 - half, 1.0, colours))


def _gaussian_blur(colours: Tensor, level: int, keys: Keys) -> Tensor:
    sigma = (1, 2, 3, 4, 6)[level] * ratio_of(colours)
    size = 2 * math.ceil(4 * sigma) + 1
    blurred: Tensor = gaussian_blur2d(colours, (size, size), (sigma, sigma), border_type="replicate")
    return blurred


def _defocus_blur(colours: Tensor, level: int, keys: Keys) -> Tensor:
    """A disk, drawn without jagged edges."""
    radius = (3, 4, 6, 8, 10)[level] * ratio_of(colours)
    reach = math.ceil(radius)
    places = (torch.arange((2 * reach + 1) * _FINE, dtype=torch.float64) + 0.5) / _FINE - reach - 0.5
    inside = (places[:, None].square() + places.square() <= radius**2).double()
    disk = torch.nn.functional.avg_pool2d(inside[None], _FINE)
    blurred: Tensor = filter2d(colours, (disk / disk.sum()).to(colours), border_type="replicate")
    return blurred


def _motion_blur(colours: Tensor, level: int, keys: Keys) -> Tensor:
    """The mean along a line to one side, with the weights of half a Gaussian."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    angle = (0.5 * numbers(colours, keys, 1)[:, 0] - 0.25) * math.pi
    return streaked(colours, radius, sigma, angle)


def _zoom_blur(colours: Tensor, level: int, keys: Keys) -> Tensor:
    most, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = np.arange(1, most, step)
    total = colours
    for factor in factors.tolist():
        theta = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]], dtype=colours.dtype, device=colours.device)
        total = total + sampled(colours, theta.expand(len(colours), 2, 3))
    return total / (len(factors) + 1)


def _fog(colours: Tensor, level: int, keys: Keys) -> Tensor:
    strength, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[level]
    height, width = colours.shape[-2:]
    clouds = plasma(keys, 1 << math.ceil(math.log2(max(height, width, 2))), decay)[:, None, :height, :width]
    brightest = colours.amax(dim=(1, 2, 3), keepdim=True)
    return (colours + strength * clouds.to(colours)) * brightest / (brightest + strength)


def _brightness(colours: Tensor, level: int, keys: Keys) -> Tensor:
    hue, saturation, value = rgb_to_hsv(colours).unbind(1)
    value = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[level]).clamp(0, 1)
    brighter: Tensor = hsv_to_rgb(torch.stack((hue, saturation, value), dim=1))
    return brighter


def _saturate(colours: Tensor, level: int, keys: Keys) -> Tensor:
    factor, more = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[level]
    hue, saturation, value = rgb_to_hsv(colours).unbind(1)
    saturated: Tensor = hsv_to_rgb(torch.stack((hue, (saturation * factor + more).clamp(0, 1), value), dim=1))
    return saturated


def _contrast(colours: Tensor, level: int, keys: Keys) -> Tensor:
    mean = colours.mean(dim=(2, 3), keepdim=True)
    return (colours - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean


def _elastic_transform(colours: Tensor, level: int, keys: Keys) -> Tensor:
    """An affine map that moves three points, and smooth random shifts, in one sampling."""
    strength, smoothness, affine = (
        (2, 0.7, 0.1),
        (2, 0.08, 0.2),
        (0.05, 0.01, 0.02),
        (0.07, 0.01, 0.02),
        (0.12, 0.01, 0.02),
    )[level]
    ratio, (height, width) = ratio_of(colours), colours.shape[-2:]
    field = 2 * uniform(keys, count=2 * height * width).reshape(len(keys), 2, height, width) - 1
    sigma = 244 * ratio * smoothness
    rows, columns = gaussian_rows(height, sigma), gaussian_rows(width, sigma)
    # A field of a larger image is smoother, and so smaller, by the ratio of the sides.
    shift = 244 * strength * ratio**2 * (rows @ torch.from_numpy(field) @ columns.T)
    centre = torch.tensor([width, height], dtype=torch.float64) // 2
    reach = min(height, width) // 3 or 1
    points = centre + reach * torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.float64)
    moves = torch.from_numpy(uniform(keys, 1, count=6).reshape(-1, 3, 2) * 2 - 1) * affine * 244 * ratio
    homogeneous = torch.cat((points + moves, torch.ones(len(keys), 3, 1, dtype=torch.float64)), dim=2)
    back = torch.linalg.solve(homogeneous, points.expand(len(keys), 3, 2))  # from the new place to the old one
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (height, width)), indexing="ij")
    places = torch.stack((x, y), dim=-1) + shift.movedim(1, -1)
    places = places @ back[:, None, :2] + back[:, None, None, 2]
    grid = (2 * places + 1) / torch.tensor([width, height]) - 1
    return grid_sample(colours, grid.to(colours), mode="bilinear", padding_mode="reflection", align_corners=False)


def gaussian_rows(length: int, sigma: float) -> Tensor:
    """The Gaussian filter as a matrix `(length, length)`, cut at three deviations, of a signal that is mirrored at its
    ends as often as needed.
    """
    reach = max(math.ceil(3 * sigma - 0.5), 0)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-(offsets.double() / max(sigma, 1e-9)).square() / 2)
    sources = (torch.arange(length)[:, None] + offsets) % (2 * length)
    sources = torch.minimum(sources, 2 * length - 1 - sources)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add_(
        1, sources, (weights / weights.sum()).expand(length, -1)
    )


def _pixelate(colours: Tensor, level: int, keys: Keys) -> Tensor:
    share, sides = (0.6, 0.5, 0.4, 0.3, 0.25)[level], colours.shape[-2:]
    small = interpolate(colours, [max(1, int(side * share)) for side in sides], mode="area")
    return interpolate(small, sides, mode="nearest-exact")


def _jpeg_compression(colours: Tensor, level: int, keys: Keys) -> Tensor:
    quality, files = (25, 18, 15, 10, 7)[level], []
    for image in (colours * 255).round().to(torch.uint8).movedim(1, -1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        files.append(torch.from_numpy(np.array(Image.open(file))))
    return torch.stack(files).movedim(-1, 1).to(colours) / 255


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
    "speckle_noise": _speckle_noise,
    "gaussian_blur": _gaussian_blur,
    "saturate": _saturate,
    "glass_blur": glass_blur,
    "snow": snow,
    "frost": frost,
}
"""By name: the fifteen corruptions of the benchmark, and three of its four further ones. The place in this table is
part of the key of what is random.
"""

_FURTHER = ("speckle_noise", "gaussian_blur", "saturate")

BENCHMARK = tuple(name for name in CORRUPTIONS if name not in _FURTHER)
"""The corruptions that a mean is taken of."""
