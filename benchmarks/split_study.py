"""What can be known about a split into an invariant and an equivariant part: small, repeated runs on rendered solids.

    python benchmarks/split_study.py runs/splits --seeds 0
    python benchmarks/split_study.py runs/splits --cells "share 0.25" joint --seeds 0 1 2 --minutes 30

A cell is one encoder of `CELLS` with a seed. All have data, network and optimiser of the budget `solids-small` of
on_one_budget.py, and its 300 steps, but for cells that train their parts one after the other. The invariant part has
SimCLR, the equivariant part SIE without invariance, begun as the quaternion; `share ...` cells are SIE itself.

Every encoder is judged on objects that training never sees: a linear probe of the class and an MLP to the relative
rotation, on all features and on both parts; both leaks at equal width (see the protocol `leakage`, linear probes); and
of some cells the same two probes after every stage, each as its 16 principal components.

A call makes what docs/results/split-study.json lacks, one cell after the other, and writes after each. A finished phase
of a cell is kept in the folder of the runs, and an interrupted one goes on. `make docs` shows the numbers.
"""

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import on_one_budget as budget
import torch
from one_by_one import one_by_one
from torch import Tensor

import ssl_inv
from ssl_inv.atomic import write_text
from ssl_inv.catalogue import RecipeError
from ssl_inv.data.source import Source
from ssl_inv.engine.features import choose_objects, feature_table
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.protocols.leakage import Leakage
from ssl_inv.evaluation.protocols.linear import LinearProbe
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2
from ssl_inv.nn.layer_features import LayerFeatures
from ssl_inv.run.by_layer import in_common_width
from ssl_inv.run.encoders import LoadedModel, load_model
from ssl_inv.run.environment import host_facts, versions
from ssl_inv.run.folder import now
from ssl_inv.run.python.run_result import RunResult

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "split-study.json"
BUDGET, CODE = "solids-small", "split_objectives"
SIMCLR, SIE = budget.SIMCLR, {**budget.SIE, **budget.TURNED}
PARTS = {"invariant": SIMCLR, "equivariant": {**SIE, "equivariant_share": 1}}


@dataclass(frozen=True)
class Phase:
    """A part of a cell's training, with a schedule of its own. The first phase begins with random weights."""

    name: str
    objective: Mapping[str, Any]
    steps: int = 300


def part(trained: str, steps: int = 300, trunk: str = "free", share: float = 0.5) -> Phase:
    """A phase of the split of SimCLR and SIE."""
    objective = {"name": f"{CODE}.OnePart", **PARTS, "trained": trained, "trunk": trunk, "equivariant_share": share}
    short = f"{trained}-{steps}" + (f"-{trunk}" if trunk != "free" else "") + (f"-{share}" if share != 0.5 else "")
    return Phase(short, objective, steps)


def deep(early: str, stage: int, channels: int) -> Phase:
    """A phase of SimCLR and SIE at different depths."""
    objective = {"name": f"{CODE}.AtDepths", **PARTS, "early": early, "stage": stage, "channels": channels}
    return Phase(f"{early}-at-stage-{stage}", objective)


def alone(name: str, objective: Mapping[str, Any]) -> tuple[Phase, ...]:
    """One phase of one objective."""
    return (Phase(name, objective),)


SWAPPED = {"name": "split", "invariant": PARTS["equivariant"], "equivariant": PARTS["invariant"]}

