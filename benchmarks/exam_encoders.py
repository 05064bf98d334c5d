"""Train encoders on one budget, examine them by every protocol, and keep the numbers in docs/exam.

    python benchmarks/exam_encoders.py runs/exam --data solids --seeds 0 1 2
    python benchmarks/exam_encoders.py runs/exam --data cifar10 --images cifar10_jpeg.zip --seeds 0
    python benchmarks/exam_encoders.py runs/exam --encoders simclr sie --seeds 0 --minutes 20

Every encoder has the same network, the same data, the same number of steps and objects a step; its objective and its
optimiser are those of its shipped recipe, but for what small images and images without poses ask for (`sections`).
`supervised` is told the classes alone; `untrained` is the network with random weights. A call trains and examines what
the folder lacks, one cell (data, encoder, seed) after the other, and writes after each. What a call before has finished
is not done again; an interrupted run goes on. `--again` measures the cells that it is asked for anew. Then `make docs`
writes docs/exam_results.md.

Images are a folder or a zip with the splits train and val or test, and a folder for each class in it.
"""

import argparse
import json
import math
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from first_images import first_images

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

import exam_cells

import ssl_inv
from ssl_inv.atomic import write_text
from ssl_inv.augment.policies import simclr
from ssl_inv.catalogue import PROTOCOLS, RecipeError, suggest
from ssl_inv.data.source import Data
from ssl_inv.engine.launch import quiet_lightning
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.results import Comparison, Result
from ssl_inv.run.encoders import LoadedModel, best_device, with_data
from ssl_inv.run.environment import host_facts, versions
from ssl_inv.run.evaluating import chosen_protocols, evaluated, model_of
from ssl_inv.run.folder import now
from ssl_inv.run.judging import Judgement
from ssl_inv.run.python.run_result import RunResult
from ssl_inv.views import Pair
from ssl_inv.views.as_data import TrainingViews

OUTPUT = exam_cells.FOLDER
REFERENCE = "supervised"
"""The encoder with which protocols compare that need two. It is examined first."""

RECIPES = {
    "supervised": "supervised-rendered",
    "simclr": "simclr-rendered",
    "vicreg": "vicreg-rendered",
    "sie": "sie-rendered",
    "sie-quaternion": "sie-quaternion-rendered",
    "seq-jepa": "seq-jepa-rendered",
    "equimod": "equimod-rendered",
    "ec-reconstruction": "vicreg-ecr-rendered",
    "obow": "obow-rendered",
    "obow-sie": "obow-sie-rendered",
    "frontier": "frontier-rendered",
    "frontier-equimod": "frontier-equimod-rendered",
    "frontier-split": "frontier-split-rendered",
}
"""The recipe that gives objective, optimiser and augmentation of each encoder."""

POSES_ALONE = ("sie-quaternion", "frontier", "frontier-equimod", "frontier-split")
"""The encoders whose recipe needs rotations. Plain SIE does not leave its first plateau in so few steps."""

IN_PARTS = ("sie", "sie-quaternion", "ec-reconstruction", "obow-sie", "frontier-split")
"""The encoders with an invariant and an equivariant part."""

SIZE = 32
CROPPED = {"crop_size": 24, "patch_size": 16, "patch_view": 36, "patch_jitter": 3}
"""OBoW's crops for images of `SIZE` pixels, as its recipe has them for 64."""

COLOURS = ["brightness", "contrast", "saturation", "hue"]
TOLD: dict[str, dict[str, Any]] = {
    "sie": {"parameters": ["crop", *COLOURS]},
    "seq-jepa": {"parameters": ["crop", *COLOURS], "observed": 2},
    "equimod": {"parameters": ["crop", *COLOURS]},
    "ec-reconstruction": {"parameters": COLOURS},
}
"""Settings on images without poses, whose recorded parameters are those of the augmentation."""


@dataclass(frozen=True)
class Budget:
    """What all encoders on one data set share.

    Attributes:
        steps: of training.
        batch: objects a step.
        objects: of training and validation together on solids; of training images per class otherwise.
        examined: training objects that probes are fitted to; scores are of all validation objects.
        views: of each object in the exam.
    """

    steps: int = 300
    batch: int = 64
    objects: int = 1000
    examined: int = 500
    views: int = 4


BUDGETS = {"solids": Budget(), "cifar10": Budget(objects=150), "grocery": Budget(objects=150)}


