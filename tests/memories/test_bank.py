"""Claims about the bank, its clusters and draws from both: what is stored, how small clusters are mended, what k-means
finds, and which objects are drawn how often.
"""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from small import normal
from torch import Tensor, nn

from ssl_inv.data.source import Labels
from ssl_inv.memories.bank import Bank
from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.draws import Negatives, draw_positives, spread
from ssl_inv.memories.gallery import GalleryFeatures
from ssl_inv.memories.search import k_means, two_means
from ssl_inv.nn import losses
from ssl_inv.transforms import keyed_random
from ssl_inv.transforms.keyed_random import below, random_bits

INDEX = torch.tensor([0, 13, 28, 51])
KINDS = ["semi-hard", "semi-easy", "random", "hard"]


def put_into(clusters: Clusters, objects: Tensor, cluster: int) -> None:
    clusters.labels[objects] = cluster
    clusters._members = None


def close(found: Tensor, expected: Any) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(expected), rtol=1e-9, atol=1e-11)


def test_a_bank_is_filled_with_what_can_be_read():
    bank = Bank(6, 5)
    before = bank.vectors.clone()
    objects, features = torch.tensor([4, 1, 3]), normal(0, 3, 5).float()
    piece = GalleryFeatures(objects, torch.zeros(3, dtype=torch.int64), features, torch.tensor([True, False, True]))
    bank.fill(SimpleNamespace(features=lambda encoder: iter([piece])), nn.Identity())
    torch.testing.assert_close(bank.vectors[[4, 3]], F.normalize(features[[0, 2]], dim=1))
    assert torch.equal(bank.vectors[[0, 1, 2, 5]], before[[0, 1, 2, 5]])


def test_an_object_that_is_twice_in_a_batch_is_stored_as_it_was_last(bank_and_clusters):
    bank, _ = bank_and_clusters()
    rows = normal(7, 3, 5)
    bank.put(torch.tensor([4, 9, 4]), rows)
    bank.flush()
    close(bank.vectors[[9, 4]], F.normalize(rows[1:], dim=1))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_bank_on_the_host_stays_there_and_answers_as_any(precision):
    torch.manual_seed(0)
    bank = Bank(60, 5, precision=precision, place="host")
    moved = copy.deepcopy(bank).to("meta")
    assert moved.vectors.device.type == "cpu"
    assert moved.vectors.dtype == {"fp32": torch.float32, "fp16": torch.float16}[precision]
    queries = normal(2, 4, 5).float().requires_grad_()
    index = torch.randint(60, (4, 7))
    found = bank.similarity(queries, index)
    torch.testing.assert_close(found, bank.similarities(queries.detach()).gather(1, index))
    found.square().sum().backward()
    dense = (2 * found.detach().unsqueeze(2) * bank.vectors[index].float()).sum(dim=1)
    torch.testing.assert_close(queries.grad, dense)


def test_a_bank_may_not_change_before_the_gradient_is_known(bank_and_clusters):
    bank, _ = bank_and_clusters()
    found = bank.similarity(normal(2, 4, 5).requires_grad_(), torch.zeros(4, 2, dtype=torch.int64))
    bank.vectors.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()


def test_small_clusters_go_to_their_neighbours_and_get_halves_of_the_largest(bank_and_clusters):
    bank, clusters = bank_and_clusters(smallest=5)
    put_into(clusters, clusters.labels == 5, 0)
    put_into(clusters, torch.tensor([5, 11]), 5)
    clusters.recentre(bank)
    lost = clusters.centroids.clone()
    nearest = (bank.vectors[[5, 11]] @ lost[:5].T).argmax(dim=1)
    clusters.mend(bank)
    assert int(clusters.members.sizes.min()) >= 5
    means = torch.stack([bank.vectors[clusters.labels == cluster].mean(dim=0) for cluster in (0, 5)])
    close(clusters.centroids[[0, 5]], means)
    for label, near in zip(clusters.labels[[5, 11]].tolist(), nearest.tolist(), strict=True):
        assert label in (near, 5)
    before = clusters.labels.clone()
    clusters.mend(bank)
    assert torch.equal(before, clusters.labels), "nothing is left to mend"


def test_two_means_parts_what_lies_apart_and_equal_vectors_too():
    rows = torch.cat((normal(0, 7, 3) + 20, normal(1, 4, 3) - 20))
    side = two_means(rows)
    assert {tuple(one.tolist()) for one in (side[:7].unique(), side[7:].unique())} == {(False,), (True,)}
    assert two_means(torch.ones(5, 3)).tolist() == [False, True, False, True, False]


def blobs(spherical: bool = False) -> tuple[Bank, Clusters, Tensor]:
    """Three well separated kinds of 40 vectors, and their number."""
    kinds = torch.arange(120) % 3
    bank, clusters = Bank(120, 8), Clusters(120, 3, 8)
    bank.vectors.copy_(F.normalize(4 * torch.eye(8)[kinds] + normal(5, 120, 8).float() / 3, dim=1))
    clusters.fit(bank, 10, seed=4, spherical=spherical, points=20)
    return bank, clusters, kinds


@pytest.mark.parametrize("spherical", [False, True])
def test_k_means_finds_kinds_the_same_way_every_time(spherical):
    bank, clusters, kinds = blobs(spherical)
    found = clusters.agreement(Labels(kinds, torch.ones(120, dtype=torch.bool), ("a", "b", "c")))
    sizes = {"smallest_cluster": 40, "largest_cluster": 40, "empty_clusters": 0}
    assert found == {**sizes, "purity": 1, "nmi": pytest.approx(1)}
    assert torch.equal(clusters.centroids, k_means(bank, 3, 10, seed=4, spherical=spherical, points=20))
    if spherical:
        torch.testing.assert_close(clusters.centroids.norm(dim=1), torch.ones(3))


