"""Claims about the trajectory of three views: deviations from it, and its centre."""

import math

import pytest
import torch
from small import total
from torch import Tensor, nn

from ssl_inv.nn import bends
from ssl_inv.objectives.vicreg import VICReg
from ssl_inv.objectives.vicreg_trajectory import VICRegTrajectory, centre_of
from ssl_inv.testing import GROUPS
from ssl_inv.transforms import Transform
from ssl_inv.views import View, Views


@pytest.fixture
def trajectory() -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of some lengths: two ends, and one on the great circle through them."""
    torch.manual_seed(0)
    left, right = (torch.randn(8, 5, dtype=torch.float64) for _ in range(2))
    return left, 0.3 * left + 0.4 * right, right


def test_a_view_on_the_way_has_no_deviation(trajectory):
    left, centre, right = trajectory
    assert bends.geodesic_deviation(left, centre, right) < 1e-20
    assert bends.bend(left, (left + 2 * right) / 3, right) < 1e-12
    assert bends.bend(left, left - right, right) > 1


def test_deviation_is_the_squared_sine_of_the_angle_to_the_plane(trajectory):
    left, centre, right = trajectory
    normal = torch.linalg.svd(torch.stack((left, right), dim=1))[2][:, 2]
    tilted = nn.functional.normalize(centre, dim=1) * math.cos(0.3) + normal * math.sin(0.3)
    expected = torch.tensor(math.sin(0.3) ** 2, dtype=torch.float64)
    torch.testing.assert_close(bends.geodesic_deviation(left, 7 * tilted, right), expected)


@pytest.mark.parametrize("normalised", [True, False])
def test_the_way_bends_by_the_angle_of_its_steps_without_what_points_along_the_centre(normalised):
    left, centre, right = (torch.tensor([one], dtype=torch.float64) for one in ([-1.0, -2, 0], [0, 0, 3], [2, 0, 5]))
    # Along the centre, of length 3, the steps have lengths 3 and 2. They are removed; the authors' code removes 9
    # times as much.
    kept = 0.0 if normalised else 1 - 9
    first, second = (torch.tensor(step, dtype=torch.float64) for step in ([1, 2, 3 * kept], [2, 0, 2 * kept]))
    expected = 1 - torch.dot(first, second) / (first.norm() * second.norm())
    torch.testing.assert_close(bends.tangent_bend(left, centre, right, normalised), expected)


def test_the_comparison_of_seq_jepa_has_vicreg_s_terms_of_two_views():
    x, y, z = torch.randn(3, 8, 5, dtype=torch.float64)
    terms = VICRegTrajectory(6, GROUPS, projector=[5], shape="tangent", compared="two").embedding_loss(x, y, z)
    expected = VICReg(6, GROUPS, projector=[5], invariance=10.0, variance=10.0).embedding_loss(x, y)
    for name, term in expected.items():
        torch.testing.assert_close(terms[name].value, term.value)


def test_deviation_has_a_gradient_where_the_ends_meet(trajectory):
    left, centre, _ = (one.requires_grad_() for one in trajectory)
    bends.geodesic_deviation(left, centre, left.clone()).backward()
    assert left.grad.isfinite().all()
    assert centre.grad.isfinite().all()


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_the_view_between_the_others_is_the_centre(order, backbone, some_views, build):
    views = some_views(3)
    rotations = [torch.tensor([[0.0, 0.0, math.sin(a / 2), math.cos(a / 2)]]).repeat(8, 1) for a in (0.1, 0.5, 1.2)]
    both = zip(views.views, rotations, strict=True)
    turned = [View(one.pixels, Transform({**one.transform.values, "rotation": q}, GROUPS)) for one, q in both]
    shuffled = Views(tuple(turned[number] for number in order), views.index)
    assert centre_of(tuple(view.transform for view in shuffled.views), ["rotation"]).tolist() == [order.index(1)] * 8
    by_rotation, as_it_comes = (build("vicreg-trajectory", backbone, parameters=names) for names in (["rotation"], []))
    expected = total(as_it_comes.loss(Views(tuple(turned), views.index), backbone))
    torch.testing.assert_close(total(by_rotation.loss(shuffled, backbone)), expected)


def test_three_equal_views_have_the_terms_of_two_equal_views():
    x = torch.randn(8, 5)
    terms = VICRegTrajectory(6, GROUPS, projector=[5]).embedding_loss(x, x, x)
    expected = VICReg(6, GROUPS, projector=[5], invariance=10.0, variance=10.0).embedding_loss(x, x)
    for name, term in expected.items():
        torch.testing.assert_close(terms[name].value, term.value)
        assert terms[name].weight == term.weight
