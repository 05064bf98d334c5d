"""How much faster `ssl_inv.augment.fuse` makes the views of kornia's own sequences, on one CPU thread.

    python benchmarks/fuse.py

Both draw, from the same seeds, in turns; the ratios are medians over rounds. Takes about two minutes.
"""

import statistics
import time

import kornia.augmentation as K
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.augment import fuse

SHAPES = ((96, 64, 256), (256, 224, 32))
"""Sides of the images and of the views in pixels, and images in a batch."""

ROUNDS = 9


def simclr(size: int) -> list[nn.Module]:
    """SimCLR's policy."""
    kernel = max(3, size // 10 // 2 * 2 + 1)
    crop = K.RandomResizedCrop((size, size), scale=(0.08, 1.0))
    jitter = K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8)
    blur = K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5)
    return [crop, K.RandomHorizontalFlip(p=0.5), jitter, K.RandomGrayscale(p=0.2), blur]


def byol(size: int) -> list[nn.Module]:
    """BYOL's policy of the second view."""
    crop, flip, _, grey, blur = simclr(size)
    blur.p = 0.1
    solarise = K.RandomSolarize((0.5, 0.5), (0.0, 0.0), p=0.2)
    return [crop, flip, K.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8), grey, blur, solarise, K.Normalize(0.45, 0.25)]


def warped(size: int) -> list[nn.Module]:
    """An affine map and a perspective before SimCLR's policy."""
    return [K.RandomAffine(20, (0.1, 0.1), (0.9, 1.1), p=0.8), K.RandomPerspective(0.3, p=0.5), *simclr(size)]


def milliseconds(module: nn.Module, pixels: Tensor, seed: int) -> float:
    """How long a batch takes."""
    torch.manual_seed(seed)
    start = time.perf_counter()
    module(pixels)
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| policy | view | batch | kornia, ms | fused, ms | times faster |\n|---|---|---|---|---|---|")
    for side, size, count in SHAPES:
        coarse = torch.rand(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(0))
        pixels = F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
        for policy in (simclr, byol, warped):
            original = K.AugmentationSequential(*policy(size))
            fused = fuse(original)
            pairs = [[milliseconds(one, pixels, seed) for one in (original, fused)] for seed in range(ROUNDS + 1)][1:]
            slow, fast = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(first / second for first, second in pairs)
            print(f"| {policy.__name__} | {size} | {count} | {slow:.0f} | {fast:.0f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
