"""Measures of feature maps and of robustness against recorded numbers of independent computations in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.random import RandomState

from ssl_inv.evaluation.protocols.correspondence import cell_centres, moved_points, pair_measures
from ssl_inv.evaluation.protocols.corruptions import corruption_errors
from ssl_inv.evaluation.protocols.dense import cell_shares, class_iou, mean_iou, neighbour_shares, pixel_counts
from ssl_inv.evaluation.protocols.fine_tuning import layer_groups
from ssl_inv.evaluation.protocols.pooling_heads import HEADS, AttentiveHead, cross_covariances

FACTS = json.loads((Path(__file__).parent / "data" / "exam_dense.json").read_text())


def expected(case: str) -> dict:
    return FACTS[case]["values"]


def test_corruption_errors_equal_the_recorded_ones() -> None:
    rs = RandomState(111)
    base = rs.uniform(0.2, 0.5, 15)
    errors = torch.from_numpy(np.clip(base[:, None] + np.sort(rs.uniform(0, 0.4, (15, 5)), axis=1), 0, 1))
    clean = 0.2 + 0.05 * rs.rand()
    below = torch.tensor(list(FACTS["corruption_error"]["alexnet_mean_error_over_severities"].values())).double()
    values = expected("corruption_error")
    assert corruption_errors(errors, below).tolist() == pytest.approx(list(values["ce_percent"].values()), rel=1e-6)
    assert float(corruption_errors(errors, below).mean()) == pytest.approx(values["mce_percent"], rel=1e-6)
    relative = corruption_errors(errors - clean, below - 0.4348).mean()
    assert float(relative) == pytest.approx(values["relative_mce_percent"], rel=1e-6)
    assert clean == pytest.approx(values["clean_error"])


def test_recall_under_a_homography_equals_the_recorded_one() -> None:
    rs = RandomState(1106)
    change = np.array([[0.08, 0.05, 6], [-0.04, 0.06, -5], [2e-4, -1e-4, 0]]) * (1 + 0.2 * rs.randn(3, 3))
    matrix = torch.from_numpy(np.eye(3) + change)
    source, target = rs.randn(196, 16), rs.randn(196, 16)
    centres, cell = cell_centres((14, 14), (224, 224))
    for number, (x, y) in enumerate(moved_points(matrix, centres).tolist()):
        if 0 <= x < 224 and 0 <= y < 224:
            target[int(y // 16) * 14 + int(x // 16)] = source[number] + 0.9 * rs.randn(16)
    found = pair_measures(*map(torch.from_numpy, (source, target)), centres, matrix, (224, 224), cell)
    values = expected("correspondence")["homography"]
    assert found is not None
    assert found["inside"] == values["inside"]
    for name, pixels in (("recall_half", "8"), ("recall", "16"), ("recall_two", "32")):
        assert found[name] == pytest.approx(values["recall_px"][pixels])
    assert found["mean_error"] == pytest.approx(values["mean_error_px"])
    assert found["recall_half/best"] == pytest.approx(values["best_possible_recall_8px"])


def test_segmentation_by_neighbours_equals_the_recorded_one() -> None:
    rs = RandomState(107)
    centres, truth = rs.randn(6, 12), rs.randint(0, 6, 600)
    memory = centres[truth] + 1.2 * rs.randn(600, 12)
    pixels = np.where(rs.rand(600, 16) < 0.8, truth[:, None], rs.randint(0, 6, (600, 16)))
    wanted = rs.randint(0, 6, 150)
    queries = centres[wanted] + 1.2 * rs.randn(150, 12)
    seen = np.where(rs.rand(150, 16) < 0.8, wanted[:, None], rs.randint(0, 6, (150, 16)))
    labels, given = (torch.from_numpy(one).view(-1, 4, 4) for one in (pixels, seen))
    shares = cell_shares(labels, 6, (1, 1)).view(600, 6).double()
    found = neighbour_shares(torch.from_numpy(memory), shares, torch.from_numpy(queries), 30, 0.02)
    values = expected("dense_knn")
    assert found[0].tolist() == pytest.approx(values["soft_label_row0"], rel=1e-5)
    predicted = found.argmax(dim=1)
    assert predicted[:20].tolist() == values["patch_predictions_first20"]
    counts = pixel_counts(predicted.view(-1, 1, 1).expand(150, 4, 4), given, 6).sum(dim=0)
    assert class_iou(counts).tolist() == pytest.approx(values["iou_per_class"])
    assert float(mean_iou(counts)) == pytest.approx(values["miou_dataset_level"])
    assert float(counts[0].sum() / counts[2].sum()) == pytest.approx(values["pixel_accuracy"])


def test_heads_of_tokens_equal_the_recorded_ones() -> None:
    rs = RandomState(108)
    tokens, query = rs.randn(4, 17, 24), 0.02 * rs.randn(24)
    keys, values = (rs.randn(24, 24) / np.sqrt(24) for _ in range(2))
    weight, bias = rs.randn(5, 24) / np.sqrt(24), rs.randn(5)
    head, x, facts = AttentiveHead(24, 5, 0, heads=6).double(), torch.from_numpy(tokens), expected("token_heads")
    given = {"query": query, "keys": keys, "values.weight": values, "values.bias": np.zeros(24)}
    given |= {"logits.weight": weight, "logits.bias": bias}
    head.load_state_dict({name: torch.from_numpy(value) for name, value in given.items()})
    with torch.no_grad():
        assert head.attention(x)[0, 0, :5].tolist() == pytest.approx(facts["attention_row0_head0_first5"])
        assert head(x)[0].tolist() == pytest.approx(facts["logits_row0"])
        assert float(head(x).sum()) == pytest.approx(facts["logits_sum"])
        head.query.mul_(100)
        assert float(head(x).sum()) == pytest.approx(facts["logits_sum_with_query_times_100"])
    moments = cross_covariances(x, 4)
    assert list(moments.shape[1:]) == facts["moment_features_shape"]
    assert float(moments.abs().sum()) == pytest.approx(facts["moment_features_sum_abs"], rel=1e-6)
    assert moments[0, 0, 0].tolist() == pytest.approx(facts["moment_features_first_row"], rel=1e-6)
    counts = {name: sum(one.numel() for one in kind(768, 1000, 512).parameters()) for name, kind in HEADS.items()}
    published = facts["parameter_counts_d768_1000_classes"]
    assert counts["mean"] == published["linear"]
    assert counts["attentive"] == published["capi_query_kv_bias_linear"] - 768, "keys have no bias"


def test_learning_rates_of_layers_equal_the_recorded_ones() -> None:
    body = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    head, values = torch.nn.Linear(body.num_features, 10), expected("layer_decay")
    groups = layer_groups(body, head, 1.0, 0.65, 0.05)
    of = {id(one): group for group in groups for one in group["params"]}
    names = dict(body.named_parameters()) | {f"head.{name}": one for name, one in head.named_parameters()}
    assert len(names) == values["n_parameters_tensors"]
    assert len(groups) == values["n_groups"]
    for name, scale in values["scale_of"].items():
        assert of[id(names[name])]["lr"] == pytest.approx(scale)
        assert of[id(names[name])]["weight_decay"] == values["weight_decay_of"][name]
    assert sorted({group["lr"] for group in groups}) == pytest.approx(values["distinct_scales"])
    assert sum(of[id(one)]["lr"] for one in names.values()) == pytest.approx(values["sum_of_scales_over_tensors"])
