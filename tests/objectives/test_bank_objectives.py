"""Claims about NPID, ODC and DeepCluster-v2, which learn from a bank of all objects."""

import torch
import torch.nn.functional as F
from small import build, normal
from torch import Tensor, nn

from ssl_inv.memories.search import k_means
from ssl_inv.nn import losses
from ssl_inv.run import build as of_run
from ssl_inv.run.recipe import resolve

INDEX = torch.tensor([0, 13, 28, 51])


def test_what_a_bank_begins_with_is_a_matter_of_the_seed_alone():
    def vectors(seed: int) -> Tensor:
        data = {"name": "rendered", "classes": 4, "objects": 24, "views": 1, "size": 16}
        trainer = {"steps": 1, "batch_size": 8, "accelerator": "cpu", "seed": seed}
        objective = {"objective": {"name": "npid", "projector": [4]}, "backbone": {"name": "test_resnet"}}
        return of_run.build(resolve({**objective, "data": data, "trainer": trainer})).objective.bank.vectors

    first, again, other = (vectors(seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_npid_draws_all_others_once_where_there_are_no_more():
    _, npid = build("npid", projector=[5], negatives=1000)
    z = normal(2, 4, 5).float()
    found = npid.embedding_loss(z, INDEX)["instance"].value
    expected = F.cross_entropy(losses.unit_rows(z) @ npid.bank.vectors.T / 0.07, INDEX)
    torch.testing.assert_close(found, expected)


def test_odc_weighs_clusters_by_their_size(bank_and_clusters):
    _, odc = build("odc", projector=[8, 5], clusters=6, smallest_cluster=0)
    odc.bank, odc.clusters = bank_and_clusters()
    odc.double()
    z = normal(2, 4, 5)
    labels = odc.clusters.labels[INDEX].long()
    sizes = torch.tensor([19.0, 9, 8, 8, 8, 8], dtype=torch.float64)
    expected = F.cross_entropy(odc.classifier(z), labels, weight=sizes**-0.5)
    torch.testing.assert_close(odc.embedding_loss(z, INDEX)["pseudo_labels"].value, expected)


def test_deepcluster_prototypes_are_frozen_centroids_of_the_two_banks_in_turn():
    _, deep = build("deepcluster-v2", projector=[8, 5], prototypes=[3, 3, 4], local_crops=0)
    deep.between_epochs(nn.Identity(), 1, None)
    torch.testing.assert_close(deep.sets[1].centroids, k_means(deep.banks[1], 3, 10, seed=4, spherical=True))
    assert not any("sets" in name for name, _ in deep.named_parameters())
    z = losses.unit_rows(normal(2, 2, 4, 5).float())
    found = deep.embedding_loss(z, INDEX)["clusters"].value
    pairs = [(one.labels[INDEX].long(), crop @ one.centroids.T / 0.1) for one in deep.sets for crop in z]
    expected = [F.cross_entropy(logits, labels) for labels, logits in pairs]
    torch.testing.assert_close(found, torch.stack(expected).mean())
    deep.after_step(nn.Identity(), 1, 10)
    for bank, crop in zip(deep.banks, z, strict=True):
        torch.testing.assert_close(bank.vectors[INDEX], crop)
