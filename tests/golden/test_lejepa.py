"""SIGReg and LeJEPA give the numbers of the authors' code, and do what they claim."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import single, total
from torch import Tensor

from ssl_inv.memories.directions import RandomDirections
from ssl_inv.nn import losses
from ssl_inv.nn.sigreg import sigreg
from ssl_inv.objectives.lejepa import LeJEPA
from ssl_inv.views import Crops, MultiCrop, Pair

FACTS = "lejepa"


@pytest.fixture
def directions() -> Tensor:
    return F.normalize(single(101, 6, 10), dim=0)


def test_sigreg(facts: dict[str, Any], directions: Tensor) -> None:
    values, z = facts["lejepa_sigreg"], single(100, 32, 6).requires_grad_()
    for one, value in zip(directions.T, values["per_slice"], strict=True):
        assert sigreg(z, one[:, None]).item() == pytest.approx(value, rel=2e-5)
    value = sigreg(z, directions)
    assert value.item() == pytest.approx(values["sigreg"], rel=1e-5)
    assert sigreg(z, directions, reach=5.0).item() == pytest.approx(values["t_max_5"], rel=1e-5)
    value.backward()
    assert z.grad is not None
    np.testing.assert_allclose(z.grad[0], values["grad_row0"], rtol=2e-4)


@pytest.mark.parametrize(
    ("form", "distance", "sigreg", "loss"),
    [
        ("per-view", "all_views", "per_view_mean", "minimal_lambda_0p02"),
        ("flattened", "first_two_global", "flattened", "stable_pretraining_lambda_0p02_two_global"),
    ],
)
def test_lejepa(facts: dict[str, Any], directions: Tensor, form: Any, distance: str, sigreg: str, loss: str) -> None:
    values, objective = facts["lejepa_loss_multi_view"], LeJEPA(4, {}, form=form, local_views=1)
    objective.directions.forward = lambda _: directions
    terms = objective.embedding_loss(single(102, 3, 16, 6))
    assert terms["invariance"].value.item() == pytest.approx(values[f"invariance_{distance}"], rel=1e-5)
    assert terms["sigreg"].value.item() == pytest.approx(values[f"sigreg_{sigreg}"], rel=1e-5)
    assert total(terms).item() == pytest.approx(values[f"loss_{loss}"], rel=1e-5)


def test_terms_of_eb_jepa(facts: dict[str, Any]) -> None:
    """Its VICReg sums the hinges and averages squared covariances over pairs; its smoothness is the error of steps."""
    values, (x, y) = facts["eb_jepa_vicreg"], (single(110, 16, 6), single(111, 16, 6))
    distance, hinge = losses.mean_squared_error(x, y), losses.variance(x) + losses.variance(y)
    covariance = (losses.covariance(x) + losses.covariance(y)) / 5
    assert distance.item() == pytest.approx(values["invariance_loss"], rel=1e-5)
    assert hinge.item() == pytest.approx(values["var_loss"], rel=1e-5)
    assert covariance.item() == pytest.approx(values["cov_loss"], rel=1e-5)
    assert (distance + hinge + 80 * covariance).item() == pytest.approx(values["loss"], rel=1e-5)
    steps = single(112, 4, 5, 6)
    smoothness = losses.mean_squared_error(steps[:-1].flatten(0, 1), steps[1:].flatten(0, 1))
    assert smoothness.item() == pytest.approx(facts["eb_jepa_temporal_similarity"]["value"], rel=1e-5)


def test_sigreg_of_normal_embeddings_does_not_depend_on_how_many_there_are() -> None:
    directions = F.normalize(single(1, 8, 256), dim=0)
    values = {n: float(sigreg(single(2, n, 8), directions)) for n in (64, 4096)}
    assert values[64] == pytest.approx(values[4096], rel=0.35)
    unscaled = {n: float(sigreg(single(2, n, 8), directions, scale_by_batch=False)) for n in (64, 4096)}
    assert unscaled[64] == pytest.approx(values[64] / 64, rel=1e-5)
    assert unscaled[4096] == pytest.approx(values[4096] / 4096, rel=1e-5)


@pytest.mark.parametrize(
    "collapsed",
    [
        torch.zeros(256, 8),
        single(3, 256, 8) * torch.tensor([1.0] * 4 + [0.0] * 4),
        3 * single(3, 256, 8),
        1 + single(3, 256, 8),
    ],
    ids=["point", "subspace", "too wide", "off centre"],
)
def test_sigreg_sees_collapse(collapsed: Tensor) -> None:
    directions = F.normalize(single(1, 8, 256), dim=0)
    assert sigreg(collapsed, directions) > 5 * sigreg(single(3, 256, 8), directions)


def test_descending_sigreg_spreads_a_line_over_all_dimensions() -> None:
    draw, steps = RandomDirections(32), 150
    z = (0.1 * single(5, 64, 1) + 0.01 * single(6, 64, 4)).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for step in range(steps):
        draw.advance(step)
        optimizer.zero_grad()
        sigreg(z, draw(z)).backward()
        optimizer.step()
    deviations = torch.linalg.eigvalsh(z.detach().T.cov()).sqrt()
    assert deviations.min() > 0.7
    assert deviations.max() < 1.4


def test_directions_depend_on_seed_and_step_alone() -> None:
    z = torch.zeros(2, 6)
    one, other, third = RandomDirections(10), RandomDirections(10), RandomDirections(10, seed=1)
    torch.randn(3)
    first = one(z)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(10))
    assert torch.equal(first, other(z))
    assert torch.equal(first, one(z))
    assert not torch.allclose(first, third(z))
    one.advance(7)
    assert not torch.allclose(first, one(z))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(z), other(z)), "a step that is loaded counts"


def test_plan() -> None:
    assert LeJEPA(4, {}).plan == Pair(2)
    crops = MultiCrop((Crops(2), Crops(6, 98, (0.05, 0.3))))
    assert LeJEPA(4, {}, local_views=6).plan == crops
