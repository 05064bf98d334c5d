"""Images that lie in memory, as pixels with channels first."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_inv.data.reading import band_axis

_TOLERANCE = 1e-3
"""A resize can leave [0, 1] by a rounding error; a normalised image leaves it by far."""

_CHUNK = 1024


def channels_first(images: Tensor | np.ndarray[Any, Any], what: str = "images", channels: int | None = None) -> Tensor:
    """Images of one size as `(N, C, H, W)`, uint8 or float in [0, 1], without a copy where that is possible.

    Args:
        images: `(N, C, H, W)`, `(N, H, W, C)`, or grey ones without an axis of channels.
        what: what they are, for messages.
        channels: how many they have. None takes red, green and blue where an axis has 3 or 1, and repeats grey; of
            others, the channels are on the axis that is shorter than both sides. Where both orders are possible, a
            tensor has its channels first and an array last.

    Raises:
        ValueError: if they have another shape or type, or floats are not in [0, 1].
    """
    pixels = torch.from_numpy(_readable(images)) if isinstance(images, np.ndarray) else images
    shape, usual = tuple(pixels.shape), channels in (None, 1, 3)
    if pixels.ndim == 3 and usual and 3 not in (shape[0], shape[2]):
        pixels = pixels[:, None]
    elif pixels.ndim != 4:
        one = "one image" if pixels.ndim == 3 else f"shape {shape}"
        count = channels or 3
        raise ValueError(f"{what} must have shape (N, {count}, H, W) or (N, H, W, {count}), got {one}: {shape}")
    wanted = (1, 3) if channels is None or channels == 3 else (channels,)
    places = [axis for axis in (1, 3) if pixels.shape[axis] in wanted]
    if not places and channels is None and 4 not in (shape[1], shape[3]):
        found = band_axis(shape[1:])
        places = [] if found is None else [found + 1]
    if not places:
        advice = ", with the channels on that axis"
        if channels is None and 4 in (shape[1], shape[3]):
            advice = "; leave out the alpha channel, or say `channels: 4`"
        elif channels is None and 3 not in shape[1:]:
            advice = "; say how many `channels` others have"
        count = channels or 3
        raise ValueError(f"{what} must have shape (N, {count}, H, W) or (N, H, W, {count}){advice}, got {shape}")
    axis = places[-1] if isinstance(images, np.ndarray) else places[0]
    pixels = pixels if axis == 1 else pixels.movedim(3, 1)
    _require_values(pixels, what)
    return pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 and channels != 1 else pixels


def as_colours(pixels: Tensor) -> Tensor:
    """Images to look at, `(..., 3, H, W)`: the first three channels as red, green and blue, or the first one as grey.

    Args:
        pixels: `(..., C, H, W)`.
    """
    if pixels.shape[-3] >= 3:
        return pixels[..., :3, :, :]
    return pixels[..., :1, :, :].expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])


def shown_channels(channels: int) -> str:
    """Which of the channels `as_colours` shows; empty for red, green and blue."""
    if channels == 3:
        return ""
    shown = "the first three are shown as red, green and blue" if channels > 3 else "the first is shown as grey"
    return f"{channels} channel(s): {shown}"


def as_bytes(pixels: Tensor) -> Tensor:
    """Pixels as uint8; floats in [0, 1] are rounded, some images at a time."""
    if pixels.dtype == torch.uint8:
        return pixels
    found = torch.empty(pixels.shape, dtype=torch.uint8)
    for start in range(0, len(pixels), _CHUNK):
        some = pixels[start : start + _CHUNK].detach().float().clamp(0, 1)
        found[start : start + _CHUNK] = (255 * some).round().to(torch.uint8)
    return found


def _readable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array that torch can take over: not reversed, writeable, in the machine's order of bytes."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"images must be numbers, got an array of {array.dtype}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array if array.flags.writeable and all(step >= 0 for step in array.strides) else array.copy()


def _require_values(pixels: Tensor, what: str) -> None:
    if pixels.dtype == torch.uint8:
        return
    if not pixels.is_floating_point():
        kind = str(pixels.dtype).removeprefix("torch.")
        raise ValueError(f"{what} must be uint8, or float in [0, 1], got {kind}; convert numbers of 0 to 255 to uint8")
    if not pixels.numel():
        return
    low, high = float(pixels.detach().min()), float(pixels.detach().max())
    if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
        return
    advice = "divide them by 255" if low >= 0 and 1 < high <= 255 else "leave out any normalisation"
    advice = advice if np.isfinite([low, high]).all() else "some are not finite"
    raise ValueError(f"{what} of floats must lie in [0, 1], got {low:.3g} to {high:.3g}; {advice}")
