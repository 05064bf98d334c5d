"""Images and feature maps moved a little, smoothly: derivatives, shifts by parts of a pixel, rotations.

Bilinear sampling is not smooth where a position is a whole number, and that is where every motion starts. So shifts and
derivatives are those of the trigonometric polynomial through the pixels. Images are continued by their mirror image,
because a jump at the border would ring.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ssl_inv.transforms.keyed_random import uniform

Scheme = Literal["mirrored", "cyclic", "forward"]
"""How an image is differentiated: as a trigonometric polynomial, continued by its mirror image or cyclically; or by the
difference to the next pixel, reflected at the last one, which is the derivative of a bilinear sampler."""

Motion = Literal["translation_x", "translation_y", "rotation", "scale", "hue", "saturation"]

COLOUR: tuple[Motion, ...] = ("hue", "saturation")
"""Motions of colours, which leave feature maps where they are."""

MOTIONS: tuple[Motion, ...] = ("translation_x", "translation_y", "rotation", "scale", *COLOUR)

UNITS: dict[Motion, str] = {
    "translation_x": "pixel",
    "translation_y": "pixel",
    "rotation": "radian",
    "scale": "e-fold",
    "hue": "radian",
    "saturation": "factor",
}

_HUE = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], dtype=torch.float64) / math.sqrt(3)
_LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)


def stride_of(image: int, cells: int) -> float:
    """Pixels from one cell of a map to the next. Maps of networks with even strides divide the image evenly; others
    have their first and last cells at its borders.
    """
    if image % cells == 0:
        return image / cells
    return (image - 1) / (cells - 1) if cells > 1 else float(image)


def gradient(images: Tensor, scheme: Scheme = "mirrored") -> tuple[Tensor, Tensor]:
    """Derivatives of `(..., H, W)` along x and along y, per pixel."""
    return _derivative(images, -1, scheme), _derivative(images, -2, scheme)


def _derivative(images: Tensor, axis: int, scheme: Scheme) -> Tensor:
    size = images.shape[axis]
    if size == 1:
        return torch.zeros_like(images)
    if scheme == "forward":
        last = images.narrow(axis, size - 2, 1)
        return torch.cat((images.narrow(axis, 1, size - 1), last), dim=axis) - images
    whole = torch.cat((images, images.flip(axis)), dim=axis) if scheme == "mirrored" else images
    turns = _frequencies(whole, axis)
    # The highest frequency of an even number of points has no direction.
    turns = torch.where(turns == -math.pi, torch.zeros_like(turns), turns)
    slope: Tensor = torch.fft.ifft(torch.fft.fft(whole, dim=axis) * (1j * turns), dim=axis).real
    return slope.narrow(axis, 0, size)


def _frequencies(images: Tensor, axis: int) -> Tensor:
    """Radians per pixel along one axis, in a shape that multiplies its Fourier transform."""
    turns: Tensor = 2 * math.pi * torch.fft.fftfreq(images.shape[axis], dtype=images.dtype, device=images.device)
    return turns if axis == -1 else turns[:, None]


def shifted(images: Tensor, x: float | Tensor, y: float | Tensor) -> Tensor:
    """`(B, C, H, W)` with the content moved by x pixels to the right and y down; a number or `(B,)` each.

    What enters is the mirror image. A whole number of pixels moves exactly.
    """
    for axis, amount in ((-1, x), (-2, y)):
        size = images.shape[axis]
        whole = torch.cat((images, images.flip(axis)), dim=axis)
        amounts = torch.as_tensor(amount, dtype=images.dtype, device=images.device).reshape(-1, 1, 1, 1)
        phase = torch.exp(-1j * amounts * _frequencies(whole, axis))
        images = torch.fft.ifft(torch.fft.fft(whole, dim=axis) * phase, dim=axis).real.narrow(axis, 0, size)
    return images


def displacements(images: int, most: int, draws: int, seed: int) -> Tensor:
    """Different displacements (y, x) within -most..most of each image, none of them zero, `(images, K, 2)`; K is
    `draws`, or all that there are.
    """
    side = 2 * most + 1
    count = min(draws, side**2 - 1)
    order = uniform(seed, most, np.arange(images), count=side**2 - 1).argsort(axis=1, kind="stable")[:, :count]
    places = torch.from_numpy(order + (order >= side**2 // 2))  # steps over the middle
    return torch.stack((places // side - most, places % side - most), dim=2)


def overlap(size: tuple[int, int], x: Tensor, y: Tensor) -> Tensor:
    """Where content stands after a shift that was there before it, `(B, 1, H, W)` of 0 and 1; shifts `(B,)`."""
    rows, columns = (torch.arange(length, dtype=torch.float64) for length in size)
    across = (columns - x[:, None] >= -1e-9) & (columns - x[:, None] <= size[1] - 1 + 1e-9)
    down = (rows - y[:, None] >= -1e-9) & (rows - y[:, None] <= size[0] - 1 + 1e-9)
    return (down[:, None, :, None] & across[:, None, None, :]).double()


def rotated(images: Tensor, angles: Tensor) -> Tensor:
    """`(B, C, H, W)` turned about the centre by `(B,)` radians, by bicubic sampling; reflected beyond the border."""
    height, width = images.shape[-2:]
    cos, sin = angles.to(images).cos(), angles.to(images).sin()
    nothing = torch.zeros_like(cos)
    theta = torch.stack((cos, sin * height / width, nothing, -sin * width / height, cos, nothing), dim=1).view(-1, 2, 3)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def disk(height: int, width: int) -> Tensor:
    """The inscribed disk `(1, 1, H, W)` of 0 and 1, half a pixel within the border: it stays in the image when it is
    turned.
    """
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width)), indexing="ij")
    return (x.square() + y.square() <= (max(min(height, width) - 1, 1) / 2) ** 2).double()[None, None]


def generator(images: Tensor, motion: Motion, stride: float = 1.0, scheme: Scheme = "mirrored") -> Tensor:
    """The velocity of every pixel under a motion of space: d/dt of the moved `(B, C, H, W)`, at t = 0.

    Args:
        images: images, or feature maps.
        motion: a motion of space; the unit of t is that of `UNITS`.
        stride: pixels of the image in one cell of a map, for translations.
        scheme: how the content is differentiated.
    """
    along_x, along_y = gradient(images, scheme)
    if motion == "translation_x":
        return along_x / stride
    if motion == "translation_y":
        return along_y / stride
    sizes = images.shape[-2:]
    y, x = (torch.arange(n, dtype=images.dtype, device=images.device) - (n - 1) / 2 for n in sizes)
    if motion == "rotation":
        return x * along_y - y[:, None] * along_x
    if motion == "scale":
        return x * along_x + y[:, None] * along_y
    raise ValueError(f"{motion!r} is no motion of space")


def colour_generator(images: Tensor, motion: Motion, mean: Tensor, deviation: Tensor) -> Tensor:
    """The velocity of normalised colours `(B, 3, H, W)`: hue turns about the axis of greys, by radians; saturation
    moves away from the luma of the pixel, by factors.

    Args:
        images: (colour - mean) / deviation, colours in [0, 1].
        motion: "hue" or "saturation".
        mean: of the normalisation, `(3,)`.
        deviation: of the normalisation, `(3,)`.
    """
    matrix = _HUE if motion == "hue" else torch.eye(3, dtype=torch.float64) - _LUMA.repeat(3, 1)
    middle, scale = (one.to(images).view(3, 1, 1) for one in (mean, deviation))
    velocity: Tensor = torch.einsum("ij,bjhw->bihw", matrix.to(images), images * scale + middle) / scale
    return velocity
