"""What encoders know at angles that training never showed: runs on meshes, judged beyond their angles of training.

    python benchmarks/unseen_angles.py runs/budgets --meshes meshes_cc0.npz --seeds 0 1 2

The runs are those of `on_one_budget.py --budget meshes-known`: Euler angles within 45 degrees, and other views of known
objects to judge by. Here every Euler angle of the same objects is from 45 to 90 degrees. Heads are fitted to training
views and judged on new ones: `inside`, both within 45 degrees, as in that benchmark; `carried over`, fitted there and
judged at the unseen angles, as seq-JEPA's 3DIEBench-OOD asks; `fitted there`, fitted and judged at the unseen angles,
which asks what the features still hold and not whether the head can follow.

With all three angles from 45 to 90 degrees, a rotation has no second name within 45 degrees, so it is new indeed. A
step between two such views can be as small as in training.

A call measures what docs/results/unseen-angles.json lacks of the runs that are there.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from on_one_budget import OBJECTIVES, keep, read
from one_by_one import facts_of, one_by_one

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.evaluation.protocols.linear import LinearProbe
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2
from ssl_inv.run.encoders import load_model
from ssl_inv.run.judging import encode_data
from ssl_inv.run.python.run_result import RunResult

TABLE = "unseen-angles"
OUTPUT = Path(__file__).parent.parent / "docs" / "results" / f"{TABLE}.json"
BUDGET = "meshes-known"
INSIDE, OUTSIDE = {"angle_range": 45}, {"angle_range": 90, "angle_from": 45}
MEASURES: dict[str, LinearProbe | NearestNeighbours | TransformR2] = {
    "linear/top1": LinearProbe.quick(),
    "knn/top1": NearestNeighbours(),
    "r2/relative/rotation": TransformR2.quick(),
}
Tables = tuple[FeatureTable, FeatureTable]
"""Training and new views."""


def tables(folder: Path, angles: Mapping[str, float], meshes: str) -> dict[str, Tables]:
    """The features of a run and of the same network with random weights, of views within some angles."""
    words = {"data.path": meshes, "data.cache": False, **{f"data.{key}": value for key, value in angles.items()}}
    overrides = [word for key, value in words.items() for word in (f"--{key}", str(value).lower())]
    overrides[1] = meshes
    loaded = load_model(str(folder), None, overrides, False)
    trained, untrained = loaded.networks()
    found = {}
    for name, networks in (("trained", trained), ("untrained", untrained)):
        assert networks is not None
        settings, device = loaded.recipe.evaluation, torch.device("cpu")
        encoded = encode_data(loaded.data, *networks, loaded.normalise, settings, device, loaded.seed)
        assert encoded is not None
        found[name] = encoded.train, encoded.validation
    return found


def measured(folder: Path, meshes: str) -> dict[str, dict[str, list[float]]]:
    """By measure and by what is fitted and judged where: trained and untrained."""
    inside, outside = tables(folder, INSIDE, meshes), tables(folder, OUTSIDE, meshes)
    found: dict[str, dict[str, list[float]]] = {measure: {} for measure in MEASURES}
    for kind in ("trained", "untrained"):
        (near, new), (far, far_new) = inside[kind], outside[kind]
        for place, pair in {
            "inside": (near, new),
            "carried over": (near, far_new),
            "fitted there": (far, far_new),
        }.items():
            for measure, protocol in MEASURES.items():
                part = "equivariant" if measure.startswith("r2") and "equivariant" in near.features else "all"
                values = [one.value for one in protocol.measure(*pair, part) if one.name == measure]
                found[measure].setdefault(place, []).append(round(float(values[0] or 0), 4))
    return found


def runs_there(asked: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Candidate and seed of the finished runs that the file lacks."""
    done = read(asked.output)
    for seed in asked.seeds:
        for candidate in asked.candidates:
            folder = asked.runs / f"{BUDGET}-{candidate}-{seed}"
            finished = folder.is_dir() and RunResult(folder).state == "complete"
            if finished and f"{candidate} {seed}" not in done:
                yield candidate, seed


def main(words: Sequence[str] | None = None) -> int:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs of on_one_budget.py")
    parser.add_argument("--meshes", required=True, help="file or folder of the meshes")
    parser.add_argument("--candidates", nargs="+", default=list(OBJECTIVES), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, help="measure no run after so many minutes")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args(words)

    def work(cell: tuple[str, int]) -> str:
        candidate, seed = cell
        folder = asked.runs / f"{BUDGET}-{candidate}-{seed}"
        one = {**facts_of(RunResult(folder)), "numbers": measured(folder, asked.meshes)}
        keep(asked.output, f"{candidate} {seed}", one, TABLE)
        return f"{candidate} seed {seed} {one['numbers']}"

    known = ("--candidates", asked.candidates, list(OBJECTIVES))
    return one_by_one(asked.runs, lambda: runs_there(asked), work, asked.minutes, known)


if __name__ == "__main__":
    sys.exit(main())
