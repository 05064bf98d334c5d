"""Views of meshes per second of one core, by size and rays per pixel.

python benchmarks/mesh_speed.py meshes.npz
"""

import argparse
import time

import numpy as np
import torch

from ssl_inv.data.source import Subset
from ssl_inv.data.sources.meshes.source import RenderedMeshes, meshes


def opened(path: str, size: int, samples: int) -> RenderedMeshes:
    """All meshes of a data set, 50 views each."""
    train = meshes(path=path, size=size, samples=samples, cache=False).train
    assert isinstance(train, Subset)
    assert isinstance(train.source, RenderedMeshes)
    return train.source


def pairs_per_second(source: RenderedMeshes, objects: int, seconds: float) -> tuple[float, float]:
    """Views per second of a pass in which every mesh is made ready, and of passes in which all are.

    A batch is 32 pairs of views, as in training. Seconds are those that the process computes, so other programs on the
    machine count little.
    """
    order, batch = np.random.default_rng(0).permutation(len(source))[:objects], 32

    def one_pass(view: int) -> tuple[int, float]:
        begun = time.process_time()
        for first in range(0, len(order), batch):
            some = np.repeat(order[first : first + batch], 2)
            source.load(some, (view + np.arange(len(some)) % 2) % source.views)
        return 2 * len(order), time.process_time() - begun

    views, took = one_pass(0)
    first_pass = views / took
    views, took = one_pass(2)
    while took < seconds:
        more = one_pass(views // len(order) + 2)
        views, took = views + more[0], took + more[1]
    return first_pass, views / took


def main() -> None:
    """Print a line for each size and number of rays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="folder, archive or .npz of meshes")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 2], help="rays per pixel along each axis")
    parser.add_argument("--objects", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=5.0, help="time spent on each line")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for size in arguments.sizes:
        for samples in arguments.samples:
            source = opened(arguments.path, size, samples)
            first, later = pairs_per_second(source, arguments.objects, arguments.seconds)
            ready = list(source._ready.values())
            faces, memory = np.median([len(one.mesh.faces) for one in ready]), sum(one.nbytes for one in ready)
            print(
                f"{size:4d} px  {samples**2:2d} rays per pixel  {later:6.0f} views/s, first pass {first:6.0f}"
                f"  ({len(ready)} meshes, median {faces:.0f} faces, {memory / 1e6:.0f} MB)",
                flush=True,
            )


if __name__ == "__main__":
    main()
