"""Train encoders on photographs whose views record how they were made, and keep what each knows of it and of classes.

    python benchmarks/recorded_transforms.py runs --budget cifar10 --images cifar10_jpeg.zip --seeds 0 1 2
    python benchmarks/recorded_transforms.py runs --budget grocery --images grocery_96px.zip --candidates simclr augself
    python benchmarks/recorded_transforms.py runs --budget turntable --images fruits360_turntable_64px.zip --minutes 20

A view of a plain photograph is a crop, turned in the image plane, in changed colours. It is enlarged so far that no
turn brings a border into view: the border would tell the angle without the picture. Transforms are read from such views
of held-out photographs, classes from the photographs themselves. A view of the turntable is the photograph.

Runs and file work as those of `on_one_budget.py`: a call trains what docs/results/recorded-transforms.json lacks.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from on_one_budget import ADAMW, SMALL, keep, missing, numbers, trained
from one_by_one import facts_of, one_by_one

import ssl_inv
from ssl_inv.run.python.run_result import RunResult

TABLE = "recorded-transforms"
OUTPUT = Path(__file__).parent.parent / "docs" / "results" / f"{TABLE}.json"

TURNED = {
    "name": "custom",
    "operations": [
        {"name": "crop", "scale": [0.4, 1.0]},
        {"name": "rotation", "degrees": 90},
        {"name": "scale", "factor": [1.42, 1.42]},
        {"name": "jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.15, "probability": 1.0},
    ],
}
"""1.42 is just above the root of two: the square in view stays inside the crop at every angle."""
MADE = ["angle", "crop", "brightness", "hue"]
"""What objectives are told of `TURNED`. Contrast and saturation are measured too, but told to none."""
AZIMUTH = "azimuth_deg"
FRUITS = {"name": "table", "object_column": "object+axis", "latents": {AZIMUTH: "circle deg"}, "size": 32}

BUDGETS: dict[str, dict[str, Any]] = {
    "cifar10": {
        "backbone": SMALL,
        "data": {"name": "folder", "size": 32, "exclude": ["test/*"], "validation_share": 0.05},
        "augmentation": TURNED,
        "trainer": {"steps": 600, "batch_size": 64},
        "evaluation": {"views": 4, "views_of": "training", "objects": 5000},
    },
    "grocery": {
        "backbone": SMALL,
        "data": {"name": "folder", "size": 32, "exclude": ["val/*"]},
        "augmentation": TURNED,
        "trainer": {"steps": 600, "batch_size": 64},
        "evaluation": {"views": 4, "views_of": "training"},
    },
    "turntable": {
        "backbone": SMALL,
        "data": FRUITS,
        "augmentation": {"name": "none"},
        "trainer": {"steps": 600, "batch_size": 64},
        "evaluation": {"views": 18},
    },
    "turntable-known": {
        "backbone": SMALL,
        "data": {**FRUITS, "held_out": "views", "held_out_share": 0.25},
        "augmentation": {"name": "none"},
        "trainer": {"steps": 600, "batch_size": 64},
        "evaluation": {"views": 18},
    },
}
"""What all runs of a table share. Of CIFAR-10, 2,500 training images are held out; of the groceries, the test split.
`turntable-known` is tested on other views of the objects of its training."""


def objectives(told: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The objective of every candidate.

    Args:
        told: the parameters of the transform.
    """
    names, turn = list(told), list(told[:1])
    simclr = {"name": "simclr", "projector": [512, 128], "temperature": 0.2}
    vicreg = {"name": "vicreg", "projector": [512, 256], "invariance": 25, "variance": 25}
    group = {"predictor_initialisation": "group", "convention": "canonical"}
    sie = {"name": "sie", "projector": [512, 256], "invariance": 25, "equivariance": 10, "variance": 25, **group}
    equimod = {"name": "equimod", "source": "pair", "projector": [512, 512, 128], "predictor": "bilinear", **group}
    augself = {"name": "augself", "parameters": names, "projector": [512, 128], "bounded": False}
    inverse = {"name": "anti-invariance", "views": 2, "within": 0, "parameters": names}
    return {
        "supervised-classes": {"name": "supervised", "labels": True},
        "supervised-transform": {"name": "supervised", "classification": 0, "parameters": names},
        "simclr": simclr,
        "vicreg": vicreg,
        "augself": {**augself, "weight": 1},
        "augself-4": {**augself, "weight": 4},
        "equimod": {**equimod, "parameters": turn},
        "equimod-all": {**equimod, "parameters": names},
        "sie": {**sie, "parameters": turn},
        "sie-held": {**sie, "parameters": turn, "predictor_held": 300},
        "negatives-sie": {
            **{"name": "anti-invariance", "base": {**sie, "parameters": turn}, "views": 4},
            **{"within": 0, "inverse": 0, "negatives": 10},
        },
        "inverse-simclr": {**inverse, "base": simclr, "inverse": 4},
        "inverse-vicreg": {**inverse, "base": vicreg, "inverse": 25},
        "inverse-equimod": {**inverse, "base": {**equimod, "parameters": turn}, "inverse": 4},
        "inverse-sie": {**inverse, "base": {**sie, "parameters": turn, "predictor_held": 300}, "inverse": 25},
    }


