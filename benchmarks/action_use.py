"""What the monitor says of equivariant objectives that learn, and of one that turns invariant.

    python benchmarks/action_use.py runs/action-use --images fruits360_turntable_64px.zip --seeds 0 1 2

SIE and EquiMod on the small budget of solids (`on_one_budget.py`), where they learn the rotation, and as published on
fruits on a turntable (`recorded_transforms.py`), where nothing is learned of the azimuth of new objects. Each runs for
150 steps; the monitor scores it every 50. The table goes to docs/results/action-use.json.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import on_one_budget
import recorded_transforms
from on_one_budget import trained
from one_by_one import facts_of, one_by_one

from ssl_inv.atomic import write_text
from ssl_inv.run.python.run_result import RunResult

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "action-use.json"
STEPS, EVERY = 150, 50
SCORES = ("action_gain", "action_dependence", "within_object")
SOLIDS, FRUITS = "solids", "fruit turntable"
ROWS = (
    ("SIE begun as the quaternion", SOLIDS, "sie-quaternion"),
    ("EquiMod", SOLIDS, "equimod"),
    ("SIE", FRUITS, "sie"),
    ("EquiMod", FRUITS, "equimod"),
)
"""Heading, data, and the candidate of the benchmark that has these data."""
AS_PUBLISHED = ("predictor_initialisation", "convention", "predictor")
"""Settings that `recorded_transforms.py` adds to the published ones."""


def recipe_of(data: str, candidate: str, seed: int, images: str) -> dict[str, Any]:
    """The recipe of one run."""
    if data == SOLIDS:
        recipe = on_one_budget.recipe_of(candidate, "solids-small", seed, None)
    else:
        recipe = recorded_transforms.recipe_of(candidate, "turntable", seed, images)
        recipe["objective"] = {key: value for key, value in recipe["objective"].items() if key not in AS_PUBLISHED}
    recipe["trainer"] |= {"steps": STEPS}
    return {**recipe, "monitor": {"every": EVERY, "share": 1.0}, "evaluation": {"protocol": "none"}}


def scores(run: RunResult) -> list[dict[str, float]]:
    """What the monitor has written, in the order of steps."""
    lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["monitor"] for entry in map(json.loads, lines) if "action_gain" in entry.get("monitor", {})]


def shown(values: Sequence[float]) -> str:
    """The mean, and over several seeds the standard deviation."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def main(words: Sequence[str] | None = None) -> int:
    """Train what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--images", required=True, help="folder or archive of the turntable")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args(words)
    found: dict[tuple[str, str, str], list[list[dict[str, float]]]] = {}
    facts: list[dict[str, Any]] = []

    def work(cell: tuple[tuple[str, str, str], int]) -> str:
        row, seed = cell
        _, data, candidate = row
        folder = asked.runs / f"{data.replace(' ', '-')}-{candidate}-{seed}"
        run = trained(folder, recipe_of(data, candidate, seed, asked.images))
        found.setdefault(row, []).append(scores(run))
        facts.append(facts_of(run))
        return f"{folder.name} {found[row][-1][-1]}"

    code = one_by_one(asked.runs, lambda: [(row, seed) for row in ROWS for seed in asked.seeds], work)
    if code:
        return code
    rows = [
        [heading, data, shown([run[0]["action_gain"] for run in runs])]
        + [shown([run[-1][name] for run in runs]) for name in SCORES]
        for (heading, data, _), runs in found.items()
    ]
    command = f"python benchmarks/action_use.py runs/action-use --images {Path(asked.images).name} --seeds"
    content = {
        "table": "plain",
        "seeds": asked.seeds,
        "commits": sorted({one["commit"] for one in facts}),
        "machine": f"{facts[0]['threads']} thread, {facts[0]['machine']}",
        "note": f"torch {facts[0]['torch']}",
        "command": " ".join([command, *map(str, asked.seeds)]),
        "head": ["", "data", f"`action_gain` after {EVERY} steps", *(f"`{name}`, {STEPS} steps" for name in SCORES)],
        "rows": rows,
    }
    write_text(asked.output, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
