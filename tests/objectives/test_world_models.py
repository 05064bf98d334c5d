"""World models read the views of an object in the order of the data, and predict from one view what they trained."""

from dataclasses import replace

import pytest
import torch
from small import build, total

from ssl_inv.testing import GROUPS, random_transform
from ssl_inv.views import View, Views


@pytest.mark.parametrize("name", ["lewm", "sd-jepa"])
def test_views_are_put_into_the_order_of_the_data(name: str) -> None:
    backbone, objective = build(name)
    torch.manual_seed(1)
    ordered = tuple(View(torch.randn(6, 3, 12, 12), random_transform(GROUPS, 6)) for _ in range(4))
    numbers = torch.arange(4)[:, None].expand(-1, 6)
    views = Views(ordered, torch.arange(6), torch.stack((torch.arange(6).expand(4, -1), 3 * numbers), dim=2))
    assert views.shown is not None
    drawn = [2, 0, 3, 1]
    shuffled = replace(views, views=tuple(ordered[one] for one in drawn), shown=views.shown[drawn])
    expected = total(objective.loss(views, backbone))
    torch.testing.assert_close(total(objective.loss(shuffled, backbone)), expected)
    assert not torch.allclose(total(objective.loss(replace(shuffled, shown=None), backbone)), expected)


@pytest.mark.parametrize("name", ["lewm", "sd-jepa"])
def test_the_prediction_of_one_view_is_the_first_of_the_sequence(name: str) -> None:
    backbone, objective = build(name)
    networks = torch.nn.ModuleList((backbone, objective)).eval()
    for block in objective.world.blocks:
        torch.nn.init.normal_(block.modulation.weight)
    torch.manual_seed(1)
    views = tuple(View(torch.randn(6, 3, 12, 12), random_transform(GROUPS, 6)) for _ in range(4))
    predictor = objective.predictor(networks[0])
    embedding = predictor.embed(views[0].pixels)
    action = views[0].transform.relative(views[1].transform)
    every = torch.stack([predictor.embed(view.pixels) for view in views[:3]], dim=1)
    actions = torch.stack([action.as_vector(["rotation"]) for action in Views(views, torch.arange(6)).actions()], dim=1)
    predicted = objective.world.predict(every, objective.world.standardised(actions))
    torch.testing.assert_close(predictor.predict(embedding, action), predicted[:, 0])


def test_positives_lie_in_the_window_after_the_middle() -> None:
    _, objective = build("sd-jepa", observed=5, window=2)
    index = torch.arange(200)
    positives = objective._positives(index)
    assert set(positives.tolist()) == {4, 5}
    assert torch.equal(positives[50:], objective._positives(index[50:])), "each sample has its own"
    objective.advance(1, 10)
    assert not torch.equal(positives, objective._positives(index))
