"""Claims about the bank, its clusters and what is drawn of them, InterCLR, NPID, ODC and DeepCluster-v2, and the authors' numbers."""

import copy
import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn

from ssl_inv import keyed_random, losses
from ssl_inv.backbones import Backbone, make_backbone
from ssl_inv.bank import Bank
from ssl_inv.clustering import Clusters, k_means, two_means
from ssl_inv.data.base import Labels
from ssl_inv.data.gallery import GalleryFeatures
from ssl_inv.objectives.interclr import InterCLR, with_margin
from ssl_inv.pretrain import build
from ssl_inv.recipe import resolve
from ssl_inv.registry import OBJECTIVES
from ssl_inv.sampling import Drawn, Kind, Negatives, below, draw_positives, random_bits, spread
from ssl_inv.testing import check_objective
from ssl_inv.transforms import Rotation, Transform
from ssl_inv.views import View, Views

MOCO: dict[str, Any] = {"name": "moco-v2", "projector": [16, 5], "queue": 16}
SMALL: dict[str, Any] = {"clusters": 6, "smallest_cluster": 0, "negative_count": 10, "pool": 24}
CONFORMANCE: dict[str, Any] = {"clusters": 4, "smallest_cluster": 2, "negative_count": 5, "pool": 9, "cluster_iterations": 5}
INDEX = torch.tensor([0, 13, 28, 51])


def normal(seed: int, *shape: int) -> Tensor:
    """What the facts are computed from."""
    return torch.tensor(RandomState(seed).randn(*shape))


@pytest.fixture(scope="module")
def facts(golden):
    return golden("interclr")["cases"]


def bank_and_clusters(renewal: float = 1.0, smallest: int = 0) -> tuple[Bank, Clusters]:
    """Those of the facts: 60 vectors of 5 dimensions in 6 clusters, the first of which has 19."""
    bank, clusters = Bank(60, 5, renewal).double(), Clusters(60, 6, 5, smallest).double()
    bank.vectors.copy_(F.normalize(normal(0, 60, 5), dim=1))
    clusters.labels[50:] = 0
    clusters.recentre(bank)
    return bank, clusters


def put_into(clusters: Clusters, objects: Tensor, cluster: int) -> None:
    clusters.labels[objects] = cluster
    clusters._members = None


def objective(**settings: Any) -> InterCLR:
    """InterCLR with MoCo v2 and the bank of the facts."""
    torch.manual_seed(0)
    made = InterCLR(8, {}, base={**MOCO, **settings.pop("base", {})}, **{**SMALL, **settings})
    made.adopt(backbone())
    made.allocate(60, 60)
    made.bank, made.clusters = bank_and_clusters()
    return made.double()


def backbone() -> Backbone:
    """A small transformer with 8 features."""
    arguments = {"img_size": 12, "patch_size": 3, "embed_dim": 8, "depth": 1, "num_heads": 2}
    return make_backbone(name="vit_tiny_patch16_224", arguments=arguments)


def close(found: Tensor, expected: Any) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(expected), rtol=1e-9, atol=1e-11)


def test_centroids_are_the_authors(facts):
    _, clusters = bank_and_clusters()
    assert clusters.members.sizes.tolist() == facts["1_init_and_centroids"]["expected"]["label_histogram"]
    close(clusters.centroids, facts["1_init_and_centroids"]["expected"]["centroids (6x5)"])


@pytest.mark.parametrize("renewal", [1.0, 0.5])
def test_a_step_updates_vectors_and_labels_as_the_authors_do(facts, renewal):
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


def test_semi_hard_negatives_are_of_the_authors_pool_and_of_other_clusters(facts):
    expected = facts["3_semi_hard_negatives"]["expected"]
    pools = expected["pool_indices_by_descending_similarity (4x24)"]
    (drawn, found, _), clusters = drawn_negatives("semi-hard")
    assert found.all()
    for row, pool, own, theirs in zip(drawn, pools, expected["query_labels"], expected["negative_indices (4x10)"], strict=True):
        allowed = {one for one in pool if clusters.labels[one] != own}
        assert set(row.tolist()) <= allowed
        assert set(theirs) <= allowed
        assert len(set(row.tolist())) == len(row), "an object came twice"