CELLS: dict[str, tuple[Phase, ...]] = {
    "joint": (part("both"),),
    "invariant alone": (part("invariant"),),
    "equivariant alone": (part("equivariant"),),
    "random, held, equivariant": (part("equivariant", trunk="held"),),
    "random, held, invariant": (part("invariant", trunk="held"),),
    "random to stage 3, equivariant": (part("equivariant", trunk="held-to-stage-3"),),
    "random to stage 3, invariant": (part("invariant", trunk="held-to-stage-3"),),
    "invariant to stage 3, equivariant": (part("invariant"), part("equivariant", trunk="held-to-stage-3")),
    "equivariant to stage 3, invariant": (part("equivariant"), part("invariant", trunk="held-to-stage-3")),
    "invariant 300, held, equivariant 300": (part("invariant"), part("equivariant", trunk="held")),
    "equivariant 300, held, invariant 300": (part("equivariant"), part("invariant", trunk="held")),
    "invariant 150, held, equivariant 150": (part("invariant", 150), part("equivariant", 150, "held")),
    "equivariant 150, held, invariant 150": (part("equivariant", 150), part("invariant", 150, "held")),
    "invariant 150, free, equivariant 150": (part("invariant", 150), part("equivariant", 150)),
    "equivariant 150, free, invariant 150": (part("equivariant", 150), part("invariant", 150)),
    **{
        f"share {share}": alone(f"sie-{share}", {**SIE, "equivariant_share": share})
        for share in (0.125, 0.25, 0.5, 0.75)
    },
    "simclr": alone("simclr", SIMCLR),
    "equimod": alone("equimod", budget.OBJECTIVES["equimod"]),
    "equivariant first channels": alone("swapped", SWAPPED),
    "equivariant at stage 3": (deep("equivariant", 2, 64),),
    "equivariant at stage 2": (deep("equivariant", 3, 32),),
    "invariant at stage 3": (deep("invariant", 2, 64),),
    "joint, share 0.125": (part("both", share=0.125),),
    "joint, share 0.75": (part("both", share=0.75),),
}
"""The phases of every cell."""

BY_LAYER = ("simclr", "share 0.5", "equimod", "joint")
"""Cells that are also judged after every stage, and the untrained network beside each."""


def recipe_of(phase: Phase, seed: int, start: Path | None) -> dict[str, Any]:
    """The recipe of a phase, which begins with the networks of the run `start`."""
    recipe = budget.recipe_of("simclr", BUDGET, seed, None)
    recipe["objective"] = json.loads(json.dumps(phase.objective))
    recipe["trainer"] |= {"steps": phase.steps} | ({} if start is None else {"start": str(start)})
    recipe["evaluation"] |= {"protocol": "none"}
    return recipe


def trained(runs: Path, phases: Sequence[Phase], seed: int) -> Path:
    """The finished run of the last phase. Cells that begin alike share runs."""
    start: Path | None = None
    for number, phase in enumerate(phases, 1):
        folder = runs / f"{'+'.join(one.name for one in phases[:number])}-seed-{seed}"
        if not (folder.is_dir() and RunResult(folder).state == "complete"):
            begun = {"resume": folder} if folder.is_dir() else {"output": folder}
            recipe = None if folder.is_dir() else recipe_of(phase, seed, start)
            run = ssl_inv.pretrain(recipe, quiet=True, trust=[CODE], **begun)
            if run.state != "complete":
                raise RecipeError(f"{folder}: the run ended as {run.state!r}")
        start = folder
    assert start is not None
    return start


def judged(loaded: LoadedModel, seed: int, by_layer: bool) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """What the trained encoder knows: numbers by measure and part; and after every stage, trained and untrained."""
    networks, untrained = loaded.networks()
    train, validation = tables(loaded, networks, layers=False)
    found = {}
    for name in train.features:
        found |= probed(train, validation, name, seed)
    if "invariant" in train.features:
        # Its MLP is not shown here: one step of it.
        heads = replace(TransformR2.quick(), parameters=("rotation",), epochs=1, minimum_steps=1, seed=seed)
        for one in Leakage(heads=heads, seed=seed).run(Encoded(train, validation)):
            if one.name.startswith("leakage/linear/") and one.part == "split" and one.value is not None:
                found[one.name.rpartition("/")[2]] = one.value
    stages: dict[str, dict[str, float]] = {}
    for kind, some in (("trained", networks), ("untrained", untrained)) if by_layer else ():
        assert some is not None
        encoded, _ = in_common_width(Encoded(*tables(loaded, some, layers=True)))
        stages[kind] = {}
        for name in encoded.parts:
            if name != "all":
                stages[kind] |= probed(encoded.train, encoded.validation, name, seed)
    return rounded(found), {kind: rounded(one) for kind, one in stages.items()}


