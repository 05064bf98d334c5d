"""The evaluation suite against recorded numbers: the authors' code where there is some, and independent float64
computations.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from torch import Tensor

from ssl_inv.evaluation import Encoded, FeatureTable, NearestNeighbours, Retrieval, ViewPredictor
from ssl_inv.evaluation.protocols.classification import in_top
from ssl_inv.evaluation.protocols.retrieval import RetrievalSet, predicted_views, view_ranks
from ssl_inv.evaluation.protocols.spectrum import alpha_req, normalised_deviation, rankme, singular_values
from ssl_inv.evaluation.protocols.transforms_r2 import r2_mean, r2_per_dimension, r2_pooled
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms import Action, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler

GOLDEN = Path(__file__).parent / "data"
METRICS = json.loads((GOLDEN / "metrics.json").read_text())
SIE = json.loads((GOLDEN / "sie_eval.json").read_text())


def value(results: list[Result], name: str) -> float:
    found = next(result.value for result in results if result.name == name)
    assert found is not None
    return found


def golden_votes_input() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rs = np.random.RandomState(5)
    centres, train, test = rs.randn(7, 20), rs.randint(0, 7, 700), rs.randint(0, 7, 150)
    bank, queries = centres[train] + 1.6 * rs.randn(700, 20), centres[test] + 1.6 * rs.randn(150, 20)
    return torch.from_numpy(bank), torch.from_numpy(train), torch.from_numpy(queries), torch.from_numpy(test)


@pytest.mark.parametrize("case", METRICS["dino_weighted_knn"]["values"]["accuracy_percent"])
def test_nearest_neighbours_equal_the_recorded_accuracy(case: str) -> None:
    bank, train, queries, test = golden_votes_input()
    k, temperature = case.removeprefix("k").split("_T")
    votes = NearestNeighbours(int(k), float(temperature)).votes(bank, train, queries, 7)
    expected = METRICS["dino_weighted_knn"]["values"]["accuracy_percent"][case]
    assert int(in_top(votes, test, 1).sum()) == expected["n_correct_top1"]
    if expected["top5"] is not None:
        assert float(in_top(votes, test, 5).double().mean()) * 100 == pytest.approx(expected["top5"], rel=1e-6)


def test_nearest_neighbour_votes_equal_the_recorded_ones() -> None:
    bank, train, queries, _ = golden_votes_input()
    expected = METRICS["dino_weighted_knn"]["values"]
    votes = NearestNeighbours().votes(bank, train, queries, 7)
    assert votes[0].tolist() == pytest.approx(expected["k20_T007_softmax_scores_row0"], rel=1e-8)
    assert votes[:20].argmax(dim=1).tolist() == expected["k20_T007_predictions_first20"]


def test_r2_equals_the_recorded_forms_and_sklearn() -> None:
    rs = np.random.RandomState(6)
    t = rs.randn(250, 4) * [1, 2, 0.5, 0.1] + [0, 3, -1, 0.5]
    p = t + rs.randn(250, 4) * [0.5, 0.5, 0.5, 0.05]
    expected = METRICS["r2"]["values"]
    targets, predictions = torch.from_numpy(t), torch.from_numpy(p)
    assert r2_per_dimension(targets, predictions).tolist() == pytest.approx(expected["raw_values"], rel=1e-8)
    assert r2_mean(targets, predictions) == pytest.approx(expected["uniform_average"], rel=1e-8)
    assert r2_mean(targets, predictions) == pytest.approx(r2_score(t, p))
    pooled = expected["sie_official_single_global_mean_over_all_entries"]
    assert r2_pooled(targets, predictions) == pytest.approx(pooled, rel=1e-8)


def test_r2_and_topk_equal_the_numbers_of_the_sie_code() -> None:
    rs = np.random.RandomState(10)
    t = rs.randn(40, 4)
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    t[:, 3] = np.abs(t[:, 3])
    p = 0.7 * t + 0.2 * rs.randn(40, 4)
    colour = rs.uniform(0, 1, (40, 2)) - rs.uniform(0, 1, (40, 2))
    predicted_colour = 0.8 * colour + 0.1 * rs.randn(40, 2)
    logits, labels = rs.randn(40, 7), rs.randint(0, 7, 40)
    logits[np.arange(40), labels] += 0.8
    expected = SIE["R2_and_topk"]
    targets, predictions = torch.from_numpy(t), torch.from_numpy(p)
    assert r2_pooled(targets, predictions) == pytest.approx(expected["r2_rotation_pooled(reference)"], rel=1e-8)
    assert r2_per_dimension(targets, predictions).tolist() == pytest.approx(expected["r2_rotation_per_dim"], rel=1e-8)
    constant = targets.mean(dim=0).expand_as(targets)
    pooled = expected["r2_pooled_of_constant_per_dim_mean_predictor"]
    assert r2_pooled(targets, constant) == pytest.approx(pooled, rel=1e-8)
    assert r2_mean(targets, constant) == pytest.approx(0, abs=1e-12)
    pooled_colour = r2_pooled(torch.from_numpy(colour), torch.from_numpy(predicted_colour))
    assert pooled_colour == pytest.approx(expected["r2_colour_pooled(reference)"], rel=1e-8)
    for k in (1, 5):
        hits = in_top(torch.from_numpy(logits), torch.from_numpy(labels), k)
        assert float(hits.mean()) == pytest.approx(expected[f"top{k}"], rel=1e-6)


def test_spectrum_equals_the_recorded_numbers() -> None:
    z = np.random.RandomState(0).randn(512, 64) * np.arange(1, 65) ** -0.75 + 0.2
    expected = METRICS["rankme"]["values"]
    assert rankme(torch.from_numpy(z)) == pytest.approx(expected["paper_uncentered_eps1e7_p_plus_eps"], rel=1e-6)
    np.testing.assert_allclose(singular_values(torch.from_numpy(z)), np.linalg.svd(z, compute_uv=False), rtol=1e-8)
    rs = np.random.RandomState(1)
    q = np.linalg.qr(rs.randn(128, 128))[0]
    z2 = (rs.randn(1024, 128) * np.arange(1, 129) ** -0.6) @ q.T
    recorded = METRICS["alpha_req"]["values"]["fastssl_weighted_1_over_rank_idx3_100"]
    assert alpha_req(torch.from_numpy(z2)) == pytest.approx(recorded, rel=1e-6)
    a = torch.from_numpy(np.random.RandomState(3).randn(300, 16))
    expected_deviation = METRICS["alignment_uniformity"]["values"]["std_of_l2_normalised_per_channel_ddof1_mean_An"]
    assert normalised_deviation(a) == pytest.approx(expected_deviation, rel=1e-8)


def golden_galleries() -> tuple[RetrievalSet, RetrievalSet, Callable[[Tensor, Action], Tensor]]:
    rs = np.random.RandomState(11)
    weight = torch.from_numpy(0.5 * rs.randn(36, 4))

    def predict(embeddings: Tensor, action: Action) -> Tensor:
        matrices = (action.as_vector(["rotation"], "sie") @ weight.T).view(-1, 6, 6)
        return (matrices @ embeddings[:, :, None])[:, :, 0]

    galleries = []
    for count in (3, 2):
        angles = rs.uniform(-np.pi / 2, np.pi / 2, (50 * count, 3))
        rs.uniform(0, 1, (50 * count, 4))
        first, noise = torch.from_numpy(rs.randn(count, 6)), torch.from_numpy(0.3 * rs.randn(50 * count, 6))
        transform = Transform({"rotation": quaternion_from_euler(torch.from_numpy(angles))}, {"rotation": Rotation()})
        made = predicted_views(RetrievalSet(first[:, None].expand(-1, 50, -1), transform), predict)
        made = made + noise.view(count, 50, 6)
        galleries.append(RetrievalSet(torch.cat((first[:, None], made[:, 1:]), dim=1), transform))
    return galleries[0], galleries[1], predict


@pytest.mark.parametrize(("case", "normalise"), [("normalised", True), ("no_norm", False)])
@pytest.mark.parametrize("chunk", [13, 2048])
def test_retrieval_equals_the_numbers_of_the_sie_code(case: str, normalise: bool, chunk: int) -> None:
    train, validation, predict = golden_galleries()
    expected = SIE[f"retrieval_easy_noise0.3__{case}"]
    ranks = view_ranks(predicted_views(validation, predict, chunk), validation.embeddings, normalise, chunk)
    assert ranks.flatten().tolist() == expected["ranks_by_index_val"]
    tables = []
    for gallery in (train, validation):
        count, views, _ = gallery.embeddings.shape
        rows = torch.arange(count * views)
        features = {"z": gallery.embeddings.flatten(0, 1)}
        tables.append(FeatureTable(features, rows // views, rows % views, transform=gallery.transform))
    protocol = Retrieval(normalise=normalise, chunk=chunk)
    results = list(protocol.run(Encoded(tables[0], tables[1], ViewPredictor("z", predict))))
    for row in expected["float64_reimplementation"]["mrr"]:
        assert value(results, f"retrieval/{row['mode']}/mrr") == pytest.approx(row["MRR"], rel=1e-8)
        for k in (1, 2, 5, 10):
            assert value(results, f"retrieval/{row['mode']}/hit@{k}") == pytest.approx(row[f"H@{k}"], rel=1e-8)
    for row in expected["float64_reimplementation"]["pre"]:
        assert value(results, f"retrieval/{row['mode']}/pre") == pytest.approx(row["PRE"], rel=1e-6)
