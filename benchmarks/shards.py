"""Images per second from a folder, a zip, tar shards, and webdataset, of the same files, in one process on one thread.

    python benchmarks/shards.py --images 4000

The images are smooth noise in JPEG, of the given side. Every form is read whole, the first three in the order of a
training epoch. Files are in memory after the first round, so what is measured is the way to them and the decoding.
webdataset streams its shards through its shuffle buffer and decodes with torchvision. The forms alternate over several
rounds, and the fastest round counts, because other work on a machine only adds time. The table has the ratio to the
folder, with decoding and without; a line of JSON follows. webdataset is left out if it is missing.
"""

import argparse
import importlib.util
import json
import os
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ssl_inv.data.images import StoredImages
from ssl_inv.data.orders import epoch_order
from ssl_inv.data.shards.addresses import find_shards
from ssl_inv.data.shards.writing import write_shards
from ssl_inv.data.source import Data, Subset
from ssl_inv.data.sources.folder import ImageFolder
from ssl_inv.data.sources.shards import ShardImages, open_shards

_BATCH = 64

Read = Callable[[bool], int]
"""Reads all images, decoded or not; returns how many there were."""


def photographs(folder: Path, count: int, side: int) -> None:
    """Write JPEG files in class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        path = folder / f"{number % 20:02}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)


def packed(folder: Path, path: Path) -> Path:
    """The files of a folder in a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for one in sorted(folder.rglob("*.jpg")):
            archive.write(one, one.relative_to(folder))
    return path


def sharded(folder: Path, output: Path, size_mb: float) -> str:
    """The files of a folder in tar shards, but for one to judge by; returns the pattern of the shards."""
    source = ImageFolder(str(folder), None, cache=False)
    everything = np.arange(len(source))
    parts = Data(Subset(source, everything[1:]), Subset(source, everything[:1]))
    write_shards(parts, output, {}, size_mb, "shuffled", lambda done, total: None)
    return str(output / "train-*.tar")


def from_source(source: StoredImages) -> Read:
    """Reads a source of this package in the order of an epoch."""

    def read(decoded: bool) -> int:
        order = epoch_order(source.blocks, len(source), 0, 0)
        for begin in range(0, len(order), _BATCH):
            objects = order[begin : begin + _BATCH]
            if decoded:
                source.load(objects, np.zeros_like(objects))
            else:
                for item in objects.tolist():
                    source.original(item, 0)
        return len(order)

    return read


def from_webdataset(shards: list[str]) -> Read:
    """Reads shards as webdataset does, with torchvision's decoder."""
    import webdataset
    from torchvision.io import ImageReadMode, decode_jpeg

    def read(decoded: bool) -> int:
        stream = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000)
        count = 0
        for sample in stream:
            if decoded:
                decode_jpeg(torch.frombuffer(bytearray(sample["jpg"]), dtype=torch.uint8), ImageReadMode.RGB)
            count += 1
        return count

    return read


def rates(ways: dict[str, Read], decoded: bool, rounds: int) -> dict[str, float]:
    """Images per second of every way, in its fastest round."""
    fastest = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            count = way(decoded)
            fastest[name] = max(fastest[name], count / (time.perf_counter() - begun))
    return fastest


def main() -> None:
    """Measure all ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size-mb", type=float, default=8.0, help="size of a shard")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # webdataset leaves its files open.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SSL_INV_CACHE"] = str(Path(scratch, "cache"))
        folder, side = Path(scratch, "folder"), arguments.side
        photographs(folder, arguments.images, side)
        archive = packed(folder, Path(scratch, "photographs.zip"))
        pattern = sharded(folder, Path(scratch, "shards"), arguments.size_mb)
        store = open_shards(pattern, find_shards(pattern), cache_gb=0, max_broken_shards=0)
        ways = {
            "folder": from_source(ImageFolder(str(folder), None, cache=False)),
            "zip": from_source(ImageFolder(str(archive), None, cache=False)),
            "tar shards": from_source(ShardImages(pattern, store, None, cache=False)),
        }
        if importlib.util.find_spec("webdataset") is not None:
            ways["webdataset"] = from_webdataset([shard.address.place for shard in store.shards])
        found = {}
        for decoded in (True, False):
            speeds = rates(ways, decoded, arguments.rounds)
            what = "read and decoded" if decoded else "read"
            print(f"{arguments.images} JPEGs of {side} pixels, {what}: images/s (times the folder)")
            for name, speed in speeds.items():
                print(f"    {name:<12} {speed:9,.0f} ({speed / speeds['folder']:.2f})", flush=True)
            found[what] = {name: round(speed, 1) for name, speed in speeds.items()}
    print(json.dumps({"images": arguments.images, "side": side, "images_per_second": found}))


if __name__ == "__main__":
    main()
