"""How a view is lit and coloured, with the formulas of torchvision's functional transforms.

Pixels are `(n, 3, H, W)`, float in [0, 1], and every function changes them in place and returns them; parameters are
`(n,)`, one a sample.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment.filters import gaussian

_CACHED_PIXELS = 2**16
"""Pixels that one core works on at a time: the planes that a change of hue needs beside them then stay in a cache of 1
MB.
"""


RED, GREEN, BLUE = 0.2989, 0.587, 0.114
"""Luma of ITU-R 601, rounded as in torchvision."""


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def luma(pixels: Tensor) -> Tensor:
    """Brightness as the eye weighs the channels, `(n, 1, H, W)`."""
    return (pixels[:, :1] * RED).add_(pixels[:, 1:2], alpha=GREEN).add_(pixels[:, 2:], alpha=BLUE)


def brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Multiply by `factor`."""
    return pixels.mul_(_each(factor)).clamp_(0, 1)


def contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """Move away from the mean luma of the image by `factor`."""
    red, green, blue = pixels.mean((2, 3)).unbind(1)
    mean = red * RED + green * GREEN + blue * BLUE
    return pixels.mul_(_each(factor)).add_(_each(mean * (1 - factor))).clamp_(0, 1)


def saturation(pixels: Tensor, factor: Tensor) -> Tensor:
    """Move away from the luma of each pixel by `factor`."""
    share = luma(pixels).mul_(_each(1 - factor))
    return pixels.mul_(_each(factor)).add_(share).clamp_(0, 1)


def hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of the HSV model by `shift`, in turns; value and chroma, hence saturation, stay.

    With the smallest value m and the chroma c, hue lies (green + blue - red - m) / c + 1 sixths of a turn away from
    red: towards green if green is the larger of green and blue, else towards blue. From a hue h in sixths, red is m + c
    clamp(|h - 3| - 1, 0, 1), and green and blue are m + c clamp(2 - |h - 2|, 0, 1) and the same with 4. No pixel is
    asked which of its channels is the largest: selecting by truth values takes ten times as long as arithmetic.
    """
    red, green, blue = pixels.unbind(1)
    largest = torch.maximum(torch.maximum(red, green), blue)
    smallest = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.sub(largest, smallest).add_(1e-12)
    sixths = torch.add(green, blue).sub_(red).sub_(smallest).div_(chroma).add_(1)
    sixths.copysign_(torch.sub(green, blue)).add_(6 * shift.view(-1, 1, 1))
    part = torch.mul(sixths, 1 / 6).floor_()
    sixths.sub_(part, alpha=6)
    base = torch.sub(smallest, chroma, out=smallest)
    torch.addcmul(base, chroma, torch.sub(sixths, 3, out=part).abs_().clamp_(1, 2), out=red)
    base = torch.add(base, chroma, alpha=3, out=largest)
    torch.addcmul(base, chroma, torch.sub(sixths, 2, out=part).abs_().clamp_(1, 2), value=-1, out=green)
    torch.addcmul(base, chroma, sixths.sub_(4).abs_().clamp_(1, 2), value=-1, out=blue)
    return pixels


def linear_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Turn colours about the grey axis by `shift`, in turns: a matrix in YIQ space, and a good deal faster than `hue`,
    but not the same.

    It keeps luma instead of value, and values that leave [0, 1] are cut.
    """
    angle = (2 * torch.pi * shift).view(-1, 1, 1)
    to_yiq = torch.tensor(
        [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], device=pixels.device
    )
    turn = torch.eye(3, device=pixels.device).repeat(len(pixels), 1, 1)
    turn[:, 1:, 1:] = torch.cat(
        (torch.cat((angle.cos(), -angle.sin()), 2), torch.cat((angle.sin(), angle.cos()), 2)), 1
    )
    matrices = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return pixels.copy_((matrices @ pixels.flatten(2)).view_as(pixels)).clamp_(0, 1)


Change = Callable[[Tensor, Tensor], Tensor]


