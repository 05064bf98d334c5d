"""What happens to the pixels of views: colours and blur.

Formulas and units are those of torchvision and kornia. Functions for the CPU count on its caches. Those whose name ends
in `at_once` are for devices on which every call costs more than its arithmetic: few calls for all views of a batch.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

RED, GREEN, BLUE = 0.2989, 0.587, 0.114
"""Luma of ITU-R 601, rounded as in torchvision."""

_TO_YIQ = [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
"""From red, green and blue to luma and two coordinates of colour."""

_IMPERCEPTIBLE = 0.2
"""A Gaussian of this many pixels leaves a pixel all but four millionths of its weight."""


def luma(pixels: Tensor) -> Tensor:
    """Brightness as the eye weighs red, green and blue, `(n, 1, H, W)`; the mean of any other channels."""
    if pixels.shape[1] != 3:
        return pixels.mean(1, keepdim=True)
    return (pixels[:, :1] * RED).add_(pixels[:, 1:2], alpha=GREEN).add_(pixels[:, 2:], alpha=BLUE)


def brighten(pixels: Tensor, factor: Tensor) -> None:
    """Multiply n images by factors `(n, 1, 1, 1)` in place, and cut them to [0, 1], as the next two functions do."""
    pixels.mul_(factor).clamp_(0, 1)


def contrast(pixels: Tensor, factor: Tensor) -> None:
    """Multiply the distances from the mean luma of each image."""
    if pixels.shape[1] != 3:
        mean = pixels.mean((1, 2, 3), keepdim=True)
        pixels.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)
        return
    red, green, blue = pixels.mean((2, 3)).unbind(1)
    mean = (red * RED + green * GREEN + blue * BLUE).view(-1, 1, 1, 1)
    pixels.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def saturate(pixels: Tensor, factor: Tensor) -> None:
    """Multiply the distances from the luma of each pixel."""
    share = luma(pixels).mul_(1 - factor)
    pixels.mul_(factor).add_(share).clamp_(0, 1)


def invert_from(pixels: Tensor, threshold: Tensor) -> None:
    """Invert, in place, what lies at or above a threshold for each image, `(n, 1, 1, 1)`."""
    above = torch.ge(pixels, threshold, out=torch.empty_like(pixels))
    pixels.sub_(above).abs_()


def keep_bits(pixels: Tensor, bits: Tensor) -> None:
    """Keep, in place, the highest bits of the 8-bit values, as many as given for each image, `(n, 1, 1, 1)`."""
    step = 2 ** (8 - bits)
    pixels.mul_(255).round_().div_(step).floor_().mul_(step).div_(255)


def turn_hue(pixels: Tensor, shift: Tensor) -> None:
    """Turn the hue of the HSV model by `shift`, `(n, 1, 1, 1)`, in turns; value and chroma, hence saturation, stay.

    With the smallest value m and the chroma c, hue lies (green + blue - red - m) / c + 1 sixths of a turn away from
    red: towards green if green is the larger of green and blue, else towards blue. From a hue h in sixths, red is m + c
    clamp(|h - 3| - 1, 0, 1), green is m + c clamp(2 - |h - 2|, 0, 1), and blue the same with 4. The largest channel is
    never selected: masks take ten times as long as arithmetic. To HSV and back, by `ssl_inv.transforms.hsv`, takes 1.5
    times as long, and rounds in another way.
    """
    red, green, blue = pixels.unbind(1)
    largest = torch.maximum(torch.maximum(red, green), blue)
    smallest = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.sub(largest, smallest).add_(1e-12)
    sixths = torch.add(green, blue).sub_(red).sub_(smallest).div_(chroma).add_(1)
    sixths.copysign_(torch.sub(green, blue)).add_(6 * shift[:, 0])
    part = torch.mul(sixths, 1 / 6).floor_()
    sixths.sub_(part, alpha=6)
    base = torch.sub(smallest, chroma, out=smallest)
    torch.addcmul(base, chroma, torch.sub(sixths, 3, out=part).abs_().clamp_(1, 2), out=red)
    base = torch.add(base, chroma, alpha=3, out=largest)
    torch.addcmul(base, chroma, torch.sub(sixths, 2, out=part).abs_().clamp_(1, 2), value=-1, out=green)
    torch.addcmul(base, chroma, sixths.sub_(4).abs_().clamp_(1, 2), value=-1, out=blue)


def linear_hue(pixels: Tensor, shift: Tensor) -> None:
    """Turn colours about the grey axis by `shift`, `(n, 1, 1, 1)`, in turns: a matrix in YIQ space. It is a good deal
    faster than `turn_hue`, but not the same: it keeps luma instead of value, and cuts values that leave [0, 1].
    """
    angle = 2 * torch.pi * shift[:, 0]
    to_yiq = torch.tensor(_TO_YIQ, device=pixels.device)
    turn = torch.eye(3, device=pixels.device).repeat(len(pixels), 1, 1)
    rows = torch.cat((angle.cos(), -angle.sin()), 2), torch.cat((angle.sin(), angle.cos()), 2)
    turn[:, 1:, 1:] = torch.cat(rows, 1)
    matrices = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    pixels.copy_((matrices @ pixels.flatten(2)).view_as(pixels)).clamp_(0, 1)


def gaussian(pixels: Tensor, deviations: NDArray[np.float64], most: int = 64) -> Tensor:
    """Blur every image along x and along y, in place. Beyond the border an image is mirrored.

    Args:
        pixels: `(n, C, H, W)`.
        deviations: standard deviations along x and along y in pixels, `(n, 2)`; 0 leaves an image as it is.
        most: radius of the largest kernel in pixels. Smaller ones end where less than 3 per mille of the weight lie
            outside.
    """
    radii = _radii(deviations, np.minimum(most, [pixels.shape[-1] - 1, pixels.shape[-2] - 1]))
    for across, down in {(x, y) for x, y in radii.tolist() if x or y}:
        rows = np.flatnonzero((radii == (across, down)).all(axis=1))
        index = torch.from_numpy(rows).to(pixels.device, non_blocking=True)
        one = pixels[rows[0] : rows[0] + 1] if len(rows) == 1 else None
        smooth = pixels.index_select(0, index) if one is None else one
        for sigma, radius, axis in ((deviations[rows, 0], across, -1), (deviations[rows, 1], down, -2)):
            if not radius:
                continue
            weights = np.exp(-0.5 * (np.arange(-radius, 1) / sigma[:, None]) ** 2).astype(np.float32)
            weights /= 2 * weights.sum(axis=1, keepdims=True) - 1
            on_device = torch.from_numpy(weights).to(pixels.device, non_blocking=True)
            factors = on_device.view(len(rows), radius + 1, 1, 1, 1).unbind(1)
            padded = F.pad(smooth, (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius), mode="reflect")
            extent = smooth.shape[axis]
            smooth = factors[radius] * smooth
            for place in range(radius):
                smooth.addcmul_(padded.narrow(axis, place, extent), factors[place])
                smooth.addcmul_(padded.narrow(axis, 2 * radius - place, extent), factors[place])
        if one is None:
            pixels.index_copy_(0, index, smooth)
        else:
            one.copy_(smooth)
    return pixels


def _radii(deviations: NDArray[np.float64], limit: int | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(deviations < _IMPERCEPTIBLE, 0, np.minimum(np.ceil(3 * deviations), limit)).astype(np.int64)


# For a whole batch at once.


def blend_at_once(pixels: Tensor, kept: Tensor, own: Tensor, mean: Tensor) -> None:
    """Brightness, contrast and saturation alike: `kept` times the pixels, plus `own` times the luma of each pixel, plus
    `mean` times the mean luma of the image.

    Args:
        pixels: `(n, C, H, W)`, changed in place and cut to [0, 1].
        kept: a factor for each image, `(n, 1, 1, 1)`; so are `own` and `mean`.
        own: see `kept`.
        mean: see `kept`.
    """
    shade = luma(pixels)
    # In double precision, because the order in which a GPU adds depends on how many images there are.
    middle = shade.mean((2, 3), keepdim=True, dtype=torch.float64).to(shade.dtype).mul_(mean)
    torch.addcmul(torch.addcmul(middle, shade, own), pixels, kept, out=pixels).clamp_(0, 1)


def turn_hue_at_once(pixels: Tensor, sixths: Tensor, shape: Tensor) -> None:
    """As `turn_hue`, with all channels in one call.

    Args:
        pixels: `(n, 3, H, W)`, changed in place.
        sixths: turns for each image in sixths of a circle, `(n, 1, 1)`.
        shape: `HUE_SHAPE` on the device, `(3, 3, 1, 1)`.
    """
    smallest = pixels.amin(1)
    chroma = pixels.amax(1).sub_(smallest).add_(1e-12)
    red, green, blue = pixels.unbind(1)
    hue = torch.add(green, blue).sub_(red).sub_(smallest).div_(chroma).add_(1)
    hue.copysign_(torch.sub(green, blue)).add_(sixths)
    hue.sub_(torch.mul(hue, 1 / 6).floor_(), alpha=6)
    centre, rise, start = shape.unbind()
    ramp = torch.addcmul(start, (hue.unsqueeze(1) - centre).abs_(), rise).clamp_(0, 1)
    torch.addcmul(smallest.unsqueeze(1), chroma.unsqueeze(1), ramp, out=pixels)


HUE_SHAPE = np.array([[3, 2, 4], [1, -1, -1], [-1, 2, 2]], np.float32).reshape(3, 3, 1, 1)
"""Red, green and blue as trapezia of the hue in sixths of a circle: their centres, slopes and starts."""


def linear_hue_matrices(shift: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `linear_hue` multiplies colours with, `(n, 3, 3)`, for turns `(n,)`."""
    angle, to_yiq = 2 * np.pi * shift.astype(np.float64), np.array(_TO_YIQ)
    turn = np.tile(np.eye(3), (len(shift), 1, 1))
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = (
        np.cos(angle),
        -np.sin(angle),
        np.sin(angle),
        np.cos(angle),
    )
    matrices: NDArray[np.float32] = (np.linalg.inv(to_yiq) @ turn @ to_yiq).astype(np.float32)
    return matrices