def sections(encoder: str, data: Mapping[str, Any], budget: Budget, seed: int) -> dict[str, Any]:
    """The recipe of one cell."""
    shipped = ssl_inv.recipes(RECIPES[encoder]).sections()
    solids = data["name"] == "rendered"
    objective: dict[str, Any] = {**shipped["objective"]}
    if encoder == REFERENCE:
        objective = {"name": "supervised", "labels": True}
    augmentation = {"name": "none"} if solids else {"name": "simclr", "min_scale": 0.2, "strength": 0.5, "blur": 0}
    if encoder == "obow":
        objective.update(CROPPED)
    if encoder in ("obow", "obow-sie"):
        augmentation = {"name": "obow", "blur": [0, 0]}
    if encoder == "obow-sie":
        objective["invariant"] = {**objective["invariant"], "crop_size": CROPPED["crop_size"]}
    if not solids:
        objective.update(TOLD.get(encoder, {}))
        if encoder == "obow-sie":
            objective["equivariant"] = {**objective["equivariant"], **TOLD["sie"]}
            objective["equivariant_views"] = "augmented"
    trainer = {"steps": budget.steps, "batch_size": budget.batch, "seed": seed, "workers": 0, "accelerator": "cpu"}
    return {
        "objective": objective,
        "backbone": {"name": "resnet18", "stem": "3x3-stride2", "arguments": {"channels": [16, 32, 64, 128]}},
        "data": {**data},
        "augmentation": augmentation,
        "optimizer": {**shipped["optimizer"]},
        "trainer": trainer,
        "monitor": {"every": 0},
        "evaluation": {"protocol": "none"},
    }


