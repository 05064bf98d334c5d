"""An encoder as a module: from images as they come to the parts of its features."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from ssl_inv.data.decoding import Pixels, decode, to_pixels, to_square
from ssl_inv.data.pixels import channels_first
from ssl_inv.data.reading import Reading
from ssl_inv.nn.backbones import Backbone, Cached
from ssl_inv.nn.modes import frozen
from ssl_inv.run.encoders import Model
from ssl_inv.run.exports.export import Preprocessing
from ssl_inv.run.exports.parts import InParts
from ssl_inv.run.judging import parts_of
from ssl_inv.views.maker import central

Picture = Image.Image | Tensor | np.ndarray[Any, Any] | bytes | str | os.PathLike[str]
"""An image: of Pillow, a tensor `(C, H, W)`, an array `(H, W, C)`, an encoded file, or the path of one."""

Pictures = Picture | Sequence[Picture]
"""One image, a list of images of any sizes, or a tensor or an array of images."""


class LoadedEncoder(nn.Module):
    """A backbone with its preprocessing, and the parts of its features that its objective or its export names.

    It is in evaluation mode, and can be trained further like any module.

    Attributes:
        backbone: from normalised pixels to features.
        objective: of the pretraining; None if it is not known.
        preprocessing: of the images.
        source: where it is from.
    """

    backbone: nn.Module

    def __init__(self, model: Model) -> None:
        super().__init__()
        networks, self.objective = model.trained()
        self.backbone = networks.network if isinstance(networks, InParts) else networks
        assert model.preprocessing is not None
        self.preprocessing: Preprocessing = model.preprocessing
        self.source, self._share = model, model.crop_share
        reading, channels = self.preprocessing.reading, len(self.preprocessing.mean)
        self._reading = reading if reading.count == channels else Reading(channels=channels)
        both = torch.tensor(self.preprocessing.mean), torch.tensor(self.preprocessing.std)
        self.register_buffer("_mean", both[0].view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_std", both[1].view(1, -1, 1, 1), persistent=False)
        self.eval()

    def forward(self, images: Pictures) -> dict[str, Tensor]:
        """The parts of the features, `(B, D)` each: `all`, and for some objectives `invariant` and `equivariant`.

        Args:
            images: one image or several; uint8, or float in [0, 1]. See `prepare`.
        """
        return self.encode(self.prepare(images))

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """The parts of the features of pixels that `prepare` gave."""
        if self.objective is None:
            return parts_of(self.source.in_parts(self.backbone)(pixels))
        assert isinstance(self.backbone, Backbone)
        return parts_of(self.objective.representations(Cached(self.backbone, batches=1))(pixels))

    def prepare(self, images: Pictures) -> Tensor:
        """Normalised pixels `(B, C, S, S)`: the centre squares, resized as in pretraining. Files are read as there.

        Raises:
            ValueError: if they are no images, or floats are not in [0, 1].
        """
        assert isinstance(self._mean, Tensor)
        assert isinstance(self._std, Tensor)
        side = round(self.preprocessing.input_size / self._share)
        pixels = _squares(images, side, self._reading).to(self._mean.device)
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        return (central(pixels, self._share) - self._mean) / self._std

    @property
    def parts(self) -> dict[str, int]:
        """The parts of the features, and their dimensions."""
        assert isinstance(self._mean, Tensor)
        size = self.preprocessing.input_size
        with frozen(self), torch.no_grad():
            found = self.encode(torch.zeros(1, self._mean.shape[1], size, size, device=self._mean.device))
        return {part: value.shape[1] for part, value in found.items()}

    def __repr__(self) -> str:
        parts = ", ".join(f"{part} {width}" for part, width in self.parts.items())
        return f"LoadedEncoder({self.source.description}; images of {self.preprocessing.input_size} pixels to {parts})"


def _squares(images: Pictures, side: int, reading: Reading) -> Tensor:
    if isinstance(images, Image.Image | bytes | str | os.PathLike):
        return _squares([images], side, reading)
    channels = None if reading.count == 3 else reading.count
    if isinstance(images, Tensor | np.ndarray):
        one = images.ndim == 3 and reading.count in (images.shape[0], images.shape[2])
        return _batch(channels_first(images[None] if one else images, channels=channels), side)
    if not isinstance(images, Sequence) or not len(images):
        raise ValueError(f"images must be one image, or a list, tensor or array of some, got {type(images).__name__}")
    each = [_squares_of_one(one, side, reading) for one in images]
    if len({(one.dtype, one.device) for one in each}) > 1:
        each = [(one.float() / 255 if one.dtype == torch.uint8 else one.float()).cpu() for one in each]
    return torch.cat(each)


def _squares_of_one(image: Any, side: int, reading: Reading) -> Tensor:
    if isinstance(image, str | os.PathLike):
        return _channels_first(decode(Path(image).read_bytes(), side, reading))
    if isinstance(image, bytes):
        return _channels_first(decode(image, side, reading))
    if isinstance(image, Image.Image):
        return _channels_first(to_square(to_pixels(ImageOps.exif_transpose(image), reading), side))
    if isinstance(image, Tensor | np.ndarray):
        channels = None if reading.count == 3 else reading.count
        return _batch(channels_first(image[None], "an image", channels), side)
    raise ValueError(f"an image must be one of Pillow, a tensor, an array or a path, got {type(image).__name__}")


def _channels_first(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.require(pixels, requirements=("C", "W"))).permute(2, 0, 1)[None]


def _batch(pixels: Tensor, side: int) -> Tensor:
    """The centre squares of `(N, C, H, W)`: bytes on the host as data sources make them, others with a gradient."""
    height, width = pixels.shape[-2:]
    if height == width == side:
        return pixels
    if pixels.dtype == torch.uint8 and pixels.device.type == "cpu":
        rows = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        return torch.cat([_channels_first(to_square(row, side)) for row in rows])
    whole = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = whole[..., top : top + short, left : left + short]
    return square if short == side else F.interpolate(square, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
