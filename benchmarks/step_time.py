"""What a step of `pretrain` costs over what its networks cost.

    python benchmarks/step_time.py demo

In one process and in turn: the whole engine (data, views, loss, logging, monitor, checkpoints), and a bare loop that
only runs forward, backward and the optimiser of the same networks on views that are ready in memory. Prints the median
time of a step of each and their ratio, and a line of JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch

from ssl_inv.engine.progress import Progress
from ssl_inv.run.build import Run, build
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.pretrain import prepare, train
from ssl_inv.run.recipe import Recipe, load_recipe

_WARM_UP = 3


class Stopwatch(lightning.Callback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())


def engine_seconds(recipe: Recipe) -> float:
    """Mean seconds of a step in the engine, monitor and checkpoints included, after a short warm-up."""
    run = build(recipe)
    prepare(run, Progress(quiet=True))
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        run.trainer.callbacks.append(stopwatch)  # type: ignore[attr-defined]
        train(run, RunFolder.create(Path(folder) / "run", recipe, []), Progress(quiet=True))
    ends = stopwatch.ends
    return (ends[-1] - ends[_WARM_UP]) / (len(ends) - 1 - _WARM_UP)


def bare_seconds(run: Run, steps: int) -> float:
    """Mean seconds of forward, backward and optimiser step on ready views."""
    module, optimizer = run.module, run.module.optimization.optimizer
    ready = [module.view_maker(module.batches[step]) for step in range(2)]
    begun = 0.0
    for step in range(steps):
        if step == _WARM_UP:
            begun = time.perf_counter()
        losses = run.objective.loss(ready[step % len(ready)], run.backbone)
        torch.stack([term.weight * term.value for term in losses.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (time.perf_counter() - begun) / (steps - _WARM_UP)


def main() -> None:
    """Measure both in turn, several times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=60, help="steps of the engine in a round; covers a monitor score at its default"
    )
    arguments, overrides = parser.parse_known_args()
    recipe = load_recipe(arguments.recipe, [*overrides, "--trainer.steps", str(arguments.steps)])
    engine, bare = [], []
    for number in range(arguments.rounds):
        run = build(recipe)
        prepare(run, Progress(quiet=True))
        run.backbone.train(), run.objective.train()
        bare.append(bare_seconds(run, arguments.steps // 2))
        engine.append(engine_seconds(recipe))
        print(
            f"round {number + 1}: engine {engine[-1]:.3f} s, bare {bare[-1]:.3f} s, ratio {engine[-1] / bare[-1]:.3f}"
        )
    ratio = statistics.median(one / other for one, other in zip(engine, bare, strict=True))
    result = {
        "recipe": arguments.recipe,
        "threads": torch.get_num_threads(),
        "engine": engine,
        "bare": bare,
        "ratio": ratio,
    }
    print(f"median ratio {ratio:.3f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
