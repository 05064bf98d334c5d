"""The worst case over views finds the side from which objects are not recognised."""

from itertools import combinations

import pytest
import torch
from constructed import normal, same_on_both, values, views_of

from ssl_inv.evaluation.protocols.worst_view import WorstView, adjacent_consistency, majority, worst_of

LABELS = torch.arange(60) % 3
SHORT = WorstView.quick()


def test_one_blind_side_shows_in_the_worst_case_and_not_in_the_majority():
    features = 4 * torch.eye(3, 8)[LABELS][:, None].repeat(1, 4, 1) + 0.1 * normal(0, 60, 4, 8)
    # From the third side all objects look like class 0.
    features[:, 2] = 4 * torch.eye(3, 8)[0] + 0.1 * normal(1, 60, 8)
    rows = {one.name: one for one in SHORT.run(same_on_both(views_of(features, LABELS)))}
    for head in ("knn", "logistic"):
        assert rows[f"worst_view/{head}/majority"].value == 1
        assert rows[f"worst_view/{head}/worst_view"].value < 0.5
        assert "view 2 of each" in rows[f"worst_view/{head}/worst_view"].detail
        assert rows[f"worst_view/{head}/worst_case"].value <= rows[f"worst_view/{head}/worst_view"].value
        assert rows[f"worst_view/{head}/mean"].value > 0.75


def test_an_invariant_encoder_has_no_worst_view():
    table = views_of((4 * torch.eye(3)[LABELS] + 0.1 * normal(2, 60, 3))[:, None].expand(-1, 4, -1), LABELS)
    assert set(values(SHORT, same_on_both(table)).values()) == {1.0}


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_worst_of_k_is_the_mean_over_all_choices_of_views(k):
    correct = (normal(3, 20, 5) > -0.5).double()
    expected = [correct[:, list(some)].amin(dim=1) for some in combinations(range(5), k)]
    torch.testing.assert_close(worst_of(correct, k), torch.stack(expected).mean(dim=0))
    with pytest.raises(ValueError, match="k from 1 to 5, got 6"):
        worst_of(correct, 6)


def test_majorities_and_rings():
    predicted = torch.tensor([[2, 0, 0, 2], [1, 1, 3, 1]])
    assert majority(predicted).tolist() == [0, 1]
    assert adjacent_consistency(predicted).tolist() == [0.5, 0.5]
    labels = torch.arange(30) % 3
    ring = WorstView(ring=True, logistic=SHORT.logistic)
    table = views_of(torch.eye(3)[labels][:, None] + normal(4, 30, 4, 3), labels)
    assert "worst_view/knn/adjacent" in values(ring, same_on_both(table))


def test_objects_of_one_view_have_no_worst_view():
    (found,) = SHORT.run(same_on_both(views_of(normal(5, 60, 1, 4), LABELS)))
    assert found.detail == "needs two views of most objects"


def test_agreement_has_no_value_for_a_constant_classifier_and_none_is_left_of_chance():
    labels = torch.arange(300) % 3
    measured = lambda predicted: {row.name: row for row in SHORT.measures("knn", "all", predicted, labels)}  # noqa: E731
    constant = measured(torch.zeros(300, 4, dtype=torch.int64))
    assert constant["worst_view/knn/pairwise"].value == 1
    assert constant["worst_view/knn/agreement"].value is None
    assert constant["worst_view/knn/agreement"].detail == "all views have the same prediction"
    random = measured((normal(7, 300, 4) > 1).long())
    assert random["worst_view/knn/pairwise"].value > 0.65
    assert abs(random["worst_view/knn/agreement"].value) < 0.1
    assert measured(labels[:, None].expand(-1, 4))["worst_view/knn/agreement"].value == pytest.approx(1)
