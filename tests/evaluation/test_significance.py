"""Paired tests over objects: exact where they can be, with errors of the right size, for means and for other scores."""

import numpy as np
import pytest
import torch
from constructed import normal
from scipy.stats import permutation_test
from sklearn.metrics import r2_score

from ssl_inv.evaluation import results
from ssl_inv.evaluation.results import Bootstrap, object_sums
from ssl_inv.evaluation.significance import (
    design_effect,
    exchange_p,
    holm,
    mean_of_rows,
    object_error,
    paired,
    paired_means,
)


def sums_of(values: torch.Tensor) -> torch.Tensor:
    """Sums and counts of objects with one row each."""
    return torch.stack((values, torch.ones_like(values)), dim=1)


def test_the_exact_p_is_that_of_scipy():
    first, second = normal(0, 10) + 0.5, normal(1, 10)
    expected = permutation_test(
        (first.numpy(), second.numpy()),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert exchange_p(sums_of(first), sums_of(second)) == pytest.approx(expected.pvalue)


def test_random_exchanges_come_near_the_exact_p(monkeypatch):
    first, second = sums_of(normal(2, 14) + 0.6), sums_of(normal(3, 14))
    exact = exchange_p(first, second)
    monkeypatch.setattr("ssl_inv.evaluation.significance._EXACT", 0)
    drawn = exchange_p(first, second)
    assert drawn == pytest.approx(exact, abs=0.02)
    monkeypatch.setattr("ssl_inv.evaluation.significance._PATTERNS", 1000)
    assert exchange_p(first, second) == drawn


def test_equal_encoders_do_not_differ_and_a_clear_difference_has_the_least_p():
    values, objects = normal(4, 200), torch.arange(200) // 4
    same = paired_means(values, objects, values.flip(0), objects.flip(0))
    assert (same.difference, same.p, same.objects) == (pytest.approx(0, abs=1e-12), 1, 50)
    better = paired_means(values + 5 + 0.1 * normal(5, 200), objects, values, objects)
    assert better.p == 1 / 10_001
    assert better.interval[0] < 5 < better.interval[1]
    assert better.interval[1] - better.interval[0] == pytest.approx(2 * 1.96 * better.error, rel=0.1)
    # The common part of both encoders cancels.
    assert better.error < 0.2 * object_error(values, objects)


def test_under_the_null_small_p_are_as_rare_as_they_say():
    p = []
    for seed in range(200):
        values = normal(100 + seed, 2, 10)
        p.append(exchange_p(sums_of(values[0]), sums_of(values[1])))
    assert 0.01 <= float(np.mean(np.array(p) <= 0.05)) <= 0.09


def r2_of_totals(totals: torch.Tensor) -> torch.Tensor:
    rows, first, second, error = totals.T
    return 1 - error / (second - first.square() / rows)


def test_r2_is_computed_again_on_every_resample():
    targets, objects = normal(6, 120), torch.arange(120) // 3
    predictions = [targets + scale * normal(7 + index, 120) for index, scale in enumerate((0.3, 0.6))]
    sums = []
    for predicted in predictions:
        columns = (torch.ones_like(targets), targets, targets.square(), (targets - predicted).square())
        sums.append(object_sums(torch.stack(columns, dim=1), objects))
    few = Bootstrap(20)
    found = paired(sums[0], sums[1], r2_of_totals, few)
    assert found.difference == pytest.approx(r2_score(targets, predictions[0]) - r2_score(targets, predictions[1]))
    drawn = few.resampled(torch.eye(40, dtype=torch.float64), lambda totals: totals).long()
    direct = []
    for counts in drawn:
        rows = torch.arange(120).repeat_interleave(counts.repeat_interleave(3))
        scores = [r2_score(targets[rows], predicted[rows]) for predicted in predictions]
        direct.append(scores[0] - scores[1])
    assert found.error == pytest.approx(float(np.std(direct, ddof=1)))
    assert found.interval == pytest.approx(tuple(np.quantile(direct, [0.025, 0.975])))
    assert found.p < 0.01


def test_resamples_do_not_depend_on_how_many_are_drawn_at_a_time(monkeypatch):
    sums = sums_of(normal(8, 30))
    whole = Bootstrap(50).resampled(sums, mean_of_rows)
    monkeypatch.setattr(results, "_DRAWS", 100)
    torch.testing.assert_close(Bootstrap(50).resampled(sums, mean_of_rows), whole, rtol=1e-12, atol=1e-12)


def test_the_design_effect_is_the_number_of_equal_views_and_one_for_independent_ones():
    objects = torch.arange(2000) // 10
    assert design_effect(normal(9, 200).repeat_interleave(10), objects) == pytest.approx(10, rel=0.02)
    assert design_effect(normal(10, 2000), objects) == pytest.approx(1, abs=0.25)


def test_holm_adjusts_a_family():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_other_objects_are_refused():
    with pytest.raises(ValueError, match="values of different objects: 3 and 3, 2 of them in both"):
        paired_means(torch.ones(3), torch.tensor([0, 1, 2]), torch.ones(3), torch.tensor([1, 2, 5]))
    with pytest.raises(ValueError, match="need the same objects"):
        paired(torch.ones(3, 2), torch.ones(2, 2))
