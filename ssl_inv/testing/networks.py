"""A small network, images of noise and random transforms for the conformance suite."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.data.source import Images, Indices, Source
from ssl_inv.transforms import Box, Circle, Code, Flag, Group, Pose, Real, Rotation, Transform, keyed_random

SIDE = 12
"""Side of the images, in pixels."""

OBJECTS = 16


class SmallNetwork(nn.Module):
    """As much of a timm model as `Backbone` needs. It has one batch norm, because each one costs a synchronisation."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
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
    """A transform of `batch` views with random values from torch's global generator.

    Raises:
        TypeError: if a group is not from `ssl_inv.transforms`.
    """
    return Transform({name: _random_value(group, batch, dtype) for name, group in groups.items()}, groups)


def _random_value(group: Group, batch: int, dtype: torch.dtype) -> Tensor:
    if isinstance(group, Code):
        return torch.randint(0, 24, (batch,))
    neutral = group.neutral(batch).to(dtype)
    if isinstance(group, Rotation):
        return nn.functional.normalize(torch.randn_like(neutral), dim=-1)
    if isinstance(group, Pose):
        rotation = nn.functional.normalize(torch.randn_like(neutral[:, :4]), dim=-1)
        return torch.cat((rotation, group.scale * (torch.rand_like(neutral[:, 4:]) - 0.5)), dim=1)
    if isinstance(group, Circle):
        return torch.rand_like(neutral) * group.period
    if isinstance(group, Box):
        sides = 0.2 + 0.6 * torch.rand(batch, 2, dtype=dtype)
        return torch.cat((sides / 2 + (1 - sides) * torch.rand(batch, 2, dtype=dtype), sides), dim=1)
    if isinstance(group, Real):
        return neutral + group.scale * (torch.rand_like(neutral) - 0.5)
    if isinstance(group, Flag):
        return (torch.rand_like(neutral) < 0.5).to(neutral.dtype)
    raise TypeError(f"no random value is known for {type(group).__name__}")
