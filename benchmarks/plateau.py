"""When does a run leave its plateau? Supervised, and SIE with each way out of invariance, by number of objects.

    python benchmarks/plateau.py --objects 100 500 --ways supervised sie held
    python benchmarks/plateau.py --minutes 30

A cell is one run on rendered solids of 32 pixels: a way of `WAYS`, a number of training objects, and a seed. All have
the same small ResNet-18, optimiser and steps. Every `--every` steps, ridge regression reads the rotation of a view from
its features: fitted on training views, scored on other views of the same objects (`known`) and on objects that training
never sees (`new`). A plateau is left at the first step from which a score stays above 0.05; `null` is never.

A call runs what docs/results/plateau.json lacks, one cell after the other, and writes after each. A cell that is
interrupted begins anew; finished ones are not done again.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor

from ssl_inv.atomic import write_text
from ssl_inv.data.source import Source
from ssl_inv.engine.features import choose_objects, feature_table
from ssl_inv.engine.launch import quiet_lightning
from ssl_inv.engine.module import Pretraining
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.ridge import ridge_r2
from ssl_inv.run.build import build_data
from ssl_inv.run.environment import host_facts, versions
from ssl_inv.run.folder import now
from ssl_inv.run.lightning import parts
from ssl_inv.run.recipe import resolve

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "plateau.json"
SIE: dict[str, Any] = {"name": "sie", "projector": [256, 128], "invariance": 50, "equivariance": 30, "variance": 25}
GROUP = {**SIE, "predictor_initialisation": "group"}
AROUND = {"name": "anti-invariance", "base": SIE, "views": 4, "within": 0.0, "inverse": 0.0}
WAYS: dict[str, dict[str, Any]] = {
    "supervised": {"name": "supervised", "classification": 0.0, "parameters": ["rotation"]},
    "supervised-growth": {
        **{"name": "anti-invariance", "views": 2, "within": 0.0, "inverse": 0.0, "growth": 200},
        "base": {"name": "supervised", "classification": 0.0, "parameters": ["rotation"]},
    },
    "sie": SIE,
    "group": GROUP,
    "held": {**GROUP, "predictor_held": 200},
    "within": {**AROUND, "within": 10.0},
    "negatives": {**AROUND, "negatives": 10.0},
    "inverse": {**AROUND, "inverse": 30.0, "views": 2},
    "growth": {**AROUND, "views": 2, "growth": 200},
}
"""The objective of each way."""

OBJECTS = (10, 30, 100, 300, 1000, 2000)
NEW, SCORED, VIEWS, BATCH = 200, 200, 16, 64
LEFT = 0.05
"""R2 above which a plateau is left."""


def sections(way: str, objects: int, seed: int, steps: int) -> dict[str, Any]:
    """The recipe of a cell. New objects are held out, and of the others a quarter of the views."""
    every = objects + NEW
    classes = min(10, objects)
    data = {"name": "rendered", "classes": classes, "objects": every, "views": VIEWS, "size": 32, "angle_range": 60}
    return {
        "objective": WAYS[way],
        "backbone": {"name": "resnet18", "stem": "3x3-stride2", "arguments": {"channels": [16, 32, 64, 128]}},
        "data": {**data, "hue_range": 0.2, "validation_share": NEW / every, "held_out": "views"},
        "optimizer": {"name": "adamw", "lr": 3e-3},
        "trainer": {"steps": steps, "batch_size": min(BATCH, objects), "seed": seed, "workers": 0},
        "monitor": {"every": 0},
        "evaluation": {"protocol": "none"},
    }


class Scores(lightning.Callback):
    """The R2 of the rotation on known and on new objects, every so many steps: `found`."""

    def __init__(self, train: Source, known: Source, new: Source, every: int) -> None:
        self.every, self.found = every, list[tuple[int, float, float]]()
        self._sources = train, known, new

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        if module.step % self.every == 0:
            train, *others = (self._table(module, source) for source in self._sources)
            known, new = (ridge_r2(train, one, "all", "rotation") for one in others)
            self.found.append((module.step, round(known, 4), round(new, 4)))

    def _table(self, module: Pretraining, source: Source) -> FeatureTable:
        def encode(pixels: Tensor) -> dict[str, Tensor]:
            features = module.objective.representations(module.backbone)(pixels)
            return {"all": features.get("equivariant", features["all"])}

        objects, views = choose_objects(source, SCORED, 0), int(source.view_counts.max())
        whole = module.view_maker.whole
        return feature_table(encode, module.backbone, source, objects, views, whole, module.device)


def left_at(scores: Sequence[tuple[int, float]]) -> int | None:
    """The first step from which all scores are above `LEFT`."""
    below = [number for number, (_, value) in enumerate(scores) if value <= LEFT]
    first = below[-1] + 1 if below else 0
    return scores[first][0] if first < len(scores) else None


def cell(way: str, objects: int, seed: int, steps: int, every: int) -> dict[str, Any]:
    """Train and score one run."""
    recipe = sections(way, objects, seed, steps)
    module, data = parts(recipe)
    by_object = {**recipe, "data": {**recipe["data"], "held_out": "objects"}}
    new = build_data(resolve(by_object)).validation
    scores = Scores(data.data.train, data.data.validation, new, every)
    begun, used = time.perf_counter(), time.process_time()
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[scores],
    )
    trainer.fit(module, data)
    return {
        "way": way,
        "objects": objects,
        "seed": seed,
        "steps": steps,
        "known_left": left_at([(step, known) for step, known, _ in scores.found]),
        "new_left": left_at([(step, new) for step, _, new in scores.found]),
        "scores": scores.found,
        "seconds": round(time.perf_counter() - begun, 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "objective": WAYS[way],
        "command": shlex.join(["python", "benchmarks/plateau.py", *(Path(one).name for one in sys.argv[1:])]),
        "date": now(),
        "threads": torch.get_num_threads(),
        "machine": host_facts()["machine"],
        "versions": versions(),
    }


def read(file: Path) -> list[dict[str, Any]]:
    """The cells of a file."""
    cells: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["cells"] if file.is_file() else []
    return cells


def key(one: dict[str, Any]) -> tuple[str, int, int, int]:
    """What a cell is known by."""
    return one["way"], one["objects"], one["seed"], one["steps"]


def missing(asked: argparse.Namespace) -> Iterator[tuple[str, int, int, int]]:
    """The cells that the file lacks: few objects first."""
    done = {key(one) for one in read(asked.output)}
    for seed in asked.seeds:
        for objects in sorted(asked.objects):
            for way in asked.ways:
                if (wanted := (way, objects, seed, asked.steps)) not in done:
                    yield wanted


def main(words: Sequence[str] | None = None) -> int:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--objects", nargs="+", type=int, default=list(OBJECTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--minutes", type=float, help="begin no further cell after so long")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args(words)
    if min(asked.objects) < 8:
        parser.error("--objects: at least 8, or a batch compares too few")
    began = time.monotonic()
    for way, objects, seed, steps in list(missing(asked)):
        if asked.minutes is not None and time.monotonic() - began > 60 * asked.minutes:
            sys.stdout.write("the time is over; the same command goes on\n")
            return 0
        with quiet_lightning():
            one = cell(way, objects, seed, steps, asked.every)
        known = {key(other): other for other in [*read(asked.output), one]}
        lines = [json.dumps(known[name], separators=(",", ":")) for name in sorted(known)]
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        write_text(asked.output, '{"table": "plateau", "cells": [\n' + ",\n".join(lines) + "\n]}\n")
        sys.stdout.write(f"{way}, {objects} objects: known from {one['known_left']}, new from {one['new_left']}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
