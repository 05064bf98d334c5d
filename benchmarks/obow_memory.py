"""Peak memory and time of bags of visual words, against the plain form that keeps all distances.

    python benchmarks/obow_memory.py
    python benchmarks/obow_memory.py --images 128 --channels 256

The defaults are the fourth stage of a ResNet-50 and one GPU's share of the paper's batch. The plain form keeps the
distances of all positions to all words, because the softness of the assignment depends on their minima, and then their
softmax. The package's form goes through a few images at a time, forwards and backwards. Times are medians of
alternating runs in one process. Memory is what a separate process needs beyond maps and words. Printed are both, their
ratios, the largest difference of the bags, and a line of JSON.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.memories.vocabulary import Comparison

_INVERSE_DELTA = 15.0


def chunked(maps: Tensor, words: Tensor) -> Tensor:
    """The package's form."""
    comparison = Comparison(maps, words)
    return comparison.soft_bags(_INVERSE_DELTA / comparison.nearest()[0].mean(), "max")


def plain(maps: Tensor, words: Tensor) -> Tensor:
    """The equation as written, with distances by a 1x1 convolution."""
    products = F.conv2d(maps, words[:, :, None, None], bias=words.square().sum(dim=1) / -2)
    distances = products.mul_(-2).add_(maps.square().sum(dim=1, keepdim=True)).flatten(2)
    sharpness = _INVERSE_DELTA / distances.amin(dim=1).mean()
    codes = distances.mul_(-sharpness).softmax(dim=1)
    return F.normalize(codes.amax(dim=2), p=1, dim=1)


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"chunked": chunked, "plain": plain}


def inputs(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Maps without their border, and words, of features after a ReLU."""
    torch.manual_seed(0)
    side = arguments.side - 2
    maps = torch.randn(arguments.images, arguments.channels, side, side, device=arguments.device).relu_()
    return maps, torch.randn(arguments.words, arguments.channels, device=arguments.device).relu_()


def peak(name: str, arguments: argparse.Namespace) -> float:
    """MiB that a form needs beyond its inputs, in a separate process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, arguments))


def _peak(name: str, arguments: argparse.Namespace) -> float:
    torch.set_num_threads(arguments.threads)
    maps, words = inputs(arguments)
    FORMS[name](maps[:1, :, :1, :1], words[:2])
    before = _most_memory(arguments.device)
    FORMS[name](maps, words)
    return (_most_memory(arguments.device) - before) / 2**20


def _most_memory(device: str) -> int:
    """The peak memory of the process, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def seconds(arguments: argparse.Namespace) -> tuple[dict[str, float], float]:
    """The median seconds of both forms, and the largest difference of their bags."""
    maps, words = inputs(arguments)
    taken: dict[str, list[float]] = {name: [] for name in FORMS}
    bags = {}
    for _ in range(1 + arguments.rounds):
        for name, form in FORMS.items():
            begun = time.perf_counter()
            bags[name] = form(maps, words)
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - begun)
    difference = (bags["chunked"] - bags["plain"]).abs().max().item()
    return {name: statistics.median(some[1:]) for name, some in taken.items()}, difference


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--side", type=int, default=14, help="of the feature maps, with their border")
    parser.add_argument("--words", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    memory = {name: peak(name, arguments) for name in FORMS}
    times, difference = seconds(arguments)
    for name in FORMS:
        print(f"{name:8s} {memory[name]:8.0f} MiB {times[name]:8.3f} s")
    ratios = memory["plain"] / memory["chunked"], times["chunked"] / times["plain"]
    print(f"{ratios[0]:.1f} times less memory, {ratios[1]:.2f} times the time; bags differ by {difference:.1e} at most")
    print(json.dumps({**vars(arguments), "mebibytes": memory, "seconds": times, "difference": difference}))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
