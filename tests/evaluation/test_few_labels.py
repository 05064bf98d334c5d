"""A share of the labels is a share of the objects of each class, with all their views."""

from dataclasses import replace

import pytest
import torch
from constructed import normal, views_of

from ssl_inv.evaluation import Encoded
from ssl_inv.evaluation.protocols.few_labels import FewLabels, drawn_objects, label_budget
from ssl_inv.evaluation.protocols.knn import NearestNeighbours

LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 4)
KNN = FewLabels(linear=None, logistic=None, draws=3)


def test_each_class_has_its_share_rounded_up():
    table = views_of(normal(0, 84, 3, 5), LABELS)
    drawn = drawn_objects(table, 0.1, 0)
    assert torch.bincount(LABELS[drawn]).tolist() == [5, 3, 1]
    assert drawn.tolist() != drawn_objects(table, 0.1, 0, draw=1).tolist()
    mixed = table.select(torch.randperm(252, generator=torch.Generator().manual_seed(1)))
    assert drawn_objects(mixed, 0.1, 0).tolist() == drawn.tolist()
    assert label_budget(torch.tensor([100, 1000, 50, 1]), 0.01).tolist() == [1, 10, 1, 1]


def test_rows_without_a_label_count_for_nothing():
    table = views_of(normal(0, 84, 3, 5), LABELS)
    labelled = replace(table, labelled=table.objects >= 50)
    assert (drawn_objects(labelled, 0.1, 0) >= 50).all()


def test_an_encoder_of_classes_needs_few_labels_and_one_of_objects_gets_nowhere():
    known = [views_of(3 * torch.eye(3)[LABELS][:, None] + 0.1 * normal(seed, 84, 3, 3), LABELS) for seed in (0, 1)]
    lost = [views_of(normal(seed, 84, 1, 16).expand(-1, 3, -1), LABELS) for seed in (2, 3)]
    for tables, least, most in ((known, 0.99, 1), (lost, 0.2, 0.7)):
        for found in KNN.run(Encoded(*tables)):
            assert least <= found.value <= most
            assert "3 draws" in found.detail
    assert [one.name for one in KNN.run(Encoded(*known))] == ["few_labels/1%/knn", "few_labels/10%/knn"]


def test_all_labels_give_the_score_of_the_classifier():
    tables = [views_of(normal(4, 3, 6)[LABELS][:, None] + normal(seed, 84, 3, 6), LABELS) for seed in (5, 6)]
    (found,) = replace(KNN, fractions=(1.0,)).run(Encoded(*tables))
    whole = next(NearestNeighbours().run(Encoded(*tables)))
    assert (found.value, found.spread) == pytest.approx((whole.value, whole.spread))
