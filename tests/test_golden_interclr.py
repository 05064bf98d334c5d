"""The bank, the clusters, the draws and the losses of InterCLR are those of the authors' code."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor

from ssl_inv import losses
from ssl_inv.sampling import Drawn


def normal(seed: int, *shape: int) -> Tensor:
    """What the facts are computed from."""
    return torch.tensor(RandomState(seed).randn(*shape))


@pytest.fixture(scope="module")
def facts(golden):
    return golden("interclr")["cases"]


def close(found: Tensor, expected: Any) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(expected), rtol=1e-9, atol=1e-11)


def given(negatives: Tensor) -> Drawn:
    """As if they had been drawn."""
    return Drawn(negatives, torch.ones(len(negatives), 1, dtype=torch.bool), None)


def test_centroids_are_the_authors(facts, bank_and_clusters):
    _, clusters = bank_and_clusters()
    assert clusters.members.sizes.tolist() == facts["1_init_and_centroids"]["expected"]["label_histogram"]
    close(clusters.centroids, facts["1_init_and_centroids"]["expected"]["centroids (6x5)"])


@pytest.mark.parametrize("renewal", [1.0, 0.5])
def test_a_step_updates_vectors_and_labels_as_the_authors_do(facts, renewal, bank_and_clusters):
    expected = facts["2_memory_update"]["expected"]
    index = torch.tensor(facts["2_memory_update"]["inputs"]["indices"])
    bank, clusters = bank_and_clusters(renewal)
    bank.put(index, normal(1, 4, 5))
    assert torch.equal(bank.vectors, bank_and_clusters()[0].vectors), "nothing may change before the step is done"
    for taken in bank.flush():
        clusters.relabel(*taken)
    close(bank.vectors[index], expected[f"momentum_{renewal}"]["bank_rows_after"])
    close(bank.vectors.sum(), expected[f"momentum_{renewal}"]["bank_check"]["sum"])
    assert clusters.labels[index].tolist() == expected[f"momentum_{renewal}"]["labels_after"]
    if renewal == 0.5:
        clusters.recentre(bank)
        close(clusters.centroids, expected["momentum_0.5_centroids_recomputed_after_the_update"])


def test_semi_hard_negatives_are_of_the_authors_pool_and_of_other_clusters(facts, drawn_negatives):
    expected = facts["3_semi_hard_negatives"]["expected"]
    pools = expected["pool_indices_by_descending_similarity (4x24)"]
    (drawn, found, _), clusters = drawn_negatives("semi-hard")
    assert found.all()
    for row, pool, own, theirs in zip(drawn, pools, expected["query_labels"], expected["negative_indices (4x10)"], strict=True):
        allowed = {one for one in pool if clusters.labels[one] != own}
        assert set(row.tolist()) <= allowed
        assert set(theirs) <= allowed
        assert len(set(row.tolist())) == len(row), "an object came twice"


def test_hard_negatives_are_the_authors(facts, drawn_negatives):
    (drawn, found, _), _ = drawn_negatives("hard")
    assert found.all()
    assert drawn.tolist() == facts["6_hard_negatives"]["expected"]["negative_indices"]


@pytest.mark.parametrize(
    ("case", "negatives"), [("4_inter_loss_margin", "3_semi_hard_negatives"), ("6_hard_negatives", "6_hard_negatives")]
)
def test_the_loss_on_given_draws_is_the_authors(facts, case, negatives, interclr):
    positives = torch.tensor(facts["3_semi_hard_negatives"]["expected"]["positive_indices"])
    drawn = facts[negatives]["expected"]
    drawn = torch.tensor(drawn.get("negative_indices (4x10)", drawn.get("negative_indices")))
    queries = normal(2, 4, 5).requires_grad_()
    loss = interclr().contrast(losses.unit_rows(queries), positives, given(drawn))
    close(loss, facts[case]["expected"]["loss"])
    if "grad_wrt_queries (4x5)" in facts[case]["expected"]:
        loss.backward()
        close(queries.grad, facts[case]["expected"]["grad_wrt_queries (4x5)"])


def test_both_losses_and_their_sum_are_the_authors(facts, interclr):
    case, expected = facts["8_inter_loss_given_indices"], facts["9_intra_loss_and_total"]["expected"]
    whole = interclr()
    queries = losses.unit_rows(normal(2, 4, 5))
    positives, negatives = (torch.tensor(case["inputs"][name]) for name in ("positives", "negatives"))
    close(whole.contrast(queries, positives, given(negatives)), case["expected"]["loss"])
    whole.base.queue.vectors.copy_(F.normalize(normal(4, 5, 16), dim=0).T)
    intra = whole.base.embedding_loss(normal(2, 4, 5), normal(3, 4, 5))["info_nce"]
    close(intra.value, expected["intra_loss"])
    close((1 - whole.weight) * intra.weight * intra.value + whole.weight * expected["inter_loss"], expected["total"])
