"""Claims about the graph of neighbours and the pairs that follow from it, from the definitions."""

import pickle

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from small_data import Known, Numbered
from torch import nn

from ssl_inv.data.source import Labels
from ssl_inv.memories.gallery import Gallery
from ssl_inv.memories.graph import NeighbourGraph
from ssl_inv.memories.pairs import KINDS, Pairs
from ssl_inv.memories.search import EdgeRules, find_neighbours

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


# The graph.


def built() -> NeighbourGraph:
    made = NeighbourGraph(12, 24, 3)
    made.lay_out(Numbered.view_counts)
    encoder = Known(torch.from_numpy(unit_rows(15, 24, 6)))
    made.build(Gallery(Numbered(), nn.Identity(), "cpu", batch_size=5), encoder, EdgeRules(3))
    return made


def test_edges_and_transitive_pairs_are_those_of_the_definition(golden):
    facts, made = golden("metrics")["transitive_pairs"]["values"], built()
    inter = {(here, there) for here, there in edges(made.neighbours.numpy()) if here < there}
    assert sorted(map(list, inter)) == facts["mutual_knn_edges"]
    drawer, drawn = made.pairs((0, 0, 1), 1, 0), set()
    for epoch in range(300):
        partners, kinds = drawer.draw(np.arange(24), epoch)
        pairs = np.stack((np.flatnonzero(kinds == 2), partners[kinds == 2]), axis=1)
        drawn |= set(map(tuple, np.sort(pairs, axis=1).tolist()))
    assert sorted(map(list, drawn - inter)) == facts["transitive_pairs"]


@pytest.mark.parametrize(
    ("count", "more"),
    [(1, {}), (3, {}), (30, {}), (4, {"max_degree": 2}), (4, {"least_similarity": 0.6}), (6, {"cells": 3})],
    ids=str,
)
def test_neighbours_are_mutual_of_other_objects_readable_and_the_most_similar_first(count, more):
    rules = EdgeRules(count, **more)
    readable = RandomState(2).rand(len(GROUPS)) < 0.8
    vectors = unit_rows(0)
    found = find_neighbours(vectors.copy(), GROUPS, rules, readable)
    similarities = vectors.astype(float) @ vectors.T
    allowed = (GROUPS[:, None] != GROUPS) & readable & readable[:, None]
    ranks = np.argsort(np.argsort(-np.where(allowed, similarities, -np.inf), axis=1), axis=1)
    near = (ranks < count) & (ranks < count).T & (similarities >= rules.least_similarity)
    expected = set(zip(*map(list, np.nonzero(allowed & near)), strict=True))
    assert found.shape == (len(GROUPS), rules.width)
    assert {pair[::-1] for pair in edges(found)} == edges(found)
    if rules.max_degree is None and not rules.cells:
        assert edges(found) == expected
    else:
        assert set() < edges(found) < expected
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
    before = NeighbourGraph(8, 20, 2).related(torch.arange(8), torch.arange(8))
    assert not before.fill_diagonal_(False).any(), "nothing before it is built"


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
    only_others = ~has_edge & ~alone
    assert only_others.any()
    for chosen, expected in ((whole, [1 / 8, 2 / 8, 5 / 8]), (only_others, [1 / 6, 0, 5 / 6])):
        np.testing.assert_allclose([(kinds[:, chosen] == kind).mean() for kind in range(3)], expected, atol=0.03)
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
    known = torch.tensor([True, True, True, True, False])
    said = drawer.statistics(Labels(torch.tensor([0, 0, 1, 2, 2]), known, ("a", "b", "c")))
    assert (said["edges"], said["components"], said["largest_component"]) == (3, 2, 0.6)
    assert (said["degree_max"], said["linked_images"], said["drawn_inter"]) == (2, 5 / 8, 5 / 8)
    degrees = {name: said[name] for name in said if name.startswith("images_of_degree")}
    assert degrees == {"images_of_degree_0": 3, "images_of_degree_1": 4, "images_of_degree_2_3": 1}
    assert [name for name in said if name.startswith("components_of")] == ["components_of_2_3"]
    third = drawer.draw(np.arange(8), 0)[0][2]
    assert said["precision_inter"] == pytest.approx(2 / 3 if third == 0 else 1 / 3)
    assert "precision_transitive" not in said
