"""Pairs of views per second of `pretrain simclr-folder` on CIFAR-10, of the bare step, and of lightly's loop.

    python benchmarks/end_to_end.py --data cifar10_jpeg.zip

All three train the same ResNet-18 (3x3 stem of stride 2, full width) with SimCLR on images of 32 pixels. They alternate
in one process, several times:

bare: forward, backward and optimiser on views that are ready in memory;
engine: everything that `ssl-inv pretrain` does in a step, from the archive on, without the monitor, which lightly's
loop does not have;
lightly: `LightlyDataset` on the unpacked files, `SimCLRTransform` without blur (as in the recipe), a `DataLoader` with
two processes, `SimCLRProjectionHead` and `NTXentLoss`, in the plain PyTorch loop of lightly's documentation.

The archive has the images of class folders below `train/`; the default is `cifar10_jpeg.zip` in the folder in the
environment variable SSL_INV_TEST_DATA. Printed are pairs per second, the median and range of their ratio to the bare
step, and a line of JSON.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from step_time import Stopwatch, bare_seconds
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ssl_inv.engine.progress import Progress
from ssl_inv.nn.backbones import make_backbone
from ssl_inv.run.build import build
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.pretrain import train
from ssl_inv.run.recipe import Recipe, load_recipe

_BARE_WARM_UP = 3
"""Steps that `bare_seconds` leaves out."""
_PREFETCHED = 4
"""Batches that two loader processes have ready; a wait shows only when these are used up."""


def bare(recipe: Recipe, steps: int) -> float:
    """Seconds of a step on ready views."""
    run = build(recipe)
    run.backbone.train()
    run.objective.train()
    return bare_seconds(run, steps + _BARE_WARM_UP)


def engine(recipe: Recipe, steps: int) -> float:
    """Seconds of a step of the whole engine. It runs as many steps as the recipe says; the last `steps` count."""
    run, stopwatch = build(recipe), Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        run.trainer.callbacks.append(stopwatch)  # type: ignore[attr-defined]
        train(run, RunFolder.create(Path(folder) / "run", recipe, []), Progress(quiet=True))
    return _last(stopwatch.ends, steps)


class SimCLR(nn.Module):
    """Backbone and projection head, as in lightly's documentation."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = SimCLRProjectionHead(512, 512, 128)

    def forward(self, images: Tensor) -> Tensor:
        """Projections `(B, 128)`."""
        projections: Tensor = self.projection_head(self.backbone(images).flatten(start_dim=1))
        return projections


def lightly(images: Path, batch: int, steps: int, warm_up: int) -> float:
    """Seconds of a step of lightly's loop."""
    model = SimCLR(make_backbone(name="resnet18", stem="3x3-stride2"))
    dataset = LightlyDataset(str(images), transform=SimCLRTransform(input_size=32, gaussian_blur=0.0))
    loader = DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=2)
    criterion, optimizer = NTXentLoss(), torch.optim.SGD(model.parameters(), lr=0.06)
    ends: list[float] = []
    for (one, other), _, _ in _endless(loader):
        loss = criterion(model(one), model(other))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
        if len(ends) == warm_up + steps:
            break
    return _last(ends, steps)


def _endless(
    loader: DataLoader[tuple[list[Tensor], Tensor, list[str]]],
) -> Iterator[tuple[list[Tensor], Tensor, list[str]]]:
    while True:
        yield from loader


def _last(ends: list[float], steps: int) -> float:
    return (ends[-1] - ends[-1 - steps]) / steps


def unpack(archive: Path, folder: Path, count: int) -> Path:
    """Write at least `count` training images of an archive, evenly spread, as files (all, if it has fewer). Returns
    their folder.
    """
    with zipfile.ZipFile(archive) as files:
        names = [name for name in files.namelist() if name.startswith("train/") and not name.endswith("/")]
        files.extractall(folder, names[:: max(1, len(names) // count)])
    return folder / "train"


def compare(ways: dict[str, Callable[[], float]], batch: int, rounds: int) -> dict[str, list[float]]:
    """Pairs per second of each way, round by round."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, seconds in ways.items():
            speeds[name].append(batch / seconds())
        print(
            f"round {number + 1}: " + ", ".join(f"{name} {speed[-1]:.1f} pairs/s" for name, speed in speeds.items()),
            flush=True,
        )
    return speeds


def main() -> None:
    """Measure all three, alternating, several times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ["SSL_INV_TEST_DATA"], "cifar10_jpeg.zip") if "SSL_INV_TEST_DATA" in os.environ else None
    parser.add_argument("--data", type=Path, default=default, help="archive of images")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6, help="steps that are timed in a round")
    parser.add_argument("--warm-up", type=int, default=_PREFETCHED + 1, help="steps before them")
    parser.add_argument("--rounds", type=int, default=3)
    arguments, overrides = parser.parse_known_args()
    if arguments.data is None:
        parser.error("name the archive by --data, or the folder that has cifar10_jpeg.zip by SSL_INV_TEST_DATA")
    settings = {
        "data.path": arguments.data,
        "trainer.batch_size": arguments.batch,
        "trainer.steps": arguments.steps + arguments.warm_up,
        "trainer.checkpoint_every": arguments.steps + arguments.warm_up,
        "monitor.every": 0,
    }
    recipe = load_recipe("simclr-folder", [*(f"--{name}={value}" for name, value in settings.items()), *overrides])
    with tempfile.TemporaryDirectory() as folder:
        # Enough that no round comes to the end of the data, where the loop starts its loader processes again.
        images = unpack(arguments.data, Path(folder), (arguments.steps + arguments.warm_up + 1) * arguments.batch)
        ways: dict[str, Callable[[], float]] = {
            "bare": lambda: bare(recipe, arguments.steps),
            "engine": lambda: engine(recipe, arguments.steps),
            "lightly": lambda: lightly(images, arguments.batch, arguments.steps, arguments.warm_up),
        }
        speeds = compare(ways, arguments.batch, arguments.rounds)
    ratios = {
        name: [one / other for one, other in zip(speeds[name], speeds["bare"], strict=True)]
        for name in ("engine", "lightly")
    }
    for name, ratio in ratios.items():
        print(f"{name}: {statistics.median(ratio):.3f} of the bare step's speed ({min(ratio):.3f} to {max(ratio):.3f})")
    facts = {"batch": arguments.batch, "steps": arguments.steps, "threads": torch.get_num_threads()}
    print(
        json.dumps(
            {
                **facts,
                "pairs_per_second": speeds,
                "ratio": {name: statistics.median(ratio) for name, ratio in ratios.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
