"""The terms against invariance are zero or small only for embeddings that change with the view as the action says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small import build, views_of
from small_data import solids
from torch import Tensor

from ssl_inv.catalogue import SettingError
from ssl_inv.data.batches import StepBatches
from ssl_inv.data.source import Subset
from ssl_inv.data.wanted import Growth
from ssl_inv.objectives.anti_invariance import spread_within, views_told_apart
from ssl_inv.transforms import Rotation, Transform
from ssl_inv.views import Pair


def _embeddings(share: float) -> Tensor:
    """Of 4 views of 2,000 objects; a share of the variance is within objects."""
    draw = torch.Generator().manual_seed(0)
    objects, views = (torch.randn(2000, count, 5, generator=draw) for count in (1, 4))
    return (1 - share) ** 0.5 * objects + share**0.5 * views


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.5), (0.04, 0.3), (0.25, 0.0), (0.9, 0.0)])
def test_the_deviation_within_objects_is_asked_for_up_to_its_share(share: float, expected: float) -> None:
    z = _embeddings(share)
    assert float(spread_within(z, 0.5)) == pytest.approx(expected, abs=0.02)
    assert float(spread_within(7 * z - 3, 0.5)) == pytest.approx(float(spread_within(z, 0.5)), abs=1e-3)


def test_its_gradient_moves_views_of_an_object_apart_and_objects_nowhere() -> None:
    z = _embeddings(0.04)[:50].requires_grad_()
    spread_within(z, 0.5).backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert z.grad.sum(1).abs().max() < 1e-6
    moved = z.detach() - 100 * z.grad
    assert spread_within(moved, 0.5) < spread_within(z, 0.5)


def test_a_view_is_told_from_the_other_views_of_its_object_only_by_the_action() -> None:
    z = torch.nn.functional.normalize(torch.randn(6, 4, 32), dim=2)
    ignorant = z[:, :1].expand(-1, 3, -1)
    assert views_told_apart(z[:, 1:], z, 0.05) < 0.01
    assert views_told_apart(ignorant, z, 0.05) > 5
    invariant = z[:, :1].expand(-1, 4, -1)
    assert float(views_told_apart(invariant[:, 1:], invariant, 0.05)) == pytest.approx(np.log(4), abs=1e-4)


def _angles(batches: StepBatches, step: int) -> Tensor:
    first, *others = (one.transform for one in batches[step].images)
    return torch.stack([first.groups["rotation"].distance(first["rotation"], one["rotation"]) for one in others])


def test_pairs_grow_from_the_nearest_views_to_any() -> None:
    source = solids(objects=40, views=12)
    growth = Growth(("rotation",), 10, 0.01)
    grown, usual = (StepBatches(source, 40, 3, 0, growth=one) for one in (growth, None))
    means = [float(_angles(grown, step).mean()) for step in (0, 5, 9)]
    assert means[0] < means[1] < means[2]
    for step in (10, 11):
        assert torch.equal(grown[step].shown, usual[step].shown)
        assert torch.equal(grown[step].images[0].pixels, usual[step].images[0].pixels)
    # With the smallest share, the others are the two nearest of all.
    shown = grown[0].shown.numpy()
    for row in range(40):
        item, first = shown[0, row]
        record = source.record(np.full(12, item), np.arange(12))
        apart = record.groups["rotation"].distance(record["rotation"][[first]].expand(12, -1), record["rotation"])
        assert set(shown[1:, row, 1]) == set(torch.argsort(apart)[1:3].tolist())


def test_grown_pairs_depend_on_the_step_alone_and_not_on_the_process() -> None:
    source = Subset(solids(objects=20, views=6), np.arange(3, 19))
    growth = Growth(("rotation", "light_hue"), 8, 0.3)
    whole = StepBatches(source, 8, 2, 0, growth=growth)
    assert torch.equal(whole[5].shown, StepBatches(source, 8, 2, 0, growth=growth)[5].shown)
    halves = [StepBatches(source, 8, 2, 0, rank, 2, growth=growth)[5].shown for rank in (0, 1)]
    assert torch.equal(torch.cat(halves, dim=1), whole[5].shown)
    assert all(len(set(views)) == 2 for views in whole[5].shown[:, :, 1].T.tolist())


def test_the_base_has_the_first_views_of_the_plan() -> None:
    _, objective = build("anti-invariance", growth=5, smallest=0.1, parameters=["rotation"])
    assert objective.plan == Pair(4, Growth(("rotation",), 5, 0.1))
    assert objective.base.plan == Pair()
    # The head reads the equivariant half of SIE's features alone.
    assert objective.head[0].in_features == 2 * (objective.base.equivariant_projector[0].in_features)
    assert objective.parameters_told == ["rotation"]


def test_single_parameters_of_the_head_have_their_own_weights() -> None:
    told = {"parameters": ["rotation", "floor_hue"], "inverse": 0.5, "weights": {"rotation": 8.0}}
    _, objective = build("anti-invariance", **told)
    assert objective.told == [8.0, 0.5]


def test_a_symmetric_head_has_the_mean_error_of_both_directions() -> None:
    settings = {"base": {"name": "simclr", "projector": [8]}, "parameters": ["rotation"], "negatives": 0, "within": 0}
    backbone, objective = build("anti-invariance", **settings, symmetric=True)
    _, one_way = build("anti-invariance", **settings)
    one_way.load_state_dict(objective.state_dict())
    turns = torch.nn.functional.normalize(torch.randn(2, 6, 4), dim=2)
    made = [Transform({"rotation": turn}, {"rotation": Rotation()}) for turn in turns]
    views = views_of(torch.randn(2, 6, 3, 32, 32), made)
    swapped = replace(views, views=views.views[::-1])
    told = [float(one_way.loss(each, backbone)["inverse_rotation"].value.detach()) for each in (views, swapped)]
    assert told[0] != told[1]
    both = float(objective.loss(views, backbone)["inverse_rotation"].value.detach())
    assert both == pytest.approx(sum(told) / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"base": {"name": "simclr"}, "negatives": 0.0}, "parameters: is empty"),
        (
            {"base": {"name": "dino"}, "views": 16, "parameters": ["rotation"], "negatives": 0.0},
            "views: 16, but the base's own views are",
        ),
        ({"views": 1}, "views: must be at least 2"),
        ({"base": {"name": "simclr"}, "parameters": ["rotation"]}, "negatives: needs a base with a predictor"),
        ({"smallest": 0.0}, "smallest: must be above 0"),
        ({"weights": {"rotaton": 2.0}}, "weights: 'rotaton' is not among parameters; did you mean 'rotation'"),
        ({"weights": {"rotation": -1.0}}, "weights.rotation: must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        build("anti-invariance", **settings)
