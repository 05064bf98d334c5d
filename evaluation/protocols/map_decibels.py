"""How well feature maps follow shifts and rotations of the image: the sums of which `LieDerivative` makes decibels."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_inv.evaluation.protocols.chosen_images import mapped
from ssl_inv.evaluation.protocols.motions import disk, displacements, overlap, rotated, shifted, stride_of
from ssl_inv.transforms.keyed_random import uniform

NAMES = ("eq_t", "eq_t_whole", "eq_r", "eq_r90")

_FLOATS = 1 << 22
"""Numbers in the maps that are held at a time: early layers have large maps."""


@dataclass(frozen=True)
class MovedErrors:
    """Squared errors of the maps of moved images.

    Attributes:
        variance: of the maps of the images as they are, over images.
        size: height and width of a map.
        errors: by name, for every draw and image a row of `(draws M, 3)`: the sums over places of the squared
            difference from the moved map and from the unmoved map, and the number of places. A name is missing where
            images or maps are not square.
    """

    variance: float
    size: tuple[int, int]
    errors: Mapping[str, Tensor]


def moved_errors(maps: Callable[[Tensor], Tensor], pixels: Tensor, draws: int, seed: int) -> MovedErrors:
    """The errors of shifts and rotations.

    Args:
        maps: from images to maps `(B, C, h, w)`.
        pixels: images `(M, C, H, W)`.
        draws: shifts, and rotations, of every image.
        seed: draws them.
    """
    first = maps(pixels[:1])
    size = (first.shape[-2], first.shape[-1])
    pieces = torch.split(torch.arange(len(pixels)), max(1, _FLOATS // first.numel()))
    kept = mapped(maps, pixels) if len(pieces) == 1 else None

    def unmoved() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in pieces:
            yield rows, mapped(maps, pixels[rows]) if kept is None else kept

    mean = torch.stack([still.sum(dim=0) for _, still in unmoved()]).sum(dim=0) / len(pixels)
    variance = sum(float((still - mean).square().sum()) for _, still in unmoved()) / (len(pixels) * first.numel())
    found: dict[tuple[str, int], list[Tensor]] = {}
    if variance > 0 and min(size) > 1:
        motions = _Motions(pixels, size, draws, seed)
        for rows, still in unmoved():
            for draw in range(draws):
                for name, moved, wanted, mask in motions.of(maps, rows, still, draw):
                    errors = [masked_errors(moved, one, mask) for one in (wanted, still)]
                    row = torch.stack((*errors, mask.sum(dim=(1, 2, 3))), dim=1)
                    found.setdefault((name, draw), []).append(row)
    by_name: dict[str, list[Tensor]] = {}
    for (name, _), parts in sorted(found.items(), key=lambda item: item[0][1]):
        by_name.setdefault(name, []).append(torch.cat(parts))
    return MovedErrors(variance, size, {name: torch.cat(parts) for name, parts in by_name.items()})


class _Motions:
    """The drawn motions of all images."""

    def __init__(self, pixels: Tensor, size: tuple[int, int], draws: int, seed: int) -> None:
        self.pixels, (self.height, self.width) = pixels, size
        self.square = self.height == self.width and pixels.shape[-1] == pixels.shape[-2]
        self.stride = stride_of(pixels.shape[-1], self.width), stride_of(pixels.shape[-2], self.height)
        # A map of few cells has less than one in an eighth of its width.
        self.cells = displacements(len(pixels), max(1, self.width // 8), draws, seed)
        self.drawn = [torch.from_numpy(uniform(seed, draw, np.arange(len(pixels)), count=3)) for draw in range(draws)]

    def of(
        self, maps: Callable[[Tensor], Tensor], rows: Tensor, still: Tensor, draw: int
    ) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        """For each name, the map of some moved images, the moved map, and the places that both show."""
        pixels, numbers, stride = self.pixels[rows], self.drawn[draw][rows], self.stride
        parts = [(2 * numbers[:, k] - 1) * pixels.shape[-1 - k] / 8 / stride[k] for k in (0, 1)]
        whole = self.cells[rows, draw % self.cells.shape[1]].double().unbind(1)[::-1]
        for name, (x, y) in (("eq_t", parts), ("eq_t_whole", whole)):
            moved = mapped(maps, shifted(pixels, x * stride[0], y * stride[1]))
            yield name, moved, shifted(still, x, y), overlap((self.height, self.width), x, y)
        if not self.square:
            return
        angles = (2 * numbers[:, 2] - 1) * math.pi
        mask = disk(self.height, self.width).repeat(len(pixels), 1, 1, 1)
        yield "eq_r", mapped(maps, rotated(pixels, angles)), rotated(still, angles), mask
        quarters, places = 1 + draw % 3, (-2, -1)
        moved = mapped(maps, pixels.rot90(quarters, places))
        everywhere = torch.ones(len(pixels), 1, self.height, self.width, dtype=torch.float64)
        yield "eq_r90", moved, still.rot90(quarters, places), everywhere


def masked_errors(one: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Squared differences of maps `(B, C, h, w)` where the mask `(B, 1, h, w)` is 1: their mean over channels and sum
    over places, `(B,)`.
    """
    return ((one - other).square().mean(dim=1, keepdim=True) * mask).sum(dim=(1, 2, 3))
