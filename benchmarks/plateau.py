"""When does a run leave its plateau? Supervised, and SIE with each way out of invariance, by number of objects.

    python benchmarks/plateau.py --objects 100 500 --ways supervised sie held
    python benchmarks/plateau.py --data meshes --path meshes_cc0.npz --objects 20 60 200
    python benchmarks/plateau.py --data turntable --path fruits360_turntable_64px.zip --minutes 30

A cell is one run: the data, a way, a number of training objects, and a seed. All on the same data have the same small
ResNet-18, optimiser and number of pairs; images have 32 pixels. Steps are of 64 pairs: with fewer objects a step has a
pair of each, and there are as many more steps. Every `--every` steps, ridge regression reads the rotation of a view
from its features, scored on views of the training objects that training does not see (`known`) and on objects that it
never sees (`new`). A plateau is left at the first step from which a score stays 0.05 above that of the untrained
network, or above 0 where that has less; `null` is never.

Solids have as many objects to train on as asked for, 200 new ones to score on, and 200 others to fit the regression on,
so that this does not have fewer objects where training has. On meshes and turntables it is fitted on training views.
Meshes, their size of 48 pixels and their network of twice the width are those of `on_one_budget.py`: a fifth of the
objects is new, some 200 are not. The turntable, photographs whose azimuth is told and read in place of the rotation,
has its own split, and all its objects are trained on. The zero of an azimuth differs from turn to turn, so there the
step between two views is read, by a small network.

A way that ends in `-augmented` trains on views that are also cut out, coloured and blurred; the latents stay what they
are. One that ends in `-pretrained` begins with the network that SimCLR has trained on the same objects and steps.

A call runs what docs/results/plateau.json lacks, one cell after the other, and writes after each. A cell that is
interrupted begins anew; finished ones are not done again.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from on_one_budget import MESHES, SMALL
from one_by_one import one_by_one, trainer_alone
from recorded_transforms import AZIMUTH, FRUITS
from torch import Tensor

from ssl_inv.atomic import write_text
from ssl_inv.catalogue import RecipeError, SettingError
from ssl_inv.data.source import Indices, Source
from ssl_inv.engine.features import choose_objects, feature_table
from ssl_inv.engine.launch import quiet_lightning
from ssl_inv.engine.module import Pretraining
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2
from ssl_inv.evaluation.ridge import ridge_r2
from ssl_inv.run.build import build_data
from ssl_inv.run.environment import host_facts, versions
from ssl_inv.run.folder import now
from ssl_inv.run.lightning import parts
from ssl_inv.run.recipe import resolve

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "plateau.json"
SIE: dict[str, Any] = {"name": "sie", "projector": [256, 128], "invariance": 50, "equivariance": 30, "variance": 25}
NEW, SCORED, VIEWS, READ, BATCH = 200, 200, 16, 8, 64
"""Objects that are new, and as many others to fit on; objects that are scored at most; views of each, and how many of
these are read; pairs of a step.
"""
LEFT = 0.05
"""How much more of R2 than the untrained network has, or than 0, leaves a plateau."""
DATA = ("solids", "meshes", "turntable")
OBJECTS = (10, 30, 100, 300, 1000, 2000)


ENDINGS = ("-augmented", "-pretrained")
ON_TOP = {
    "name": "custom",
    "operations": [
        {"name": "crop", "scale": [0.7, 1.0], "ratio": [1.0, 1.0]},
        {"name": "jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "probability": 0.8},
        {"name": "blur", "probability": 0.3},
    ],
}
"""An augmentation of views that turns nothing."""


def ways(parameter: str = "rotation", longer: float = 1.0) -> dict[str, dict[str, Any]]:
    """The objective of each way.

    Args:
        parameter: what supervised networks and predictors are told.
        longer: how many times as many steps there are.
    """
    told = {"parameters": [parameter]}
    # The step of a circle has no sign to choose, and the authors' form is of quaternions.
    sie = {**SIE, **told, **({} if parameter == "rotation" else {"convention": "canonical"})}
    group = {**sie, "predictor_initialisation": "group"}
    around = {"name": "anti-invariance", "base": sie, "views": 4, "within": 0.0, "inverse": 0.0}
    supervised = {"name": "supervised", "classification": 0.0, **told}
    apart = {"views": 2, "growth": round(200 * longer)}
    found = {
        "supervised": supervised,
        "supervised-growth": {**around, **apart, "base": supervised},
        "sie": sie,
        "group": group,
        "held": {**group, "predictor_held": round(200 * longer)},
        "within": {**around, "within": 10.0},
        "negatives": {**around, "negatives": 10.0},
        "inverse": {**around, **told, "inverse": 30.0, "views": 2},
        "growth": {**around, **told, **apart},
    }
    return found | {way + ending: found[way] for way in ("supervised", "negatives") for ending in ENDINGS}


def sections(way: str, objects: int, seed: int, steps: int, data: str, path: str | None) -> dict[str, Any]:
    """The recipe of a cell. New objects are held out, and of the others a quarter of the views.

    Args:
        way: of `ways`.
        objects: to train on.
        seed: of the run.
        steps: of 64 pairs.
        data: which.
        path: of meshes and photographs.
    """
    batch = min(BATCH, objects)
    looks = {"views": VIEWS, "size": 32, "hue_range": 0.2}
    kinds: dict[str, dict[str, Any]] = {
        "solids": {
            **{"name": "rendered", "classes": min(10, objects), "objects": objects + 2 * NEW, "angle_range": 60},
            **{**looks, "validation_share": 2 * NEW / (objects + 2 * NEW)},
        },
        "meshes": {**MESHES["data"], "train_objects": objects},
        "turntable": dict(FRUITS),
    }
    return {
        "objective": ways(AZIMUTH if data == "turntable" else "rotation", BATCH / batch)[way],
        "augmentation": ON_TOP if way.endswith("-augmented") else {"name": "none"},
        "backbone": MESHES["backbone"] if data == "meshes" else SMALL,
        "data": {**kinds[data], **({} if path is None else {"path": path}), "held_out": "views"},
        "optimizer": {"name": "adamw", "lr": 3e-3},
        "trainer": {"steps": round(steps * BATCH / batch), "batch_size": batch, "seed": seed, "workers": 0},
        "monitor": {"every": 0},
        "evaluation": {"protocol": "none"},
    }


class Scores(lightning.Callback):
    """The R2 of the rotation on known and on new objects, every so many steps: `found`.

    Args:
        train: the training views.
        known: other views of the training objects.
        new: other objects.
        apart: whether half of the other objects is what the regression is fitted on, in place of the training views.
        every: steps of 64 pairs from one score to the next.
        longer: steps of this run that have as many pairs as one of these.
        parameter: what is read.
    """

    def __init__(
        self, train: Source, known: Source, new: Source, *, apart: bool, every: int, longer: float, parameter: str
    ) -> None:
        self.every, self.found, self.parameter = every, list[tuple[int, float, float]](), parameter
        self._longer, self._due = longer, every
        fitted, *judged = [(source, choose_objects(source, SCORED, 0)) for source in (train, known, new)]
        if apart:
            every_other = np.arange(0, len(new) - 1, 2)
            fitted, judged[1] = (new, every_other), (new, every_other + 1)
        self._sources = [fitted, *judged]

    def begin(self, module: Pretraining) -> None:
        """Score random weights."""
        self._score(module, 0)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        if module.step + 0.5 >= self._due * self._longer:
            self._score(module, self._due)
            self._due += self.every

    def _score(self, module: Pretraining, step: int) -> None:
        fitted, *others = (self._table(module, *one) for one in self._sources)
        known, new = (self._r2(fitted, one) for one in others)
        self.found.append((step, round(known, 4), round(new, 4)))

    def _r2(self, train: FeatureTable, judged: FeatureTable) -> float:
        if self.parameter == "rotation":
            return ridge_r2(train, judged, "all", self.parameter)
        name = f"r2/relative/{self.parameter}"
        results = TransformR2.quick().measure(train, judged, "all")
        value = next(one.value for one in results if one.name == name)
        assert value is not None
        return value

    def _table(self, module: Pretraining, source: Source, objects: Indices) -> FeatureTable:
        def encode(pixels: Tensor) -> dict[str, Tensor]:
            return {"all": module.objective.representations(module.backbone)(pixels)["all"]}

        # Photographs are few enough to take them all.
        views = int(source.view_counts.max()) if self.parameter == AZIMUTH else READ
        whole = module.view_maker.whole
        return feature_table(encode, module.backbone, source, objects, views, whole, module.device)


def left_at(scores: Sequence[tuple[int, float]]) -> int | None:
    """The first step from which all scores are well above that of step 0."""
    (_, before), *after = scores
    below = [number for number, (_, value) in enumerate(after) if value <= max(before, 0.0) + LEFT]
    first = below[-1] + 1 if below else 0
    return after[first][0] if first < len(after) else None


def cell(asked: argparse.Namespace, way: str, objects: int, seed: int) -> dict[str, Any]:
    """Train and score one run."""
    recipe = sections(way, objects, seed, asked.steps, asked.data, asked.path)
    module, data = parts(recipe)
    by_object = {**recipe, "data": {**recipe["data"], "held_out": "objects"}}
    new = build_data(resolve(by_object)).validation
    parameter = AZIMUTH if asked.data == "turntable" else "rotation"
    steps = recipe["trainer"]["steps"]
    scores = Scores(
        *(data.data.train, data.data.validation, new),
        apart=asked.data == "solids",
        every=asked.every,
        longer=steps / asked.steps,
        parameter=parameter,
    )
    begun, used = time.perf_counter(), time.process_time()
    scores.begin(module)
    if way.endswith("-pretrained"):
        before, images = parts({**recipe, "objective": {"name": "simclr", "projector": [256, 128]}})
        trainer_alone(steps).fit(before, images)
        module.backbone.load_state_dict(before.backbone.state_dict())
    trainer_alone(steps, scores).fit(module, data)
    found = versions()
    return {
        "data": asked.data,
        "way": way,
        "objects": objects,
        "seed": seed,
        "steps": asked.steps,
        "known_left": left_at([(step, known) for step, known, _ in scores.found]),
        "new_left": left_at([(step, new) for step, _, new in scores.found]),
        "scores": scores.found,
        "seconds": round(time.perf_counter() - begun, 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "objective": recipe["objective"],
        "command": shlex.join(["python", "benchmarks/plateau.py", *(Path(one).name for one in sys.argv[1:])]),
        "date": now(),
        "threads": torch.get_num_threads(),
        "machine": host_facts()["machine"],
        "commit": found.get("commit"),
        "torch": found["torch"],
    }


def read(file: Path) -> list[dict[str, Any]]:
    """The cells of a file."""
    cells: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["cells"] if file.is_file() else []
    return cells


def key(one: Mapping[str, Any]) -> tuple[str, str, int, int, int]:
    """What a cell is known by."""
    return one["data"], one["way"], one["objects"], one["seed"], one["steps"]


def missing(asked: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """Way, objects and seed of the cells that the file lacks: few objects first."""
    done = {key(one) for one in read(asked.output)}
    for seed in asked.seeds:
        for objects in sorted(asked.objects):
            for way in asked.ways:
                if (asked.data, way, objects, seed, asked.steps) not in done:
                    yield way, objects, seed


def main(words: Sequence[str] | None = None) -> int:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, default="solids")
    parser.add_argument("--path", help="file or folder of the meshes or photographs")
    parser.add_argument("--ways", nargs="+", choices=list(ways()), default=list(ways()))
    parser.add_argument("--objects", nargs="+", type=int, help=f"default: {' '.join(map(str, OBJECTS))}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--minutes", type=float, help="begin no further cell after so long")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args(words)
    if (asked.path is None) != (asked.data == "solids"):
        parser.error("--path: meshes and turntable need it, solids are made")
    if asked.data == "turntable":
        if asked.objects is not None:
            parser.error("--objects: the turntable is trained on as a whole")
        try:
            with quiet_lightning():
                asked.objects = [len(build_data(resolve(sections("sie", BATCH, 0, 1, asked.data, asked.path))).train)]
        except (RecipeError, SettingError) as error:
            parser.error(str(error))
    asked.objects = asked.objects or list(OBJECTS)
    if min(asked.objects) < 8:
        parser.error("--objects: at least 8, or a batch compares too few")

    def work(one: tuple[str, int, int]) -> str:
        way, objects, seed = one
        done = cell(asked, way, objects, seed)
        known = {key(other): other for other in [*read(asked.output), done]}
        lines = [json.dumps(known[name], separators=(",", ":")) for name in sorted(known)]
        write_text(asked.output, '{"table": "plateau", "cells": [\n' + ",\n".join(lines) + "\n]}\n")
        left = f"known from {done['known_left']}, new from {done['new_left']}"
        return f"{asked.data}, {way}, {objects} objects, seed {seed}: {left}"

    return one_by_one(asked.output.parent, lambda: missing(asked), work, asked.minutes)


if __name__ == "__main__":
    sys.exit(main())
