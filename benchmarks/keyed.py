"""Every augmentation of kornia drawn from a key: what holds, and what drawing costs beside kornia's own draw.

    OMP_NUM_THREADS=1 python benchmarks/keyed.py

Each class is tried with batches of several sizes at two image sizes: parameters and pixels of a sample must be the same
bits in each, and again from the record. Then the parameters of a policy of seven augmentations are drawn for 256
images, by kornia from its global generator and by us from a key, in turns. Tables in Markdown are printed, after some
two minutes.
"""

import argparse
import inspect
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import kornia
import numpy as np
import torch
from kornia import augmentation as K

from ssl_inv.augment import Keyed, kornia_names
from ssl_inv.transforms import Key

IMAGES = 9
BATCHES = ([0], [5], [3, 1], [6, 2, 4], [0, 1, 2, 3], [8, 0, 1, 2, 6, 7, 3, 4])
REQUIRED: dict[str, dict[str, Any]] = {
    "CenterCrop": {"size": 24},
    "ColorJiggle": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
    "ColorJitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
    "LongestMaxSize": {"max_size": 20},
    "PadTo": {"size": [240, 240]},
    "RandAugment": {"n": 2, "m": 10},
    "RandomAffine": {"degrees": 30.0, "translate": [0.1, 0.1], "scale": [0.8, 1.2], "shear": 10.0},
    "RandomBrightness": {"brightness": [0.7, 1.3]},
    "RandomClahe": {"clip_limit": [10.0, 40.0]},
    "RandomContrast": {"contrast": [0.7, 1.3]},
    "RandomCrop": {"size": [24, 24]},
    "RandomElasticTransform": {"kernel_size": [15, 15], "sigma": [4.0, 4.0]},
    "RandomFisheye": {"center_x": [-0.3, 0.3], "center_y": [-0.3, 0.3], "gamma": [0.9, 1.1]},
    "RandomGamma": {"gamma": [0.7, 1.3]},
    "RandomGaussianBlur": {"kernel_size": [3, 3], "sigma": [0.1, 2.0]},
    "RandomHue": {"hue": [-0.3, 0.3]},
    "RandomMotionBlur": {"kernel_size": [3, 7], "angle": 35.0, "direction": 0.5},
    "RandomResizedCrop": {"size": [24, 24]},
    "RandomRotation": {"degrees": 30.0},
    "RandomRotation90": {"times": [-2, 2]},
    "RandomSaturation": {"saturation": [0.5, 1.5]},
    "RandomShear": {"shear": 10.0},
    "RandomSnow": {"snow_coefficient": [0.1, 0.5]},
    "RandomTranslate": {"translate_x": [-0.1, 0.1], "translate_y": [-0.1, 0.1]},
    "Resize": {"size": [24, 24]},
    "SmallestMaxSize": {"max_size": 20},
}
"""Settings of classes that need some, or that change nothing without them."""

RESIZING = ("CenterCrop", "LongestMaxSize", "RandomCrop", "RandomResizedCrop", "Resize", "SmallestMaxSize")


def made(name: str) -> Keyed:
    """The augmentation of that name, left out for one image in ten where it can be."""
    maker = getattr(kornia_names, name)
    gate = {"p": 0.9} if "p" in inspect.signature(maker).parameters and name not in RESIZING else {}
    operation: Keyed = maker(**gate, **REQUIRED.get(name, {}))
    return operation


def key(index: list[int]) -> Key:
    """The key of some samples."""
    return Key(0, np.zeros(len(index), np.int64), np.array(index), 0)


def holds(operation: Keyed, side: int) -> tuple[bool, bool]:
    """Whether every batch gives the same bits, and whether the record does."""
    pixels = torch.rand(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(side))
    state = torch.get_rng_state()
    views, record = operation(pixels, key([*range(IMAGES)]))
    equal = True
    for rows in BATCHES:
        some, of_some = operation(pixels[rows], key(rows))
        equal &= torch.equal(some, views[rows])
        equal &= all(torch.equal(of_some[name], record[name][rows]) for name in record.names)
    equal &= torch.equal(state, torch.get_rng_state())
    return equal, torch.equal(operation.replay(pixels, record), views)


def conformance(sides: list[int]) -> None:
    """Print the table of all classes."""
    print(f"\nkornia {kornia.__version__}, torch {torch.__version__}, images of {sides} pixels\n")
    print("| augmentation | same in every batch | again from its record | recorded |")
    print("|---|---|---|---|")
    counts = [0, 0]
    for name in kornia_names.names():
        operation = made(name)
        found = [holds(operation, side) for side in sides]
        held = [all(one[number] for one in found) for number in (0, 1)]
        counts = [count + one for count, one in zip(counts, held, strict=True)]
        names = [one.removeprefix(f"{name}.") for one, group in operation.groups.items()]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        print(f"| {name} | {'yes' if held[0] else 'NO'} | {'yes' if held[1] else 'NO'} | {shown} |", flush=True)
    print(
        f"\n{len(kornia_names.names())} tried, {counts[0]} the same in every batch, {counts[1]} again from the record"
    )
    for name, reason in kornia_names.REFUSED.items():
        print(f"- {name} is refused: {reason}")


def policy() -> list[torch.nn.Module]:
    """Seven augmentations as in BYOL, with an affine map."""
    return [
        K.RandomResizedCrop((224, 224)),
        K.RandomHorizontalFlip(),
        K.RandomAffine(10.0, (0.1, 0.1), p=0.5),
        K.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((23, 23), (0.1, 2.0), p=0.5),
        K.RandomSolarize(0.5, 0.0, p=0.2),
    ]


def drawing(rounds: int, count: int = 256) -> None:
    """Print the time of a draw."""
    augmentations = policy()
    keyed = [Keyed(one) for one in policy()]
    shape = torch.Size((count, 3, 224, 224))

    def by_kornia() -> None:
        for one in augmentations:
            one.forward_parameters(shape)

    def by_key() -> None:
        keys = key([*range(count)])
        for one in keyed:
            one.draw(keys, 224, 224)

    times: dict[str, list[float]] = {"kornia": [], "keyed": []}
    for number in range(rounds + 3):
        for name, draw in (("kornia", by_kornia), ("keyed", by_key)):
            spent = 1000 * timed(draw)
            if number >= 3:
                times[name].append(spent)
    ratios = [mine / theirs for mine, theirs in zip(times["keyed"], times["kornia"], strict=True)]
    print(f"\nparameters of seven augmentations for {count} images, {torch.get_num_threads()} thread(s)\n")
    for name, spent in times.items():
        print(f"- {name}: {statistics.median(spent):.2f} ms, {min(spent):.2f} to {max(spent):.2f}")
    print(f"- times as long: {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


def timed(call: Callable[[], None]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(argv: list[str]) -> None:
    """Try all classes and measure the draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 224])
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args(argv)
    conformance(arguments.sides)
    drawing(arguments.rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
