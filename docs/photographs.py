"""The tables of photographs whose views record how they were made, as benchmarks/recorded_transforms.py keeps them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from record import Values
from tables import number, sentence, table

NAMES = {
    "supervised-transform": "supervised, told the transform",
    "supervised-classes": "supervised, told the classes",
    "simclr": "SimCLR",
    "vicreg": "VICReg",
    "augself": "AugSelf on SimCLR",
    "augself-4": "AugSelf on SimCLR, heads weigh 4",
    "equimod": "EquiMod, predictor begun as the group",
    "equimod-all": "EquiMod, told all, predictor begun as the group",
    "sie": "SIE, predictor begun as the group",
    "sie-held": "SIE, predictor begun as the group and held for half of the steps",
    "negatives-sie": "SIE, predictor begun as the group, other views of the object as negatives",
    "inverse-simclr": "SimCLR and inverse dynamics",
    "inverse-vicreg": "VICReg and inverse dynamics",
    "inverse-equimod": "EquiMod and inverse dynamics",
    "inverse-sie": "SIE, held for half of the steps, and inverse dynamics",
}
"""What a row is called; a candidate without a name has its own."""

_WHOLE = {"linear, %": "whole/linear/top1", "kNN, %": "whole/knn/top1"}
_OWN = {"linear, %": "linear/top1", "kNN, %": "knn/top1"}
_MADE = {f"{name} R2": f"r2/relative/{name}" for name in ("angle", "crop", "hue", "brightness")}
_AZIMUTH = {"azimuth R2": "r2/relative/azimuth_deg"}

COLUMNS = {
    "cifar10": _WHOLE | _MADE,
    "grocery": _WHOLE | _MADE,
    "turntable": _OWN | _AZIMUTH,
    "turntable-known": _OWN | _AZIMUTH,
}
"""Measurements of all features, by budget and heading."""

Runs = Mapping[str, Mapping[str, Any]]


def recorded_transforms(content: Mapping[str, Any], budget: str) -> str:
    """A row for each candidate of a budget, from few to much of the first R2, and the untrained network.

    Args:
        content: of docs/results/recorded-transforms.json.
        budget: whose runs are shown.
    """
    by_candidate: dict[str, dict[int, Mapping[str, Any]]] = {}
    for name, run in content["runs"].items():
        own, candidate, seed = name.split(" ")
        if own == budget:
            by_candidate.setdefault(candidate, {})[int(seed)] = run
    if not by_candidate:
        return "Not measured yet."
    columns = COLUMNS[budget]
    sort = next(key for key in columns.values() if key.startswith("r2/"))
    order = sorted(by_candidate, key=lambda name: _mean(_values(by_candidate[name], sort, 0)))
    rows = [
        [NAMES.get(name, name), str(len(by_candidate[name])), *_cells(by_candidate[name], columns, 0)] for name in order
    ]
    # Every candidate of a seed begins with the same weights, so any of them has the untrained network's numbers.
    most = max(order, key=lambda name: len(by_candidate[name]))
    untrained = ["untrained", str(len(by_candidate[most])), *_cells(by_candidate[most], columns, 2)]
    head = ["", "seeds", *columns]
    told = "; ".join([*_errors(by_candidate, columns), *_facts(by_candidate)])
    return f"{table(head, [untrained, *rows], range(1, len(head)))}\n\n{sentence(told)}."


def _values(runs: Mapping[int, Mapping[str, Any]], measure: str, which: int) -> Values:
    found = [runs[seed]["numbers"].get(f"{measure} | all", [None] * 4)[which] for seed in sorted(runs)]
    return tuple(one for one in found if one is not None)


def _mean(values: Sequence[float | None]) -> float:
    known = [one for one in values if one is not None]
    return sum(known) / len(known) if known else 0.0


def _cells(runs: Mapping[int, Mapping[str, Any]], columns: Mapping[str, str], which: int) -> list[str]:
    return [
        number(measure.removeprefix("whole/"), values) if (values := _values(runs, measure, which)) else ""
        for measure in columns.values()
    ]


def _errors(by_candidate: Mapping[str, Mapping[int, Mapping[str, Any]]], columns: Mapping[str, str]) -> Iterator[str]:
    """The largest standard error of single runs over held-out objects: of accuracies, and of R2 of the first kind."""
    accuracies = [measure for measure in columns.values() if measure.endswith("/top1")]
    first = next(measure for measure in columns.values() if measure.startswith("r2/"))
    for what, measures in (("accuracies", accuracies), (f"{first.removeprefix('r2/relative/')} R2", [first])):
        found = [one for runs in by_candidate.values() for name in measures for one in _values(runs, name, 1)]
        known = [one for one in found if one is not None]
        if known:
            factor, digits = (100, 1) if what == "accuracies" else (1, 3)
            yield f"standard error of a run's {what} at most {factor * max(known):.{digits}f}"


def _facts(by_candidate: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Iterator[str]:
    runs = [run for one in by_candidate.values() for run in one.values()]
    for what in ("commit", "machine"):
        known = list(dict.fromkeys(str(run[what])[: 7 if what == "commit" else None] for run in runs))
        yield f"{what if what == 'commit' else 'on'} {', '.join(known)}"
    threads = sorted({run["threads"] for run in runs})
    yield f"{', '.join(map(str, threads))} thread{'s' * (threads != [1])}"
    seeds = sorted({seed for one in by_candidate.values() for seed in one})
    first = runs[0]["command"].split(" --candidates ")[0]
    yield f"`{first} --candidates {' '.join(sorted(by_candidate))} --seeds {' '.join(map(str, seeds))}`"
