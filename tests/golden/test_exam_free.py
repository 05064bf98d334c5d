"""Protocols without an equivariant target against recorded numbers: scikit-dimension, scikit-learn, scipy, and
independent float64 computations.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.protocols.adapters import (
    affine_adapter,
    orthogonal_adapter,
    orthogonality_penalty,
    same_width,
    widened,
)
from ssl_inv.evaluation.protocols.alignment import alignment, object_alignment, uniformity
from ssl_inv.evaluation.protocols.cka import linear_cka
from ssl_inv.evaluation.protocols.compatibility import (
    average_accuracy,
    average_compatibility,
    relative_gain,
    retrieve,
)
from ssl_inv.evaluation.protocols.few_labels import label_budget
from ssl_inv.evaluation.protocols.few_shot import prototype_hits
from ssl_inv.evaluation.protocols.intrinsic_dimension import knn_dimension, participation_ratio, two_nn, two_nn_fit
from ssl_inv.evaluation.protocols.lidar import lidar
from ssl_inv.evaluation.protocols.logistic import LogisticRegression
from ssl_inv.evaluation.protocols.neighbours import nearest_rows
from ssl_inv.evaluation.protocols.stitching import relative_features
from ssl_inv.evaluation.protocols.worst_view import (
    adjacent_consistency,
    majority,
    pairwise_consistency,
    worst_case,
    worst_of,
)
from ssl_inv.evaluation.results import Bootstrap, object_sums
from ssl_inv.evaluation.significance import design_effect, exchange_p, mean_of_rows, object_error, paired

GOLDEN = Path(__file__).parent / "data"
EXAM = json.loads((GOLDEN / "exam_free.json").read_text())
METRICS = json.loads((GOLDEN / "metrics.json").read_text())


def recorded(name: str) -> dict[str, Any]:
    values: dict[str, Any] = (EXAM if name in EXAM else METRICS)[name]["values"]
    return values


def tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array)


def near(expected: float, rel: float = 1e-8) -> Any:
    return pytest.approx(expected, rel=rel, abs=1e-10)


def test_lidar_alignment_uniformity_and_cka_equal_the_recorded_numbers() -> None:
    rs = RandomState(2)
    views = (rs.randn(100, 32) * np.arange(1, 33) ** -0.5)[:, None] + 0.3 * rs.randn(100, 10, 32)
    expected = recorded("lidar")
    assert lidar(tensor(views)) == near(expected["delta1e4_unbiased_eps1e7"], 1e-6)
    assert lidar(tensor(views), 1e-2, 0) == near(expected["delta1e2_unbiased_no_eps"], 1e-6)

    rs = RandomState(3)
    a = rs.randn(300, 16)
    first, second = tensor(a), tensor(a + 0.4 * rs.randn(300, 16))
    expected = recorded("alignment_uniformity")
    assert alignment(first, second) == near(expected["alignment_alpha2"])
    assert alignment(first, second, 1) == near(expected["alignment_alpha1"])
    pairs = object_alignment(torch.cat((first, second)), torch.arange(300).repeat(2))
    assert float(pairs.mean()) == near(expected["alignment_alpha2"])
    for chunk in (7, 512):
        assert uniformity(first, chunk=chunk) == near(expected["uniformity_t2_An_distinct_pairs"])
    assert uniformity(first, 3) == near(expected["uniformity_t3_An_distinct_pairs"])

    rs = RandomState(4)
    x, w = rs.randn(200, 24), rs.randn(24, 40)
    y = tensor(np.maximum(x @ w, 0) + 0.5 * rs.randn(200, 40))
    expected = recorded("linear_cka")
    assert linear_cka(tensor(x), y) == near(expected["linear_cka_debiased_song_hsic1"])
    assert linear_cka(tensor(x), y, debiased=False) == near(expected["linear_cka_biased"])
    assert linear_cka(y, y) == near(expected["self"])


def test_intrinsic_dimensions_equal_those_of_scikit_dimension() -> None:
    sphere = normalize(tensor(RandomState(114).randn(1200, 6)), dim=1)
    expected = recorded("intrinsic_dimension")
    distances = nearest_rows(sphere, 10, chunk=77)[0]
    assert two_nn_fit(distances) == near(expected["twonn_linear_through_origin_F_i_over_N"])
    assert two_nn(distances) == near(expected["twonn_mle_N_over_sum_log_mu"])
    assert knn_dimension(distances) == near(expected["levina_bickel_k10_mackay_ghahramani_inverse_of_mean_inverse"])
    assert participation_ratio(sphere) == near(expected["participation_ratio_of_covariance"])


def test_logistic_regression_equals_scikit_learn_over_the_grid() -> None:
    rs = RandomState(110)
    w, x = rs.randn(10, 4), rs.randn(1500, 10) * np.linspace(0.2, 3, 10)
    y = tensor(np.argmax(x @ w + 4 * rs.randn(1500, 4), axis=1))
    features, order = tensor(x), tensor(RandomState(111).permutation(900))
    expected, asked, fit = recorded("logreg_grid"), order[:90], order[90:]
    regression = LogisticRegression(strengths=tuple(10 ** np.linspace(-6, 5, 12)), tolerance=1e-7)
    accuracies = regression.grid_accuracies(features[fit], y[fit], features[asked], y[asked])
    assert accuracies == pytest.approx(expected["validation_accuracy_per_C"])
    assert regression.strengths[accuracies.index(max(accuracies))] == pytest.approx(expected["best_C"])
    for name, recorded_fit in expected["train_set_fits"].items():
        head = regression.fit(features[:900], y[:900], float(name.removeprefix("C=")))
        assert float(head.weight.norm()) == near(recorded_fit["coef_frobenius"], 1e-4)
        hits = (head(features[900:]).argmax(dim=1) == y[900:]).double()
        assert float(hits.mean()) == pytest.approx(recorded_fit["test_top1"])
    assert LogisticRegression().strengths[:3] == pytest.approx(expected["published_grid_first3"])


def test_few_shot_prototypes_and_label_budgets_equal_the_recorded_numbers() -> None:
    rs = RandomState(109)
    features = rs.randn(20, 16)[:, None] + 1.8 * rs.randn(20, 30, 16)
    episodes = []
    for _ in range(200):
        classes = rs.permutation(20)[:5]
        episodes.append(np.stack([features[one][rs.permutation(30)[:20]] for one in classes]))
    drawn, expected = tensor(np.stack(episodes)), recorded("few_shot")
    of_episode = prototype_hits(drawn[:, :, :5], drawn[:, :, 5:]).double().mean(dim=(1, 2))
    cosine = expected["cosine_prototype_normalise_mean_normalise"]
    assert of_episode[:10].tolist() == pytest.approx(cosine["first10"])
    assert float(of_episode.mean()) == near(cosine["mean"])
    sizes = torch.tensor([137, 9, 250, 60, 31])
    assert label_budget(sizes, 0.1).tolist() == expected["semi_counts"]["class_balanced_ceil_10_percent"]


def test_worst_view_measures_equal_the_recorded_numbers() -> None:
    rs = RandomState(112)
    difficulty, of_view = rs.randn(120, 1), 0.7 * rs.randn(1, 8)
    correct = rs.rand(120, 8) < 1 / (1 + np.exp(-(1.2 + difficulty + of_view)))
    labels = rs.randint(0, 5, 120)
    rs.rand(120, 8)
    wrong = (labels[:, None] + 1 + rs.randint(0, 4, (120, 8))) % 5
    predicted, known = tensor(np.where(correct, labels[:, None], wrong)), tensor(labels)
    right, expected = tensor(correct).double(), recorded("worst_view")
    assert float(worst_case(right).mean()) == near(expected["per_object_worst_case_accuracy_all_views_right"])
    assert float(worst_of(right, 3).mean()) == near(expected["expected_worst_of_3_random_views"])
    assert float((majority(predicted) == known).double().mean()) == near(expected["majority_vote_accuracy"])
    assert float(pairwise_consistency(predicted).mean()) == near(expected["pairwise_consistency"])
    assert float(adjacent_consistency(predicted).mean()) == near(expected["adjacent_view_consistency"])
    assert float(right.mean(dim=0).min()) == near(expected["worst_view_column_accuracy"])


def test_adapters_and_retrieval_equal_the_recorded_numbers() -> None:
    rs = RandomState(113)
    centres, y = rs.randn(8, 16), rs.randint(0, 8, 800)
    new = centres[y] + 0.8 * rs.randn(800, 16)
    rs.randn(16, 16)
    old = ((new + rs.randn(800, 16)) @ np.array(EXAM["adapters"]["Q"]))[:, :12] + 0.3
    matrix = tensor(np.tril(0.4 + 0.3 * rs.rand(5, 5) + 0.04 * np.arange(5)[:, None]))
    padded_new, padded_old = same_width(tensor(new), tensor(old))
    fit, rest, expected = slice(0, 400), slice(400, 800), recorded("adapters")
    orthogonal = orthogonal_adapter(padded_new[fit], tensor(old)[fit])
    affine = affine_adapter(padded_new[fit], padded_old[fit])
    forward = affine_adapter(tensor(old)[fit], orthogonal(padded_new[fit]))
    spaces = {
        "old": padded_old[rest],
        "new": padded_new[rest],
        "orthogonal": orthogonal(padded_new[rest]),
        "affine": affine(padded_new[rest]),
        "forward": forward(tensor(old)[rest]),
    }
    labels, rows = tensor(y)[rest], torch.arange(400)
    pairs = {
        "old_old": ("old", "old"),
        "new_new": ("new", "new"),
        "new_query_raw_vs_old_gallery": ("new", "old"),
        "orthogonal_new_vs_old": ("orthogonal", "old"),
        "orthogonal_new_vs_orthogonal_new": ("orthogonal", "orthogonal"),
        "affine_new_vs_old": ("affine", "old"),
        "forward_old_vs_orthogonal_new_gallery": ("forward", "orthogonal"),
        "orthogonal_new_query_vs_forward_old_gallery": ("orthogonal", "forward"),
    }
    found = {}
    for name, (query, gallery) in pairs.items():
        found[name] = float(retrieve(spaces[query], spaces[gallery], labels, rows, rows, 33)[0].mean())
        assert found[name] == near(expected["cmc1"][name])
    eye = torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(orthogonal.matrix @ orthogonal.matrix.T, eye)
    gain = relative_gain(found["orthogonal_new_vs_old"], found["old_old"], found["new_new"])
    assert gain == near(expected["relative_gain_upgrade"])
    assert average_compatibility(matrix) == near(expected["AC_strict"])
    assert average_accuracy(matrix) == near(expected["AM_lower_triangle_with_diagonal"])
    assert widened(torch.ones(1, 2), 3).tolist() == [[1, 1, 0]]


def test_relative_features_and_the_orthogonality_penalty_equal_the_recorded_numbers() -> None:
    rs = RandomState(13)
    x = rs.randn(50, 8)
    turned, anchors = 2.5 * x @ np.linalg.qr(rs.randn(8, 8))[0], [3, 7, 11, 19, 23]
    expected = recorded("relative_representations")
    relative = relative_features(tensor(x), tensor(x)[anchors])
    assert relative[0].tolist() == pytest.approx(expected["rel_row0"], rel=1e-8)
    torch.testing.assert_close(relative_features(tensor(turned), tensor(turned)[anchors]), relative)
    weight, expected = torch.eye(6) + 0.3 * tensor(RandomState(14).randn(6, 6)), recorded("compatibility")
    for slack in (0, 1, 12):
        loss = float(orthogonality_penalty(weight, slack))
        assert loss == near(expected[f"lambda_orth_loss_lambda{slack}_alpha10"])


def test_paired_comparison_over_objects_equals_the_recorded_numbers() -> None:
    rs = RandomState(115)
    a = 0.8 * rs.randn(60, 1)
    first = tensor(1 + a + rs.randn(60, 10) > 0).double()
    second = tensor(0.8 + a + rs.randn(60, 10) > 0).double()
    objects, expected = torch.arange(60).repeat_interleave(10), recorded("object_bootstrap")
    assert object_error(first.flatten(), objects) == near(expected["cluster_robust_se_sum_of_residual_sums"])
    assert design_effect(first.flatten(), objects) == near(expected["design_effect"])
    ones = torch.ones(600, dtype=torch.float64)
    sums = [object_sums(torch.stack((one.flatten(), ones), dim=1), objects) for one in (first, second)]
    assert exchange_p(sums[0][:12], sums[1][:12]) == near(expected["exact_sign_flip_p_first12"])
    many = Bootstrap(2000)
    found = paired(sums[0], sums[1], bootstrap=many)
    assert found.difference == near(expected["paired_difference"])
    # Two drawings of 2,000 resamples differ by 2 % in their deviation, and by more at the ends.
    assert found.error == pytest.approx(expected["bootstrap_paired_se"], rel=0.08)
    assert found.interval == pytest.approx(expected["bootstrap_paired_percentile_95"], abs=0.006)
    assert many.interval(sums[0], mean_of_rows) == pytest.approx(expected["bootstrap_percentile_95"], abs=0.008)
