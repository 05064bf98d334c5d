"""Photographs a second from JPEG files to two views of SimCLR's policy, here and in other libraries.

    python benchmarks/from_files.py --cores 1 2

All start from the same files and end with a batch of two normalised views of every photograph, in the process that
would train. Ours has the loader processes that `pretrain` chooses, the others have as many as there are cores.
timm's and torchvision's transforms have SimCLR's settings; each decodes a photograph once. Contestants alternate, in
processes of their own that are pinned to the cores and are warm before the clock starts. Tables and a line of JSON are
printed. Only the views here come with a record.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from view_contestants import MEAN, STD, _photograph, torchvision_transform

from ssl_inv.augment.policies import simclr
from ssl_inv.data.batches import StepBatches, StepLoader
from ssl_inv.data.sources.folder import ImageFolder
from ssl_inv.engine.launch import beside, workers
from ssl_inv.engine.settings import TrainerSettings
from ssl_inv.views import Pair
from ssl_inv.views.maker import ViewMaker

HEIGHT, WIDTH, SIZE = 375, 500, 224

Batches = Iterator[tuple[Tensor, Tensor]]


def write_photographs(folder: Path, count: int, quality: int) -> None:
    """JPEGs with the spectrum and the edges of photographs."""
    for number in range(count):
        pixels = _photograph(np.random.default_rng([0, number]), WIDTH).transpose(1, 2, 0)[:HEIGHT]
        Image.fromarray(pixels).save(folder / f"{number:04}.jpg", quality=quality)


# Contestants. Each gives batches without end.


def ours(
    folder: Path, batch: int, photographs: Any = "whole", cache: bool | None = False, spares: bool = True
) -> Batches:
    """The batches and views of `pretrain`; without `spares`, views do not leave the loader processes their cores."""
    source = ImageFolder(str(folder), 256, "none", cache=cache, photographs=photographs)
    maker = ViewMaker(Pair(), source, simclr(size=SIZE), MEAN, STD, seed=0)
    batches = StepBatches(source, batch, maker.loaded_views, 0, framing=maker.frames)
    loaders = workers(TrainerSettings(steps=1, epochs=None), source)
    with torch.inference_mode():
        for one in StepLoader(batches, 0, 2**40, loaders):
            with beside(loaders if spares else 0):
                views = maker(one)
            yield views[0].pixels, views[1].pixels


class Files(Dataset[tuple[Tensor, Tensor]]):
    """Two views of every file.

    Args:
        folder: of the files.
        read: reads a file.
        transform: makes a view, or both if `both`.
        both: whether one call of the transform gives both views.
    """

    def __init__(
        self, folder: Path, read: Callable[[Path], Any], transform: Callable[[Any], Any], both: bool = False
    ) -> None:
        self.paths, self.read, self.transform, self.both = sorted(folder.rglob("*.jpg")), read, transform, both

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        image = self.read(self.paths[number])
        if self.both:
            first, second = self.transform(image)
            return first, second
        return self.transform(image), self.transform(image)


def pil(path: Path) -> Image.Image:
    """An image by Pillow."""
    with Image.open(path) as image:
        return image.convert("RGB")


def by_torchvision(path: Path) -> Tensor:
    """An image by torchvision."""
    io = importlib.import_module("torchvision.io")
    image: Tensor = io.decode_jpeg(io.read_file(str(path)), mode=io.ImageReadMode.RGB)
    return image


def loaded(files: Files, batch: int) -> Batches:
    """The batches of torch's loader, epoch after epoch."""
    processes = len(os.sched_getaffinity(0))
    loader = DataLoader(files, batch, shuffle=True, drop_last=True, num_workers=processes, persistent_workers=True)
    while True:
        yield from ((first, second) for first, second in loader)


def lightly_views(folder: Path, batch: int) -> Batches:
    """Lightly's SimCLRTransform."""
    transform = importlib.import_module("lightly.transforms").SimCLRTransform(input_size=SIZE)
    return loaded(Files(folder, pil, transform, both=True), batch)


def torchvision_views(folder: Path, batch: int, read: Callable[[Path], Any]) -> Batches:
    """Torchvision's transforms, v2."""
    return loaded(Files(folder, read, torchvision_transform(SIZE)), batch)


class _Collated(Dataset[tuple[tuple[Tensor, Tensor], int]]):
    """What timm's loader reads: an image and a class."""

    def __init__(self, folder: Path) -> None:
        self.paths, self.transform = sorted(folder.rglob("*.jpg")), None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Any:
        image = pil(self.paths[number])
        assert self.transform is not None
        return torch.stack((self.transform(image), self.transform(image))), 0


