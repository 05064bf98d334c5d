"""kornia's augmentations of colour, in place and with the same formulas, on the rows that they change.

Hue and blur are this package's own; kernels of a blur end at three standard deviations, which moves a value by less
than 3 per mille.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import kornia.augmentation as K
import numpy as np
import torch
from kornia.constants import BorderType
from torch import Tensor, nn

from ssl_inv.augment.colour import gaussian, turn_hue

Params = Mapping[str, Tensor]

_LUMA = (0.299, 0.587, 0.114)
_CACHED_PIXELS = 2**16
"""Pixels whose hue one core turns at a time."""


def _column(values: Tensor, pixels: Tensor) -> Tensor:
    """One number an image as `(n, 1, 1, 1)`."""
    return values.to(pixels.device, torch.float32, non_blocking=True).view(-1, 1, 1, 1)


def _luma(pixels: Tensor, weights: Sequence[float] = _LUMA) -> Tensor:
    shade = pixels[:, :1] * weights[0]
    return shade.add_(pixels[:, 1:2], alpha=weights[1]).add_(pixels[:, 2:], alpha=weights[2])


def _scale(pixels: Tensor, factor: Tensor) -> None:
    pixels.mul_(factor).clamp_(0, 1)


def _add(pixels: Tensor, factor: Tensor) -> None:
    pixels.add_(factor - 1).clamp_(0, 1)


def _away_from_mean(pixels: Tensor, factor: Tensor) -> None:
    mean = _luma(pixels.mean((2, 3), keepdim=True))
    pixels.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _away_from_luma(pixels: Tensor, factor: Tensor) -> None:
    share = _luma(pixels).mul_(1 - factor)
    pixels.mul_(factor).add_(share).clamp_(0, 1)


def _saturate(pixels: Tensor, factor: Tensor) -> None:
    """Times the saturation of the HSV model: value and hue stay."""
    value, least = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    chroma = value - least
    wanted = (chroma / (value + 1e-8)).mul_(factor).clamp_(0, 1).mul_(value)
    ratio = wanted.div_(chroma.add_(1e-20))
    pixels.sub_(value).mul_(ratio).add_(value).clamp_(0, 1)


def _turn(pixels: Tensor, factor: Tensor) -> None:
    most = max(1, _CACHED_PIXELS * torch.get_num_threads() // pixels[0, 0].numel())
    most = most if pixels.device.type == "cpu" else len(pixels)
    for first in range(0, len(pixels), most):
        turn_hue(pixels[first : first + most], factor[first : first + most])


_FACTORS = {"brightness_factor": 1.0, "contrast_factor": 1.0, "saturation_factor": 1.0, "hue_factor": 0.0}
Change = Callable[[Tensor, Tensor], None]


def _jitter(changes: tuple[Change, ...]) -> Callable[[Any, Params, Tensor], None]:
    def jitter(module: Any, params: Params, pixels: Tensor) -> None:
        pixels.clamp_(0, 1)
        for number in module._fixed_order if module._fixed_order is not None else params["order"].tolist():
            name, neutral = list(_FACTORS.items())[number]
            if bool((params[name] != neutral).any()):
                changes[number](pixels, _column(params[name], pixels))

    return jitter


def _brightness(module: Any, params: Params, pixels: Tensor) -> None:
    shift = _column(params["brightness_factor"], pixels) - 1
    if module.clip_output:
        pixels.clamp_(0, 1).add_(shift).clamp_(0, 1)
    else:
        pixels.add_(shift)


def _contrast(module: Any, params: Params, pixels: Tensor) -> None:
    factor = _column(params["contrast_factor"], pixels)
    if module.clip_output:
        pixels.clamp_(0, 1).mul_(factor).clamp_(0, 1)
    else:
        pixels.mul_(factor)


def _saturation(module: Any, params: Params, pixels: Tensor) -> None:
    _saturate(pixels.clamp_(0, 1), _column(params["saturation_factor"], pixels))


def _hue(module: Any, params: Params, pixels: Tensor) -> None:
    _turn(pixels.clamp_(0, 1), _column(params["hue_factor"], pixels))


def _grey(module: Any, params: Params, pixels: Tensor) -> None:
    weights = _LUMA if module.rgb_weights is None else module.rgb_weights.flatten().tolist()
    pixels.copy_(_luma(pixels, weights).expand_as(pixels))


def _blur(module: Any, params: Params, pixels: Tensor) -> None:
    kernel = module.flags["kernel_size"]
    down, across = (kernel, kernel) if isinstance(kernel, int) else kernel
    sigma = params["sigma"].cpu().numpy().astype(np.float64).reshape(-1, 1)
    if down == across:
        gaussian(pixels, sigma.repeat(2, axis=1), down // 2)
    else:
        gaussian(pixels, sigma * [1, 0], across // 2)
        gaussian(pixels, sigma * [0, 1], down // 2)


def _solarise(module: Any, params: Params, pixels: Tensor) -> None:
    pixels.clamp_(0, 1)
    if "additions" in params:
        pixels.add_(_column(params["additions"], pixels)).clamp_(0, 1)
    above = torch.ge(pixels, _column(params["thresholds"], pixels), out=torch.empty_like(pixels))
    pixels.addcmul_(above, 1 - 2 * pixels)


def _posterise(module: Any, params: Params, pixels: Tensor) -> None:
    """Division and multiplication by 255 are kornia's: they round some levels down to the next."""
    bits = _column(params["bits_factor"], pixels)
    step = torch.exp2(8 - bits)
    made = pixels.clamp_(0, 1).mul(255).trunc_().div_(step).div_(255).mul_(255).trunc_().mul_(step).div_(255)
    made.mul_(bits != 0)
    pixels.copy_(torch.where(bits == 8, pixels, made))


