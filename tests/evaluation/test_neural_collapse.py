"""At a simplex all measures of collapse are 0, and its baselines are far from it."""

import pytest
import torch
from constructed import normal, orthogonal, same_on_both, values, views_of

from ssl_inv.evaluation.protocols.neural_collapse import (
    ClassMoments,
    NeuralCollapse,
    unequal_angles,
    unequal_norms,
    within_over_between,
)
from ssl_inv.evaluation.protocols.sampling import object_groups


def simplex(classes: int, width: int) -> torch.Tensor:
    return (torch.eye(classes, width) - torch.eye(classes, width).mean(dim=0)).double() @ orthogonal(0, width) + 3


def test_every_measure_is_zero_at_a_simplex_and_not_with_shuffled_labels():
    labels = torch.arange(60) % 5
    table = views_of(simplex(5, 9)[labels][:, None].expand(-1, 4, -1), labels)
    found = values(NeuralCollapse(), same_on_both(table))
    assert [found[f"collapse/classes/{name}"] for name in ("nc1", "nc2/norms", "nc2/angles", "nc4")] == pytest.approx(
        [0] * 4, abs=1e-6
    )
    assert found["collapse/classes/nc3"] == pytest.approx(0, abs=1e-3)
    assert found["collapse/objects/nc1"] == pytest.approx(0, abs=1e-6)
    shuffled = {one.name: one.value for one in NeuralCollapse().shuffled(same_on_both(table), 0)}
    assert shuffled["collapse/classes/nc1"] > 1
    assert shuffled["collapse/objects/nc1"] > 0.1
    assert shuffled["collapse/classes/nc3"] > 0.1


def test_an_encoder_of_pose_alone_collapses_neither_objects_nor_classes():
    labels = torch.arange(40) % 4
    pose = normal(1, 1, 6, 10).expand(40, -1, -1) + 1e-2 * normal(2, 40, 6, 10)
    found = values(NeuralCollapse(), same_on_both(views_of(pose, labels)))
    assert found["collapse/objects/nc1"] > 100
    assert found["collapse/classes/nc1"] > 100


@pytest.mark.parametrize("width", [3, 30])
def test_nc1_is_the_trace_of_the_paper(width):
    labels = torch.arange(100) % 6
    features = normal(3, 6, width)[labels] + normal(4, 100, width)
    means = torch.stack([features[labels == one].mean(dim=0) for one in range(6)])
    apart, centred = features - means[labels], means - means.mean(dim=0)
    between = torch.linalg.pinv(centred.T @ centred / 6, hermitian=True, rtol=1e-10)
    expected = float(torch.trace(apart.T @ apart / 100 @ between)) / 6
    assert within_over_between(ClassMoments.of(features, labels)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("measure", [within_over_between, unequal_norms, unequal_angles])
def test_moments_without_a_group_are_those_of_the_rows_that_are_left(measure):
    labels, objects = torch.arange(90) // 3 % 4, torch.arange(90) // 3
    features = normal(5, 4, 7)[labels] + normal(6, 90, 7) + 100
    group = object_groups(objects, 10)
    for left_out, moments in enumerate(ClassMoments.without_groups(features, labels, objects)):
        kept = group != left_out
        expected = measure(ClassMoments.of(features[kept], labels[kept]))
        assert measure(moments) == pytest.approx(expected, rel=1e-9)
        if measure is unequal_angles:
            assert measure(moments, chunk=3) == pytest.approx(expected, rel=1e-9)
