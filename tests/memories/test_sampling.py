"""Claims about draws from a bank and its clusters: even, a function of the key alone, and of the objects that may be
drawn.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor

from ssl_inv.memories.clusters import Clusters
from ssl_inv.memories.draws import Negatives, draw_positives, spread
from ssl_inv.nn import losses
from ssl_inv.transforms import keyed_random
from ssl_inv.transforms.keyed_random import below, random_bits

INDEX = torch.tensor([0, 13, 28, 51])


def normal(seed: int, *shape: int) -> Tensor:
    return torch.tensor(RandomState(seed).randn(*shape))


def put_into(clusters: Clusters, objects: Tensor, cluster: int) -> None:
    clusters.labels[objects] = cluster
    clusters._members = None


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
    share = times.double().mean(dim=0)
    torch.testing.assert_close(
        share, torch.full_like(share, count / population), atol=0.04 * max(1, count / population), rtol=0
    )


def test_numbers_below_a_bound_are_uniform():
    drawn = below(torch.arange(20000), torch.full((20000, 1), 5))
    assert torch.bincount(drawn[:, 0], minlength=5).div(20000).sub(0.2).abs().max() < 0.02


@pytest.mark.parametrize("kind", ["semi-hard", "semi-easy", "random", "hard"])
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


@pytest.mark.parametrize("kind", ["semi-hard", "semi-easy", "random", "hard"])
def test_a_pool_of_one_cluster_ends_and_draws_elsewhere(kind, bank_and_clusters, drawn_negatives, interclr):
    drawn, clusters = drawn_negatives(kind, count=3, pool=3)
    assert drawn.found.all()
    assert (clusters.labels[drawn.objects] != clusters.labels[INDEX].unsqueeze(1)).all()
    bank, clusters = bank_and_clusters()
    put_into(clusters, torch.arange(60), 0)
    labels = torch.zeros(4, dtype=torch.int64)
    queries = losses.unit_rows(normal(2, 4, 5)).requires_grad_()
    drawn = Negatives(kind, 3, 24).draw(
        queries.detach(), labels, bank, clusters.labels, clusters.members, torch.arange(4)
    )
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
    assert draw_positives(
        clusters.members, torch.tensor([1]), torch.tensor([13]), torch.tensor([0]), own_entry=False
    ).tolist() == [13]
