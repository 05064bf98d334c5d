"""Every candidate is a recipe that the command line takes, and a file of numbers says what is left to train."""

import csv
import importlib
import json
import shutil
from pathlib import Path

import pytest

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.run.recipe import resolve

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def budgets():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("on_one_budget")


def test_candidates_are_recipes(budgets):
    for budget in budgets.BUDGETS:
        for candidate in budgets.OBJECTIVES:
            recipe = resolve(budgets.recipe_of(candidate, budget, 3, "meshes.npz"), candidate)
            assert recipe.trainer.seed == 3
            assert recipe.objective.name in OBJECTIVES.members


def test_the_models_of_the_meshes_are_listed_and_a_folder_with_the_list_is_read_by_it(budgets, tmp_path):
    with budgets.MODELS.open() as file:
        models = list(csv.DictReader(file))
    assert len({one["path"] for one in models}) == 254
    assert {one["class"] for one in models} == set(budgets.ASYMMETRIC)
    classes = {one["group"]: one["class"] for one in models}
    assert all(classes[one["group"]] == one["class"] for one in models)
    shutil.copy(budgets.MODELS, tmp_path)
    assert budgets.recipe_of("sie", "meshes", 0, str(tmp_path))["data"]["csv_file"] == budgets.MODELS.name
    assert "csv_file" not in budgets.recipe_of("sie", "meshes", 0, "meshes.npz")["data"]


def test_a_file_says_what_is_left_to_train(budgets, tmp_path, monkeypatch, capsys):
    trained = []

    def one_run(asked, candidate, seed):
        trained.append((candidate, seed))
        return {"numbers": {"linear/top1 | all": [0.5, 0.1, 0.2, 0.1]}}

    monkeypatch.setattr(budgets, "one_run", one_run)
    words = [str(tmp_path / "runs"), "--candidates", "simclr", "sie", "--output", str(tmp_path / "all.json")]
    assert budgets.main([*words, "--seeds", "0"]) == 0
    assert budgets.main([*words, "--seeds", "0", "1"]) == 0
    assert trained == [("simclr", 0), ("sie", 0), ("simclr", 1), ("sie", 1)]
    written = json.loads((tmp_path / "all.json").read_text())
    assert written["table"] == "one-budget"
    assert [*written["runs"]] == [f"solids-small {name} {seed}" for name in ("sie", "simclr") for seed in (0, 1)]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--candidates", "simclrr"], "--candidates: unknown 'simclrr'; did you mean 'simclr'"),
        (["--budget", "meshes"], "--meshes: the budget meshes needs the file or the folder of the meshes"),
    ],
)
def test_a_mistake_is_one_line(budgets, tmp_path, capsys, words, message):
    assert budgets.main([str(tmp_path / "runs"), "--output", str(tmp_path / "all.json"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "all.json").exists()
