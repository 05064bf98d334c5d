"""Alignment tells invariant from independent views; uniformity reaches the level of the sphere."""

import pytest
import torch
from constructed import normal, same_on_both, values, views_of
from torch.nn.functional import normalize

from ssl_inv.evaluation.protocols.alignment import AlignmentUniformity, object_alignment, uniform_level, uniformity


def test_an_invariant_encoder_is_aligned_and_independent_views_are_at_distance_two():
    invariant = views_of(normal(0, 200, 1, 16).expand(-1, 5, -1))
    # Lengths in single precision differ from 1 by rounding.
    assert values(AlignmentUniformity(), same_on_both(invariant))["alignment"] == pytest.approx(0, abs=1e-12)
    independent = AlignmentUniformity().run(same_on_both(views_of(normal(1, 200, 5, 16))))
    found = next(independent)
    assert abs(found.value - 2) < 4 * found.spread < 0.2


def test_alignment_is_the_mean_over_pairs_of_views_of_an_object():
    features, objects = normal(2, 9, 4), torch.tensor([5, 5, 5, 1, 1, 1, 1, 3, 3])
    unit = normalize(features, dim=1)
    expected = []
    for one in (1, 3, 5):
        rows = unit[objects == one]
        apart = (rows[:, None] - rows[None]).square().sum(dim=2)
        expected.append(float(apart.sum() / (len(rows) * (len(rows) - 1))))
    assert object_alignment(features, objects).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("width", [2, 16, 128])
def test_uniformity_of_the_sphere_is_its_level(width):
    found = list(AlignmentUniformity().run(same_on_both(views_of(normal(3, 1500, 1, width)))))[1]
    assert abs(found.value - uniform_level(width)) < 4 * found.spread
    assert found.spread < 0.02


def test_levels_of_uniformity_and_collapse():
    assert [round(uniform_level(width), 3) for width in (2, 16, 128, 512)] == [-1.575, -3.513, -3.938, -3.984]
    assert uniformity(torch.ones(10, 4)) == pytest.approx(0, abs=1e-12)


def test_the_error_of_uniformity_is_its_deviation_over_samples():
    drawn = [
        list(AlignmentUniformity().run(same_on_both(views_of(normal(seed, 100, 1, 4) + 1))))[1] for seed in range(40)
    ]
    deviation = float(torch.tensor([one.value for one in drawn]).std())
    assert float(torch.tensor([one.spread for one in drawn]).mean()) == pytest.approx(deviation, rel=0.35)
