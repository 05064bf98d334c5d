"""RGB and HSV: the exact hexcone of Smith (1978), as in Python's `colorsys`. Grey has hue 0.

Everything is written into memory that the caller provides: for whole images, fresh memory costs more than the
arithmetic. Masks would cost more, too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def write_hsv(
    pixels: Tensor, hue: Tensor, saturation: Tensor, value: Tensor, spare: Sequence[Tensor], below: Tensor
) -> None:
    """Hue in sixths of a turn, from -1 to 5, saturation and value.

    Args:
        pixels: RGB in [0, 1], `(B, 3, ...)`.
        hue: where to write, `(B, ...)`, as for saturation and value.
        saturation: see `hue`.
        value: see `hue`.
        spare: two more tensors of that shape, which are overwritten.
        below: a tensor like `pixels`, which is overwritten.
    """
    chroma, not_red = spare
    tiny = torch.finfo(pixels.dtype).tiny
    torch.amax(pixels, 1, out=value)
    torch.sub(value, torch.amin(pixels, 1, out=chroma), out=chroma)
    torch.div(chroma, torch.clamp_min(value, tiny, out=saturation), out=saturation)
    # How far each channel lies below the largest one, from 0 to 1.
    torch.sub(value[:, None], pixels, out=below).div_(chroma.clamp_min_(tiny)[:, None])
    red, green, blue = below.unbind(1)
    torch.ceil(red, out=not_red)
    not_green = torch.ceil(green, out=chroma)
    # blue - green where red is largest, else 2 + red - blue where green is, else 4 + green - red: written as steps from
    # one to the next.
    torch.add(green, blue, out=hue).sub_(red, alpha=2).add_(2).mul_(not_green)
    hue.add_(red).add_(green).sub_(blue, alpha=2).add_(2).mul_(not_red)
    hue.add_(blue).sub_(green)


def write_rgb(hue: Tensor, saturation: Tensor, value: Tensor, spare: Sequence[Tensor], rgb: Sequence[Tensor]) -> None:
    """Red, green and blue of any hue: each is a trapezium of the hue between `value` and the least of the three.

    Args:
        hue: in sixths of a turn; overwritten.
        saturation: of the same shape; overwritten.
        value: of the same shape.
        spare: two more tensors of that shape, which are overwritten.
        rgb: where to write, three tensors of that shape.
    """
    ramp, low = spare
    hue.sub_(torch.div(hue, 6, out=ramp).floor_(), alpha=6)
    chroma = saturation.mul_(value)
    torch.sub(value, chroma, out=low)
    for channel, centre, start, rise in zip(rgb, (3, 2, 4), (low, value, value), (1, -1, -1), strict=True):
        torch.sub(hue, centre, out=ramp).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(start, chroma, ramp, value=rise, out=channel)


def hsv_to_rgb(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """RGB in [0, 1], `(..., 3)`, of hues in turns, with saturations and values in [0, 1] that broadcast to them."""
    rgb = hue.new_empty(*hue.shape, 3)
    # A plain number passes through single precision; to change that would change the pixels of rendered data.
    saturation, value = (torch.as_tensor(one).to(hue).expand_as(hue).clone() for one in (saturation, value))
    write_rgb(6 * hue, saturation, value, (torch.empty_like(hue), torch.empty_like(hue)), rgb.unbind(-1))
    return rgb