def drawn_negatives(kind: Kind, count: int = 10, pool: int = 24, seed: int = 0) -> tuple[Drawn, Clusters]:
    bank, clusters = bank_and_clusters()
    labels, keys = clusters.labels[INDEX].long(), torch.arange(4) + 4 * seed
    queries = losses.unit_rows(normal(2, 4, 5))
    return Negatives(kind, count, pool).draw(queries, labels, bank, clusters.labels, clusters.members, keys), clusters


def given(negatives: Tensor) -> Drawn:
    """As if they had been drawn."""
    return Drawn(negatives, torch.ones(len(negatives), 1, dtype=torch.bool), None)


def test_hard_negatives_are_the_authors(facts):
    (drawn, found, _), _ = drawn_negatives("hard")
    assert found.all()
    assert drawn.tolist() == facts["6_hard_negatives"]["expected"]["negative_indices"]


@pytest.mark.parametrize(
    ("case", "negatives"), [("4_inter_loss_margin", "3_semi_hard_negatives"), ("6_hard_negatives", "6_hard_negatives")]
)
def test_the_loss_on_given_draws_is_the_authors(facts, case, negatives):
    positives = torch.tensor(facts["3_semi_hard_negatives"]["expected"]["positive_indices"])
    drawn = facts[negatives]["expected"]
    drawn = torch.tensor(drawn.get("negative_indices (4x10)", drawn.get("negative_indices")))
    queries = normal(2, 4, 5).requires_grad_()
    loss = objective().contrast(losses.unit_rows(queries), positives, given(drawn))
    close(loss, facts[case]["expected"]["loss"])
    if "grad_wrt_queries (4x5)" in facts[case]["expected"]:
        loss.backward()
        close(queries.grad, facts[case]["expected"]["grad_wrt_queries (4x5)"])


def test_both_losses_and_their_sum_are_the_authors(facts):
    case, expected = facts["8_inter_loss_given_indices"], facts["9_intra_loss_and_total"]["expected"]
    whole = objective()
    queries = losses.unit_rows(normal(2, 4, 5))
    positives, negatives = (torch.tensor(case["inputs"][name]) for name in ("positives", "negatives"))
    close(whole.contrast(queries, positives, given(negatives)), case["expected"]["loss"])
    whole.base.queue.vectors.copy_(F.normalize(normal(4, 5, 16), dim=0).T)
    intra = whole.base.embedding_loss(normal(2, 4, 5), normal(3, 4, 5))["info_nce"]
    close(intra.value, expected["intra_loss"])
    close((1 - whole.weight) * intra.weight * intra.value + whole.weight * expected["inter_loss"], expected["total"])


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
    torch.testing.assert_close(share, torch.full_like(share, count / population), atol=0.04 * max(1, count / population), rtol=0)


def test_numbers_below_a_bound_are_uniform():
    drawn = below(torch.arange(20000), torch.full((20000, 1), 5))
    assert torch.bincount(drawn[:, 0], minlength=5).div(20000).sub(0.2).abs().max() < 0.02


