"""The error of a random field's short Fourier series against all modes of the image, and its time.

    python benchmarks/random_field_error.py --size 64

The full field uses the same random numbers: its long waves are the short series. The largest absolute value of a field
is 1. At strength 1/3, a field with error e shifts a pixel wrongly by e / 6 of the image side.
"""

import argparse
import json
import time

import torch
from torch import Tensor

from ssl_inv.augment.fields import coefficients, synthesise

GAMMAS = (3.0, 5.0, 7.0, 8.5, 10.0)


def fields(gamma: float, arguments: argparse.Namespace, tolerance: float) -> tuple[Tensor, int]:
    """Two fields for each image, and the number of modes of each."""
    seed, gammas = torch.arange(arguments.images), torch.full((arguments.images,), gamma)
    amplitudes = coefficients(seed, gammas, 2, arguments.size, periodic=arguments.periodic, tolerance=tolerance)
    return synthesise(amplitudes, arguments.size, periodic=arguments.periodic), amplitudes.shape[-1] ** 2 - 1


def microseconds(gamma: float, arguments: argparse.Namespace, repeats: int) -> float:
    """Time for the two fields of one image in a batch of 64, the shortest of several repeats."""
    batch = argparse.Namespace(**{**vars(arguments), "images": 64})
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        fields(gamma, batch, arguments.tolerance)
        times.append(time.perf_counter() - start)
    return min(times) / 64 * 1e6


def measure(gamma: float, arguments: argparse.Namespace) -> dict[str, float]:
    """Error, modes and time for one gamma."""
    few, modes = fields(gamma, arguments, arguments.tolerance)
    full, all_modes = fields(gamma, arguments, 0.0)
    difference = few - full
    return {
        "gamma": gamma,
        "modes": modes,
        "all_modes": all_modes,
        "relative_rms": float(difference.square().mean().sqrt() / full.square().mean().sqrt()),
        "largest": float(difference.abs().max()),
        "microseconds": microseconds(gamma, arguments, 20 if modes < 1000 else 2),
    }


def main() -> None:
    """Print a line per gamma, and all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--images", type=int, default=32, help="images that the errors are measured on")
    parser.add_argument("--tolerance", type=float, default=0.005, help="what the modes left out may add, relative")
    parser.add_argument("--periodic", action="store_true", help="one period of the field to an image side")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [measure(gamma, arguments) for gamma in GAMMAS]
    print("gamma  modes  of all  relative RMS  largest error  us/image (2 fields)")
    for row in rows:
        sizes = f"{row['gamma']:5.1f} {row['modes']:6.0f} {row['all_modes']:7.0f}"
        print(f"{sizes} {row['relative_rms']:13.2e} {row['largest']:14.2e} {row['microseconds']:20.1f}")
    print(
        json.dumps(
            {"size": arguments.size, "periodic": arguments.periodic, "tolerance": arguments.tolerance, "rows": rows}
        )
    )


if __name__ == "__main__":
    main()
