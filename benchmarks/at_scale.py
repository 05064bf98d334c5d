"""Bytes and seconds that grow with the number of images, measured at a thousandth of a scale and multiplied.

    OMP_NUM_THREADS=1 python benchmarks/at_scale.py --images 1000000000

Each row makes the real object for a thousandth of the images and compares its bytes with the formula of docs/scale.md;
the last columns are the formula for all images and the measured seconds of the processor. Bytes of arrays and buffers
are counted, not those of the process. `--json FILE` writes the rows.

    OMP_NUM_THREADS=1 python benchmarks/at_scale.py --shards 1000

writes so many tar shards of a thousand images each into a temporary folder and measures the data source itself.

    OMP_NUM_THREADS=1 python benchmarks/at_scale.py --neighbours 1000000

measures how many vectors an exact search compares in a second, and how many codes one in a compressed index does.

    OMP_NUM_THREADS=1 python benchmarks/at_scale.py --evaluation 128000

measures nearest-neighbour classification among so many rows of 2,048 numbers, and the store that features go through.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from PIL import Image
from torch.distributed import TCPStore

from ssl_inv.data.names import packed
from ssl_inv.data.orders import epoch_order
from ssl_inv.data.sources.shards import shards as open_shards
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.memories.bank import Bank
from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.graph import NeighbourGraph
from ssl_inv.memories.indices import Compression, Vectors, compressed_index, exact_index, search
from ssl_inv.memories.queue import Queue
from ssl_inv.transforms.keyed_random import permutation

_SMALLER = 1000
_BANK, _FEATURES, _CLUSTERS, _NEIGHBOURS, _QUEUE = 128, 768, 1000, 20, 65_536


@dataclass(frozen=True)
class Row:
    """One thing that grows.

    Attributes:
        what: its name.
        measured: bytes for a thousandth of the images.
        formula: bytes by the formula for as many.
        whole: bytes by the formula for all images.
        seconds: to make it for a thousandth.
    """

    what: str
    measured: int
    formula: int
    whole: int
    seconds: float


def bytes_of(module: torch.nn.Module) -> int:
    """Bytes of a module's buffers."""
    return sum(one.numel() * one.element_size() for one in module.buffers())


def order(count: int) -> int:
    """The order of the objects in an epoch."""
    return permutation(0, 0, 0x0D3, length=count).nbytes


def bank(count: int) -> int:
    """A bank in half precision."""
    return bytes_of(Bank(count, _BANK, precision="fp16"))


def queue(count: int) -> int:
    """A queue, whose size is chosen."""
    return bytes_of(Queue(min(_QUEUE, count), _BANK))


def clusters(count: int) -> int:
    """Labels and members of clusters."""
    made = Clusters(count, _CLUSTERS, _BANK)
    return bytes_of(made) + sum(one.numel() * one.element_size() for one in made.members)


def graph(count: int) -> int:
    """A graph of neighbours of images, one for each object."""
    return bytes_of(NeighbourGraph(count, count, _NEIGHBOURS))


def compressed(count: int) -> int:
    """A compressed index of features, of a sample that is repeated."""
    sizes, (index, fewer, _) = Compression.of(count, _BANK), _compressed(count)
    return len(faiss.serialize_index(index)) + (sizes.cells - fewer.cells) * fewer.padded * 4


def _compressed(count: int) -> tuple[Any, Compression, Vectors]:
    """An index with few cells, its sizes, and the vectors that are repeated in it."""
    sizes = Compression.of(count, _BANK)
    random = np.random.default_rng(0)
    sample = random.standard_normal((min(sizes.sample, 50_000), _BANK), dtype=np.float32)
    fewer = Compression(count, _BANK, min(sizes.cells, 256), sizes.code, len(sample))
    blocks = (sample[: count - start] for start in range(0, count, len(sample)))
    return compressed_index(sample, blocks, fewer), fewer, sample


def names(count: int) -> int:
    """Names of files as ImageNet has them, as folders and archives keep them."""
    made = packed(f"n{number % 1000:08d}/n{number % 1000:08d}_{number}.JPEG" for number in range(count))
    return int(made._text.nbytes + made._bounds.nbytes)


