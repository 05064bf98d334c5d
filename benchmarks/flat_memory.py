"""Whether memory, open files and threads stay level over a long run with clusters, workers, scores and checkpoints.

    python benchmarks/flat_memory.py                       # 2,000 steps, ten epochs
    python benchmarks/flat_memory.py --objective odc --steps 400

A tiny network learns from small image files. Every 100 steps it is noted what this process and its loader processes
hold. Printed are these rows and, by a line through them from the second epoch on, the growth of each number in 1,000
steps. What grows without end shows as the same growth in the first and in the second half. Needs Linux.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
from PIL import Image

from ssl_inv.engine.progress import Progress
from ssl_inv.run.build import build
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.pretrain import train
from ssl_inv.run.recipe import resolve

_BATCH, _EPOCHS = 16, 10
_SMALL = {
    "deepcluster-v2": {"prototypes": [8, 8], "projector": [32, 16], "local_crops": 2, "local_size": 16},
    "odc": {"clusters": 8, "projector": [32, 16]},
    "simclr": {"projector": [32, 16]},
}


def held() -> dict[str, float]:
    """What this process and those that it has started hold now: MB of memory of each kind, open files, threads."""
    own, loaders = Path("/proc/self"), _children(os.getpid())
    return {
        "MB": _resident(own),
        "files": len(os.listdir(own / "fd")),
        "threads": len(os.listdir(own / "task")),
        "loaders": len(loaders),
        "loaders' MB": sum(_resident(Path("/proc") / str(one)) for one in loaders),
    }


def _children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task")
    return [int(one) for task in tasks.iterdir() for one in (task / "children").read_text().split()]


def _resident(process: Path) -> float:
    pages = int((process / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Readings(lightning.Callback):
    """Reads what is held every so many steps."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        if module.step % self.every == 0:
            self.rows.append({"step": module.step, **held()})
            if len(self.rows) == 1:
                print("".join(f"{name:>13}" for name in self.rows[0]), flush=True)
            print("".join(f"{value:13,.1f}" for value in self.rows[-1].values()), flush=True)


def growth(rows: list[dict[str, float]], name: str) -> float:
    """The slope of the line through a number of all rows, in 1,000 steps."""
    return float(np.polyfit([row["step"] for row in rows], [row[name] for row in rows], 1)[0]) * 1000


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", choices=list(_SMALL), default="deepcluster-v2")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        images = Path(place) / "images"
        images.mkdir()
        # The share for training of a folder is 0.8.
        for number in range(arguments.steps * _BATCH // _EPOCHS * 5 // 4):
            pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{number:05}.png")
        content = {
            "objective": {"name": arguments.objective, **_SMALL[arguments.objective]},
            "backbone": {"name": "test_resnet"},
            "data": {"name": "folder", "path": str(images), "size": 24, "validation_share": 0.2},
            "augmentation": {"name": "simclr"},
            "trainer": {
                **{"steps": arguments.steps, "batch_size": _BATCH, "accelerator": "cpu", "log_every": 10},
                **{"workers": arguments.workers, "checkpoint_every": 100, "keep": 2},
            },
            "monitor": {"every": 100, "objects": 64},
            "evaluation": {"protocol": "none"},
        }
        recipe = resolve(content, "flat_memory")
        run, readings = build(recipe), Readings(arguments.every)
        print(f"{len(run.module.batches.source)} images to train on, {run.module.batches.steps_per_epoch} steps a pass")
        run.trainer.callbacks.append(readings)  # type: ignore[attr-defined]
        train(run, RunFolder.create(Path(place) / "run", recipe, []), Progress(quiet=True))
    warm = [row for row in readings.rows if row["step"] > arguments.steps / _EPOCHS]
    half = len(warm) // 2
    print("growth in 1,000 steps: all, first half, second half")
    for name in ("MB", "files", "threads", "loaders", "loaders' MB"):
        print(f"{name:>13}" + "".join(f"{growth(rows, name):13.2f}" for rows in (warm, warm[:half], warm[half:])))


if __name__ == "__main__":
    main()
