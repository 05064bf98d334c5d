"""Tables of docs/results.md beside the benchmark on meshes: why SIE and seq-JEPA have little of the pose there, from
docs/results/reasons.json; objects that are moved too, from docs/results/one-budget.json; and what encoders know at
unseen angles, from docs/results/unseen-angles.json.

benchmarks/on_one_budget.py and benchmarks/unseen_angles.py write the files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import one_budget
from benchmark_tables import facts
from tables import number, table

from ssl_inv.run.side_by_side.over_seeds import mean

Content = Mapping[str, Any]

BUDGETS = {
    "meshes-known": "meshes within 45 degrees, 200 objects, 48 views of each",
    "meshes-known-far": "meshes within 90 degrees",
    "solids-small": "solids within 90 degrees, 800 objects, 8 views of each",
    "solids-near": "solids within 45 degrees, 800 objects, 8 views of each",
    "solids-few": "solids within 90 degrees, 200 objects, 48 views of each",
    "solids-few-near": "solids within 45 degrees, 200 objects, 48 views of each",
}
"""What each budget has, in the order of the table."""

CHANGES = {
    "sie-quaternion": "SIE, begun as the quaternion",
    "sie-quaternion-slower": "the same, a third of the learning rate",
    "sie-quaternion-longer": "the same, three times the steps",
    "sie-quaternion-larger-batch": "the same, three times the batch",
    "sie-quaternion-wider": "the same, a network of twice the width",
    "sie-quaternion-held": "the same, the predictor held for half of the steps",
    "sie-quaternion-less-invariance": "the same, a fifth of the weight of invariance",
    "sie-quaternion-negatives": "the same, other views of the object as negatives",
    "inverse-sie-quaternion": "the same, and a head that tells the action",
    "seq-jepa": "seq-JEPA",
    "seq-jepa-faster": "the same, five times the learning rate",
    "seq-jepa-longer": "the same, three times the steps",
    "vicreg": "VICReg",
}
"""What each candidate changes, in the order of the table."""

_SEED = 0
_COLUMNS = {
    "linear, %": one_budget.CLASSES,
    "kNN, %": "knn/top1",
    "R2 rotation": one_budget.ROTATION,
    "MRR": "retrieval/val-val/mrr",
}


def reasons(content: Content, budgets: Content) -> str:
    """A row for every experiment, and for what it is compared with.

    Args:
        content: the file of the experiments.
        budgets: the file of the runs on one budget.
    """
    runs = {**content["runs"], **{key: one for key, one in budgets["runs"].items() if key.endswith(f" {_SEED}")}}
    asked = {key.split(" ")[0] for key in content["runs"]} | {"solids-small"}
    rows = []
    for budget, data in BUDGETS.items():
        for candidate, change in CHANGES.items():
            run = runs.get(f"{budget} {candidate} {_SEED}")
            if run is not None and budget in asked and not (budget == "solids-small" and "seq" in candidate):
                cells = [number(name, one_budget.values([run], name)) for name in _COLUMNS.values()]
                rows.append([data, change, *cells])
    return f"{table(['data', 'objective', *_COLUMNS], rows, range(2, 2 + len(_COLUMNS)))}\n\n{_told(content, runs)}"


def _told(content: Content, runs: Mapping[str, Content]) -> str:
    every = [runs[key] for key in content["runs"]]
    commits = [run["commit"] for run in every]
    command = (
        "python benchmarks/on_one_budget.py runs/budgets --budget BUDGET --candidates NAME --meshes meshes_cc0.npz "
    )
    command += "--output new/reasons.json"
    note = f"torch {every[0]['torch']}, {every[0]['threads']} thread"
    words = {"seeds": [_SEED], "machine": every[0]["machine"], "note": note, "command": command}
    names = [key.split(" ")[:2] for key in content["runs"]]
    asked = "; ".join(
        f"`{budget}`: {', '.join(f'`{name}`' for place, name in names if place == budget)}"
        for budget in dict.fromkeys(place for place, _ in names)
    )
    told = facts({**words, "commits": commits})
    return f"{told} Budgets and names: {asked}. Rows beside them are of docs/results/one-budget.json."


_SHIFTED = {
    "linear, %": one_budget.CLASSES,
    "kNN, %": "knn/top1",
    "R2 rotation": one_budget.ROTATION,
    "R2 translation": "r2/relative/translation",
    "R2 floor hue": "r2/relative/floor_hue",
    "MRR": "retrieval/val-val/mrr",
    "H@1": "retrieval/val-val/hit@1",
}


def shifted(content: Content) -> str:
    """A row for each encoder of objects that are moved as well as turned, most of the rotation first."""
    runs = one_budget.by_candidate(content, "meshes-shifted")
    found = {
        name: [one_budget.values(some.values(), measure) for measure in _SHIFTED.values()]
        for name, some in runs.items()
    }
    order = sorted(found, key=lambda name: -(mean(found[name][list(_SHIFTED).index("R2 rotation")]) or 0.0))
    longest = max(runs.values(), key=len)
    found["untrained"] = [
        () if "retrieval" in measure else one_budget.values(longest.values(), measure, 2)
        for measure in _SHIFTED.values()
    ]
    rows = [
        [name, str(len(runs.get(name, longest))), *map(number, _SHIFTED.values(), found[name])]
        for name in (*order, "untrained")
    ]
    told = one_budget.told(runs, "meshes-shifted")
    return f"{table(['', 'seeds', *_SHIFTED], rows, range(1, 2 + len(_SHIFTED)))}\n\n{told}"


PLACES = ("inside", "carried over", "fitted there")
_MEASURES = {"linear, %": "linear/top1", "R2 rotation": "r2/relative/rotation"}


def unseen_angles(content: Content) -> str:
    """A row for each encoder, by what it has of the classes when heads are carried over."""
    by_name: dict[str, list[Content]] = {}
    for key in sorted(content["runs"]):
        by_name.setdefault(key.rpartition(" ")[0], []).append(content["runs"][key])
    head = ["", "seeds", *(f"{heading}, {place}" for heading in _MEASURES for place in PLACES)]

    def carried(name: str) -> float:
        return mean(tuple(run["numbers"]["linear/top1"]["carried over"][0] for run in by_name[name])) or 0.0

    rows = [
        [name, str(len(by_name[name])), *_cells(by_name[name], 0)]
        for name in sorted(by_name, key=carried, reverse=True)
    ]
    most = max(by_name.values(), key=len)
    rows.append(["untrained", str(len(most)), *_cells(most, 1)])
    one = most[0]
    seeds = sorted({int(key.rpartition(" ")[2]) for key in content["runs"]})
    command = "python benchmarks/unseen_angles.py runs/budgets --meshes meshes_cc0.npz --output new.json"
    command += f" --seeds {' '.join(map(str, seeds))}"
    note = f"torch {one['torch']}, {one['threads']} thread"
    commits = [run["commit"] for run in content["runs"].values()]
    told = facts({"seeds": seeds, "machine": one["machine"], "note": note, "command": command, "commits": commits})
    return f"{table(head, rows, range(1, len(head)))}\n\n{told}"


def _cells(runs: Sequence[Content], kind: int) -> list[str]:
    return [
        number(measure, tuple(run["numbers"][measure][place][kind] for run in runs))
        for measure in _MEASURES.values()
        for place in PLACES
    ]
