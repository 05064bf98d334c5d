"""A small network, images of noise and random transforms for the conformance suite."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.data.source import Images, Indices, Source
from ssl_inv.transforms import Group, Transform, keyed_random

SIDE = 12
"""Side of the images, in pixels."""

OBJECTS = 16


class SmallNetwork(nn.Module):
    """As much of a timm model as `Backbone` needs. It has one batch norm, because each one costs a synchronisation."""

    num_features = 12

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, self.num_features, 3, stride=2, padding=1)

    def forward_features(self, pixels: Tensor) -> Tensor:
        return self.second(self.norm(self.first(pixels)).relu()).relu()  # type: ignore[no-any-return]

    def forward_head(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(pixels))


class Noise(Source):
    """Objects with one view each, of noise."""

    groups: dict[str, Group] = {}  # noqa: RUF012 - never changed
    labels = None
    image_size = SIDE
    view_counts = np.ones(OBJECTS, dtype=np.int64)

    def load(self, objects: Indices, views: Indices) -> Images:
        pixels = keyed_random.bits(0, objects, count=3 * SIDE**2) % np.uint64(256)
        shown = torch.from_numpy(pixels.astype(np.uint8)).view(-1, 3, SIDE, SIDE)
        return Images(shown, Transform.empty(), torch.ones(len(objects), dtype=torch.bool))


def random_transform(groups: Mapping[str, Group], batch: int, dtype: torch.dtype = torch.float32) -> Transform:
    """A transform of `batch` views with a random value for every parameter, from torch's global generator."""
    return Transform({name: group.random(batch, dtype) for name, group in groups.items()}, groups)
