"""Claims about the graph of neighbours, the pairs that follow from it, and the losses on them, from the definitions."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor, nn

from ssl_inv.data.source import Images, Indices, Labels, Source
from ssl_inv.memories.gallery import Gallery
from ssl_inv.memories.graph import NeighbourGraph
from ssl_inv.memories.pairs import KINDS, Pairs
from ssl_inv.memories.search import EdgeRules, find_neighbours
from ssl_inv.nn import losses
from ssl_inv.objectives.transitive import TransitiveInvariance, choose_negatives
from ssl_inv.testing.processes import on_processes
from ssl_inv.transforms import Group, Transform

COUNTS = np.array([1, 4, 2, 1, 3, 2, 5, 2])
GROUPS = np.repeat(np.arange(len(COUNTS)), COUNTS)
STARTS = np.concatenate(([0], np.cumsum(COUNTS)))


def unit_rows(seed: int, rows: int = len(GROUPS), dimensions: int = 4) -> np.ndarray:
    features = RandomState(seed).randn(rows, dimensions)
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def edges(neighbours: np.ndarray) -> set[tuple[int, int]]:
    return {(here, int(there)) for here, row in enumerate(neighbours) for there in row if there >= 0}


def pairs(weights: tuple[float, float, float] = (1, 1, 1), gap: int = 1, seed: int = 0) -> Pairs:
    """Pairs of a graph of objects with 1 to 5 images, some of which have no edge."""
    neighbours = find_neighbours(unit_rows(1), GROUPS, EdgeRules(2))
    assert (neighbours < 0).all(axis=1).any()
    return Pairs(STARTS, neighbours, weights, gap, seed)


def graph() -> NeighbourGraph:
    made = NeighbourGraph(len(COUNTS), len(GROUPS), 2)
    made.lay_out(COUNTS)
    made.neighbours.copy_(torch.from_numpy(pairs().neighbours))
    return made


def objective(**settings: Any) -> TransitiveInvariance:
    """With the graph above."""
    torch.manual_seed(0)
    made = TransitiveInvariance(8, {}, projector=[6], neighbours=2, **settings)
    made.graph = graph()
    return made.double()


# The graph.


class Numbered(Source):
    """Twelve objects of two images each, whose pixels say which image it is."""

    groups: dict[str, Group] = {}
    labels = None
    image_size = 1
    view_counts = np.full(12, 2)

    def load(self, objects: Indices, views: Indices) -> Images:
        pixels = torch.from_numpy((2 * objects + views).astype(np.uint8)).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
        return Images(pixels, Transform.empty(), torch.ones(len(objects), dtype=torch.bool))


class Known(nn.Module):
    """The features of the recorded graph."""

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.from_numpy(unit_rows(15, 24, 6))[(255 * pixels[:, 0, 0, 0]).round().long()]


def built() -> NeighbourGraph:
    made = NeighbourGraph(12, 24, 3)
    made.lay_out(Numbered.view_counts)
    made.build(Gallery(Numbered(), nn.Identity(), "cpu", batch_size=5), Known(), EdgeRules(3))
    return made


@pytest.mark.parametrize("processes", [1, 2])
def test_edges_and_transitive_pairs_are_those_of_the_definition(golden, processes):
    facts = golden("metrics")["transitive_pairs"]["values"]
    for made in on_processes(processes, built):
        inter = {(here, there) for here, there in edges(made.neighbours.numpy()) if here < there}
        assert sorted(map(list, inter)) == facts["mutual_knn_edges"]
        drawer = made.pairs((0, 0, 1), 1, 0)
        drawn = set()
        for epoch in range(300):
            partners, kinds = drawer.draw(np.arange(24), epoch)
            drawn |= {
                tuple(sorted(pair))
                for pair in zip(np.flatnonzero(kinds == 2).tolist(), partners[kinds == 2].tolist(), strict=True)
            }
        assert sorted(map(list, drawn - inter)) == facts["transitive_pairs"]


@pytest.mark.parametrize(
    "rules",
    [
        EdgeRules(1),
        EdgeRules(3),
        EdgeRules(30),
        EdgeRules(4, max_degree=2),
        EdgeRules(4, least_similarity=0.6),
        EdgeRules(6, cells=3),
    ],
    ids=str,
)
def test_neighbours_are_mutual_of_other_objects_readable_and_the_most_similar_first(rules):
    readable = RandomState(2).rand(len(GROUPS)) < 0.8
    vectors = unit_rows(0)
    found = find_neighbours(vectors.copy(), GROUPS, rules, readable)
    similarities = vectors.astype(float) @ vectors.T
    allowed = (GROUPS[:, None] != GROUPS) & readable & readable[:, None]
    ranks = np.argsort(np.argsort(-np.where(allowed, similarities, -np.inf), axis=1), axis=1)
    expected = (
        allowed & (ranks < rules.neighbours) & (ranks < rules.neighbours).T & (similarities >= rules.least_similarity)
    )
    assert found.shape == (len(GROUPS), rules.width)
    assert {pair[::-1] for pair in edges(found)} == edges(found)
    if rules.max_degree is None and not rules.cells:
        assert edges(found) == set(zip(*map(list, np.nonzero(expected)), strict=True))
    else:
        assert edges(found) < set(zip(*map(list, np.nonzero(expected)), strict=True))
        assert edges(found)
    for row, own in zip(found, similarities, strict=True):
        assert np.all(np.diff(own[row[row >= 0]]) <= 1e-6)
        assert np.all(np.diff((row >= 0).astype(int)) <= 0), "padding stands last"


def test_the_own_object_is_left_out_before_the_nearest_are_taken():
    vectors = np.zeros((8, 3), dtype=np.float32)
    vectors[:6, 0], vectors[6:, 1] = 1, 1
    vectors[:, 2] = 0.1 * np.arange(8)
    found = find_neighbours(vectors, np.array([0, 0, 0, 0, 0, 0, 1, 2]), EdgeRules(1))
    assert found[:, 0].tolist() == [-1, -1, -1, -1, -1, -1, 7, 6], "six images of one object would hide all others"


def test_objects_are_related_if_an_edge_joins_any_of_their_images():
    found, made = edges(pairs().neighbours), graph()
    first, second = torch.tensor([0, 6, 3, 1, 6]), torch.tensor([6, 1, 0, 0, 5, 7, 2])
    linked = {(GROUPS[here], GROUPS[there]) for here, there in found}
    expected = [[a == b or (a, b) in linked for b in second.tolist()] for a in first.tolist()]
    assert made.related(first, second).tolist() == expected
    assert not NeighbourGraph(8, 20, 2).related(torch.arange(8), torch.arange(8)).fill_diagonal_(False).any(), (
        "nothing before it is built"
    )


def test_a_graph_is_the_same_after_it_is_saved_and_loaded():
    made, other = graph(), NeighbourGraph(len(COUNTS), len(GROUPS), 2)
    assert other.most_views == 0
    other.load_state_dict(made.state_dict())
    every = torch.arange(len(COUNTS))
    assert torch.equal(other.related(every, every), made.related(every, every))


# Pairs.


def test_pairs_are_of_the_kind_that_is_said_and_a_function_of_the_key_alone():
    drawer, joined = pairs(), edges(pairs().neighbours)
    objects = {(GROUPS[here], GROUPS[there]) for here, there in joined}
    every = np.arange(len(GROUPS))
    for epoch in range(50):
        partners, kinds = drawer.draw(every, epoch)
        for here, there, kind in zip(every, partners, kinds, strict=True):
            if KINDS[kind] == "intra":
                assert GROUPS[here] == GROUPS[there]
                assert here != there or COUNTS[GROUPS[here]] == 1
            elif KINDS[kind] == "inter":
                assert (here, there) in joined
            else:
                assert (GROUPS[here], GROUPS[there]) in objects
        some = RandomState(epoch).permutation(every)[:5]
        assert np.array_equal(pickle.loads(pickle.dumps(drawer)).draw(some, epoch)[0], partners[some])
    found, views = drawer.partners(GROUPS, every - STARTS[GROUPS], 3)
    assert np.array_equal(STARTS[found] + views, drawer.draw(every, 3)[0])
    assert (views < COUNTS[found]).all()


def test_every_kind_has_its_weights_share_among_those_that_an_image_has():
    drawer = pairs((1, 2, 5))
    kinds = np.stack([drawer.draw(np.arange(len(GROUPS)), epoch)[1] for epoch in range(1000)])
    has_edge = (drawer.neighbours >= 0).any(axis=1)
    alone = ~np.isin(GROUPS, GROUPS[has_edge])
    whole = has_edge & (COUNTS[GROUPS] > 1)
    np.testing.assert_allclose(
        [(kinds[:, whole] == kind).mean() for kind in range(3)], [1 / 8, 2 / 8, 5 / 8], atol=0.03
    )
    only_others = ~has_edge & ~alone
    assert only_others.any()
    np.testing.assert_allclose(
        [(kinds[:, only_others] == kind).mean() for kind in range(3)], [1 / 6, 0, 5 / 6], atol=0.03
    )
    assert (kinds[:, alone] == 0).all()


def test_an_image_without_what_is_wanted_gets_another_view_of_its_object():
    partners, kinds = pairs((0, 1, 0)).draw(np.arange(len(GROUPS)), 0)
    lonely = (pairs().neighbours < 0).all(axis=1)
    assert np.array_equal(kinds == 0, lonely)
    assert np.array_equal(GROUPS[partners[lonely]], GROUPS[lonely])


def test_the_gap_keeps_frames_apart():
    drawer = Pairs(np.array([0, 7]), np.full((7, 1), -1, dtype=np.int32), (1, 0, 0), 3, 0)
    drawn = np.stack([drawer.draw(np.arange(7), epoch)[0] for epoch in range(300)])
    seen = [sorted(set(column.tolist())) for column in drawn.T]
    assert seen == [[3, 4, 5, 6], [4, 5, 6], [5, 6], [0, 6], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    far = Pairs(drawer.starts, drawer.neighbours, (1, 0, 0), 100, 0).draw(np.arange(7), 0)[0]
    assert far.tolist() == [6, 6, 6, 0, 0, 0, 0]


def test_the_record_tells_components_kinds_and_precision():
    neighbours = np.array([[2, -1], [-1, -1], [0, 4], [-1, -1], [2, -1], [-1, -1], [7, -1], [6, -1]], dtype=np.int32)
    drawer = Pairs(np.array([0, 2, 4, 6, 7, 8]), neighbours, (0, 1, 0), 1, 0)
    labels = Labels(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([True, True, True, True, False]), ("a", "b", "c"))
    said = drawer.statistics(labels)
    assert (said["edges"], said["components"], said["largest_component"]) == (3, 2, 0.6)
    assert (said["degree_max"], said["linked_images"], said["drawn_inter"]) == (2, 5 / 8, 5 / 8)
    degrees = {name: said[name] for name in said if name.startswith("images_of_degree")}
    assert degrees == {"images_of_degree_0": 3, "images_of_degree_1": 4, "images_of_degree_2_3": 1}
    assert [name for name in said if name.startswith("components_of")] == ["components_of_2_3"]
    third = drawer.draw(np.arange(8), 0)[0][2]
    assert said["precision_inter"] == pytest.approx(2 / 3 if third == 0 else 1 / 3)
    assert "precision_transitive" not in said


# The losses.


def batch(dimensions: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first, second = (F.normalize(torch.tensor(RandomState(seed).randn(6, dimensions)), dim=1) for seed in (3, 4))
    return (
        first.requires_grad_(),
        second.requires_grad_(),
        torch.tensor([[0, 6, 2, 3, 4, 5], [0, 6, 7, 3, 4, 5]]),
        torch.arange(6),
    )


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
