"""How a view is lit and coloured: batched, with one factor a sample. Pixels are `(B, 3, H, W)` in [0, 1]; factors are `(B,)`.

The formulas are those of torchvision's functional transforms.
"""

import torch
from kornia.color import hsv_to_rgb, rgb_to_hsv
from kornia.filters import gaussian_blur2d
from torch import Tensor

_TURN = 2 * torch.pi


def _per_sample(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1)


def grey(pixels: Tensor) -> Tensor:
    """Luma (ITU-R 601), `(B, 1, H, W)`."""
    red, green, blue = pixels.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def _blend(pixels: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(pixels), pixels, _per_sample(factor)).clamp_(0, 1)


def brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Multiply by `factor`."""
    return (pixels * _per_sample(factor)).clamp_(0, 1)


def contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """Move away from the mean luma of the image by `factor`."""
    return _blend(pixels, grey(pixels).mean((2, 3), keepdim=True), factor)


def saturation(pixels: Tensor, factor: Tensor) -> Tensor:
    """Move away from the luma of each pixel by `factor`."""
    return _blend(pixels, grey(pixels), factor)


def hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift`, in turns."""
    hsv = rgb_to_hsv(pixels)
    turned = torch.remainder(hsv[:, :1] + _TURN * _per_sample(shift), _TURN)
    return hsv_to_rgb(torch.cat((turned, hsv[:, 1:]), dim=1))


def blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with standard deviation `sigma` in pixels; the kernel spans a tenth of the image, at least 3 pixels."""
    width = max(3, pixels.shape[-1] // 10 // 2 * 2 + 1)
    return gaussian_blur2d(pixels, (width, width), sigma.view(-1, 1).expand(-1, 2))


JITTER = (brightness, contrast, saturation, hue)


def jitter(pixels: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue in an order of each sample's own.

    Args:
        pixels: images.
        factors: the four factors, `(B, 4)`.
        order: which of the four comes first, second, ..., `(B, 4)`, int64.
    """
    pixels = pixels.clone()
    for stage in range(len(JITTER)):
        for number, change in enumerate(JITTER):
            rows = (order[:, stage] == number).nonzero().squeeze(1)
            if len(rows):
                pixels[rows] = change(pixels[rows], factors[rows, number])
    return pixels
