"""Train many encoders on one budget and keep what each knows of classes and of pose in docs/results/one-budget.json.

    python benchmarks/on_one_budget.py runs/budgets --budget solids-small --seeds 0
    python benchmarks/on_one_budget.py runs/budgets --budget solids --candidates sie augself-all --seeds 0 1 2
    python benchmarks/on_one_budget.py runs/budgets --budget meshes --meshes meshes_cc0.npz --seeds 0 1 2 --minutes 60

A budget is one network, one data set, one number of steps and of objects a step; a candidate is an objective with its
optimiser. A call trains what the file lacks, one run after the other, and writes after each. What a call before has
finished is not done again; an interrupted run goes on. `make docs` shows the numbers. Runs that explain the order of a
table go to a file called `reasons.json`.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from one_by_one import facts_of, one_by_one

import ssl_inv
from ssl_inv.atomic import write_text
from ssl_inv.catalogue import RecipeError
from ssl_inv.run.lightning import parts
from ssl_inv.run.python.run_result import RunResult

TABLE = "one-budget"
OUTPUT = Path(__file__).parent.parent / "docs" / "results" / f"{TABLE}.json"

SMALL = {"name": "resnet18", "stem": "3x3-stride2", "arguments": {"channels": [16, 32, 64, 128]}}
HALF = {"name": "resnet18", "arguments": {"channels": [32, 64, 128, 256]}}
SOLIDS = {"name": "rendered", "classes": 16, "views": 8, "angle_range": 90, "hue_range": 0.2}
ASYMMETRIC = [
    "quadruped",
    "vehicle",
    "spaceship",
    "stool_chair",
    "couch",
    "fish",
    "rifle",
    "human",
    "robot_astronaut",
    "creature",
    "house",
]
"""Classes of meshes whose pose can be seen."""
MODELS = OUTPUT.parent / "meshes_cc0.csv"
"""The models of these classes. A folder of them has a copy of this table."""

SHIFTED = {"translation_range": 0.2, "pose": True}
KNOWN = {"held_out": "views", "held_out_share": 0.25}
MESHES = {
    "backbone": HALF,
    "data": {"name": "meshes", "classes": ASYMMETRIC, "views": 64, "size": 48, "angle_range": 45, "hue_range": 0.2},
    "trainer": {"steps": 800, "batch_size": 64},
    "evaluation": {"views": 8},
}

BUDGETS: dict[str, dict[str, Any]] = {
    "solids-small": {
        "backbone": SMALL,
        "data": {**SOLIDS, "objects": 1000, "size": 32},
        "trainer": {"steps": 300, "batch_size": 64},
        "evaluation": {"views": 4},
    },
    "solids": {
        "backbone": HALF,
        "data": {**SOLIDS, "objects": 4000, "size": 64},
        "trainer": {"steps": 800, "batch_size": 64},
        "evaluation": {"views": 8},
    },
    "meshes": MESHES,
    "meshes-known": {**MESHES, "data": {**MESHES["data"], **KNOWN}},
}
"""What all runs of a table share. `meshes-known` is tested on other views of the objects of its training."""
FEW = {**SOLIDS, "objects": 250, "views": 64, "size": 32, **KNOWN}
BUDGETS |= {
    "solids-near": {**BUDGETS["solids-small"], "data": {**BUDGETS["solids-small"]["data"], "angle_range": 45}},
    "solids-few": {**BUDGETS["solids-small"], "data": FEW, "evaluation": {"views": 8}},
    "solids-few-near": {**BUDGETS["solids-small"], "data": {**FEW, "angle_range": 45}, "evaluation": {"views": 8}},
    "meshes-known-far": {**BUDGETS["meshes-known"], "data": {**BUDGETS["meshes-known"]["data"], "angle_range": 90}},
    "meshes-shifted": {**BUDGETS["meshes-known"], "data": {**BUDGETS["meshes-known"]["data"], **SHIFTED}},
}
"""One thing at a time of what differs between `solids-small` and `meshes-known`: angles, and objects and views. And
`meshes-shifted`, whose objects are also moved, as those of 3DIEBench-T are.
"""

EVERYTHING = ["rotation", "floor_hue", "light_theta", "light_phi", "light_hue"]
POSE = ["rotation", "translation"]
SEEN = [one for one in EVERYTHING if one != "light_phi"]
"""Without the direction of the light, of which an untrained network knows nothing."""
ADAMW = {"name": "adamw", "lr": 3e-3}
JEPA = {"optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 1e-3, "warmup": 0.05}, "trainer": {"clip": 1}}
VIT = {
    "backbone": {
        "name": "vit_tiny_patch16_224",
        "arguments": {
            **{"img_size": 32, "patch_size": 4, "depth": 6, "num_heads": 3},
            **{"class_token": False, "global_pool": "avg", "fc_norm": False},
        },
    },
    "trainer": {"clip": 3},
}
VIT_OPTIMIZER = {"optimizer": {"name": "adamw", "lr": 3e-4, "warmup": 0.1}}
OTHERWISE: dict[str, dict[str, Any]] = {
    "seq-jepa": {"optimizer": {"name": "adamw", "lr": 4e-4, "weight_decay": 1e-3, "warmup": 0.1}},
    **dict.fromkeys(("lewm", "lewm-inverse", "sd-jepa"), JEPA),
    "conv-jepa": {
        "backbone": {**SMALL, "stem": "3x3-stride1"},
        "optimizer": {"name": "adamw", "lr": 1e-3, "warmup": 0.1},
        "trainer": {"clip": 3},
    },
    "vit-vicreg": VIT | VIT_OPTIMIZER,
    "vit-gram-anchoring": VIT | VIT_OPTIMIZER,
    "vit-capi": {**VIT, "optimizer": {"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.95], "warmup": 0.1}},
}
"""What a candidate has in place of the budget's settings and of AdamW at 3e-3, as its recipe has it."""
OTHERWISE |= {
    "sie-quaternion-slower": {"optimizer": {"name": "adamw", "lr": 1e-3}},
    "sie-quaternion-longer": {"trainer": {"steps": 2400}},
    "sie-quaternion-larger-batch": {"trainer": {"batch_size": 192}},
    "sie-quaternion-wider": {"backbone": {"name": "resnet18"}},
    "seq-jepa-faster": {"optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-3, "warmup": 0.1}},
    "seq-jepa-longer": {**OTHERWISE["seq-jepa"], "trainer": {"steps": 2400}},
}
"""What could be the reason if the order of the papers does not hold."""
INVARIANT = ("simclr", "vicreg")
OTHERWISE |= {f"{base}-{pairs}": {"trainer": {"batch_size": pairs}} for base in INVARIANT for pairs in (96, 160)}
"""As many images a step in pairs as 64 objects have in three views, or in five."""
VICREG = {"name": "vicreg", "projector": [512, 256], "invariance": 25, "variance": 25}
SIMCLR = {"name": "simclr", "projector": [512, 128]}
MOCO = {"name": "moco-v3", "projector": [512, 256], "predictor": [512], "temperature": 0.2, "momentum": 0.97}
PREDICTED = {
    "parameters": ["rotation"],
    "observed": 3,
    "projector": [512, 192],
    **{"layers": 3, "heads": 4, "head_width": 64, "hidden": 512, "dropout": 0},
}
"""Settings of the recipes of LeWM and SD-JEPA."""
SEQ_JEPA = {
    **{"name": "seq-jepa", "parameters": ["rotation"], "observed": 3, "anti_collapse": "sigreg"},
    **{"target": "standardised", "sigreg_weight": 0.1, "directions": 256},
}
SIE = {"name": "sie", "projector": [512, 256], "invariance": 25, "equivariance": 10, "variance": 25}
TRAJECTORY = {**VICREG, "name": "vicreg-trajectory", "shape": "geodesic"}
EQUIMOD = {"name": "equimod", "source": "pair", "projector": [512, 512, 128]}
RECONSTRUCTION = {"name": "ec-reconstruction", "intermediates": 2, "decoder": [64, 32, 16, 8]}
TURNED = {"predictor_initialisation": "quaternion"}


def around(base: Mapping[str, Any], told: Sequence[str], share: float, weight: float) -> dict[str, Any]:
    """Reconstruction of poses around a base."""
    return {
        **RECONSTRUCTION,
        "base": dict(base),
        "parameters": list(told),
        "equivariant_share": share,
        "weight": weight,
    }


def split(invariant: Mapping[str, Any], equivariant: Mapping[str, Any], weight: float) -> dict[str, Any]:
    """Two objectives, each with half of the features."""
    return {"name": "split", "invariant": dict(invariant), "equivariant": dict(equivariant), "weight": weight}


def augself(told: Sequence[str], weight: float, rotation: float | None = None) -> dict[str, Any]:
    """SimCLR with heads that tell how two views differ. `rotation`: the weight of its head."""
    weights = {} if rotation is None else {"weights": {"rotation": rotation}}
    made = {"name": "augself", "parameters": list(told), "projector": [512, 128], "weight": weight, "bounded": False}
    return {**made, **weights}


def inverse(
    base: Mapping[str, Any], told: Sequence[str], weight: float, rotation: float | None = None
) -> dict[str, Any]:
    """A head around a base that tells the action between two views from their features."""
    head = {"views": 2, "within": 0, "inverse": weight, "parameters": list(told)}
    weights = {} if rotation is None else {"weights": {"rotation": rotation}}
    return {"name": "anti-invariance", "base": dict(base), **head, **weights}


def both_ways(base: Mapping[str, Any], rotation: float, others: float = 0.0) -> dict[str, Any]:
    """Around a base, a deeper head that tells the rotation there and back, as AugSelf's do, and others of `SEEN`."""
    told = inverse(base, SEEN, others, rotation) if others else inverse(base, ["rotation"], rotation)
    return {**told, "hidden": [512, 512], "symmetric": True}


OBJECTIVES: dict[str, dict[str, Any]] = {
    "supervised-classes": {"name": "supervised", "labels": True},
    "supervised-rotation": {"name": "supervised", "classification": 0, "parameters": ["rotation"]},
    "supervised-both": {"name": "supervised", "labels": True, "parameters": ["rotation"]},
    "supervised-everything": {"name": "supervised", "labels": True, "parameters": EVERYTHING},
    "supervised-seen": both_ways({"name": "supervised", "classification": 0, "parameters": ["rotation"]}, 16, 1),
    **dict.fromkeys(("simclr", "simclr-96", "simclr-160"), SIMCLR),
    **dict.fromkeys(("vicreg", "vicreg-96", "vicreg-160"), VICREG),
    "trajectory": TRAJECTORY,
    "sie": SIE,
    "sie-quaternion": {**SIE, **TURNED},
    "sie-quaternion-all": {**SIE, **TURNED, "parameters": EVERYTHING},
    "equimod": {**EQUIMOD, "parameters": ["rotation"]},
    "equimod-all": {**EQUIMOD, "parameters": EVERYTHING},
    "equicaps": {"name": "equicaps", "capsules": 32, "map_side": 2},
    "augself": augself(["rotation"], 1),
    "augself-all": augself(EVERYTHING, 1),
    "augself-4": augself(["rotation"], 4),
    "augself-all-4": augself(EVERYTHING, 4),
    "augself-all-16": augself(EVERYTHING, 16),
    "augself-6": augself(["rotation"], 6),
    "augself-8": augself(["rotation"], 8),
    "augself-16": augself(["rotation"], 16),
    "augself-uneven-4": augself(SEEN, 0.2, 4),
    "augself-uneven-8": augself(SEEN, 0.2, 8),
    "augself-uneven-16": augself(SEEN, 0.5, 16),
    "reconstruction": around(VICREG, ["rotation"], 0.5, 1),
    "reconstruction-simclr": around(SIMCLR, EVERYTHING, 0.5, 1),
    "reconstruction-augself": around(augself(EVERYTHING, 4), EVERYTHING, 0.5, 1),
    "reconstruction-trajectory": around(TRAJECTORY, EVERYTHING, 0.5, 1),
    "split-simclr-sie": split(SIMCLR, {**SIE, **TURNED, "parameters": EVERYTHING, "equivariant_share": 1}, 1),
    "split-trajectory-augself": split(TRAJECTORY, augself(EVERYTHING, 4), 1),
    "split-simclr-augself": split(SIMCLR, augself(EVERYTHING, 4), 1),
    "sen": {"name": "sen", "projector": [512, 256], "predictor_hidden": [256]},
    **dict.fromkeys(("seq-jepa", "seq-jepa-faster", "seq-jepa-longer"), SEQ_JEPA),
    "sie-magnitude-invariant": {**SIE, "predictor": "magnitude-invariant"},
    "moco-v3": MOCO,
    "ser": {"name": "ser", "base": MOCO, "layer": 3, "token_head": [128, 128], "share": 0.125},
    "stl": {
        "name": "stl",
        "alike": ["rotation"],
        "projector": [512, 128],
        "transformation_widths": [128, 32],
        "transformation_projector": [128, 128],
    },
    "ebc": {"name": "ebc", "alike": ["rotation"], "context": 31, "projector": [512, 9], "ridge": 0.01},
    "lewm": {"name": "lewm", **PREDICTED, "sigreg_weight": 0.09, "directions": 256},
    "lewm-inverse": {"name": "lewm", **PREDICTED, "anti_collapse": "inverse", "inverse_weight": 1.0},
    "sd-jepa": {"name": "sd-jepa", **PREDICTED, "progression": 2, "sigreg_weight": 0.09, "directions": 256},
    "fino": {
        "name": "fino",
        "base": {"name": "vicreg", "projector": [512, 256]},
        "attract": ["rotation"],
        "repel": ["floor_hue", "light_hue"],
        **{"weight": 5, "repel_weight": 5, "warmup": 0.1},
    },
    "conv-jepa": {"name": "conv-jepa"},
    "vit-vicreg": VICREG,
    "vit-gram-anchoring": {"name": "gram-anchoring", "base": VICREG, "weight": 2, "start": 0.75, "refreshes": 0},
    "vit-capi": {
        "name": "capi",
        **{"clusters": 64, "hidden_share": 0.65, "predicted_share": 0.25, "predictor_depth": 4, "momentum": 0.99},
    },
    "inverse-trajectory": inverse(TRAJECTORY, EVERYTHING, 4),
    "inverse-trajectory-4": inverse(TRAJECTORY, ["rotation"], 4),
    "inverse-trajectory-16": inverse(TRAJECTORY, ["rotation"], 16),
    "inverse-trajectory-uneven": inverse(TRAJECTORY, SEEN, 1, 16),
    "inverse-equimod-4": inverse({**EQUIMOD, "parameters": ["rotation"]}, ["rotation"], 4),
    "inverse-equimod-uneven": inverse({**EQUIMOD, "parameters": ["rotation"]}, SEEN, 0.2, 8),
    "inverse-equimod-6": inverse({**EQUIMOD, "parameters": ["rotation"]}, ["rotation"], 6),
    "inverse-equimod-8": inverse({**EQUIMOD, "parameters": ["rotation"]}, ["rotation"], 8),
    "inverse-equimod-all-4": inverse({**EQUIMOD, "parameters": EVERYTHING}, ["rotation"], 4),
    "inverse-equimod-all-8": inverse({**EQUIMOD, "parameters": EVERYTHING}, ["rotation"], 8),
    "inverse-equimod-all-16": inverse({**EQUIMOD, "parameters": EVERYTHING}, ["rotation"], 16),
    "inverse-equimod-deep-6": {
        **inverse({**EQUIMOD, "parameters": ["rotation"]}, ["rotation"], 6),
        "hidden": [512, 512],
    },
    **{
        f"inverse-equimod-both-{weight}": both_ways({**EQUIMOD, "parameters": ["rotation"]}, weight)
        for weight in (4, 6)
    },
    "inverse-trajectory-both-8": both_ways(TRAJECTORY, 8),
    "inverse-trajectory-both-uneven": both_ways(TRAJECTORY, 8, 0.3),
    "inverse-trajectory-both-uneven-1": both_ways(TRAJECTORY, 8, 1),
    "inverse-trajectory-both-uneven-12": both_ways(TRAJECTORY, 12, 0.5),
    "frontier": both_ways(TRAJECTORY, 16, 1),
    "frontier-64": both_ways(TRAJECTORY, 64, 2),
    "frontier-equimod": both_ways({**EQUIMOD, "parameters": ["rotation"]}, 16, 1),
    "frontier-equimod-8": both_ways({**EQUIMOD, "parameters": ["rotation"]}, 8, 0.5),
    "split-trajectory-sie": split(TRAJECTORY, {**SIE, **TURNED, "equivariant_share": 1}, 1),
    **{
        f"frontier-split{ending}": both_ways(
            split(TRAJECTORY, {**SIE, **TURNED, "equivariant_share": 1}, 1), rotation, others
        )
        for ending, rotation, others in (("", 8, 0.5), ("-8", 8, 1), ("-16", 16, 1))
    },
    "frontier-sie-negatives": {**both_ways({**SIE, **TURNED}, 16, 1), "views": 4, "negatives": 10.0},
    **{one: {**SIE, **TURNED} for one in OTHERWISE if one.startswith("sie-quaternion-")},
    "sie-quaternion-held": {**SIE, **TURNED, "predictor_held": 400},
    "sie-quaternion-less-invariance": {**SIE, **TURNED, "invariance": 5},
    "sie-quaternion-negatives": {
        **{"name": "anti-invariance", "base": {**SIE, **TURNED}, "views": 4},
        **{"within": 0.0, "inverse": 0.0, "negatives": 10.0},
    },
    "supervised-pose": {"name": "supervised", "classification": 0, "parameters": POSE},
    "sie-pose": {**SIE, "parameters": POSE, "predictor_initialisation": "group", "convention": "canonical"},
    "equicaps-pose": {"name": "equicaps", "poses": "4x4", "capsules": 32, "map_side": 2},
    "frontier-pose": {
        **both_ways(TRAJECTORY, 16, 1),
        **{"parameters": [*POSE, *SEEN[1:]], "weights": dict.fromkeys(POSE, 16)},
    },
    "inverse-sie-quaternion": inverse({**SIE, **TURNED}, ["rotation"], 16),
    "augself-uneven-6": augself(SEEN, 0.5, 6),
    "inverse-simclr-8": inverse(SIMCLR, ["rotation"], 8),
    "inverse-equimod": inverse({**EQUIMOD, "parameters": ["rotation"]}, EVERYTHING, 4),
    "inverse-equicaps": inverse({"name": "equicaps", "capsules": 32, "map_side": 2}, EVERYTHING, 4),
}
"""The objective of every candidate."""


def recipe_of(candidate: str, budget: str, seed: int, meshes: str | None) -> dict[str, Any]:
    """The recipe of one run."""
    sections = json.loads(json.dumps(BUDGETS[budget]))
    if sections["data"]["name"] == "meshes":
        if meshes is None:
            raise RecipeError(f"--meshes: the budget {budget} needs the file or the folder of the meshes")
        sections["data"]["path"] = meshes
        if (Path(meshes) / MODELS.name).is_file():
            sections["data"]["csv_file"] = MODELS.name
    sections["trainer"] |= {"seed": seed, "workers": 0, "accelerator": "cpu"}
    sections["evaluation"] |= {"protocol": "quick"}
    own = OTHERWISE.get(candidate, {})
    sections["backbone"] = own.get("backbone", sections["backbone"])
    sections["trainer"] |= own.get("trainer", {})
    if candidate.startswith("seq-jepa"):
        sections["evaluation"] |= {"aggregate": [1, 2, 4]}
    return {
        "objective": OBJECTIVES[candidate],
        "augmentation": {"name": "none"},
        "optimizer": own.get("optimizer", ADAMW),
        "monitor": {"every": 0},
        **sections,
    }


def trained(folder: Path, recipe: Mapping[str, Any]) -> RunResult:
    """A finished run."""
    if folder.is_dir() and RunResult(folder).state == "complete":
        return RunResult(folder)
    run = (
        ssl_inv.pretrain(resume=folder, quiet=True)
        if folder.is_dir()
        else ssl_inv.pretrain(recipe, output=folder, quiet=True)
    )
    if run.state != "complete":
        raise RecipeError(f"{folder}: the run ended as {run.state!r}")
    return run


def numbers(run: RunResult) -> dict[str, list[float | None]]:
    """By measure and part of the features: trained, its standard error, untrained, shuffled."""
    rows = json.loads((run.path / "results.json").read_text(encoding="utf-8"))
    found = {}
    for row in rows:
        measured = row["trained"]
        if measured["name"].startswith("r2_pooled"):
            continue
        values = [measured["value"], measured["spread"]]
        values += [(row[kind] or {}).get("value") for kind in ("untrained", "shuffled")]
        found[f"{measured['name']} | {measured['part']}"] = [
            None if one is None or not math.isfinite(one) else float(f"{one:.4g}") for one in values
        ]
    return found


def read(file: Path) -> dict[str, dict[str, Any]]:
    """The runs of a file by name."""
    return json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else {}


def keep(file: Path, name: str, run: Mapping[str, Any], table: str = TABLE) -> None:
    """Write a run to the file of a table, in the place of one of the same name."""
    runs = {**read(file), name: run}
    lines = [f"{json.dumps(one)}: {json.dumps(runs[one], separators=(',', ':'))}" for one in sorted(runs)]
    write_text(file, f'{{"table": {json.dumps(table)}, "runs": {{\n' + ",\n".join(lines) + "\n}}\n")


def missing(asked: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Candidate and seed of every run that the file lacks."""
    done = read(asked.output)
    for seed in asked.seeds:
        for candidate in asked.candidates:
            if f"{asked.budget} {candidate} {seed}" not in done:
                yield candidate, seed


def main(words: Sequence[str] | None = None) -> int:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--budget", choices=list(BUDGETS), default="solids-small")
    parser.add_argument("--candidates", nargs="+", default=list(OBJECTIVES), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--meshes", help="file or folder of the meshes")
    parser.add_argument("--minutes", type=float, help="start no run after so many minutes")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args(words)

    def work(cell: tuple[str, int]) -> str:
        candidate, seed = cell
        one = one_run(asked, candidate, seed)
        keep(
            asked.output,
            f"{asked.budget} {candidate} {seed}",
            one,
            "reasons" if asked.output.stem == "reasons" else TABLE,
        )
        scores = {
            key: one["numbers"].get(key, [None])[0] for key in ("linear/top1 | all", "r2/relative/rotation | all")
        }
        return f"{asked.budget} {candidate} seed {seed} {scores}"

    known = ("--candidates", asked.candidates, list(OBJECTIVES))
    return one_by_one(asked.runs, lambda: missing(asked), work, asked.minutes, known)


def images_of_a_step(recipe: Mapping[str, Any]) -> int:
    """How many views the objective asks for in a step, those included that it reads as targets alone."""
    module, _ = parts({**recipe, "data": {**recipe["data"], "cache": False}})
    return int(module.objective.plan.count * recipe["trainer"]["batch_size"])


def one_run(asked: argparse.Namespace, candidate: str, seed: int) -> dict[str, Any]:
    """Train a run and collect its numbers and facts."""
    recipe = recipe_of(candidate, asked.budget, seed, asked.meshes)
    run = trained(asked.runs / f"{asked.budget}-{candidate}-{seed}", recipe)
    return {
        "objective": recipe["objective"],
        "optimizer": recipe["optimizer"],
        **{name: one for name, one in OTHERWISE.get(candidate, {}).items() if name != "optimizer"},
        "images": images_of_a_step(recipe),
        **facts_of(run),
        "numbers": numbers(run),
    }


if __name__ == "__main__":
    sys.exit(main())