@pytest.mark.parametrize("kind", ["semi-hard", "semi-easy", "random", "hard"])
def test_draws_depend_on_the_key_alone_and_hard_ones_on_nothing(kind):
    first, again, other = (drawn_negatives(kind, seed=seed)[0].objects for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (kind == "hard")


def test_semi_easy_negatives_are_the_least_similar():
    drawn, _ = drawn_negatives("semi-easy")
    bank, _ = bank_and_clusters()
    ranks = bank.similarities(losses.unit_rows(normal(2, 4, 5))).argsort(dim=1).argsort(dim=1)
    assert int(ranks.gather(1, drawn.objects).max()) < 24


@pytest.mark.parametrize("kind", ["semi-hard", "semi-easy", "hard"])
def test_similarities_that_are_known_are_those_of_the_bank(kind):
    (drawn, _, similarities), _ = drawn_negatives(kind)
    bank, _ = bank_and_clusters()
    torch.testing.assert_close(similarities, bank.similarity(losses.unit_rows(normal(2, 4, 5)), drawn))


@pytest.mark.parametrize("kind", ["semi-hard", "semi-easy", "random", "hard"])
def test_a_pool_of_one_cluster_ends_and_draws_elsewhere(kind):
    drawn, clusters = drawn_negatives(kind, count=3, pool=3)
    assert drawn.found.all()
    assert (clusters.labels[drawn.objects] != clusters.labels[INDEX].unsqueeze(1)).all()
    bank, clusters = bank_and_clusters()
    put_into(clusters, torch.arange(60), 0)
    labels = torch.zeros(4, dtype=torch.int64)
    queries = losses.unit_rows(normal(2, 4, 5)).requires_grad_()
    drawn = Negatives(kind, 3, 24).draw(queries.detach(), labels, bank, clusters.labels, clusters.members, torch.arange(4))
    assert not drawn.found.any(), "there is no other cluster"
    loss = objective().contrast(queries, INDEX, drawn)
    loss.backward()
    assert loss.item() == 0
    assert queries.grad.eq(0).all()


@pytest.mark.parametrize("own_entry", [True, False])
def test_positives_are_every_member_of_the_cluster_alike(own_entry):
    _, clusters = bank_and_clusters()
    draws = 6000
    index, labels = torch.full((draws,), 13), torch.full((draws,), 1)
    drawn = draw_positives(clusters.members, labels, index, torch.arange(draws), own_entry)
    shares = torch.bincount(drawn, minlength=60)[clusters.labels == 1] / draws
    assert shares.sum() == 1
    expected = torch.full((9,), 1 / 9) if own_entry else torch.where(torch.arange(1, 50, 6) == 13, 0.0, 1 / 8)
    torch.testing.assert_close(shares, expected, atol=0.02, rtol=0)


def test_a_bank_is_filled_with_what_can_be_read():
    bank = Bank(6, 5)
    before = bank.vectors.clone()
    objects, features = torch.tensor([4, 1, 3]), normal(0, 3, 5).float()
    piece = GalleryFeatures(objects, torch.zeros(3, dtype=torch.int64), features, torch.tensor([True, False, True]))
    bank.fill(SimpleNamespace(features=lambda encoder: iter([piece])), nn.Identity())
    torch.testing.assert_close(bank.vectors[[4, 3]], F.normalize(features[[0, 2]], dim=1))
    assert torch.equal(bank.vectors[[0, 1, 2, 5]], before[[0, 1, 2, 5]])


def test_a_cluster_of_one_has_itself_as_positive():
    _, clusters = bank_and_clusters()
    put_into(clusters, clusters.labels == 1, 0)
    put_into(clusters, torch.tensor([13]), 1)
    assert draw_positives(clusters.members, torch.tensor([1]), torch.tensor([13]), torch.tensor([0]), own_entry=False).tolist() == [13]


def test_an_object_that_is_twice_in_a_batch_is_stored_as_it_was_last():
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


def test_a_bank_may_not_change_before_the_gradient_is_known():
    bank, _ = bank_and_clusters()
    found = bank.similarity(normal(2, 4, 5).requires_grad_(), torch.zeros(4, 2, dtype=torch.int64))
    bank.vectors.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()


def test_small_clusters_go_to_their_neighbours_and_get_halves_of_the_largest():
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
    assert all(label in (near, 5) for label, near in zip(clusters.labels[[5, 11]].tolist(), nearest.tolist(), strict=True))
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
    known = Labels(kinds, torch.ones(120, dtype=torch.bool), ["a", "b", "c"])
    found = clusters.agreement(known)
    assert found == {"smallest_cluster": 40, "largest_cluster": 40, "empty_clusters": 0, "purity": 1, "nmi": pytest.approx(1)}
    assert torch.equal(clusters.centroids, k_means(bank, 3, 10, seed=4, spherical=spherical, points=20))
    if spherical:
        torch.testing.assert_close(clusters.centroids.norm(dim=1), torch.ones(3))


def test_agreement_is_that_of_scikit_learn_over_the_known():
    _, clusters = bank_and_clusters()
    classes, known = torch.from_numpy(RandomState(3).randint(4, size=60)), torch.arange(60) % 5 > 0
    found = clusters.agreement(Labels(classes, known, list("abcd")))
    pairs = (classes[known].numpy(), clusters.labels[known].numpy())
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(*pairs))
    purity = sum(np.bincount(pairs[0][pairs[1] == cluster]).max() for cluster in range(6)) / int(known.sum())
    assert found["purity"] == pytest.approx(purity)
    assert set(clusters.agreement(None)) == {"smallest_cluster", "largest_cluster", "empty_clusters"}


@pytest.mark.parametrize("margin", [-0.5, 0.5, 0.0])
def test_a_margin_on_the_angle_rises_with_the_cosine(margin):
    angles = torch.linspace(0, math.pi, 200, dtype=torch.float64)
    found = with_margin(angles.cos(), margin, "angle")
    assert (found.diff() < 1e-7).all()
    inside = (angles + margin > 0.01) & (angles + margin < math.pi - 0.01)
    torch.testing.assert_close(found[inside], (angles + margin).cos()[inside], atol=1e-6, rtol=0)


