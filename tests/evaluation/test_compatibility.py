"""Retrieval between encoders that are equal up to a rotation, and between those that know objects alone."""

import numpy as np
import pytest
import torch
from constructed import normal, orthogonal, same_on_both, values, views_of
from sklearn.metrics import average_precision_score
from torch.nn.functional import normalize

from ssl_inv.evaluation.protocols.adapters import affine_adapter, orthogonal_adapter, relaxed_adapter
from ssl_inv.evaluation.protocols.compatibility import Compatibility, has_relevant, retrieve

LABELS = torch.arange(80) % 4
FEATURES = normal(0, 4, 16)[LABELS][:, None] + normal(1, 80, 2, 16)
SHORT = Compatibility(steps=20)


def test_a_rotated_encoder_is_compatible_after_the_orthogonal_map():
    rotated = views_of(FEATURES @ orthogonal(2, 16), LABELS)
    found = values(SHORT, same_on_both(views_of(FEATURES, LABELS), rotated))
    for name in ("orthogonal/old", "orthogonal/orthogonal", "new/new"):
        assert found[f"compatibility/cmc1/{name}"] == pytest.approx(found["compatibility/cmc1/old/old"], abs=0.02)
    assert found["compatibility/backfill"] == pytest.approx(found["compatibility/cmc1/old/old"], abs=0.02)
    assert found["compatibility/cmc1/new/old"] < 0.5


def test_a_better_encoder_gains_by_its_queries_alone():
    old = views_of(FEATURES @ orthogonal(2, 16)[:, :12] + 1.5 * normal(3, 80, 2, 12), LABELS)
    found = values(SHORT, same_on_both(views_of(FEATURES, LABELS), old))
    assert found["compatibility/ac/orthogonal"] == 1
    assert found["compatibility/ac/new"] == 0
    assert 0 < found["compatibility/gain/orthogonal"] < 1
    assert found["compatibility/cmc1/old/old"] < found["compatibility/backfill"]


def test_views_of_the_own_object_are_no_candidates():
    # The encoder knows the object and not its class.
    table = views_of(normal(14, 80, 1, 64).expand(-1, 3, -1) + 0.01 * normal(5, 80, 3, 64), LABELS)
    found = values(SHORT, same_on_both(table, table))["compatibility/cmc1/new/new"]
    assert found == pytest.approx(0.25, abs=0.15)
    unique = views_of(normal(6, 4, 3, 8), torch.arange(4))
    (alone,) = SHORT.run(same_on_both(unique, unique))
    assert alone.detail == "no class has validation views of two objects"


def test_average_precision_is_that_of_scikit_learn():
    queries, gallery, labels = normal(7, 30, 6), normal(8, 30, 6), torch.arange(30) % 3
    objects = torch.arange(30) // 2
    asked = torch.arange(0, 30, 4)
    first, precision = retrieve(queries, gallery, labels, objects, asked, chunk=3)
    scores = (normalize(queries, dim=1) @ normalize(gallery, dim=1).T).numpy()
    for position, row in enumerate(asked.tolist()):
        others = (objects != objects[row]).numpy()
        relevant = (labels == labels[row]).numpy()[others]
        expected = average_precision_score(relevant, scores[row][others])
        assert float(precision[position]) == pytest.approx(expected)
        assert bool(first[position]) == relevant[np.argmax(scores[row][others])]
    assert (
        has_relevant(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 2, 2, 3])).tolist() == [True] * 2 + [False] * 3
    )


def test_the_relaxed_map_leaves_the_orthogonal_ones_by_its_slack_and_comes_closer():
    source = normal(9, 300, 8)
    target = source @ orthogonal(10, 8) @ torch.linspace(0.2, 2, 8, dtype=torch.float64).diag()
    strict = orthogonal_adapter(source, target)
    deviations, errors = [], []
    for slack in (0.0, 1.0, 100.0):
        adapter = relaxed_adapter(source, target, slack, steps=400, rate=1e-2)
        deviations.append(float((adapter.matrix @ adapter.matrix.T - torch.eye(8)).norm()))
        errors.append(float((adapter(source) - target).square().sum()))
    assert deviations[0] < 0.2
    # The penalty begins to rise below the slack.
    assert 0.3 < deviations[1] < 1.1
    assert errors[0] <= float((strict(source) - target).square().sum()) * 1.01
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("rows", [5, 40])
def test_the_affine_map_equals_ridge_of_scikit_learn(rows):
    from sklearn.linear_model import Ridge

    source, target = normal(11, rows, 9) + 2, normal(12, rows, 3)
    expected = Ridge(alpha=0.7).fit(source.numpy(), target.numpy()).predict(source.numpy())
    np.testing.assert_allclose(affine_adapter(source, target, 0.7)(source).numpy(), expected, rtol=1e-8)
