"""Do other images help at equal time? Each inter-image objective beside its own base, on photographs of 64 pixels.

    python benchmarks/equal_time.py runs --images grocery_96px.zip --seconds 480 --seeds 0 1 2
    python benchmarks/equal_time.py runs --images grocery_96px.zip --candidates moco-v2 interclr --minutes 30

InterCLR stands beside MoCo v2, which it is made around; OBoW beside BYOL, which also has a student that predicts what
its moving average sees; transitive invariance beside SimCLR, in whose features it finds its neighbours. Network, data,
batch, optimiser and, but for OBoW's crops, augmentations are the same.

All have `--seconds` of processor time on one thread: the steps that fit are found from some steps before. Transitive
invariance spends half of them on its teacher, a SimCLR of half the length, so what it costs to know its neighbours
counts. What a run spent is written down.

Where a mechanism can be watched, it is: the share of InterCLR's clusters and of transitive invariance's neighbours that
are of one class, with the classes that training does not see.

Runs and file work as those of `on_one_budget.py`: a call trains what docs/results/equal-time.json lacks.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from on_one_budget import keep, missing, numbers
from one_by_one import facts_of, one_by_one, trainer_alone

import ssl_inv
from ssl_inv.run.environment import prepare_process
from ssl_inv.run.lightning import parts
from ssl_inv.run.python.run_result import RunResult

TABLE = "equal-time"
OUTPUT = Path(__file__).parent.parent / "docs" / "results" / f"{TABLE}.json"

SIMCLR = {"name": "simclr", "projector": [512, 128], "temperature": 0.2}
MOCO = {"name": "moco-v2", "projector": [512, 128], "queue": 1024, "momentum": 0.99}
CROPS = {"crop_size": 48, "patch_size": 32, "patch_view": 72, "patch_jitter": 6}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "simclr": SIMCLR,
    "transitive": {
        **{"name": "transitive", "criterion": "info_nce", "temperature": 0.2, "projector": [512, 128]},
        **{"weights": {"intra": 1, "inter": 1}, "neighbours": 5},
    },
    "moco-v2": MOCO,
    "interclr": {
        **{"name": "interclr", "base": MOCO, "clusters": 80, "smallest_cluster": 10},
        **{"pool": 1000, "negative_count": 128},
    },
    "byol": {"name": "byol", "projector": [512, 256], "predictor": [512], "momentum": 0.99},
    "obow": {
        **{"name": "obow", "vocabulary": 1024, "inverse_delta": 10, "kappa": 5, "border": 0, "window": 2},
        **{"first_distance": None, "warm_start": True, "momentum": 0.99, "centre": 1, **CROPS},
    },
}
"""The objective of every candidate; transitive invariance gets the place of its teacher too."""

WATCHED = ("purity", "nmi", "precision_inter", "edges", "largest_component")
TAUGHT = "transitive"
CALIBRATION = (8, 24)
"""Between the ends of these two steps the clock runs; before, memory is asked for and statistics are begun."""


def recipe_of(candidate: str, seed: int, steps: int, images: str, teacher: Path | None = None) -> dict[str, Any]:
    """The recipe of one run."""
    objective = dict(OBJECTIVES[candidate])
    if teacher is not None:
        objective["teacher_path"] = str(teacher / "export")
    obow = {"name": "obow", "blur": [0, 0]}
    simclr = {"name": "simclr", "min_scale": 0.2, "strength": 0.5, "blur": 0}
    return {
        "objective": objective,
        "backbone": {"name": "resnet18", "arguments": {"channels": [16, 32, 64, 128]}},
        "data": {"name": "folder", "path": images, "size": 64, "exclude": ["val/*"]},
        "augmentation": obow if candidate == "obow" else simclr,
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "warmup": 0.1},
        "trainer": {"steps": steps, "batch_size": 128, "seed": seed, "workers": 0, "accelerator": "cpu"},
        "monitor": {"every": 0},
        "evaluation": {"protocol": "quick"},
    }


class Clock(lightning.Callback):
    """Processor seconds of a step."""

    def __init__(self) -> None:
        self.ends = dict[int, float]()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.ends[trainer.global_step] = time.process_time()

    def seconds(self) -> float:
        """Of a step, on average."""
        first, last = CALIBRATION
        return (self.ends[last] - self.ends[first]) / (last - first)


def seconds_of_a_step(recipe: Mapping[str, Any]) -> float:
    """Train for some steps and throw them away."""
    prepare_process()  # as `pretrain` does: steps cost less where memory that was freed is kept
    clock = Clock()
    module, data = parts({**recipe, "trainer": {**recipe["trainer"], "steps": max(CALIBRATION)}})
    trainer_alone(max(CALIBRATION), clock).fit(module, data)
    return clock.seconds()


def trained(
    folder: Path, candidate: str, seed: int, seconds: float, images: str, teacher: Path | None = None
) -> tuple[RunResult, int, float | None]:
    """A run that spends so many processor seconds on training; its steps, and the seconds with the evaluation.

    The seconds are None for a run that was finished before.
    """
    if folder.is_dir():
        run = RunResult(folder)
        steps = run.recipe.trainer.steps or 0
        if run.state == "complete":
            return run, steps, None
        return ssl_inv.pretrain(resume=folder, quiet=True), steps, None
    plan = recipe_of(candidate, seed, max(CALIBRATION), images, teacher)
    steps = max(round(seconds / seconds_of_a_step(plan)), max(CALIBRATION))
    begun = time.process_time()
    run = ssl_inv.pretrain(recipe_of(candidate, seed, steps, images, teacher), output=folder, quiet=True)
    return run, steps, round(time.process_time() - begun, 1)


def one_run(asked: argparse.Namespace, candidate: str, seed: int) -> dict[str, Any]:
    """Train a run and collect its numbers and facts."""
    seconds, teacher, before = asked.seconds, None, 0
    if candidate == TAUGHT:
        seconds /= 2
        teacher = asked.runs / f"teacher-{seed}"
        _, before, _ = trained(teacher, "simclr", seed, seconds, asked.images)
    folder = asked.runs / f"{candidate}-{seed}"
    run, steps, spent = trained(folder, candidate, seed, seconds, asked.images, teacher)
    return {
        "objective": OBJECTIVES[candidate],
        "seconds": asked.seconds,
        "steps": steps,
        **({"steps_of_teacher": before} if before else {}),
        "seconds_with_evaluation": spent,
        "watched": watched(run),
        **facts_of(run),
        "numbers": numbers(run),
    }


def watched(run: RunResult) -> dict[str, float]:
    """The last of what the run says of clusters and neighbours."""
    found: dict[str, float] = {}
    for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        found |= json.loads(line).get("memory", {})
    return {name: value for name, value in found.items() if name in WATCHED}


def main(words: Sequence[str] | None = None) -> int:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--images", required=True, help="folder or archive with class folders in `train` and `test`")
    parser.add_argument("--candidates", nargs="+", default=list(OBJECTIVES), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--seconds", type=float, default=480, help="processor time of a run (480)")
    parser.add_argument("--minutes", type=float, help="start no run after so many minutes")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args(words)
    asked.budget = "grocery"

    def work(cell: tuple[str, int]) -> str:
        candidate, seed = cell
        one = one_run(asked, candidate, seed)
        keep(asked.output, f"{asked.budget} {candidate} {seed}", one, TABLE)
        scores = {key: one["numbers"].get(f"{key}/top1 | all", [None])[0] for key in ("linear", "knn")}
        return f"{candidate} seed {seed}, {one['steps']} steps: {scores} {one['watched']}"

    known = ("--candidates", asked.candidates, list(OBJECTIVES))
    return one_by_one(asked.runs, lambda: missing(asked), work, asked.minutes, known)


if __name__ == "__main__":
    sys.exit(main())