def views(batch: int = 4, count: int = 2) -> Views:
    made = tuple(View(torch.randn(batch, 3, 12, 12, dtype=torch.float64), Transform.empty()) for _ in range(count))
    return Views(made, torch.arange(batch))


def test_queries_have_gradients_and_keys_and_bank_have_none():
    network, whole = backbone().double(), objective()
    terms = whole.loss(views(), network)
    terms["inter"].value.backward()
    assert all(one.grad is not None for one in whole.base.projector.parameters())
    assert any(one.grad is not None for one in network.parameters())
    assert not any(one.requires_grad for one in (*whole.base.teacher.parameters(), whole.bank.vectors))


@pytest.mark.parametrize(("warmup", "weights"), [(0.0, (0.75, 0.25)), (0.5, (1.0, 0.0))])
def test_the_warmup_leaves_the_base_alone(warmup, weights):
    network, whole = backbone().double(), objective(warmup=warmup)
    terms = whole.loss(views(), network)
    assert (terms["info_nce"].weight, terms["inter"].weight) == weights
    whole.after_step(network, 5, 10)
    assert whole.loss(views(), network)["inter"].weight == 0.25


@pytest.mark.parametrize("online", [True, False])
def test_the_key_takes_the_place_and_offline_labels_stay(online):
    network, whole = backbone().double(), objective(labels="online" if online else "offline")
    seen = views()
    before = whole.clusters.labels.clone()
    key = whole.base.teacher(seen[1].pixels)
    whole.loss(seen, network)
    whole.after_step(network, 1, 10)
    torch.testing.assert_close(whole.bank.vectors[:4], losses.unit_rows(key))
    assert torch.equal(whole.clusters.labels, before) != online


