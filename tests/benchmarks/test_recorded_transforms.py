"""The benchmark of photographs with recorded transforms: every candidate of every budget is a valid recipe, no view
shows what lies beyond its photograph, and the table says what each candidate knows.
"""

import argparse
import importlib
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_inv.augment.policies import custom
from ssl_inv.run.recipe import read_yaml, resolve, shipped_recipes
from ssl_inv.transforms.keyed_random import Key

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def module():
    """A module of the benchmarks or of the generator of pages by its name."""
    places = [str(REPOSITORY / name) for name in ("benchmarks", "docs")]
    sys.path[:0] = places
    yield importlib.import_module
    for place in places:
        sys.path.remove(place)


def test_every_budget_and_every_candidate_is_a_recipe_that_is_told_what_its_views_record(module):
    benchmark = module("recorded_transforms")
    # All pairs would take long; objectives and data do not depend on each other but for the parameters told.
    for budget, candidate in zip(cycle(benchmark.BUDGETS), benchmark.CANDIDATES, strict=False):
        recipe = resolve(benchmark.recipe_of(candidate, budget, 3, "images.zip"))
        assert recipe.trainer.seed == 3
        told = recipe.sections()["objective"].get("parameters") or []
        assert set(told) <= set(benchmark.told_in(budget))


def test_no_turn_brings_a_border_into_view(module):
    geometric = [one for one in module("recorded_transforms").TURNED["operations"] if one["name"] != "jitter"]
    key = Key(seed=0, epoch=0, index=np.arange(200), view=0)
    white = torch.ones(200, 3, 32, 32)
    views, record = custom(operations=geometric, padding="zeros")(white, key)
    assert record["angle"].unique().numel() == 200
    assert views.min() > 0.75  # a corner of a corner's pixel is interpolated with what lies beyond
    smaller = [one | {"factor": [1.3, 1.3]} if one["name"] == "scale" else one for one in geometric]
    views, _ = custom(operations=smaller, padding="zeros")(white, key)
    assert views.min() < 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--candidates", "augslef"], "--candidates: unknown 'augslef'; did you mean 'augself'"),
        (["--candidates", "simclr"], "nowhere.zip"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_kept(module, tmp_path, capsys, words, message):
    output = tmp_path / "kept.json"
    images = str(tmp_path / "nowhere.zip")
    common = [str(tmp_path / "runs"), "--budget", "cifar10", "--images", images, "--output", str(output)]
    assert module("recorded_transforms").main([*common, *words]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_the_file_keeps_one_run_a_name_and_a_call_does_what_it_lacks(module, tmp_path):
    shared, output = module("on_one_budget"), tmp_path / "kept.json"
    shared.keep(output, "cifar10 simclr 0", {"numbers": {"a": 1}}, "recorded-transforms")
    shared.keep(output, "cifar10 simclr 0", {"numbers": {"a": 2}}, "recorded-transforms")
    assert shared.read(output) == {"cifar10 simclr 0": {"numbers": {"a": 2}}}
    asked = argparse.Namespace(output=output, seeds=[0, 1], candidates=["simclr", "sie"], budget="cifar10")
    assert list(shared.missing(asked)) == [("sie", 0), ("simclr", 1), ("sie", 1)]


def test_the_table_has_the_mean_of_the_seeds_the_untrained_network_and_the_command(module):
    def run(angle: float, linear: float) -> dict[str, object]:
        numbers = {
            "r2/relative/angle | all": [angle, 0.01, -0.02, 0.0],
            "whole/linear/top1 | all": [linear, 0.02, 0.2, 0],
        }
        facts = {"commit": "a" * 40, "threads": 1, "machine": "x86_64"}
        return {
            **facts,
            "command": "python b.py --budget cifar10 --candidates x",
            "numbers": numbers,
        }

    runs = {
        "cifar10 simclr 0": run(0.1, 0.4),
        "cifar10 simclr 1": run(0.3, 0.5),
        "cifar10 augself 0": run(0.6, 0.45),
        "cifar10 new-one 0": run(0.05, 0.1),
        "grocery simclr 0": run(0.9, 0.9),
    }
    text = module("photographs").recorded_transforms({"runs": runs}, "cifar10")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["", "seeds", "linear, %", "angle R2"]
    assert rows[2:] == [
        ["untrained", "2", "20.0 ± 0.0", "-0.020 ± 0.000"],
        ["new-one", "1", "10.0", "0.050"],
        ["SimCLR", "2", "45.0 ± 7.1", "0.200 ± 0.141"],
        ["AugSelf on SimCLR", "1", "45.0", "0.600"],
    ]
    assert text.endswith(
        "Standard error of a run's accuracies at most 2.0; standard error of a run's angle R2 at most 0.010; "
        "commit aaaaaaa; on x86_64; 1 thread; "
        "`python b.py --budget cifar10 --candidates augself new-one simclr --seeds 0 1`."
    )
    assert module("photographs").recorded_transforms({"runs": runs}, "turntable") == "Not measured yet."


@pytest.mark.parametrize(("recipe", "name"), [("augself-photos", "augself-4"), ("equimod-photos", "equimod")])
def test_the_shipped_recipes_are_candidates(module, recipe, name):
    shipped = resolve(read_yaml(shipped_recipes()[recipe])).sections()
    candidate = resolve(module("recorded_transforms").recipe_of(name, "cifar10", 0, "images")).sections()
    candidate["trainer"] |= {name: shipped["trainer"][name] for name in ("workers", "accelerator")}
    assert shipped == candidate
