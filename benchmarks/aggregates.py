"""Where seq-JEPA's aggregate loses classes that the plain mean of the same views has.

    python benchmarks/aggregates.py runs/aggregates --seeds 0
    python benchmarks/aggregates.py runs/aggregates --variants longer --seeds 0 1 2

A variant is seq-JEPA on the budget `solids-small` of on_one_budget.py with one setting changed. For groups of 1, 2 and
4 views, the linear probe reads the mean of their features; the mean of the tokens, each a view's features beside its
action; the token [AGG] after every layer of the trained aggregator; and the aggregate of the same features by an
aggregator with random weights, and by the trained one when it is told of no movement. A call does what
docs/results/aggregates.json lacks.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from on_one_budget import keep, read, recipe_of, trained
from one_by_one import facts_of, one_by_one
from torch import Tensor, nn

from ssl_inv.evaluation.aggregation import Aggregate, aggregate_of, aggregated
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.linear import LinearProbe
from ssl_inv.objectives.seq_jepa import SeqJEPA
from ssl_inv.run.encoders import load_model
from ssl_inv.run.judging import encode_data
from ssl_inv.transforms import Action, Transform

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "aggregates.json"
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "without dropout": {"objective": {"dropout": 0.0}},
    "one layer": {"objective": {"layers": 1}},
    "actions for the predictor alone": {"objective": {"conditioning": "predictor"}},
    "four times as long": {"trainer": {"steps": 1200}},
}
"""What each variant has in place of the budget's settings."""

VIEWS = (1, 2, 4)


def ways(objective: SeqJEPA, fresh: SeqJEPA, backbone: Any) -> Iterator[tuple[str, Aggregate]]:
    """Ways to make one vector of several views, by name.

    Args:
        objective: trained.
        fresh: the same with random weights.
        backbone: trained.
    """
    own, trained_aggregate = objective.aggregator, objective.aggregation(backbone)
    assert trained_aggregate is not None

    def through(network: nn.Module) -> Aggregate:
        def aggregate(features: Tensor, actions: Sequence[Action]) -> Tensor:
            objective.aggregator = network
            made: Tensor = trained_aggregate(features, actions)
            objective.aggregator = own
            return made

        return aggregate

    yield "mean of features", lambda features, _: features.mean(dim=1)
    yield "mean of tokens", through(Shortened(own, 0))
    for depth in range(1, len(own.layers) + 1):
        yield f"[AGG] after layer {depth}", through(Shortened(own, depth))
    yield "random aggregator", through(fresh.aggregator)
    yield "told of no movement", lambda features, actions: trained_aggregate(features, [still(one) for one in actions])


class Shortened(nn.Module):
    """The token [AGG] of an aggregator after one of its layers, without the last normalisation; 0: the mean of the
    others before the first.
    """

    def __init__(self, aggregator: Any, depth: int) -> None:
        super().__init__()
        self.aggregator, self.depth = aggregator, depth

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        tokens = self.aggregator.tokens(features, actions)
        for layer in self.aggregator.layers[: self.depth]:
            tokens = layer(tokens)
        # The token [AGG] knows nothing before the first layer.
        return tokens[:, 0] if self.depth else tokens[:, 1:].mean(dim=1)


def still(action: Action) -> Action:
    """The action that leads to where it began."""
    here = Transform(action.source, action.groups)
    return here.relative(here)


def measured(folder: Path, views: Sequence[int]) -> dict[str, dict[str, float]]:
    """Linear top-1 of every way, by number of views."""
    loaded = load_model(str(folder), None, ["--evaluation.views", "4", "--evaluation.protocol", "quick"], False)
    (backbone, objective), untrained = loaded.networks()
    assert isinstance(objective, SeqJEPA)
    assert untrained is not None
    fresh = untrained[1]
    assert isinstance(fresh, SeqJEPA)
    settings = loaded.recipe.evaluation
    device = torch.device("cpu")
    encoded = encode_data(loaded.data, backbone, objective, loaded.normalise, settings, device, loaded.seed)
    assert encoded is not None
    for network in (backbone, objective, fresh):
        network.eval()
    found: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for name, way in ways(objective, fresh, backbone):
            found[name] = {str(count): top1(encoded.train, encoded.validation, count, way) for count in views}
    return found


def top1(train: FeatureTable, validation: FeatureTable, views: int, way: Aggregate) -> float:
    """The accuracy of the linear probe on what a way makes of groups of views."""
    tables = [aggregated(one, views, way) for one in (train, validation)]
    assert tables[0] is not None
    assert tables[1] is not None
    results = LinearProbe.quick().measure(tables[0], tables[1], aggregate_of(views))
    return round(next(float(one.value or 0) for one in results if one.name == "linear/top1"), 4)


def recipe(variant: str, seed: int) -> dict[str, Any]:
    """The recipe of one run."""
    made = recipe_of("seq-jepa", "solids-small", seed, None)
    for section, changes in VARIANTS[variant].items():
        made[section] = {**made[section], **changes}
    return made


def one_run(runs: Path, variant: str, seed: int) -> Mapping[str, Any]:
    """Train a variant and measure it."""
    run = trained(runs / f"{variant.replace(' ', '-')}-{seed}", recipe(variant, seed))
    return {
        "changes": VARIANTS[variant],
        **facts_of(run),
        "linear": measured(run.path, VIEWS),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Do what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, help="start no run after so many minutes")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args(words)

    def missing() -> list[tuple[str, int]]:
        done = read(asked.output)
        every = [(variant, seed) for seed in asked.seeds for variant in asked.variants]
        return [(variant, seed) for variant, seed in every if f"{variant}, seed {seed}" not in done]

    def work(cell: tuple[str, int]) -> str:
        made = one_run(asked.runs, *cell)
        name = "{}, seed {}".format(*cell)
        keep(asked.output, name, made, "aggregates")
        return f"{name} {json.dumps(made['linear'])}"

    return one_by_one(asked.runs, missing, work, asked.minutes)


if __name__ == "__main__":
    sys.exit(main())
