"""Claims about the losses of transitive invariance, from their definitions."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor, nn

from ssl_inv.memories.graph import NeighbourGraph
from ssl_inv.memories.search import EdgeRules, find_neighbours
from ssl_inv.nn import losses
from ssl_inv.objectives.transitive import TransitiveInvariance, choose_negatives

COUNTS = np.array([1, 4, 2, 1, 3, 2, 5, 2])


def objective(**settings: Any) -> TransitiveInvariance:
    """On a graph of objects with 1 to 5 images."""
    torch.manual_seed(0)
    made = TransitiveInvariance(8, {}, projector=[6], neighbours=2, **settings)
    made.graph = NeighbourGraph(len(COUNTS), int(COUNTS.sum()), 2)
    made.graph.lay_out(COUNTS)
    groups, features = np.repeat(np.arange(len(COUNTS)), COUNTS), RandomState(1).randn(int(COUNTS.sum()), 4)
    found = find_neighbours(features.astype(np.float32), groups, EdgeRules(2))
    made.graph.neighbours.copy_(torch.from_numpy(found))
    return made.double()


def batch(dimensions: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first, second = (F.normalize(torch.tensor(RandomState(seed).randn(6, dimensions)), dim=1) for seed in (3, 4))
    objects = torch.tensor([[0, 6, 2, 3, 4, 5], [0, 6, 7, 3, 4, 5]])
    return first.requires_grad_(), second.requires_grad_(), objects, torch.arange(6)


def test_the_triplet_loss_is_its_definition_and_leaves_related_objects_alone():
    made = objective(margin=0.7, negatives=100)
    first, second, objects, index = batch()
    found = made.embedding_loss(first, second, objects, index)["triplet"].value
    related = made.graph.related(torch.arange(8), torch.arange(8))
    every, theirs = torch.cat((first, second)), objects.flatten()
    total = torch.zeros((), dtype=torch.float64)
    for a, p, (one, other) in zip(first, second, objects.T, strict=True):
        for n, owner in zip(every, theirs, strict=True):
            if not related[one, owner] and not related[other, owner]:
                total = total + F.relu(a @ n - a @ p + 0.7) + F.relu(p @ n - a @ p + 0.7)
    torch.testing.assert_close(found, total / (2 * 6 * 100))
    assert total > 0
    apart = torch.eye(6, dtype=torch.float64)
    assert made.embedding_loss(apart, apart, objects, index)["triplet"].value == 0


def test_negatives_violate_the_margin_and_half_of_them_are_of_the_hardest():
    hinges = F.relu(torch.tensor(RandomState(0).randn(500, 40)))
    keys = torch.arange(500)
    easy, hard = (choose_negatives(hinges, 4, one, keys) for one in (False, True))
    hardest = torch.zeros_like(easy).scatter_(1, hinges.topk(4).indices, True)
    for chosen in (easy, hard):
        assert (chosen.sum(dim=1) == 4).all()
        assert not (chosen & (hinges == 0)).any()
    assert ((hard & hardest).sum(dim=1) >= 2).all()
    # About 20 violate the margin; behind the first half, 2 of the hardest are among the 18 that are left.
    assert float((hard & hardest).sum(dim=1).double().mean()) == pytest.approx(2 + 2 * 2 / 18, abs=0.1)
    assert float((easy & hardest).sum(dim=1).double().mean()) == pytest.approx(4 * 4 / 20, abs=0.15)
    assert torch.equal(choose_negatives(hinges[7:9], 4, True, keys[7:9]), hard[7:9]), "a function of the key"
    few = torch.zeros(2, 40)
    few[0, 3] = 1.0
    assert choose_negatives(few, 4, True, keys[:2]).nonzero().tolist() == [[0, 3]]


def test_negatives_are_random_first_and_hard_later():
    made = objective(hard_from=0.5, negatives=2)
    backbone, data = nn.BatchNorm1d(1), batch()
    values = []
    for step in (3, 5):
        made.after_step(backbone, step, 10)  # type: ignore[arg-type]
        values.append(made.embedding_loss(*data)["triplet"].value.item())
    assert values[1] > values[0]


def test_info_nce_without_relations_is_that_of_simclr():
    made = objective(criterion="info_nce", temperature=0.3)
    made.graph.neighbours.fill_(-1)
    first, second, _, index = batch()
    objects = torch.arange(6).expand(2, -1)
    found = made.embedding_loss(first, second, objects, index)["info_nce"].value
    torch.testing.assert_close(found, losses.nt_xent(first, second, 0.3))


@pytest.mark.parametrize("criterion", ["triplet", "info_nce"])
def test_nothing_is_pushed_from_what_the_graph_joins(criterion):
    made = objective(criterion=criterion, margin=2.0)
    made.graph.neighbours.fill_(-1)
    made.graph.neighbours[0, 0], made.graph.neighbours[1, 0] = 1, 0
    first, second = (torch.rand(2, 6, dtype=torch.float64).requires_grad_() for _ in range(2))
    terms = made.embedding_loss(first, second, torch.tensor([[0, 1], [0, 1]]), torch.arange(2))
    assert terms[criterion].value == 0
    apart = made.embedding_loss(first, second, torch.tensor([[0, 2], [0, 2]]), torch.arange(2))
    assert apart[criterion].value > 0
