"""A held part stays as it is while the other learns, parts leave at their depth, and finished cells are kept."""

import argparse
import importlib
from pathlib import Path

import pytest
import torch
from small import views_of

from ssl_inv.catalogue import SettingError
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.testing import GROUPS, random_transform

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = {
    "invariant": {"name": "simclr", "projector": [16, 8]},
    "equivariant": {"name": "sie", "equivariant_share": 1.0, "projector": [16, 8], "parameters": ["rotation"]},
}


@pytest.fixture
def module(monkeypatch):
    """A module of the benchmarks by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    return make_backbone(name="resnet18", stem="3x3-stride2", arguments={"channels": [4, 4, 6, 8]})


def two_views():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 6, 3, 16, 16, generator=generator)
    return views_of(pixels, [random_transform(GROUPS, 6) for _ in range(2)])


def stepped(backbone, objective):
    """One step of an optimiser with weight decay, as the engine takes it, and the features before and after."""
    optimizer = torch.optim.AdamW([*backbone.parameters(), *objective.parameters()], lr=0.1, weight_decay=0.5)
    views = two_views()
    encode = objective.representations(backbone)
    pixels = views[0].pixels
    before = {name: part.detach() for name, part in encode(pixels).items()}
    losses = objective.loss(views, backbone)
    sum(term.value * term.weight for term in losses.values()).backward()
    for parameter in objective.held(1, 10):
        parameter.grad = None
    optimizer.step()
    objective.after_step(backbone, 1, 10)
    return losses, before, encode(pixels)


@pytest.mark.parametrize(("trained", "other"), [("equivariant", "invariant"), ("invariant", "equivariant")])
def test_only_the_trained_part_of_a_held_network_changes(module, backbone, trained, other):
    one_part = module("split_objectives").OnePart
    objective = one_part(8, GROUPS, **PARTS, trained=trained, trunk="held")
    objective.adopt(backbone)
    losses, before, after = stepped(backbone, objective)
    assert losses
    assert all(name.startswith(f"{trained}_") for name in losses)
    assert torch.equal(before[other], after[other])
    assert not torch.allclose(before[trained], after[trained])


def test_up_to_stage_3_a_network_can_be_held_alone(module, backbone):
    objective = module("split_objectives").OnePart(8, GROUPS, **PARTS, trained="equivariant", trunk="held-to-stage-3")
    objective.adopt(backbone)
    kept = {name: value.detach().clone() for name, value in backbone.named_parameters()}
    stepped(backbone, objective)
    moved = {name.split(".")[1] for name, value in backbone.named_parameters() if not torch.equal(value, kept[name])}
    assert moved == {"layer4"}


def test_a_free_network_changes_both_parts_and_a_held_one_cannot_train_both(module, backbone):
    one_part = module("split_objectives").OnePart
    objective = one_part(8, GROUPS, **PARTS, trained="equivariant")
    objective.adopt(backbone)
    _, before, after = stepped(backbone, objective)
    assert not torch.allclose(before["invariant"], after["invariant"])
    with pytest.raises(SettingError, match="trunk: 'held', but both parts are trained"):
        one_part(8, GROUPS, **PARTS, trunk="held")


@pytest.mark.parametrize(("early", "widths"), [("equivariant", (8, 6)), ("invariant", (6, 8))])
def test_parts_leave_at_their_stage(module, backbone, early, widths):
    objective = module("split_objectives").AtDepths(8, GROUPS, **PARTS, early=early, stage=2, channels=6)
    objective.adopt(backbone)
    losses, _, after = stepped(backbone, objective)
    assert {name.partition("_")[0] for name in losses} == {"invariant", "equivariant"}
    assert (after["invariant"].shape[1], after["equivariant"].shape[1]) == widths
    maps = backbone.stage_maps(two_views()[0].pixels, 2)
    assert torch.allclose(after[early], maps[0].mean((2, 3)))


def test_cells_that_are_kept_are_not_missing_and_phases_have_their_own_start(module, tmp_path):
    study, file = module("split_study"), tmp_path / "cells.json"
    asked = argparse.Namespace(output=file, seeds=[0, 1], cells=["joint", "simclr"])
    assert len(list(study.missing(asked))) == 4
    for cell, value in (("simclr", 1), ("joint", 2), ("simclr", 3)):
        study.keep(file, {"cell": cell, "seed": 0, "numbers": {"x": value}})
    assert list(study.missing(asked)) == [("joint", 1), ("simclr", 1)]
    assert [(one["cell"], one["numbers"]["x"]) for one in study.read(file)] == [("joint", 2), ("simclr", 3)]
    first, then = study.CELLS["invariant 150, held, equivariant 150"]
    assert "start" not in study.recipe_of(first, 0, None)["trainer"]
    recipe = study.recipe_of(then, 0, tmp_path)
    assert recipe["trainer"] | {"steps": 150, "start": str(tmp_path)} == recipe["trainer"]
    assert (recipe["objective"]["trained"], recipe["objective"]["trunk"]) == ("equivariant", "held")


def test_every_cell_of_the_study_has_its_row_in_a_table(module, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS.parent / "docs")
    tables, study = module("split_tables"), module("split_study")
    shown = {*tables.SHARES, *tables.ORDERS, *tables.DEPTHS, *tables.LAYERS}
    assert shown == set(study.CELLS)
    assert set(study.BY_LAYER) == set(tables.LAYERS)
