"""Claims about SER: moves are exact on maps, both views show one crop, and only early layers learn from tokens."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from small import build, total, vit
from small_data import plain

from ssl_inv.augment.policies import byol
from ssl_inv.nn.backbones import make_backbone
from ssl_inv.nn.token_moves import Move, carried
from ssl_inv.objectives.ser import SER, shared_rows, token_contrast
from ssl_inv.testing.cases import Case, losses_of
from ssl_inv.testing.processes import on_processes
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.views import SameCrop
from ssl_inv.views.makers import maker_of

MOCO = {"name": "moco-v3", "projector": [16, 8], "predictor": [16]}


def test_a_map_that_is_carried_is_the_map_of_the_other_view() -> None:
    image = torch.randn(4, 3, 4, 4)
    half_turns, mirrors = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    for start, end in product(range(4), range(4)):
        first = Move(half_turns, mirrors, (4, 4), start)
        second = first.opposite((4, 4), end)
        here, there = first.images(image, 1), second.images(image, 1)
        assert torch.equal(carried(here, first, second), there)
        assert torch.equal(carried(there, second, first), here)


def test_tokens_at_the_place_of_their_targets_cost_less_than_any_others() -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, 8, 2, 3)
    right, wrong = (token_contrast(maps, one, 0.1).item() for one in (maps, maps.flip(3)))
    assert right < 0.1 < wrong
    assert token_contrast(maps[:1], maps[:1].flip(3), 0.1).item() == 0, "places of the same sample are no negatives"


def test_both_views_show_one_crop_in_colours_of_their_own() -> None:
    images, index = torch.rand(8, 3, 24, 24), np.arange(8)
    key = Key(0, np.zeros_like(index), index, 3)
    first, second = (one.transform for one in maker_of(SameCrop(), byol(size=12)).make([plain(images)], key))
    for name in first.names:
        alike = torch.equal(first[name], second[name])
        assert alike == (name in ("crop", "flip")), name


@pytest.mark.parametrize("base", [{"name": "vicreg", "projector": [16, 8]}, MOCO])
def test_only_early_layers_and_the_head_learn_from_tokens(base: dict[str, Any]) -> None:
    settings = {"base": base, "layer": 1, "share": 0.5, "token_head": [8]}
    case = Case("ser", settings, backbone=vit(dynamic_img_size=True, depth=2))
    networks = case.build()
    backbone, objective = networks["backbone"], networks["objective"]
    objective.loss(case.views(1), backbone)["token_equivariance"].value.backward()
    learning = {name for name, one in networks.named_parameters() if one.grad is not None and one.grad.any()}
    assert "backbone.model.blocks.0.attn.qkv.weight" in learning
    assert "backbone.model.patch_embed.proj.weight" in learning
    assert "objective.token_head.1.weight" in learning
    assert not any("blocks.1" in name or "teacher" in name or "projector" in name for name in learning)


def test_without_weight_the_base_is_left_alone() -> None:
    base, network = {"name": "vicreg", "projector": [16, 8]}, vit(dynamic_img_size=True)
    around = Case("ser", {"base": base, "layer": 1, "weight": 0.0}, backbone=network)
    alone = Case("vicreg", {"projector": [16, 8]}, backbone=network)
    views = around.views(1)
    found = total(losses_of(around.build(), views))
    assert found.item() == total(losses_of(alone.build(), replace(views, views=views.views[:2]))).item()


def test_the_same_samples_are_moved_alike_in_a_step_and_otherwise_in_the_next() -> None:
    objective = build("ser", area=[0.5, 2.0])[1]
    index, device = torch.arange(12), torch.device("cpu")
    first, second = objective.moves(index, (12, 12), device)
    again, _ = objective.moves(index[6:], (12, 12), device)
    assert torch.equal(first.half_turns[6:], again.half_turns)
    assert (first.grid, first.quarters) == (again.grid, again.quarters)
    assert torch.equal(first.half_turns, ~second.half_turns)
    shapes = set()
    for step in range(1, 30):
        objective.after_step(build("ser")[0], step, 100)
        shapes.add(objective.moves(index, (12, 12), device)[0].grid)
    assert all(0.4 * 16 < rows * columns < 2.2 * 16 for rows, columns in shapes)
    assert len(shapes) > 5


def test_processes_share_the_rows_of_one() -> None:
    assert shared_rows(8, 0.4) == ([0, 2, 5], [0, 1, 2])
    assert on_processes(2, shared_rows, 4, 0.4) == [([0, 2], [0, 1, 2]), ([1, 1], [0, 1, 2])]
    assert len(shared_rows(64, 0.01)[0]) == 2, "one sample alone has no negatives"


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_stages_of_convolutional_networks_have_early_maps(name: str) -> None:
    backbone = make_backbone(name=name)
    objective = SER(backbone.features, {}, base={"name": "vicreg", "projector": [8]}, layer=2)
    objective.adopt(backbone)
    found = backbone.early_map(torch.randn(2, 3, 64, 32), 2)
    assert found.shape[2:] == (64 // objective.cell, 32 // objective.cell)
    assert objective.tokens(found).shape[1] == 512
