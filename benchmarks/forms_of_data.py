"""Start, memory and speed of every form of data, with the same small JPEGs in each, beside torchvision's ImageFolder.

    python benchmarks/forms_of_data.py --count 10000 100000 --json docs/loading.json

Each contestant has a process of its own and reads shuffled batches of decoded images with as many loader processes as
`--workers` says. Imports are not counted. Files are in the memory of the machine, because they were just written. The
share of a loader process counts what n processes share as one nth. Forms whose source or library is missing are left
out. `arrays` are decoded pixels, 12 kB an image, so nothing is left to decode.
"""

import argparse
import importlib
import importlib.util
import io
import json
import multiprocessing
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loading import Numbers, in_a_process, markdown, measured, our_batches, record, torch_batches
from numpy.typing import NDArray
from PIL import Image

from ssl_inv.data.source import Data
from ssl_inv.data.sources import SOURCES

SIZE, CLASSES, SHARD = 64, 100, 5000


def pixels(number: int) -> NDArray[np.uint8]:
    """An image with smooth parts and edges."""
    random = np.random.default_rng([0, number])
    small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    image = small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    left, top = random.integers(0, SIZE // 2, 2).tolist()
    image.paste(tuple(random.integers(0, 256, 3).tolist()), (left, top, left + SIZE // 3, top + SIZE // 3))
    return np.asarray(image)


def name_of(number: int) -> str:
    """The file of an image."""
    return f"{number % CLASSES:02}/{number:07}.jpg"


# Writers: each has the folder of the JPEGs, a place and the number of images.


def write_folder(place: Path, count: int) -> None:
    """JPEGs in class folders."""
    for number in range(count):
        path = place / name_of(number)
        if number < CLASSES:
            path.parent.mkdir(parents=True)
        Image.fromarray(pixels(number)).save(path, quality=90)


def write_zip(images: Path, place: Path, count: int) -> None:
    """A zip without compression."""
    with zipfile.ZipFile(place, "w") as archive:
        for number in range(count):
            archive.write(images / name_of(number), name_of(number))


def write_tar(images: Path, place: Path, count: int) -> None:
    """An uncompressed tar."""
    with tarfile.open(place, "w") as archive:
        for number in range(count):
            archive.add(images / name_of(number), name_of(number))


def write_shards(images: Path, place: Path, count: int) -> None:
    """Tars of samples, as webdataset has them."""
    place.mkdir()
    for shard, first in enumerate(range(0, count, SHARD)):
        with tarfile.open(place / f"data-{shard:06}.tar", "w") as archive:
            for number in range(first, min(first + SHARD, count)):
                archive.add(images / name_of(number), f"{number:07}.jpg")
                label = tarfile.TarInfo(f"{number:07}.cls")
                label.size = len(content := str(number % CLASSES).encode())
                archive.addfile(label, io.BytesIO(content))


def _columns(images: Path, numbers: range) -> dict[str, list[Any]]:
    contents = [(images / name_of(number)).read_bytes() for number in numbers]
    found = [{"bytes": content, "path": name_of(number)} for content, number in zip(contents, numbers, strict=True)]
    return {"image": found, "label": [number % CLASSES for number in numbers]}


def write_parquet(images: Path, place: Path, count: int) -> None:
    """Parquet files with row groups of 1,000 images."""
    pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    place.mkdir()
    for part, first in enumerate(range(0, count, SHARD)):
        table = pa.table(_columns(images, range(first, min(first + SHARD, count))))
        parquet.write_table(table, place / f"{part:05}.parquet", row_group_size=1000)


def write_saved(images: Path, place: Path, count: int) -> None:
    """What `datasets` saves to a disk."""
    datasets = importlib.import_module("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(_columns(images, range(count)), features=features).save_to_disk(str(place))


def write_arrays(images: Path, place: Path, count: int) -> None:
    """One array of all pixels, and one of the classes."""
    place.mkdir()
    made = np.lib.format.open_memmap(place / "x.npy", "w+", np.uint8, (count, SIZE, SIZE, 3))
    for number in range(count):
        made[number] = np.asarray(Image.open(images / name_of(number)).convert("RGB"))
    made.flush()
    np.save(place / "y.npy", np.arange(count) % CLASSES)


FORMS: dict[str, tuple[str, str, Callable[[Path, Path, int], None] | None]] = {
    "folder": ("folder", "images", None),
    "folder, again": ("folder", "images", None),
    "zip": ("folder", "images.zip", write_zip),
    "tar": ("folder", "images.tar", write_tar),
    "tar shards": ("shards", "shards", write_shards),
    "Parquet": ("arrow", "parquet", write_parquet),
    "save_to_disk": ("arrow", "saved", write_saved),
    "npy": ("arrays", "arrays", write_arrays),
}
"""Form -> source, file or folder and what writes it. The index of a large folder is there the second time."""

TORCHVISION = "torchvision ImageFolder"


def contestant(name: str, place: Path, batch: int, workers: int, seconds: float) -> None:
    """The process of a contestant."""
    # Lazily imported parts are not part of the start.
    importlib.import_module("pyarrow.compute")

    def torchvision_batches() -> Iterator[int]:
        tools = importlib.import_module("torchvision.transforms.functional")
        files = importlib.import_module("torchvision.datasets").ImageFolder(str(place), tools.pil_to_tensor)
        return torch_batches(files, batch, workers)

    def batches() -> Iterator[int]:
        module, function = SOURCES[FORMS[name][0]].split(":")
        make = getattr(importlib.import_module(f"ssl_inv.data.sources.{module}"), function)
        data: Data = make(path=str(place), validation_share=0.001, cache=False)
        return our_batches(data.train, batch, workers)

    if name == TORCHVISION:
        importlib.import_module("torchvision.datasets")
    else:
        importlib.import_module(f"ssl_inv.data.sources.{SOURCES[FORMS[name][0]].split(':')[0]}")
    print(json.dumps(measured(torchvision_batches if name == TORCHVISION else batches, seconds)), flush=True)


def compare(count: int, top: Path, arguments: argparse.Namespace) -> dict[str, Numbers]:
    """All forms of so many images."""
    write_folder(top / "images", count)
    os.environ["SSL_INV_CACHE"] = str(top / "cache")
    rows = {}
    for name, (source, file, write) in FORMS.items():
        if source not in SOURCES or (name == "save_to_disk" and not importlib.util.find_spec("datasets")):
            continue
        place = top / file
        if write is not None:
            write(top / "images", place, count)
        own = {"images": place, "batch": arguments.batch, "workers": arguments.workers, "seconds": arguments.seconds}
        rows[name] = in_a_process(__file__, name, {**own, "start": arguments.start})
        if write is not None:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        if name == "folder, again":
            rows[TORCHVISION] = in_a_process(__file__, TORCHVISION, {**own, "start": arguments.start})
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--start", choices=("fork", "spawn"), default="fork", help="how loader processes begin")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.contestant:
        multiprocessing.set_start_method(arguments.start)
        contestant(arguments.contestant, arguments.images, arguments.batch, arguments.workers, arguments.seconds)
        return
    tables: dict[str, dict[str, Numbers]] = {}
    for count in arguments.count:
        with tempfile.TemporaryDirectory() as place:
            tables[f"{count:,} JPEGs of {SIZE} pixels"] = compare(count, Path(place), arguments)
        print(f"{markdown(*list(tables.items())[-1])}\n", flush=True)
    if arguments.json:
        record(arguments.json, tables, arguments.workers)


if __name__ == "__main__":
    main()
