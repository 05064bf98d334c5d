"""The regression is scikit-learn's, whatever the shape, and C is chosen on held-out objects."""

import numpy as np
import pytest
import torch
from constructed import normal, same_on_both, views_of
from sklearn.linear_model import LogisticRegression as Reference

from ssl_inv.evaluation import Encoded
from ssl_inv.evaluation.protocols.logistic import LogisticRegression

EXACT = LogisticRegression(tolerance=1e-8)


@pytest.mark.parametrize(("rows", "width", "classes"), [(200, 8, 3), (60, 90, 4), (80, 5, 2)])
@pytest.mark.parametrize("strength", [0.01, 3.0])
def test_weights_and_scores_equal_those_of_scikit_learn(rows, width, classes, strength):
    labels = torch.arange(rows) % classes
    # Directions of very different variance, far from the origin.
    scale = torch.logspace(-2, 1, width, dtype=torch.float64)
    features = (normal(0, classes, width)[labels] + 2 * normal(1, rows, width)) * scale + 50
    head = EXACT.fit(features, labels, strength)
    reference = Reference(C=strength, solver="newton-cg", tol=1e-9, max_iter=2000)
    expected = reference.fit(features.numpy() - 50, labels.numpy()).predict_proba(features.numpy() - 50)
    np.testing.assert_allclose(head(features).softmax(dim=1).numpy()[:, :classes], expected, atol=2e-5)


def test_two_classes_have_one_vector_of_weights():
    labels, features = torch.arange(100) % 2, normal(2, 100, 3)
    features[:, 0] += labels
    head = EXACT.fit(features, labels, 0.5)
    torch.testing.assert_close(head.weight[:, 0], -head.weight[:, 1], atol=1e-6, rtol=1e-6)
    single = Reference(C=0.5, solver="newton-cg", tol=1e-10).fit(features.numpy(), labels.numpy())
    np.testing.assert_allclose((head.weight[:, 1] - head.weight[:, 0]).numpy(), single.coef_[0], rtol=1e-4)


def test_without_strength_the_majority_wins_and_an_unseen_class_never():
    labels = torch.tensor([0] * 6 + [2] * 3)
    head = EXACT.fit(normal(3, 9, 4), labels, 1e-9)
    assert head(normal(4, 5, 4)).argmax(dim=1).tolist() == [0] * 5
    assert head.scores(normal(4, 5, 4), 4)[:, [1, 3]].isinf().all()


def test_the_smallest_of_equally_good_strengths_is_chosen_on_other_objects():
    labels = torch.arange(40) % 2
    separable = views_of(5 * normal(5, 2, 6)[labels][:, None] + 0.1 * normal(6, 40, 3, 6), labels)
    protocol = LogisticRegression(strengths=(1e-3, 1.0, 1e3))
    assert protocol.choose_strength(separable.features["all"], separable.labels, separable.objects) == 1e-3
    (found,) = protocol.run(same_on_both(separable))
    assert (found.name, found.value, found.detail) == ("logistic/top1", 1.0, "C = 0.001, an end of the grid")


def test_an_encoder_of_the_object_alone_generalises_by_chance():
    labels = torch.arange(200) % 4
    table = [views_of(normal(seed, 200, 1, 20).expand(-1, 3, -1), labels) for seed in (7, 8)]
    (found,) = LogisticRegression.quick().run(Encoded(*table))
    assert abs(found.value - 0.25) < 4 * found.spread
    assert LogisticRegression().strengths[0] == pytest.approx(1e-6)
    assert len(LogisticRegression().strengths) == 45