def exact(count: int) -> int:
    """Features in single precision, as an exact search and the making of a graph hold them."""
    return np.zeros((count // 10, _FEATURES), dtype=np.float32).nbytes * 10


FORMULAS: dict[str, tuple[Callable[[int], int], Callable[[int], float]]] = {
    "order of an epoch, in each process": (order, lambda n: 8 * n),
    "names of files in folders, for all processes of a machine": (
        names,
        lambda n: (26 + np.log10(n)) * n + 8 * (n + 1),
    ),
    f"bank, {_BANK} numbers of 2 bytes, in each process": (bank, lambda n: 2 * _BANK * n),
    f"queue of {_QUEUE:,}, in each process": (queue, lambda n: 4 * _BANK * min(_QUEUE, n)),
    f"{_CLUSTERS:,} clusters, in each process": (
        clusters,
        lambda n: 12 * n + 4 * _CLUSTERS * _BANK + 16 * _CLUSTERS,
    ),
    f"graph, {_NEIGHBOURS} neighbours, in each process": (graph, lambda n: 4 * _NEIGHBOURS * n + 8 * (n + 1)),
    f"compressed index of {_BANK} numbers": (compressed, lambda n: Compression.of(n, _BANK).memory),
    f"features, {_FEATURES} numbers of 4 bytes": (exact, lambda n: 4 * _FEATURES * n),
}


def rows(images: int) -> list[Row]:
    """All rows for a number of images."""
    some, found = images // _SMALLER, []
    for what, (make, formula) in FORMULAS.items():
        begun = time.process_time()
        measured = make(some)
        seconds = time.process_time() - begun
        found.append(Row(what, measured, round(formula(some)), round(formula(images)), seconds))
    return found


def written(folder: Path, count: int) -> None:
    """Shards of a thousand samples, each a small image and its class."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(buffer, "JPEG")
    image = buffer.getvalue()
    for shard in range(count):
        with tarfile.open(folder / f"train-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(1000):
                for suffix, content in ((".jpg", image), (".cls", f"{number % 100}".encode())):
                    member = tarfile.TarInfo(f"{shard * 1000 + number:010d}{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def measured_shards(count: int) -> dict[str, float]:
    """Seconds and bytes of a data source of so many shards."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, "shards")
        folder.mkdir()
        os.environ["SSL_INV_CACHE"] = str(Path(top, "cache"))
        written(folder, count)
        begun = time.process_time()
        open_shards(path=str(folder), validation_share=0.001, cache=False)
        found["first start, s"] = time.process_time() - begun
        found["indices on disk, bytes an image"] = sum(one.stat().st_size for one in folder.glob("*.index")) / (
            1000 * count
        )
        # What the first start has freed would be used again here.
        again = [sys.executable, __file__, "--opened", str(folder)]
        found |= json.loads(subprocess.run(again, check=True, capture_output=True).stdout)
        data = open_shards(path=str(folder), validation_share=0.001, cache=False)
        begun = time.process_time()
        order = epoch_order(data.train.blocks, len(data.train), 0, 0)
        found["order of an epoch, s"] = time.process_time() - begun
        begun = time.process_time()
        data.train.load(order[:2048], np.zeros(2048, dtype=np.int64))
        found["images a second in that order"] = 2048 / (time.process_time() - begun)
    return found


def neighbours(count: int, queries: int = 256, probes: int = 16) -> dict[str, float]:
    """How much of an index is compared in a second, exactly and compressed."""
    index, sizes, sample = _compressed(count)
    exact = exact_index((sample[: count - start] for start in range(0, count, len(sample))), _BANK)
    rates = {}
    for what, one, cells, seen in (
        ("vectors", exact, None, count),
        ("codes", index, probes, count * probes / sizes.cells),
    ):
        begun = time.process_time()
        search(one, sample[:queries], _NEIGHBOURS, cells)
        rates[f"{what} of {_BANK} numbers compared in a second"] = queries * seen / (time.process_time() - begun)
    return rates


def evaluation(rows: int, queries: int = 1000, width: int = 2048) -> dict[str, float]:
    """What nearest neighbours cost, and how fast features reach the first process."""
    made = torch.Generator().manual_seed(0)
    bank, asked = (torch.randn(count, width, generator=made) for count in (rows, queries))
    begun = time.process_time()
    NearestNeighbours().votes(bank, torch.arange(rows) % 1000, asked, 1000)
    found = {"GFLOP/s of nearest neighbours": 2e-9 * rows * queries * width / (time.process_time() - begun)}
    store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    pieces, content = range(50), bytes(4 * 2**20)
    begun = time.perf_counter()
    for piece in pieces:
        store.set(str(piece), content)  # type: ignore[arg-type]
    for piece in pieces:
        store.get(str(piece))
    return {**found, "MB/s into the store and out": len(pieces) * len(content) / 1e6 / (time.perf_counter() - begun)}


def opened(folder: str) -> dict[str, float]:
    """Seconds and bytes of a second start of shards of a thousand images, of a process that has done nothing else."""
    images, before = 1000 * len(list(Path(folder).glob("*.tar"))), held()
    begun = time.process_time()
    data = open_shards(path=folder, validation_share=0.001, cache=False)
    found = {"second start, s": time.process_time() - begun}
    after = held()
    assert len(data.train) < images
    for what, name in (("at most while it starts", "VmHWM"), ("afterwards, of its own", "RssAnon")):
        found[f"memory of a process, {what}, bytes an image"] = (after[name] - before[name]) / images
    return found


def held() -> dict[str, int]:
    """The memory of this process in bytes, by the names of Linux."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {line[0].rstrip(":"): 1024 * int(line[1]) for line in lines if line[-1] == "kB"}


def worded(count: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def main() -> None:
    """Print the rows as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000_000)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--neighbours", type=int)
    parser.add_argument("--evaluation", type=int)
    parser.add_argument("--opened", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.opened is not None:
        print(json.dumps(opened(arguments.opened)))
        return
    asked = {
        measured_shards: arguments.shards,
        neighbours: arguments.neighbours,
        evaluation: arguments.evaluation,
    }
    for measure, count in asked.items():
        if count is not None:
            for what, value in measure(count).items():
                print(f"{what}: {value:,.2f}")
    if any(count is not None for count in asked.values()):
        return
    made = rows(arguments.images)
    print(f"| for {arguments.images // _SMALLER:,} and {arguments.images:,} images | measured | formula | all | s |")
    print("|---|---:|---:|---:|---:|")
    for one in made:
        sizes = " | ".join(map(worded, (one.measured, one.formula, one.whole)))
        print(f"| {one.what} | {sizes} | {one.seconds:.2f} |")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in made], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
