"""Content and pose have the dimensions of the manifolds that a constructed encoder maps them to."""

import math

import pytest
import torch
from constructed import normal, orthogonal, same_on_both, values, views_of
from torch.nn.functional import normalize

from ssl_inv.evaluation.protocols.intrinsic_dimension import IntrinsicDimension
from ssl_inv.evaluation.protocols.neighbours import nearest_rows


def turntable(objects: int = 400, views: int = 40) -> torch.Tensor:
    """Objects on a 3-sphere, and of each the views of a turn about one axis, in a random basis of 12 dimensions."""
    content = 10 * normalize(normal(0, objects, 1, 4), dim=-1).expand(-1, views, -1)
    angle = 2 * math.pi * torch.rand(objects, views, 1, generator=torch.Generator().manual_seed(1))
    rows = torch.cat((content, angle.cos(), angle.sin(), torch.zeros(objects, views, 6)), dim=-1)
    return rows @ orthogonal(2, 12)


def test_pose_is_a_circle_and_content_has_more_dimensions():
    found = values(IntrinsicDimension(poses=20), same_on_both(views_of(turntable())))
    assert found["dimension/pose/two_nn"] == pytest.approx(1, abs=0.15)
    assert found["dimension/pose/knn_mle"] == pytest.approx(1, abs=0.15)
    assert found["dimension/pose/participation"] == pytest.approx(2, abs=0.1)
    # Three dimensions of the sphere, and one of the turn that is small beside it.
    assert 2.7 < found["dimension/content/two_nn"] < 4.6
    assert found["dimension/content/participation"] == pytest.approx(4, abs=0.2)


def test_equal_objects_are_left_out_and_counted():
    different = views_of(turntable(100, 1))
    twice = views_of(torch.cat((turntable(100, 1), turntable(100, 1)[:7])))
    plain, counted = (list(IntrinsicDimension().run(same_on_both(one))) for one in (different, twice))
    assert [one.value for one in counted] == [one.value for one in plain]
    assert counted[0].detail == "100 objects, 7 duplicates left out"


def test_equally_distant_objects_have_no_dimension_but_a_reason():
    found = next(IntrinsicDimension().run(same_on_both(views_of(torch.eye(12)[:, None]))))
    assert found.value is None
    assert "equally far" in found.detail


def test_the_error_of_the_likelihood_is_its_deviation_over_samples():
    protocol, drawn = IntrinsicDimension(), []
    for seed in range(30):
        drawn.append(protocol.measures(normal(seed, 300, 3), protocol.bootstrap)["two_nn_mle"])
    found = torch.tensor(drawn)
    assert float(found[:, 1].mean()) == pytest.approx(float(found[:, 0].std()), rel=0.35)
    assert nearest_rows(normal(0, 9, 3), 2)[0].shape == (9, 2)
