"""CKA is 1 for rotated features and 0 for independent ones, where the biased estimate has its level."""

import math
from dataclasses import replace

import pytest
import torch
from constructed import normal, orthogonal, same_on_both, values, views_of
from torch import Tensor

from ssl_inv.evaluation import FeatureTable
from ssl_inv.evaluation.protocols.cka import CKA, linear_cka


def hsic_of_matrices(k: Tensor, m: Tensor) -> Tensor:
    """Song et al., eq. 5, from the Gram matrices themselves."""
    n, ones = len(k), torch.ones(len(k), dtype=k.dtype)
    k, m = k - k.diag().diag(), m - m.diag().diag()
    terms = torch.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (terms - 2 / (n - 2) * ones @ k @ m @ ones) / (n * (n - 3))


@pytest.mark.parametrize("width", [4, 90])
def test_it_equals_the_definition_by_gram_matrices(width):
    x, y = normal(0, 50, width) + 3, normal(1, 50, 7)
    y[:, :4] += x[:, :4]
    k, m = ((rows - rows.mean(dim=0)) @ (rows - rows.mean(dim=0)).T for rows in (x, y))
    expected = hsic_of_matrices(k, m) / (hsic_of_matrices(k, k) * hsic_of_matrices(m, m)).sqrt()
    assert linear_cka(x, y) == pytest.approx(float(expected), rel=1e-9)


def test_independent_features_have_zero_and_the_biased_level():
    table = views_of(normal(2, 200, 1, 512))
    table = replace(table, features={"a": table.features["all"], "b": normal(3, 200, 512).float()})
    rows = {one.name: one for one in CKA().run(same_on_both(table))}
    assert abs(rows["cka/parts/b"].value) < 4 * rows["cka/parts/b"].spread < 0.05
    assert rows["cka_biased/parts/b"].value == pytest.approx(0.719, abs=0.005)
    assert "0.719 when independent, needs 5120 objects" in rows["cka_biased/parts/b"].detail


def test_a_rotated_and_scaled_encoder_is_the_same_and_rows_may_come_in_any_order():
    table = views_of(normal(4, 60, 3, 20))
    turned = replace(table, features={"all": (2.5 * table.features["all"] @ orthogonal(5, 20).float())})
    mixed = turned.select(torch.randperm(180, generator=torch.Generator().manual_seed(6)))
    assert values(CKA(), same_on_both(table, mixed))["cka/second/all"] == pytest.approx(1, abs=1e-6)


def test_features_that_do_not_vary_have_no_value():
    (constant, biased) = (linear_cka(torch.ones(9, 2), normal(0, 9, 2), debiased) for debiased in (True, False))
    assert math.isnan(constant)
    assert math.isnan(biased)
    (row,) = CKA().run(same_on_both(views_of(torch.ones(9, 1, 2)), views_of(normal(0, 9, 1, 2))))
    assert row.detail == "not defined: features do not vary, or not beyond noise"


def test_alone_or_with_other_views_it_says_why():
    table: FeatureTable = views_of(normal(7, 20, 2, 5))
    (alone,) = CKA().run(same_on_both(table))
    assert alone.value is None
    assert "second encoder" in alone.detail
    with pytest.raises(ValueError, match="the second encoder has features of other views: 10 rows of 10 objects"):
        list(CKA().run(same_on_both(table, views_of(normal(7, 10, 2, 5)))))


def test_the_error_is_the_deviation_over_samples():
    found = []
    for seed in range(30):
        rows = normal(seed, 150, 6)
        table = views_of(rows[:, None])
        other = views_of((rows + normal(100 + seed, 150, 6))[:, None])
        found.append(next(CKA().run(same_on_both(table, other))))
    deviation = float(torch.tensor([one.value for one in found]).std())
    assert float(torch.tensor([one.spread for one in found]).mean()) == pytest.approx(deviation, rel=0.4)
