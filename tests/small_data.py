"""Small images and sources that tests share."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ssl_inv.data.source import Images, Indices, Source
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.transforms import Transform


def png(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """A file of pixels of one colour: red is the given value, green half of it."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value // 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def every_view(source: Source) -> tuple[Indices, Indices]:
    """The object and the number of every view, in order."""
    counts = source.view_counts
    return np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(count) for count in counts])


def load_all(source: Source) -> Images:
    return source.load(*every_view(source))


def files_of(source: Source) -> set[str]:
    """The names of all views."""
    return {source.describe(item, view) for item, count in enumerate(source.view_counts) for view in range(count)}


def plain(pixels: Tensor) -> Images:
    """Readable images of which nothing is known."""
    return Images(pixels, Transform.empty(), torch.ones(len(pixels), dtype=torch.bool))


def solids(**changes: object) -> RenderedSolids:
    return RenderedSolids(**{"classes": 4, "objects": 12, "views": 5, "size": 32, "cache": False, **changes})


class Numbered(Source):
    """Twelve objects of two images each, whose pixels are the number of the image."""

    view_counts, groups, labels, image_size = np.full(12, 2), {}, None, 1

    def load(self, objects: Indices, views: Indices) -> Images:
        return plain(torch.from_numpy((2 * objects + views).astype(np.uint8)).view(-1, 1, 1, 1).expand(-1, 3, 1, 1))


class Known(nn.Module):
    """An encoder with a given feature for every image of `Numbered`."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, pixels: Tensor) -> Tensor:
        return self.features[(255 * pixels[:, 0, 0, 0]).round().long()]
