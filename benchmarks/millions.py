"""Start and memory of a folder of millions of files, beside torchvision's ImageFolder.

    python benchmarks/millions.py --count 1000000 --simulated 10000000 --json docs/loading.json

`--count` files are really there: hard links to a few JPEGs of 64 pixels, 1,000 in each folder. `--simulated` files are
names alone, in folders that are there, and one JPEG is read in place of all: ours opens an index of them, torchvision's
dataset has its list of paths and classes made from the same names in memory, which its own search would take longer
for. Each contestant has a process of its own. Imports are not counted. The share of a loader process counts what n
processes share as one nth, so it is what a further one takes at least.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from forms_of_data import pixels
from loading import Numbers, in_a_process, markdown, measured, our_batches, record, torch_batches
from PIL import Image

from ssl_inv.data import folder_index
from ssl_inv.data.archives import Files
from ssl_inv.data.sources.folder import folder
from ssl_inv.data.tree import Tree, state_of

IN_A_FOLDER, LINKS_OF_A_FILE, CLASSES = 1000, 50_000, 1000

OURS = ("ours, first time", "ours, index kept", "ours, index kept, started by spawn")
TORCHVISION = "torchvision ImageFolder"

if ONE_JPEG := os.environ.get("ONE_JPEG_FOR_ALL"):  # also in loader processes that do not begin as a copy
    CONTENT = Path(ONE_JPEG).read_bytes()
    Files.read = lambda self, name: CONTENT  # type: ignore[method-assign]


def folder_of(number: int) -> str:
    """The folder of the files from `number * IN_A_FOLDER` on: a class, and a part of it."""
    return f"n{number % CLASSES:08}/{number // CLASSES:04}"


def name_of(number: int) -> str:
    """The file of an image."""
    return f"n{number // IN_A_FOLDER % CLASSES:08}_{number:09}.JPEG"


def write_links(place: Path, count: int) -> None:
    """Many names for a few files."""
    (place / "files").mkdir()
    for number in range(count):
        source = place / "files" / f"{number // LINKS_OF_A_FILE}.jpg"
        if number % LINKS_OF_A_FILE == 0:
            Image.fromarray(pixels(number)).save(source, quality=90)
        within = place / "data" / folder_of(number // IN_A_FOLDER)
        if number % IN_A_FOLDER == 0:
            within.mkdir(parents=True)
        os.link(source, within / name_of(number))


def write_index(place: Path, count: int) -> None:
    """The index of files that are not there, in folders that are."""
    top = place / "data"
    files: dict[bytes, list[bytes]] = {b"": []}
    for number in range(-(-count // IN_A_FOLDER)):
        within = folder_of(number)
        (top / within).mkdir(parents=True)
        files.setdefault(os.path.dirname(within).encode() + b"/", [])
        numbers = range(number * IN_A_FOLDER, min((number + 1) * IN_A_FOLDER, count))
        files[within.encode() + b"/"] = [name_of(one).encode() for one in numbers]
    states = [state_of(os.path.join(os.fsencode(top), one)) for one in files]
    texts = [b"".join(name + b"\0" for name in names) for names in files.values()]
    tree = Tree(list(files), np.array(states, dtype=np.int64), texts, [])
    del files
    file = folder_index.place_of(top, ())
    assert file is not None
    assert folder_index.write(file, top, tree, tree.names(), []) is not None
    Image.fromarray(pixels(0)).save(place / "one.jpg", quality=90)


def contestant(name: str, place: Path, batch: int, workers: int, simulated: bool) -> None:
    """The process of a contestant."""
    importlib.import_module("pyarrow.compute")
    datasets = importlib.import_module("torchvision.datasets")
    tools = importlib.import_module("torchvision.transforms.functional")
    top, one = place / "data", place / "one.jpg"

    def torchvision_batches() -> Iterator[int]:
        if not simulated:
            return torch_batches(datasets.ImageFolder(str(top), tools.pil_to_tensor), batch, workers)
        names = (os.fsdecode(name) for name in Files(top).names)
        classes = {one: number for number, one in enumerate(sorted(os.listdir(top)))}
        samples = [(f"{top}/{name}", classes[name[: name.index("/")]]) for name in names]
        files = datasets.ImageFolder.__new__(datasets.ImageFolder)
        files.samples = files.imgs = samples
        files.targets = [label for _, label in samples]
        files.loader = lambda path: datasets.folder.default_loader(str(one))
        files.transform, files.target_transform = tools.pil_to_tensor, None
        return torch_batches(files, batch, workers)

    def batches() -> Iterator[int]:
        data = folder(path=str(top), validation_share=0.001, cache=False)
        return our_batches(data.train, batch, workers)

    print(json.dumps(measured(torchvision_batches if name == TORCHVISION else batches, 2)), flush=True)


def compare(count: int, simulated: bool, arguments: argparse.Namespace) -> dict[str, Numbers]:
    """All contestants on so many files."""
    with tempfile.TemporaryDirectory(dir=arguments.place) as name:
        place = Path(name)
        os.environ["SSL_INV_CACHE"] = str(place / "cache")
        (write_index if simulated else write_links)(place, count)
        if simulated:
            os.environ["ONE_JPEG_FOR_ALL"] = str(place / "one.jpg")
        time.sleep(3)  # An index of folders that changed a moment ago would not be kept.
        own = {"images": place, "batch": arguments.batch, "workers": arguments.workers, "simulated": int(simulated)}
        rows = {}
        for one in (*OURS[simulated:], TORCHVISION):
            rows[one] = in_a_process(__file__, one, {**own, "start": "spawn" if "spawn" in one else "fork"})
        return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--simulated", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--place", help="where the files are made for as long as this runs")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--start", choices=("fork", "spawn"), default="fork", help=argparse.SUPPRESS)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.contestant:
        multiprocessing.set_start_method(arguments.start)
        simulated = bool(arguments.simulated)
        contestant(arguments.contestant, arguments.images, arguments.batch, arguments.workers, simulated)
        return
    tables: dict[str, dict[str, Numbers]] = {}
    for count, simulated in ((arguments.count, False), (arguments.simulated, True)):
        if count:
            tables[f"{count:,} {'names' if simulated else 'files'}"] = compare(count, simulated, arguments)
            print(f"{markdown(*list(tables.items())[-1])}\n", flush=True)
    if arguments.json:
        record(arguments.json, tables, arguments.workers)


if __name__ == "__main__":
    main()
