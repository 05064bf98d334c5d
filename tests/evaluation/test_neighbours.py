"""Nearest rows are those of scikit-learn, in any chunk, and far from the origin."""

import numpy as np
import pytest
import torch
from constructed import normal
from sklearn.neighbors import NearestNeighbors

from ssl_inv.evaluation.protocols.neighbours import nearest_rows, without_duplicates


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("chunk", [7, 512])
def test_they_equal_those_of_scikit_learn(offset, chunk):
    rows = normal(0, 200, 6) + offset
    distances, neighbours = nearest_rows(rows, 4, chunk=chunk)
    expected, order = NearestNeighbors(algorithm="brute").fit(rows.numpy()).kneighbors(n_neighbors=4)
    np.testing.assert_array_equal(neighbours.numpy(), order)
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-3 if offset else 1e-6)


def test_rows_of_one_group_are_no_neighbours_and_ties_go_to_the_lower_row():
    rows = torch.tensor([[0.0], [0.1], [1.0], [-1.0], [5.0]])
    assert nearest_rows(rows, 1, torch.tensor([0, 0, 1, 2, 3]))[1][:, 0].tolist() == [2, 2, 1, 0, 2]
    assert nearest_rows(torch.tensor([[0.0], [1.0], [-1.0]]), 2)[1].tolist() == [[1, 2], [0, 2], [0, 1]]
    with pytest.raises(ValueError, match="3 neighbours of each row need more rows: there are 2 candidates"):
        nearest_rows(rows[:3], 3)


def test_duplicates_are_left_out_and_counted_in_the_order_of_rows():
    rows = torch.tensor([[3.0, 1.0], [1.0, 2.0], [3.0, 1.0], [0.0, 0.0], [1.0, 2.0]])
    kept, dropped = without_duplicates(rows)
    assert kept.tolist() == [[3, 1], [1, 2], [0, 0]]
    assert dropped == 2
