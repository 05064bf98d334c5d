"""Clusters are learnable where there are some."""

import pytest
import torch
from constructed import normal, same_on_both, values, views_of

from ssl_inv.evaluation.protocols.clid import CLID, clid


def test_separate_clusters_are_learnable_and_isotropic_noise_is_not():
    separate = 5 * normal(0, 10, 1, 32).expand(-1, 20, -1) + 0.1 * normal(1, 10, 20, 32)
    clustered = views_of(separate.reshape(200, 1, 32))
    noise = views_of(normal(2, 200, 1, 200))
    found = {name: values(CLID(), same_on_both(table)) for name, table in {"c": clustered, "n": noise}.items()}
    assert found["c"]["clid/learnability"] > 0.85
    assert found["n"]["clid/learnability"] < 0.4
    assert found["c"]["clid/dimension"] < found["n"]["clid/dimension"]


def test_views_of_the_own_object_do_not_help():
    # One view of each object is used, so views that are nearly equal make nothing learnable.
    nearly_equal = normal(3, 150, 1, 100) + 1e-3 * normal(4, 150, 8, 100)
    assert values(CLID(), same_on_both(views_of(nearly_equal)))["clid/learnability"] < 0.4


def test_the_sum_is_scaled_over_encoders():
    sums = clid(torch.tensor([0.2, 0.4, 0.3]), torch.tensor([10.0, 10.0, 30.0]))
    assert sums.tolist() == pytest.approx([0, 1, 1.5])
