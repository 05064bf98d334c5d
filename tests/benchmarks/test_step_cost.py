"""The benchmark of what objectives cost runs for each of them, and its bare networks do what the objective's step does
with them.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.nn.backbones import Backbone, Cached, make_backbone
from ssl_inv.nn.teacher import Teacher
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.run.recipe import RecipeError, read_yaml, shipped_recipes
from ssl_inv.transforms import Transform
from ssl_inv.views import Pair, View, Views

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "step_cost.py"


@pytest.fixture(scope="module")
def step_cost() -> ModuleType:
    spec = importlib.util.spec_from_file_location("step_cost", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = {read_yaml(path)["objective"]["name"] for path in shipped_recipes().values()}
WITH_RECIPE = sorted(NAMES & set(OBJECTIVES.members) - {"split"})
RECIPES = [pytest.param(name, marks=[] if name == "byol" else pytest.mark.slow) for name in WITH_RECIPE]


@pytest.mark.parametrize("name", RECIPES)
def test_every_objective_with_a_recipe_is_measured(name, step_cost, monkeypatch):
    monkeypatch.setattr(step_cost, "_WARM_UP", 0)
    is_resnet = read_yaml(shipped_recipes()[step_cost.recipe_of(name)])["backbone"]["name"].startswith("resnet")
    small = ["name=test_resnet", "arguments={}", "stem=default"] if is_resnet else ["arguments.depth=2"]
    overrides = ["--trainer.batch_size=16", "--trainer.accelerator=cpu", *(f"--backbone.{one}" for one in small)]
    cost = step_cost.measure(name, 1, overrides)
    assert cost.images >= 16
    assert min(cost.step_ms, cost.networks_ms, cost.step_mb, cost.networks_mb) > 0


class Example(Objective):
    """A head on the mean of two views beside a teacher, which has no gradient, and an output that nobody uses."""

    plan = Pair()

    def __init__(self, features: int) -> None:
        super().__init__()
        self.head, self.spare = nn.Linear(features, 4), nn.Linear(features, 4)

    def adopt(self, backbone: Backbone) -> None:
        self.teacher = Teacher(backbone)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        x, y = backbone(views[0].pixels), backbone.feature_map(views[1].pixels).mean((2, 3))
        self.spare(x.detach())
        target: Tensor = self.teacher(views[0].pixels).mean()
        return {"term": Term(((self.head(x) + self.head(y)).mean() - target).square())}


def test_bare_networks_are_those_of_the_loss_with_gradients_where_it_has_them(step_cost):
    backbone = make_backbone(name="test_resnet")
    objective = Example(backbone.features)
    objective.adopt(backbone)
    views = Views(tuple(View(torch.randn(2, 3, 32, 32), Transform.empty()) for _ in range(2)), torch.arange(2))
    calls: list[Any] = []

    def step() -> None:
        objective.loss(views, backbone)["term"].value.backward()

    networks = step_cost.Networks(step)
    watched = (backbone.model.conv1, objective.teacher, objective.head, objective.spare)
    for module in watched:
        module.register_forward_hook(lambda module, *_: calls.append(module))
    objective.zero_grad(set_to_none=True)
    backbone.zero_grad(set_to_none=True)
    networks()
    assert [sum(call is module for call in calls) for module in watched] == [2, 1, 2, 1]
    assert all(one.grad is not None for one in (*backbone.parameters(), *objective.head.parameters()))
    assert all(one.grad is None for one in (*objective.spare.parameters(), *objective.teacher.parameters()))


def test_a_pass_that_a_cache_has_found_again_is_one_pass(step_cost):
    backbone, pixels = make_backbone(name="test_resnet"), torch.randn(2, 3, 32, 32)
    head = nn.Linear(backbone.features, 4)
    passes: list[int] = []

    def step() -> None:
        cached = Cached(backbone)
        (cached(pixels).square().mean() + head(cached(pixels)).mean()).backward()

    networks = step_cost.Networks(step)
    backbone.model.conv1.register_forward_hook(lambda *_: passes.append(1))
    backbone.zero_grad(set_to_none=True)
    networks()
    assert len(passes) == 1
    assert len(networks.calls) == 2
    assert networks.calls[1].arguments[0][0].call == 0, "the head reads what the backbone gave"
    assert all(one.grad is not None for one in backbone.parameters())


def test_what_calls_do_not_show_is_not_measured(step_cost):
    with pytest.raises(RecipeError, match="share passes"):
        step_cost.recipe_of("split")
