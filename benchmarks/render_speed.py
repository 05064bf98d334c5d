"""Views of the rendered solids per second, by size and rays per pixel.

python benchmarks/render_speed.py --threads 2
"""

import argparse
import time

import numpy as np
import torch

from ssl_inv.data.sources.rendered.source import RenderedSolids


def views_per_second(size: int, samples: int, device: str, seconds: float) -> float:
    """Rendering without a cache, in batches of 512 views, for about `seconds` after a first, uncounted batch."""
    source = RenderedSolids(size=size, samples=samples, cache=False, device=device)
    objects, views = np.arange(512), np.arange(512) % source.views
    source.load(objects, views)
    batches, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        # Reading one number back makes a GPU finish before the clock is read.
        int(source.load(objects + 512 * (batches % 8), views).pixels[-1, -1, -1, -1])
        batches += 1
    return 512 * batches / (time.perf_counter() - start)


def difference(size: int) -> float:
    """Root mean square difference, in levels of 255, between 16 rays per pixel and one."""
    objects, views = np.arange(256), np.zeros(256, dtype=np.int64)
    one, many = (RenderedSolids(size=size, samples=n, cache=False).load(objects, views).pixels.float() for n in (1, 4))
    return float((one - many).square().mean().sqrt())


def main() -> None:
    """Print a line for each size and number of rays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 2], help="rays per pixel along each axis")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="time spent on each line")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for size in arguments.sizes:
        for samples in arguments.samples:
            speed = views_per_second(size, samples, arguments.device, arguments.seconds)
            print(f"{size:4d} px  {samples**2:2d} rays per pixel  {speed:8.0f} views/s", flush=True)
        print(f"{size:4d} px   1 ray instead of 16: RMS difference {difference(size):.1f} of 255", flush=True)


if __name__ == "__main__":
    main()
