"""Context prediction: the target is a neighbour's side, whatever the shifts, and it is learnt from pixels alone."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_inv.objectives.context_prediction import ContextPrediction, sides
from ssl_inv.transforms import Box, Transform
from ssl_inv.views import View, Views
from ssl_inv.views.cutters import patch_corners

CLOCKWISE = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
"""Rows and columns from the middle to the sides 0 to 7."""


def placed(objective: ContextPrediction, cells: Tensor, shifts: Tensor, pixels: Tensor) -> Views:
    """Views of cells `(B, V)` of the plan's grid, shifted by (y, x), `(B, 9, 2)`."""
    plan = objective.plan
    corners = torch.from_numpy(patch_corners(plan, shifts.numpy(), cells.numpy()))
    centres = (corners.flip(-1) + plan.patch / 2) / plan.view
    boxes = torch.cat((centres, torch.full_like(centres, plan.patch / plan.view)), dim=-1).float()
    made = (View(pixels[:, v], Transform({"patch": boxes[:, v]}, {"patch": Box()})) for v in range(cells.shape[1]))
    return Views(tuple(made), torch.arange(len(cells)))


def all_cells(batch: int) -> Tensor:
    return torch.tensor([[4, *(3 * (1 + down) + 1 + right for down, right in CLOCKWISE)]] * batch)


@pytest.mark.parametrize(
    "settings", [{}, {"patch_size": 24, "patch_gap": 8, "patch_jitter": 9}], ids=["paper", "furthest"]
)
def test_the_side_is_that_of_the_cell_at_every_shift(settings: dict[str, Any]) -> None:
    objective = ContextPrediction(4, {}, neighbours=8, hidden=[], **settings)
    random = np.random.default_rng(0)
    shifts = torch.from_numpy(random.choice([0, objective.plan.jitter], size=(512, 9, 2)))
    views = placed(objective, all_cells(512), shifts, torch.zeros(512, 9, 3, 2, 2))
    assert torch.equal(sides(views), torch.arange(8)[:, None].expand(8, 512))


def test_the_paper_s_places() -> None:
    plan = ContextPrediction(4, {}).plan
    assert (plan.step, plan.count, plan.sizes) == (144, 2, (96,))
    corners = patch_corners(plan, np.zeros((1, 9, 2), dtype=np.int64), np.arange(9)[None, [4, 5]])[0]
    assert (corners[1] - corners[0]).tolist() == [0, 96 + 48]


def test_loss_is_the_cross_entropy_of_the_classifier_on_both_features() -> None:
    objective = ContextPrediction(2, {}, neighbours=3, hidden=[], patch_size=24, patch_gap=8, patch_jitter=6)
    pixels = torch.randn(5, 4, 2)
    cells = all_cells(5)[:, [0, 3, 8, 1]]
    views = placed(objective, cells, torch.zeros(5, 9, 2, dtype=torch.int64), pixels)
    value = objective.loss(views, torch.nn.Identity())["side"].value  # type: ignore[arg-type]
    likelihoods = torch.log_softmax(objective.classifier(torch.cat((pixels[:, [0, 0, 0]], pixels[:, 1:]), -1)), -1)
    torch.testing.assert_close(value, -likelihoods[:, [0, 1, 2], [2, 7, 0]].mean())