def mix_at_once(pixels: Tensor, matrices: Tensor) -> None:
    """Colours multiplied with a matrix for each image, `(n, 3, 3)`, in place, and cut to [0, 1]."""
    torch.sum(matrices[..., None, None] * pixels.unsqueeze(1), 2, out=pixels).clamp_(0, 1)


def gaussian_weights(deviations: NDArray[np.float64], limit: int) -> NDArray[np.float32]:
    """The kernels of `gaussian` for n standard deviations, all as long as the longest, `(n, 2 * radius + 1)`."""
    radii = _radii(deviations, limit)
    place = np.arange(-radii.max(initial=0), 1)[:, None]
    shape = np.exp(-0.5 * (place / np.maximum(deviations, _IMPERCEPTIBLE)) ** 2) * (-place <= radii)
    # Added place by place, so that the zeros beyond a kernel's radius change no bit of its sum.
    half = shape.astype(np.float32)
    half /= 2 * half.sum(axis=0) - 1
    weights: NDArray[np.float32] = np.vstack((half, half[-2::-1])).T
    return weights


def convolve_at_once(pixels: Tensor, weights: Tensor) -> Tensor:
    """Every image with a kernel of its own along x and along y; beyond the border an image is mirrored.

    Args:
        pixels: `(n, C, H, W)`.
        weights: `(n * C, K)`, the same for all channels of an image.
    """
    planes, length = weights.shape
    padded = F.pad(pixels, (length // 2,) * 4, mode="reflect").view(
        1, planes, *(side + length - 1 for side in pixels.shape[2:])
    )
    across = F.conv2d(padded, weights.view(planes, 1, 1, length), groups=planes)
    return F.conv2d(across, weights.view(planes, 1, length, 1), groups=planes).view_as(pixels)