def _erase(module: Any, params: Params, pixels: Tensor) -> None:
    x, y, width, height, value = (_column(params[name], pixels) for name in ("xs", "ys", "widths", "heights", "values"))
    across = torch.arange(pixels.shape[-1], device=pixels.device).view(1, 1, 1, -1)
    down = torch.arange(pixels.shape[-2], device=pixels.device).view(1, 1, -1, 1)
    inside = ((across >= x) & (across <= x + width - 1)) & ((down >= y) & (down <= y + height - 1))
    pixels.copy_(torch.where(inside, value, pixels))


def _noise(module: Any, params: Params, pixels: Tensor) -> None:
    pixels.add_(params["gaussian_noise"].to(pixels.device, torch.float32))


def _normalise(module: Any, params: Params, pixels: Tensor) -> None:
    mean, deviation = (module.flags[name].to(pixels.device, torch.float32) for name in ("mean", "std"))
    pixels.sub_(mean.view(1, -1, 1, 1)).div_(deviation.view(1, -1, 1, 1))


CHANGES: dict[type, Callable[[Any, Params, Tensor], None]] = {
    K.ColorJitter: _jitter((_scale, _away_from_mean, _away_from_luma, _turn)),
    K.ColorJiggle: _jitter((_add, _scale, _saturate, _turn)),
    K.RandomBrightness: _brightness,
    K.RandomContrast: _contrast,
    K.RandomSaturation: _saturation,
    K.RandomHue: _hue,
    K.RandomGrayscale: _grey,
    K.RandomGaussianBlur: _blur,
    K.RandomSolarize: _solarise,
    K.RandomPosterize: _posterise,
    K.RandomErasing: _erase,
    K.RandomGaussianNoise: _noise,
    K.Normalize: _normalise,
}
"""Augmentations of kornia that become part of one chain of colours -> how to do what they drew, in place, to the images
that they change, `(n, 3, H, W)` float32.
"""

PLACED = (K.RandomErasing, K.RandomGaussianNoise)
"""Those that know left from right: a flip cannot be moved before them."""


def obstacle(module: nn.Module) -> str:
    """Which setting keeps an augmentation of `CHANGES` out of the chain; empty if none does."""
    if isinstance(module, K.RandomGaussianBlur):
        return "border_type" if module.flags["border_type"] != BorderType.REFLECT else ""
    if isinstance(module, K.Normalize):
        flat = all(module.flags[name].dim() <= 1 and module.flags[name].numel() in (1, 3) for name in ("mean", "std"))
        return "" if flat else "mean"
    if isinstance(module, K.RandomGrayscale) and module.rgb_weights is not None:
        return "rgb_weights" if module.rgb_weights.numel() != 3 else ""
    return ""


def chosen_params(params: Params, rows: Tensor, count: int) -> dict[str, Tensor]:
    """What was drawn for some of `count` images. Numbers that hold for the whole batch stay."""
    shared = {"order", "forward_input_shape"}
    return {
        name: value.expand(count, *value.shape[1:])[rows] if name not in shared and value.dim() else value
        for name, value in params.items()
    }
