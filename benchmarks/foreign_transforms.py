"""What a view costs that a transform of lightly or torchvision makes, beside our own policy of the same operations.

    OMP_NUM_THREADS=1 python benchmarks/foreign_transforms.py

Views of 224 pixels are made of images of 256 pixels, one batch after the other and in turns, in one process: drawing,
rendering, and the seeds. lightly alone is the same transform without our key. A table in Markdown is printed, after
some two minutes.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightly.transforms
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from ssl_inv.augment.foreign_transforms import from_library, torchvision
from ssl_inv.augment.policies import simclr
from ssl_inv.transforms import Key

IMAGES, SIDE, ROUNDS = 8, 256, 5

LISTED: list[Any] = [
    {"name": "RandomResizedCrop", "size": 224, "scale": [0.08, 1.0]},
    {"name": "RandomHorizontalFlip"},
    {
        "name": "RandomApply",
        "transforms": [{"name": "ColorJitter", "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}],
        "p": 0.8,
    },
    {"name": "RandomGrayscale", "p": 0.2},
    {"name": "RandomApply", "label": "blur", "transforms": [{"name": "GaussianBlur", "kernel_size": 23}]},
]
"""SimCLR's policy in torchvision's words."""


def contestants(pixels: Tensor, key: Key) -> Mapping[str, Callable[[], object]]:
    """What makes one view of every image, by name."""
    theirs = lightly.transforms.SimCLRTransform()
    pictures = [functional.to_pil_image(one) for one in pixels]
    ours, wrapped, listed = simclr(size=224), from_library(theirs), torchvision(transform=LISTED)
    return {
        "simclr, ours": lambda: ours(pixels, key),
        "lightly's SimCLRTransform alone": lambda: [theirs.transforms[0](one) for one in pictures],
        "lightly's SimCLRTransform, from the key": lambda: wrapped(pixels, key),
        "a list of torchvision's transforms, from the key": lambda: listed(pixels, key),
    }


def main() -> int:
    """Print the table."""
    torch.set_num_threads(1)
    coarse = torch.rand(IMAGES, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    pixels = (torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1) * 255).byte()
    times: dict[str, list[float]] = {}
    for number in range(ROUNDS + 1):  # the first round warms up
        key = Key(0, np.full(IMAGES, number), np.arange(IMAGES), 0)
        for name, make in contestants(pixels, key).items():
            start = time.process_time()
            make()
            times.setdefault(name, []).append(1000 * (time.process_time() - start) / IMAGES)
    print("| views of 224 pixels | ms of one core a view |\n|---|---|")
    for name, found in times.items():
        print(f"| {name} | {statistics.median(found[1:]):.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