def data_section(name: str, budget: Budget, runs: Path, images: Path | None) -> dict[str, Any]:
    """The section `data` of every recipe. Of real data, the first images of every class are copied beside the runs."""
    if name == "solids":
        counts = {"classes": 16, "objects": budget.objects, "views": 8}
        return {"name": "rendered", **counts, "size": SIZE, "angle_range": 45, "hue_range": 0.2}
    place = runs / "data" / name
    if not (place / "complete").is_file():
        if images is None:
            raise RecipeError(f"--images: {name} needs the folder or the zip of its images")
        first_images(images, place, {"train": budget.objects, "val": max(budget.objects // 5, 2)})
        (place / "complete").write_text("")
    return {"name": "folder", "path": str(place), "size": SIZE, "exclude": ["complete"]}


def trained(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Train a run, or what is left of it."""
    if folder.is_dir():
        if RunResult(folder).state == "complete":
            return
        run = ssl_inv.pretrain(resume=folder, quiet=True)
    else:
        begun, used = time.perf_counter(), time.process_time()
        run = ssl_inv.pretrain(recipe, output=folder, quiet=True)
        cost = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - used}
        write_text(folder.with_suffix(".cost.json"), json.dumps(cost))
    if run.state != "complete":
        raise RecipeError(f"{folder}: the run ended as {run.state!r}")


def loaded(folder: Path, budget: Budget) -> LoadedModel:
    """A run with the data of its exam: those of its training, and images as made views whose making is recorded."""
    settings = {"protocol": "quick", "views": budget.views, "objects": budget.examined}
    own = with_data(model_of(str(folder)), None, {f"evaluation.{key}": value for key, value in settings.items()})
    if own.data.train.groups:
        return own
    augmentation = simclr(min_scale=0.2, strength=0.5, blur=0)
    train, validation = (
        TrainingViews(one, Pair(), augmentation, budget.views, 0) for one in (own.data.train, own.data.validation)
    )
    return replace(own, data=Data(train, validation))


def examined(folder: Path, place: Path, budget: Budget, protocols: Sequence[str], second: Encoded | None) -> Judgement:
    """A run by every protocol. What a call before has measured is read again."""
    one = loaded(folder, budget)
    known = chosen_protocols(list(protocols), one.recipe.evaluation, best_device())
    judgement = evaluated(one, place, known, quiet=True, second=second, seed=0)
    assert judgement is not None
    return judgement


def cell(
    judgement: Judgement, results: Mapping[str, Result], shuffled: Mapping[str, Result], **facts: Any
) -> dict[str, Any]:
    """One encoder of one seed, as its file keeps it."""
    return {
        **facts,
        "costs": {
            name: [round(one.seconds, 2), None if one.memory is None else round(one.memory / 2**20, 1)]
            for name, one in judgement.costs.items()
        },
        "skipped": judgement.skipped,
        "lacking": {key: one.detail or "not a number" for key, one in results.items() if not _measured(one)},
        "results": {key: _numbers(one) for key, one in results.items() if _measured(one)},
        "shuffled": {key: _numbers(one)[0] for key, one in shuffled.items() if _measured(one)},
    }


def _measured(result: Result) -> bool:
    return result.value is not None and math.isfinite(result.value)


def _numbers(result: Result) -> list[float | None]:
    return [
        None if one is None or not math.isfinite(one) else float(f"{float(one):.4g}")
        for one in (result.value, result.spread)
    ]


_LEFT_OUT = re.compile(r"geodesic/.*/(accuracy|auc)@")
"""Of errors in degrees the median and the mean are kept: these shares are a quarter of all numbers."""


def by_key(rows: Sequence[Comparison], kind: str) -> dict[str, Result]:
    """The results of one kind, trained, untrained or shuffled, by name and part."""
    found = [getattr(row, kind) for row in rows]
    return {f"{one.name} | {one.part}": one for one in found if one is not None and not _LEFT_OUT.match(one.name)}


def missing(folder: Path, asked: argparse.Namespace, budget: Budget) -> Iterator[tuple[int, str]]:
    """The (seed, encoder) of every cell that a folder lacks.

    Raises:
        RecipeError: if it has cells of another budget.
    """
    done = set()
    for one in exam_cells.read(folder):
        if one["data"] == asked.data:
            if one["budget"] != asdict(budget):
                raise RecipeError(f"{folder}: {asked.data} has cells of another budget, {one['budget']}; give --output")
            done |= {(one["seed"], one["encoder"])} if set(asked.protocols) <= set(one["protocols"]) else set()
    for seed in asked.seeds:
        for encoder in [REFERENCE, *(one for one in asked.encoders if one != REFERENCE)]:
            if encoder in POSES_ALONE and asked.data != "solids":
                continue
            wanted = encoder in asked.encoders or (encoder == REFERENCE and asked.encoders)
            if wanted and (asked.again or (seed, encoder) not in done):
                yield seed, encoder


def run(asked: argparse.Namespace) -> int:
    """Train, examine and write every cell that is missing."""
    began = time.monotonic()
    changes = {name: getattr(asked, name) for name in ("steps", "objects") if getattr(asked, name) is not None}
    budget = replace(BUDGETS[asked.data], **changes)
    todo = list(missing(asked.output, asked, budget))
    if not todo:
        sys.stdout.write(f"{asked.output} has every cell that was asked for\n")
        return 0
    asked.runs.mkdir(parents=True, exist_ok=True)
    data = data_section(asked.data, budget, asked.runs, asked.images)
    for seed, encoder in todo:
        if asked.minutes is not None and time.monotonic() - began > 60 * asked.minutes:
            sys.stdout.write("the time is over; the same command goes on\n")
            return 0
        recipes = {one: sections(one, data, budget, seed) for one in (REFERENCE, encoder)}
        exam_cells.merge(asked.output, _cells(asked, budget, recipes, seed, encoder))
        sys.stdout.write(f"{now()} {asked.data} {encoder} seed {seed}\n")
        sys.stdout.flush()
    return 0


def _cells(
    asked: argparse.Namespace, budget: Budget, recipes: Mapping[str, dict[str, Any]], seed: int, encoder: str
) -> list[dict[str, Any]]:
    name = f"{asked.data}-{{}}-{seed}"
    folder, place = asked.runs / name.format(encoder), asked.runs / "exams" / name.format(encoder)
    recipe = recipes[encoder]
    trained(folder, recipe)
    second = None
    if encoder != REFERENCE:
        reference = name.format(REFERENCE)
        trained(asked.runs / reference, recipes[REFERENCE])
        second = examined(asked.runs / reference, asked.runs / "exams" / reference, budget, ["knn"], None).trained
    # Without two parts, it would compare random halves of the features, which takes a third of the exam.
    wanted = [one for one in asked.protocols if one != "leakage" or encoder in IN_PARTS]
    judgement = examined(folder, place, budget, wanted, second)
    cost = folder.with_suffix(".cost.json")
    training = json.loads(cost.read_text()) if cost.is_file() else {}
    facts = {
        "data": asked.data,
        "seed": seed,
        "budget": asdict(budget),
        "protocols": list(asked.protocols),
        "training": {key: round(value, 1) for key, value in training.items()},
        "recipe": {key: recipe[key] for key in ("backbone", "augmentation", "optimizer")},
        "command": command(sys.argv),
        "date": now(),
        "threads": torch.get_num_threads(),
        "machine": host_facts()["machine"],
        "versions": versions(),
    }
    rows = judgement.table
    shuffled = by_key(rows, "shuffled")
    cells = [cell(judgement, by_key(rows, "trained"), shuffled, encoder=encoder, **facts)]
    if encoder == REFERENCE:
        # Targets were shuffled for the features of the trained encoder alone.
        random = cell(judgement, by_key(rows, "untrained"), {}, encoder="untrained", **facts)
        cells.append({**random, "training": {}, "costs": {}})
    return cells


def command(words: Sequence[str]) -> str:
    """A command line without the folders of this machine."""
    return shlex.join(["python", "benchmarks/exam_encoders.py", *(Path(one).name for one in words[1:])])


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="a folder for the runs and their exams")
    parser.add_argument("--data", choices=list(BUDGETS), default="solids")
    parser.add_argument("--images", type=Path, help="of real data: a folder or a zip")
    parser.add_argument("--encoders", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS.members))
    parser.add_argument("--steps", type=int, help="in place of the budget's")
    parser.add_argument("--objects", type=int, help="in place of the budget's")
    parser.add_argument("--minutes", type=float, help="begin no further cell after so long")
    parser.add_argument("--again", action="store_true", help="also what the file has")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="a folder for the numbers (docs/exam)")
    asked = parser.parse_args(words)
    if unknown := next((one for one in asked.protocols if one not in PROTOCOLS.members), None):
        parser.error(f"--protocols: none is called {unknown!r}; {suggest(unknown, list(PROTOCOLS.members))}")
    return asked


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line asks for."""
    asked = parsed(words)
    try:
        with quiet_lightning():
            return run(asked)
    except RecipeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