def jitter(pixels: Tensor, factors: Tensor, order: NDArray[np.int64], hue_change: Change = hue) -> Tensor:
    """Brightness, contrast, saturation and hue, in an order of each sample's own.

    Consecutive samples that take the same change at the same stage are changed together, so sort them: see `by_order`.

    Args:
        pixels: images.
        factors: the four parameters, `(n, 4)`.
        order: which of the four comes first, second, ..., `(n, 4)`.
        hue_change: `hue` or `linear_hue`.
    """
    changes = (brightness, contrast, saturation, hue_change)
    columns = factors.unbind(1)
    most = (
        len(pixels)
        if pixels.device.type != "cpu"
        else max(1, _CACHED_PIXELS * torch.get_num_threads() // pixels[0, 0].numel())
    )
    for stage in range(len(changes)):
        for rows, number in _runs(order[:, stage], most):
            changes[number](pixels[rows], columns[number][rows])
    return pixels


def by_order(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """An order of the samples in which equal changes stand together, hue first: it costs more than the others."""
    return np.lexsort((*order.T[::-1], order.argmax(axis=1)))


def _runs(numbers: NDArray[np.int64], most: int) -> Iterator[tuple[slice, int]]:
    """Equal numbers that stand together, `most` of them at a time."""
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(numbers)], strict=True):
        yield from ((slice(part, min(part + most, stop)), int(numbers[start])) for part in range(start, stop, most))


def grey(pixels: Tensor) -> Tensor:
    """Replace all channels by the luma."""
    return pixels.copy_(luma(pixels).expand_as(pixels))


def blur(pixels: Tensor, sigma: NDArray[np.float64]) -> Tensor:
    """Gaussian blur with standard deviation `sigma` in pixels, 0 for none; the kernel spans a tenth of the view, and at
    least 3 pixels.
    """
    widest = max(3, pixels.shape[-1] // 10 // 2 * 2 + 1)
    return gaussian(pixels, np.stack((sigma, sigma), axis=1), widest // 2)


def solarise(pixels: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values at or above `threshold`."""
    above = torch.ge(pixels, _each(threshold), out=torch.empty_like(pixels))
    return pixels.addcmul_(above, 1 - 2 * pixels)


def posterise(pixels: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` of the 8 bits of every value."""
    step = _each(2 ** (8 - bits))
    return pixels.mul_(255).round_().div_(step).floor_().mul_(step).div_(255)


def noise(pixels: Tensor, deviation: Tensor, seed: Tensor) -> Tensor:
    """Add independent Gaussian noise, the same on every kind of device, and cut what leaves [0, 1].

    The numbers are a hash of the seed and of the place (SplitMix's finaliser on 31 bits), two of them a value, by Box
    and Muller.
    """
    return pixels.addcmul_(_normal(pixels, seed), _each(deviation)).clamp_(0, 1)


def _normal(pixels: Tensor, seed: Tensor) -> Tensor:
    place = torch.arange(pixels[0].numel(), device=pixels.device).view(1, *pixels.shape[1:])
    first, second = (_hashed(_hashed(_each(seed) + part) + place) for part in (0, 1))
    radius = first.add(1).div(2.0**31).log_().mul_(-2).sqrt_()
    return radius * second.mul(2 * torch.pi / 2.0**31).cos_()


DROPPED = 0.5
"""About what a channel that is dropped varies: mid-grey."""


def drop_colours(pixels: Tensor, kept: Tensor, seed: Tensor) -> Tensor:
    """Replace all channels but number `kept`, counted from 1, by Gaussian noise of a hundredth of its standard
    deviation.
    """
    kept = kept.view(-1, 1) - 1
    deviation = pixels.std((2, 3), correction=0).gather(1, kept) / 100
    noise = _normal(pixels, seed).mul_(_each(deviation)).add_(DROPPED).clamp_(0, 1)
    stays = torch.arange(3, device=pixels.device) == kept
    return pixels.copy_(torch.where(stays[:, :, None, None], pixels, noise))


def _hashed(numbers: Tensor) -> Tensor:
    mask = 0x7FFFFFFF
    numbers = numbers ^ (numbers >> 31)
    numbers = (numbers & mask) * 0x45D9F3B & mask
    numbers = (numbers ^ (numbers >> 16)) * 0x45D9F3B & mask
    return numbers ^ (numbers >> 15)


ERASED = 0.5
"""What is painted over a view: mid-grey."""


def erase(pixels: Tensor, boxes: NDArray[np.float64]) -> Tensor:
    """Paint over a rectangle: (left, top, width, height) in fractions of the view, `(n, 4)`."""
    height, width = pixels.shape[-2:]
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    corners = np.rint(np.concatenate((low, high), axis=1) * [width, height, width, height])
    for one, (left, top, right, bottom) in zip(pixels, corners.astype(int).tolist(), strict=True):
        one[:, top:bottom, left:right] = ERASED
    return pixels
