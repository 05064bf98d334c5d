"""The time that equivariance-coherent reconstruction adds to a step of its base objective.

    python benchmarks/ecr_cost.py vicreg-ecr-rendered
    python benchmarks/ecr_cost.py vicreg-ecr-imagenet --data.name rendered --data.size 224 --data.objects 60
        --data.views 2 --augmentation.name simclr --augmentation.extra "[{name: rotation, degrees: 45}]"
        --objective.base "{name: vicreg, projector: [2048, 512]}" --trainer.batch_size 4 --trainer.precision fp32

Steps of the recipe and of the same recipe with only the base objective alternate in one process. Printed are the median
milliseconds of the parts of a step (batch with its rendering, views, networks), the ratios, and a line of JSON. The
paper reports 14.7 % more time per epoch for VICReg on ViT-S.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from ssl_inv.run.build import Run, build
from ssl_inv.run.recipe import Recipe, load_recipe, resolve

_WARM_UP = 2
_PARTS = ("batch", "views", "networks")


def recipes(name: str, overrides: list[str]) -> tuple[Recipe, Recipe]:
    """The recipe, and the same recipe with only its base objective."""
    whole = load_recipe(name, overrides)
    return whole, resolve({**whole.sections(), "objective": whole.objective.settings["base"]})


def clocked(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done the work."""
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


class Steps:
    """Training steps whose parts are timed."""

    def __init__(self, run: Run) -> None:
        self.run, self.device = run, run.trainer.strategy.root_device
        self.half = run.recipe.trainer.precision == "bf16"
        self.seconds: dict[str, list[float]] = {part: [] for part in _PARTS}
        self.run.module.to(self.device).train()

    def __call__(self, step: int) -> None:
        """Run a step and note its times, unless it is one of the first."""
        times = (clocked(work, self.device) for work in (lambda: self._batch(step), self._views, self._networks))
        for part, seconds in zip(_PARTS, times, strict=True):
            if step >= _WARM_UP:
                self.seconds[part].append(seconds)

    def median(self, part: str) -> float:
        """Seconds of a part of a step, or of the whole `step`."""
        rows = self.seconds.values() if part == "step" else [self.seconds[part]]
        return statistics.median(map(sum, zip(*rows, strict=True)))

    def _batch(self, step: int) -> None:
        self.batch = self.run.module.batches[step].to(self.device)

    def _views(self) -> None:
        self.made = self.run.module.view_maker(self.batch)

    def _networks(self) -> None:
        optimizer = self.run.module.optimization.optimizer
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            terms = self.run.objective.loss(self.made, self.run.backbone)
        torch.stack([term.weight * term.value for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def main() -> None:
    """Measure both, alternating."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="vicreg-ecr-rendered")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments, overrides = parser.parse_known_args()
    torch.set_num_threads(arguments.threads)
    whole, base = (Steps(build(recipe)) for recipe in recipes(arguments.recipe, overrides))
    for step in range(_WARM_UP + arguments.steps):
        for steps in (whole, base):
            steps(step)
    found = {part: [1000 * one.median(part) for one in (whole, base)] for part in (*_PARTS, "step")}
    for part, (here, there) in found.items():
        print(f"{part:9s} {here:9.1f} ms, without reconstruction {there:9.1f} ms, ratio {here / there:.3f}")
    print(
        json.dumps(
            {"recipe": arguments.recipe, "overrides": overrides, "threads": arguments.threads, "milliseconds": found}
        )
    )


if __name__ == "__main__":
    main()
