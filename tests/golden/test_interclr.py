"""Bank, clusters, draws and losses of InterCLR equal those of the authors' code, on one process and on two."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import normal
from torch import Tensor

from ssl_inv.memories.bank import Bank
from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.draws import Drawn
from ssl_inv.nn import losses
from ssl_inv.nn.distributed import all_sum, gather, rank, world_size
from ssl_inv.objectives.interclr import InterCLR
from ssl_inv.testing.processes import on_processes

FACTS = "interclr"


def close(found: Tensor, expected: Any) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(expected), rtol=1e-9, atol=1e-11)


several_processes = pytest.mark.parametrize("processes", [1, 2])

# Functions for every one of several processes; each has its share of the samples.


def share(tensor: Tensor) -> Tensor:
    return tensor.chunk(world_size())[rank()]


def updated(bank: Bank, clusters: Clusters, index: Tensor) -> tuple[Bank, Clusters]:
    """Bank and clusters after a step on the objects `index`."""
    bank, clusters = copy.deepcopy((bank, clusters))
    before = bank.vectors.clone()
    bank.put(share(index), share(normal(1, 4, 5)))
    assert torch.equal(bank.vectors, before), "nothing may change before the step is done"
    for taken in bank.flush():
        clusters.relabel(*taken)
    return bank, clusters


def contrasted(whole: InterCLR, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """The loss on given draws, and its gradient for all queries."""
    queries = normal(2, 4, 5).requires_grad_()
    drawn = Drawn(share(negatives), torch.ones(len(share(negatives)), 1, dtype=torch.bool), None)
    loss = whole.contrast(losses.unit_rows(share(queries)), share(positives), drawn)
    loss.backward()
    assert queries.grad is not None
    # Every process has the gradient of the sum of all processes' losses; DDP takes the average.
    return loss.detach(), all_sum(queries.grad) / world_size()


def both_losses(whole: InterCLR, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """The loss on given draws, and the base's loss."""
    whole = copy.deepcopy(whole)
    inter = contrasted(whole, positives, negatives)[0]
    intra = whole.base.embedding_loss(share(normal(2, 4, 5)), share(normal(3, 4, 5)))["info_nce"]
    return inter, intra.weight * intra.value.detach()


def hard_negatives(whole: InterCLR, index: Tensor) -> Tensor:
    """The objects drawn for all queries."""
    queries, index = losses.unit_rows(share(normal(2, 4, 5))), share(index)
    negatives = whole.negatives
    assert negatives is not None
    labels = whole.clusters.labels
    drawn = negatives.draw(queries, labels[index].long(), whole.bank, labels, whole.clusters.members, index)
    return gather(drawn.objects)


def test_centroids_are_the_authors(facts, bank_and_clusters):
    _, clusters = bank_and_clusters()
    assert clusters.members.sizes.tolist() == facts["cases"]["1_init_and_centroids"]["expected"]["label_histogram"]
    close(clusters.centroids, facts["cases"]["1_init_and_centroids"]["expected"]["centroids (6x5)"])


@several_processes
@pytest.mark.parametrize("renewal", [1.0, 0.5])
def test_a_step_updates_vectors_and_labels_as_the_authors_do(facts, renewal, processes, bank_and_clusters):
    expected = facts["cases"]["2_memory_update"]["expected"]
    index = torch.tensor(facts["cases"]["2_memory_update"]["inputs"]["indices"])
    for bank, clusters in on_processes(processes, updated, *bank_and_clusters(renewal), index):
        close(bank.vectors[index], expected[f"momentum_{renewal}"]["bank_rows_after"])
        close(bank.vectors.sum(), expected[f"momentum_{renewal}"]["bank_check"]["sum"])
        assert clusters.labels[index].tolist() == expected[f"momentum_{renewal}"]["labels_after"]
        if renewal == 0.5:
            clusters.recentre(bank)
            close(clusters.centroids, expected["momentum_0.5_centroids_recomputed_after_the_update"])


def test_semi_hard_negatives_are_of_the_authors_pool_and_of_other_clusters(facts, drawn_negatives):
    expected = facts["cases"]["3_semi_hard_negatives"]["expected"]
    pools = expected["pool_indices_by_descending_similarity (4x24)"]
    (drawn, found, _), clusters = drawn_negatives("semi-hard")
    assert found.all()
    for row, pool, own, theirs in zip(
        drawn, pools, expected["query_labels"], expected["negative_indices (4x10)"], strict=True
    ):
        allowed = {one for one in pool if clusters.labels[one] != own}
        assert set(row.tolist()) <= allowed
        assert set(theirs) <= allowed
        assert len(set(row.tolist())) == len(row), "an object came twice"


@several_processes
def test_hard_negatives_are_the_authors(facts, processes, interclr):
    case = facts["cases"]["6_hard_negatives"]
    whole, index = interclr(negatives="hard"), torch.tensor([0, 13, 28, 51])
    for drawn in on_processes(processes, hard_negatives, whole, index):
        assert drawn.tolist() == case["expected"]["negative_indices"]


@several_processes
@pytest.mark.parametrize(
    ("case", "negatives"), [("4_inter_loss_margin", "3_semi_hard_negatives"), ("6_hard_negatives", "6_hard_negatives")]
)
def test_the_loss_on_given_draws_is_the_authors(facts, case, negatives, processes, interclr):
    positives = torch.tensor(facts["cases"]["3_semi_hard_negatives"]["expected"]["positive_indices"])
    drawn = facts["cases"][negatives]["expected"]
    drawn = torch.tensor(drawn.get("negative_indices (4x10)", drawn.get("negative_indices")))
    for loss, gradient in on_processes(processes, contrasted, interclr(), positives, drawn):
        close(loss, facts["cases"][case]["expected"]["loss"])
        if "grad_wrt_queries (4x5)" in facts["cases"][case]["expected"]:
            close(gradient, facts["cases"][case]["expected"]["grad_wrt_queries (4x5)"])


@several_processes
def test_both_losses_and_their_sum_are_the_authors(facts, processes, interclr):
    case, expected = facts["cases"]["8_inter_loss_given_indices"], facts["cases"]["9_intra_loss_and_total"]["expected"]
    whole = interclr()
    positives, negatives = (torch.tensor(case["inputs"][name]) for name in ("positives", "negatives"))
    whole.base.queue.vectors.copy_(F.normalize(normal(4, 5, 16), dim=0).T)
    for inter, intra in on_processes(processes, both_losses, whole, positives, negatives):
        close(inter, case["expected"]["loss"])
        close(intra, expected["intra_loss"])
        close((1 - whole.weight) * intra + whole.weight * expected["inter_loss"], expected["total"])