@pytest.mark.parametrize(
    "settings",
    [
        {"share_neck": False, "neck": [24, 16]},
        {"negatives": "hard", "boundary": "angle"},
        {"negatives": "random", "labels": "offline", "bank_place": "host", "own_entry": False},
        {"base": {"name": "byol", "projector": [24, 16], "predictor": [16]}, "negatives": "none"},
        {"base": {"name": "simsiam", "projector": [24, 16], "predictor": 8}, "share_neck": False, "neck": [16]},
        {"base": {"name": "npid", "projector": [16], "negatives": 6}, "negatives": "semi-easy"},
    ],
    ids=str,
)
@pytest.mark.slow
def test_variants_conform(settings):
    check_objective("interclr", **{"base": {"name": "moco-v2", "projector": [24, 16], "queue": 32}, **CONFORMANCE, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": 70}, "clusters must be at least 2 and at most the 60 objects"),
        ({"smallest_cluster": 11}, "smallest_cluster * clusters, 11 * 6, is more than the 60 objects"),
        ({"pool": 61}, "pool is 61, but the training data has 60 objects"),
        ({"negative_count": 25}, "negative_count is 25, but there are 24 objects to draw from"),
        ({"negatives": "random", "negative_count": 61}, "negative_count is 61, but there are 60 objects"),
        ({"negatives": "none", "share_neck": False}, "so share_neck must be true"),
        ({"weight": 2.0}, "weight must lie between 0 and 1"),
        ({"base": {"name": "rotnet"}}, "'rotnet' has no projector"),
        ({"base": {"name": "equicaps"}}, "the projector of 'equicaps' gives no vectors"),
        ({"base": {"name": "transitive", "weights": {"intra": 1}}}, "'transitive' has views of other images or crops of several sizes"),
        ({"base": {"name": "swav"}}, "'swav' has views of other images or crops of several sizes"),
        ({"cluster_points": 0}, "cluster_points must be at least 1, got 0"),
        ({"smallest_cluster": -1}, "smallest_cluster must be at least 0, got -1"),
        ({"boundary": "angle", "margin": 4.0}, "margin is an angle within pi of 0, got 4.0"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    base = settings.pop("base", MOCO)
    with pytest.raises(ValueError, match=re.escape(message)):
        InterCLR(8, {"rotation": Rotation()}, base=base, **{**SMALL, **settings}).allocate(60, 60)


@pytest.mark.parametrize("base", ["conditional-byol", "byol", "moco-v2", "simclr"])
def test_the_bank_gets_the_key_of_the_last_view_whatever_the_order_of_the_passes(base):
    made = InterCLR(8, {"rotation": Rotation()}, base={"name": base, "projector": [16, 5]}, **SMALL)
    network = backbone()
    made.adopt(network)
    made.allocate(60, 60)
    x, y = (View(torch.randn(4, 3, 12, 12), Transform({"rotation": torch.eye(4)}, {"rotation": Rotation()})) for _ in range(2))
    made.eval()
    network.eval()
    made.loss(Views((x, y), INDEX), network)
    ((_, keys),) = made.bank.flush()
    expected = made._teacher(y.pixels) if made._teacher is not None else made.projector(network(y.pixels))
    torch.testing.assert_close(keys, F.normalize(expected, dim=1), atol=1e-5, rtol=1e-5)


def test_offline_labels_ask_nothing_of_the_smallest_cluster():
    InterCLR(8, {}, base=MOCO, **{**SMALL, "labels": "offline", "smallest_cluster": 20}).allocate(60, 60)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("odc", {"clusters": 6, "cluster_iterations": 0}, "cluster_iterations must be at least 1, got 0"),
        ("odc", {"clusters": 6, "reweighting": -0.5}, "reweighting must be at least 0, got -0.5"),
        ("deepcluster-v2", {"prototypes": [1]}, "prototypes must name at least one set of at least 2, got [1]"),
        ("deepcluster-v2", {"prototypes": [3, 61]}, "prototypes must be at most the 60 objects of the training data, got [3, 61]"),
    ],
)
def test_clusters_that_cannot_be_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        OBJECTIVES.find(name).load()(8, {}, projector=[8, 5], **settings).allocate(60, 60)


def test_what_a_bank_begins_with_is_a_matter_of_the_seed_alone():
    def vectors(seed: int) -> Tensor:
        sections = {
            "objective": {"name": "npid", "projector": [4]},
            "backbone": {"name": "test_resnet"},
            "data": {"name": "rendered", "classes": 4, "objects": 24, "views": 1, "size": 16},
            "trainer": {"steps": 1, "batch_size": 8, "accelerator": "cpu", "seed": seed},
        }
        return build(resolve(sections)).objective.bank.vectors

    first, again, other = (vectors(seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_npid_draws_all_others_once_where_there_are_no_more():
    npid = OBJECTIVES.find("npid").load()(8, {}, projector=[5], negatives=1000)
    npid.allocate(60, 60)
    z = normal(2, 4, 5).float()
    found = npid.embedding_loss(z, INDEX)["instance"].value
    expected = F.cross_entropy(losses.unit_rows(z) @ npid.bank.vectors.T / 0.07, INDEX)
    torch.testing.assert_close(found, expected)


def test_odc_weighs_clusters_by_their_size():
    odc = OBJECTIVES.find("odc").load()(8, {}, projector=[8, 5], clusters=6, smallest_cluster=0)
    odc.allocate(60, 60)
    odc.bank, odc.clusters = bank_and_clusters()
    odc.double()
    z = normal(2, 4, 5)
    labels = odc.clusters.labels[INDEX].long()
    expected = F.cross_entropy(odc.classifier(z), labels, weight=torch.tensor([19.0, 9, 8, 8, 8, 8], dtype=torch.float64) ** -0.5)
    torch.testing.assert_close(odc.embedding_loss(z, INDEX)["pseudo_labels"].value, expected)


def test_deepcluster_prototypes_are_frozen_centroids_of_the_two_banks_in_turn():
    deep = OBJECTIVES.find("deepcluster-v2").load()(8, {}, projector=[8, 5], prototypes=[3, 3, 4], local_crops=0)
    deep.allocate(60, 60)
    deep.between_epochs(nn.Identity(), 1, None)
    torch.testing.assert_close(deep.sets[1].centroids, k_means(deep.banks[1], 3, 10, seed=4, spherical=True))
    assert not any("sets" in name for name, _ in deep.named_parameters())
    z = losses.unit_rows(normal(2, 2, 4, 5).float())
    found = deep.embedding_loss(z, INDEX)["clusters"].value
    expected = [F.cross_entropy(crop @ one.centroids.T / 0.1, one.labels[INDEX].long()) for one in deep.sets for crop in z]
    torch.testing.assert_close(found, torch.stack(expected).mean())
    deep.after_step(nn.Identity(), 1, 10)
    for bank, crop in zip(deep.banks, z, strict=True):
        torch.testing.assert_close(bank.vectors[INDEX], crop)
