"""How many files and functions of this package an image, a recipe and a transform pass on their way.

    python benchmarks/walks.py

Traces a SimCLR step on eight JPEGs, `ssl-inv check` of its recipe, and the evaluation of SIE on rendered solids. Prints
for each the files and functions that were entered; a function counts once, however often it is called. On the way of a
recipe or a transform, a function counts if the thing itself, or what holds it, is among its arguments or returned.
"""

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image

import ssl_inv
from ssl_inv.evaluation.suite import QUICK
from ssl_inv.run import cli, judging
from ssl_inv.run.build import Run, build, build_networks
from ssl_inv.run.recipe import JudgedRecipe, Recipe, resolve
from ssl_inv.transforms import Action, Transform

ROOT = Path(ssl_inv.__file__).resolve().parent.parent


class Walk:
    """What was entered, in order.

    Args:
        carries: counts a call only if one of its arguments satisfies this.
        depth: how far an argument is looked into for it.
    """

    def __init__(self, carries: Callable[[Any], bool] | None = None, depth: int = 0) -> None:
        self.carries, self.depth = carries, depth
        self.calls: list[tuple[str, str]] = []
        self.entries: list[str] = []
        """Files, each time a call enters them from another one."""

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(file for file, _ in self.calls))

    @property
    def functions(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys(self.calls))

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        """Take part in tracing; see `sys.setprofile`."""
        wanted = ("call",) if self.carries is None else ("call", "return")
        if event not in wanted or (file := own(frame)) is None or frame.f_code.co_name.startswith("<"):
            return
        values = list(frame.f_locals.values()) if event == "call" else [argument]
        if self.carries is not None and not any(self._has(value, self.depth) for value in values):
            return
        self.calls.append((file, frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name))
        if event == "return":
            return
        caller = frame.f_back
        while caller is not None and own(caller) is None:
            caller = caller.f_back
        if caller is None or own(caller) != file:
            self.entries.append(file)

    def _has(self, value: Any, depth: int) -> bool:
        """Whether a value, an item of a short sequence or a field of a dataclass satisfies the condition."""
        assert self.carries is not None
        if self.carries(value):
            return True
        if depth == 0:
            return False
        inner: list[Any] = list(value) if isinstance(value, (list, tuple)) and len(value) < 20 else []
        if is_dataclass(value) and not isinstance(value, type):
            inner = list(vars(value).values())
        return any(self._has(one, depth - 1) for one in inner)


def own(frame: FrameType) -> str | None:
    """The file of a frame within the package, or None for anyone else's."""
    path = Path(frame.f_code.co_filename)
    for root in (ROOT, Path(ssl_inv.__file__).parent.parent):
        if path.is_relative_to(root) and path.parts[len(root.parts)] in ("ssl_inv", "evaluation"):
            file = path.relative_to(root).as_posix()
            return None if file.endswith("__init__.py") else file.removeprefix("ssl_inv/")
    return None


@contextmanager
def walk(carries: Callable[[Any], bool] | None = None, depth: int = 0) -> Iterator[Walk]:
    """Trace what the block enters."""
    found = Walk(carries, depth)
    before = sys.getprofile()
    sys.setprofile(found.note)
    try:
        yield found
    finally:
        sys.setprofile(before)


def photographs(folder: Path) -> None:
    """Sixteen small JPEGs."""
    folder.mkdir()
    for number in range(16):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60)).save(folder / f"{number}.jpg")


SIMCLR: dict[str, Any] = {
    "objective": {"name": "simclr", "projector": [16, 8]},
    "backbone": {"name": "test_resnet"},
    "augmentation": {"name": "simclr", "strength": 0.5},
    "trainer": {"steps": 1, "batch_size": 8, "workers": 0, "accelerator": "cpu"},
}
SIE: dict[str, Any] = {
    "objective": {"name": "sie", "projector": [16, 8]},
    "backbone": {"name": "test_resnet"},
    "data": {"name": "rendered", "classes": 4, "objects": 40, "views": 3, "size": 32},
    "trainer": {"steps": 1, "batch_size": 8, "workers": 0, "accelerator": "cpu"},
    "evaluation": {"views": 2},
}


def image_to_loss(recipe: Recipe) -> dict[str, Walk]:
    """From the disk to the batch, to the views, to the loss."""
    run = build(recipe)
    run.module.trainer = run.trainer
    loader, maker, objective, backbone = (
        run.module.train_dataloader(),
        run.module.view_maker,
        run.objective,
        run.backbone,
    )
    with walk() as loading:
        batch = next(iter(loader))
    with walk() as making:
        views = maker(batch)
    with walk() as losing:
        objective.loss(views, backbone)
    return {"disk to batch": loading, "batch to views": making, "views to loss": losing}


def is_recipe(value: Any) -> bool:
    """Whether a value is a recipe: checked, or as it was read."""
    if isinstance(value, dict):
        return {"objective", "data"} <= value.keys()
    return isinstance(value, JudgedRecipe)


def recipe_to_run(file: Path) -> Walk:
    """From the command line to the run."""
    with walk(is_recipe) as building, redirect_stdout(io.StringIO()):
        assert cli.main(["check", str(file)]) == 0
    return building


def transform_to_table(run: Run) -> Walk:
    """Where transforms and actions are handed on from the data to the table of their R2."""
    only = {"transforms_r2": QUICK["transforms_r2"]}
    untrained = build_networks(run.recipe, run.module.view_maker.groups)
    normalise, settings = run.module.view_maker.whole, run.recipe.evaluation
    with walk(lambda value: isinstance(value, (Transform, Action)), depth=2) as found:
        trained = run.backbone, run.objective
        judging.judge(run.data, trained, untrained, normalise, settings, torch.device("cpu"), protocols=only)
    return found


def main() -> None:
    """Print all walks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", action="store_true", help="also print the names of all files and functions")
    names = parser.parse_args().names
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        photographs(Path(place) / "photographs")
        recipe = resolve({**SIMCLR, "data": {"name": "folder", "path": f"{place}/photographs", "size": 32}})
        legs = image_to_loss(recipe)
        (Path(place) / "walk.yaml").write_text(recipe.dump())
        building = recipe_to_run(Path(place) / "walk.yaml")
    whole = Walk()
    whole.calls = [call for leg in legs.values() for call in leg.calls]
    walks = {
        **legs,
        "image to loss": whole,
        "recipe to step": building,
        "transform to table": transform_to_table(build(resolve(SIE))),
    }
    for name, found in walks.items():
        print(f"{name:20} {len(found.files):3} files  {len(found.functions):4} functions")
        if names:
            print(json.dumps({file: [f for g, f in found.functions if g == file] for file in found.files}, indent=2))
    # A helper that answers and returns is no step of the way; a file is entered anew when another one calls it.
    twice = {file: building.entries.count(file) for file in building.files if building.entries.count(file) > 1}
    print(f"files that the recipe enters more than once: {twice or 'none'}")


if __name__ == "__main__":
    main()