def test_agreement_is_its_definition_over_the_objects_whose_class_is_known(bank_and_clusters):
    _, clusters = bank_and_clusters()
    classes, known = torch.from_numpy(RandomState(3).randint(4, size=60)), torch.arange(60) % 5 > 0
    found = clusters.agreement(Labels(classes, known, tuple("abcd")))
    joint = np.zeros((6, 4))
    np.add.at(joint, (clusters.labels[known].numpy(), classes[known].numpy()), 1 / int(known.sum()))

    def entropy(shares: np.ndarray) -> float:
        return -sum(share * np.log(share) for share in shares.flat if share)

    each = entropy(joint.sum(axis=0)) + entropy(joint.sum(axis=1))
    assert found["nmi"] == pytest.approx((each - entropy(joint)) / (each / 2))
    assert found["purity"] == pytest.approx(joint.max(axis=1).sum())
    assert set(clusters.agreement(None)) == {"smallest_cluster", "largest_cluster", "empty_clusters"}


# Draws.


def test_random_bits_are_those_of_the_host():
    keys = keyed_random.bits(3, np.arange(5), count=1)[:, 0]
    found = random_bits(torch.from_numpy(keys.view(np.int64)), 7)
    np.testing.assert_array_equal(found.numpy().view(np.uint64), keyed_random.bits(keys, count=7))


@pytest.mark.parametrize(("population", "count"), [(10, 10), (17, 5), (3, 8), (1, 4), (100, 7)])
def test_a_spread_draw_is_even(population, count):
    drawn = spread(torch.arange(4000), torch.full((4000,), population), count)
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < population
    times = F.one_hot(drawn, population).sum(dim=1)
    assert int(times.max()) - int(times.min()) <= 1
    expected = torch.full((population,), count / population, dtype=torch.double)
    torch.testing.assert_close(times.double().mean(dim=0), expected, atol=0.04 * max(1, count / population), rtol=0)


def test_numbers_below_a_bound_are_uniform():
    drawn = below(torch.arange(20000), torch.full((20000, 1), 5))
    assert torch.bincount(drawn[:, 0], minlength=5).div(20000).sub(0.2).abs().max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_draws_depend_on_the_key_alone_and_hard_ones_on_nothing(kind, drawn_negatives):
    first, again, other = (drawn_negatives(kind, seed=seed)[0].objects for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (kind == "hard")


def test_semi_easy_negatives_are_the_least_similar(bank_and_clusters, drawn_negatives):
    drawn, _ = drawn_negatives("semi-easy")
    bank, _ = bank_and_clusters()
    ranks = bank.similarities(losses.unit_rows(normal(2, 4, 5))).argsort(dim=1).argsort(dim=1)
    assert int(ranks.gather(1, drawn.objects).max()) < 24


@pytest.mark.parametrize("kind", ["semi-hard", "semi-easy", "hard"])
def test_similarities_that_are_known_are_those_of_the_bank(kind, bank_and_clusters, drawn_negatives):
    (drawn, _, similarities), _ = drawn_negatives(kind)
    bank, _ = bank_and_clusters()
    torch.testing.assert_close(similarities, bank.similarity(losses.unit_rows(normal(2, 4, 5)), drawn))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_of_one_cluster_ends_and_draws_elsewhere(kind, bank_and_clusters, drawn_negatives, interclr):
    drawn, clusters = drawn_negatives(kind, count=3, pool=3)
    assert drawn.found.all()
    assert (clusters.labels[drawn.objects] != clusters.labels[INDEX].unsqueeze(1)).all()
    bank, clusters = bank_and_clusters()
    put_into(clusters, torch.arange(60), 0)
    labels = torch.zeros(4, dtype=torch.int64)
    queries = losses.unit_rows(normal(2, 4, 5)).requires_grad_()
    among = labels, bank, clusters.labels, clusters.members
    drawn = Negatives(kind, 3, 24).draw(queries.detach(), *among, torch.arange(4))
    assert not drawn.found.any(), "there is no other cluster"
    loss = interclr().contrast(queries, INDEX, drawn)
    loss.backward()
    assert loss.item() == 0
    assert queries.grad.eq(0).all()


@pytest.mark.parametrize("own_entry", [True, False])
def test_positives_are_every_member_of_the_cluster_alike(own_entry, bank_and_clusters):
    _, clusters = bank_and_clusters()
    draws = 6000
    index, labels = torch.full((draws,), 13), torch.full((draws,), 1)
    drawn = draw_positives(clusters.members, labels, index, torch.arange(draws), own_entry)
    shares = torch.bincount(drawn, minlength=60)[clusters.labels == 1] / draws
    assert shares.sum() == 1
    expected = torch.full((9,), 1 / 9) if own_entry else torch.where(torch.arange(1, 50, 6) == 13, 0.0, 1 / 8)
    torch.testing.assert_close(shares, expected, atol=0.02, rtol=0)


def test_a_cluster_of_one_has_itself_as_positive(bank_and_clusters):
    _, clusters = bank_and_clusters()
    put_into(clusters, clusters.labels == 1, 0)
    put_into(clusters, torch.tensor([13]), 1)
    alone = clusters.members, torch.tensor([1]), torch.tensor([13]), torch.tensor([0])
    assert draw_positives(*alone, own_entry=False).tolist() == [13]