CANDIDATES = list(objectives(MADE))


def told_in(budget: str) -> list[str]:
    """The parameters that objectives are told."""
    return [AZIMUTH] if budget.startswith("turntable") else MADE


def recipe_of(candidate: str, budget: str, seed: int, images: str) -> dict[str, Any]:
    """The recipe of one run."""
    sections = json.loads(json.dumps(BUDGETS[budget]))
    sections["data"]["path"] = images
    sections["trainer"] |= {"seed": seed, "workers": 0, "accelerator": "cpu"}
    return {
        "objective": objectives(told_in(budget))[candidate],
        "optimizer": ADAMW,
        "monitor": {"every": 0},
        **sections,
    }


def classes_of_whole_images(run: RunResult) -> dict[str, list[float | None]]:
    """KNN and linear on the photographs as they are: trained, standard error, untrained, shuffled."""
    settings = {"evaluation.views_of": "data", "evaluation.views": 1}
    rows = ssl_inv.evaluate(run.path, protocols=["knn", "linear"], settings=settings, quiet=True)
    found = {}
    for row in rows:
        values = [row[key] for key in ("value", "spread", "untrained", "shuffled")]
        found[f"whole/{row['measure']} | {row['part']}"] = [
            None if one is None else float(f"{one:.4g}") for one in values
        ]
    return found


def command(asked: argparse.Namespace, candidate: str, seed: int) -> str:
    """What trains this run alone, with the last part of the path of the images."""
    script, images = Path(__file__).name, Path(asked.images).name
    chosen = f"--budget {asked.budget} --images {images} --candidates {candidate} --seeds {seed}"
    return f"python benchmarks/{script} runs {chosen}"


def one_run(asked: argparse.Namespace, candidate: str, seed: int) -> dict[str, Any]:
    """Train a run and collect its numbers and facts."""
    recipe = recipe_of(candidate, asked.budget, seed, asked.images)
    run = trained(asked.runs / f"{asked.budget}-{candidate}-{seed}", recipe)
    found = numbers(run)
    if recipe["evaluation"].get("views_of") == "training":
        found |= classes_of_whole_images(run)
    return {
        "command": command(asked, candidate, seed),
        "objective": recipe["objective"],
        "optimizer": recipe["optimizer"],
        **facts_of(run),
        "numbers": found,
    }


def main(words: Sequence[str] | None = None) -> int:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--budget", choices=list(BUDGETS), required=True)
    parser.add_argument("--images", required=True, help="folder or archive of the photographs")
    parser.add_argument("--candidates", nargs="+", default=CANDIDATES, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, help="start no run after so many minutes")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args(words)

    def work(cell: tuple[str, int]) -> str:
        candidate, seed = cell
        one = one_run(asked, candidate, seed)
        keep(asked.output, f"{asked.budget} {candidate} {seed}", one, TABLE)
        return f"{asked.budget} {candidate} seed {seed} {shown(one['numbers'])}"

    known = ("--candidates", asked.candidates, CANDIDATES)
    return one_by_one(asked.runs, lambda: missing(asked), work, asked.minutes, known)


def shown(found: Mapping[str, Sequence[float | None]]) -> str:
    """Trained and untrained numbers of all features, in one line."""
    return "; ".join(
        f"{name.split(' | ')[0]} {values[0]} ({values[2]})" for name, values in found.items() if name.endswith("| all")
    )


if __name__ == "__main__":
    sys.exit(main())