def tables(loaded: LoadedModel, networks: Any, layers: bool) -> tuple[FeatureTable, FeatureTable]:
    """Features of training and of new objects: of the parts, or of every stage."""
    backbone, objective = networks
    both = torch.nn.ModuleList([backbone, objective])
    encode = LayerFeatures(backbone) if layers else objective.representations(backbone)
    views = loaded.recipe.evaluation.views

    def of(source: Source) -> FeatureTable:
        def parts(pixels: Tensor) -> dict[str, Tensor]:
            found: dict[str, Tensor] = encode(pixels)
            return found

        return feature_table(parts, both, source, choose_objects(source, None, 0), views, loaded.whole, "cpu")

    return of(loaded.data.train), of(loaded.data.validation)


def probed(train: FeatureTable, validation: FeatureTable, name: str, seed: int) -> dict[str, float]:
    """Linear accuracy and R2 of the relative rotation from one part."""
    linear = replace(LinearProbe.quick(), seed=seed).measure(train, validation, name)[0]
    head = replace(TransformR2.quick(), parameters=("rotation",), seed=seed)
    rotation = head.measure(train, validation, name)[0]
    assert linear.name == "linear/top1"
    assert rotation.name == "r2/relative/rotation"
    return {f"linear | {name}": float(linear.value or 0), f"rotation | {name}": float(rotation.value or 0)}


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """Four digits of each."""
    return {name: float(f"{value:.4g}") for name, value in numbers.items() if math.isfinite(value)}


def cell(runs: Path, name: str, seed: int) -> dict[str, Any]:
    """Train and judge one cell."""
    begun = time.perf_counter()
    folder = trained(runs, CELLS[name], seed)
    record = RunResult(folder).record
    found, stages = judged(load_model(str(folder), None, [], False), seed, name in BY_LAYER)
    return {
        "cell": name,
        "seed": seed,
        "steps": [phase.steps for phase in CELLS[name]],
        "numbers": found,
        **({"stages": stages} if stages else {}),
        "commit": record["versions"].get("commit"),
        **({"uncommitted": True} if "uncommitted" in record["versions"] else {}),
        "date": now(),
        "seconds": round(time.perf_counter() - begun),
    }


def read(file: Path) -> list[dict[str, Any]]:
    """The cells of a file."""
    cells: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["cells"] if file.is_file() else []
    return cells


def keep(file: Path, one: Mapping[str, Any]) -> None:
    """Write a cell to the file, with the facts of all."""
    order = list(CELLS)
    cells = [other for other in read(file) if (other["cell"], other["seed"]) != (one["cell"], one["seed"])]
    cells = sorted([*cells, dict(one)], key=lambda one: (order.index(one["cell"]), one["seed"]))
    seeds = sorted({str(one["seed"]) for one in cells})
    facts = {
        "table": "split-study",
        "command": shlex.join(["python", "benchmarks/split_study.py", "runs/splits", "--seeds", *seeds]),
        "machine": f"{torch.get_num_threads()} thread, {host_facts()['machine']}",
        "torch": versions().get("torch"),
        "budget": BUDGET,
    }
    head = json.dumps(facts)[:-1]
    lines = ",\n".join(json.dumps(cell, separators=(",", ":")) for cell in cells)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, f'{head}, "cells": [\n{lines}\n]}}\n')


def missing(asked: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Cells that the file lacks: all of a seed, then the next seed."""
    done = {(one["cell"], one["seed"]) for one in read(asked.output)}
    for seed in asked.seeds:
        for name in asked.cells:
            if (name, seed) not in done:
                yield name, seed


def main(words: Sequence[str] | None = None) -> int:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, help="begin no cell after so many minutes")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args(words)

    def work(one: tuple[str, int]) -> str:
        name, seed = one
        made = cell(asked.runs, name, seed)
        keep(asked.output, made)
        return f"{name}, seed {seed}, {made['seconds']} s: {made['numbers']}"

    known = ("--cells", asked.cells, list(CELLS))
    return one_by_one(asked.runs, lambda: list(missing(asked)), work, asked.minutes, known)


if __name__ == "__main__":
    sys.exit(main())