def timm_views(folder: Path, batch: int) -> Batches:
    """Timm's loader with its transform for training, which gets SimCLR's settings, twice for every photograph."""
    data = importlib.import_module("timm.data")
    loader = data.create_loader(
        _Collated(folder),
        input_size=(3, SIZE, SIZE),
        batch_size=batch,
        is_training=True,
        use_prefetcher=False,
        num_workers=len(os.sched_getaffinity(0)),
        scale=(0.08, 1.0),
        interpolation="bilinear",
        color_jitter=(0.8, 0.8, 0.8, 0.2),
        color_jitter_prob=0.8,
        grayscale_prob=0.2,
        gaussian_blur_prob=0.5,
        mean=MEAN,
        std=STD,
        device=torch.device("cpu"),
        persistent_workers=True,
    )
    while True:
        yield from ((views[:, 0], views[:, 1]) for views, _ in loader)


CONTESTANTS: dict[str, Callable[[Path, int], Batches]] = {
    "ours": ours,
    "ours, squares": lambda folder, batch: ours(folder, batch, "squares"),
    "ours, on all threads": lambda folder, batch: ours(folder, batch, spares=False),
    "lightly SimCLRTransform": lightly_views,
    "torchvision v2, Pillow": lambda folder, batch: torchvision_views(folder, batch, pil),
    "torchvision v2, torchvision.io": lambda folder, batch: torchvision_views(folder, batch, by_torchvision),
    "timm create_loader": timm_views,
}
MODULES = {"lightly SimCLRTransform": "lightly", "timm create_loader": "timm"}


# Measurements.


def contestant(name: str, folder: Path, batch: int, seconds: float) -> None:
    """The process of a contestant: it prints the speed of its batches over some seconds."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    batches = CONTESTANTS[name](folder, batch)
    # The loader's processes start, and what they read ahead while the first batch waits for them is not counted.
    for _ in range(1 + 2 * len(os.sched_getaffinity(0))):
        next(batches)
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds or count < 4:
        first, second = next(batches)
        assert first.shape == second.shape == (batch, 3, SIZE, SIZE)
        count += 1
    print(count * batch / passed, flush=True)


def measure(folder: Path, cores: int, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The speed of every contestant on some cores; each alone at a time, in alternation."""
    allowed = os.sched_getaffinity(0)
    chosen = sorted(allowed)[:cores]
    command = [sys.executable, __file__, "--batch", str(arguments.batch), "--seconds", str(arguments.seconds)]
    found: dict[str, list[float]] = {}
    names = [name for name in CONTESTANTS if importlib.util.find_spec(MODULES.get(name, "torch"))]
    for number in range(arguments.rounds):
        # Each starts anew in every round: those that wait would hold memory and read ahead.
        for name in names if number % 2 == 0 else names[::-1]:
            os.sched_setaffinity(0, chosen)
            process = subprocess.run(
                [*command, "--contestant", name, "--images", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=300,
            )
            found.setdefault(name, []).append(float(process.stdout))
    os.sched_setaffinity(0, allowed)
    medians = {name: statistics.median(speeds) for name, speeds in found.items()}
    ratios = {
        name: statistics.median(mine / other for mine, other in zip(found["ours"], found[name], strict=True))
        for name in found
    }
    return {
        name: {"median": round(medians[name], 1), "ours_is_faster_by": round(ratios[name], 2), "all": found[name]}
        for name in found
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with JPEGs; by default they are made in code")
    parser.add_argument("--count", type=int, default=128, help="how many are made")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs that are made")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        contestant(arguments.contestant, arguments.images, arguments.batch, arguments.seconds)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.images or Path(place)
        if arguments.images is None:
            write_photographs(folder, arguments.count, arguments.quality)
        sizes = [path.stat().st_size for path in folder.rglob("*.jpg")]
        results = {}
        for cores in arguments.cores:
            results[cores] = measure(folder, cores, arguments)
            print(f"{cores} core(s), {len(sizes)} JPEGs of {statistics.mean(sizes) / 1000:.0f} kB, photographs/s")
            for name, one in results[cores].items():
                print(f"    {name:<32}{one['median']:8.1f}   ours is {one['ours_is_faster_by']:.2f} times as fast")
            sys.stdout.flush()
    packages = ("torch", "torchvision", "pillow", "kornia_rs", "lightly", "timm")
    versions = {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(_module(name))}
    print(json.dumps({"versions": versions, "machine": platform.processor(), "photographs_per_second": results}))


def _module(package: str) -> str:
    return {"pillow": "PIL"}.get(package, package)


if __name__ == "__main__":
    main()
