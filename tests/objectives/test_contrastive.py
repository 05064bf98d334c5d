"""Claims about MoCo v2 with feature transformation, NNCLR and adaptive multi-head contrast, against authors' numbers
and formulas.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from numpy.random import RandomState
from small import noise, total, views_of
from torch import Tensor, nn

from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.objectives.adaptive_multi_head import AdaptiveMultiHead, PairTemperature, pair_terms
from ssl_inv.objectives.moco_v2 import MoCoV2
from ssl_inv.objectives.nnclr import NNCLR


def build(objective: Any) -> tuple[Backbone, Any]:
    torch.manual_seed(0)
    backbone = make_backbone(name="test_resnet")
    made = objective(backbone.features)
    made.adopt(backbone)
    return backbone.train(), made.train()


def moco(**settings: Any) -> MoCoV2:
    return MoCoV2(5, {}, projector=[5], queue=16, **settings).double()


@pytest.fixture
def unit() -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and queue, normalised."""
    torch.manual_seed(1)
    return tuple(F.normalize(torch.randn(rows, 5, dtype=torch.float64), dim=1) for rows in (4, 4, 16))


def test_moco_v2_gives_the_authors_loss(golden):
    case = golden("moco_v2")["9_intra_loss_and_total"]
    objective = moco(temperature=case["inputs"]["temperature"])
    queue = RandomState(4).randn(5, 16)
    objective.queue.vectors.copy_(torch.tensor(queue / np.linalg.norm(queue, axis=0)).T)
    queries, keys = (torch.tensor(RandomState(seed).randn(4, 5), requires_grad=True) for seed in (2, 3))
    value = objective.embedding_loss(queries, keys)["info_nce"].value
    assert value.item() == pytest.approx(case["expected"]["intra_loss"], rel=1e-9)
    value.backward()
    assert queries.grad is not None
    assert keys.grad is None, "keys have no gradient"


def test_keys_come_into_the_queue_after_the_step():
    backbone, objective = build(lambda features: MoCoV2(features, {}, projector=[8], queue=6))
    first, before = noise([16, 16]), objective.queue.vectors.clone()
    objective.loss(first, backbone)["info_nce"].value.backward()
    assert torch.equal(objective.queue.vectors, before)
    assert all(one.grad is None for one in objective.teacher.parameters())
    keys = losses.unit_rows(objective.teacher(first[1].pixels))
    objective.after_step(backbone, 1, 10)
    torch.testing.assert_close(objective.queue.entries(), keys)


def test_the_teacher_keeps_its_momentum_in_every_step():
    backbone, objective = build(lambda features: MoCoV2(features, {}, projector=[8], queue=6, momentum=0.9))
    before = [one.clone() for one in objective.teacher.parameters()]
    with torch.no_grad():
        for one in (*backbone.parameters(), *objective.projector.parameters()):
            one.add_(1.0)
    objective.after_step(backbone, 9, 10)
    for one, old in zip(objective.teacher.parameters(), before, strict=True):
        torch.testing.assert_close(one, old + 0.1)


def test_extrapolation_makes_positives_harder_and_reaches_queries_by_both(unit):
    queries, keys, _ = unit
    objective = moco(extrapolation=2.0)
    weight = 1 + objective._beta(2.0, 0)
    assert 1 < weight < 2
    before = (queries * keys).sum(dim=1)
    expected = 2 * weight * (1 - weight) + (weight**2 + (1 - weight) ** 2) * before
    torch.testing.assert_close(objective._positive(queries, keys), expected)
    assert (expected <= before).all()
    queries.requires_grad_()
    objective._positive(queries, keys).sum().backward()
    gradient = 2 * weight * (1 - weight) * queries + (weight**2 + (1 - weight) ** 2) * keys
    torch.testing.assert_close(queries.grad, gradient)


def test_interpolated_negatives_are_mixtures_of_two_and_not_of_length_one(unit):
    queue = unit[2]
    mixed = moco(interpolation=1.6)._interpolated(queue)
    weight = moco()._beta(1.6, 1)
    others = (mixed - weight * queue) / (1 - weight)
    partners = torch.cdist(others, queue).argmin(dim=1)
    torch.testing.assert_close(others, queue[partners])
    assert sorted(partners.tolist()) == list(range(16)), "a permutation"
    assert (mixed.norm(dim=1) < 1).any()
    renormalised = moco(interpolation=1.6, renormalised=True)._interpolated(queue)
    torch.testing.assert_close(renormalised, F.normalize(mixed, dim=1))


def test_each_step_has_numbers_of_its_own_with_the_papers_moments():
    objective = moco(extrapolation=2.0)
    drawn = []
    for step in range(400):
        objective.steps_done = step
        drawn.append(objective._beta(2.0, 0))
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.03)
    assert np.var(drawn) == pytest.approx(1 / 20, abs=0.01), "Beta(2, 2)"


def test_contrast_is_a_cross_entropy():
    positive, negatives = torch.randn(6, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
    logits = torch.cat((positive[:, None], negatives), dim=1) / 0.2
    expected = F.cross_entropy(logits, torch.zeros(6, dtype=torch.int64))
    assert losses.contrast(positive, negatives, 0.2).item() == pytest.approx(expected.item(), rel=1e-12)
    assert losses.contrast(100 * positive.abs(), -100 * negatives.abs(), 0.01).isfinite()


def test_nnclr_is_the_papers_loss_and_not_simclrs():
    torch.manual_seed(0)
    objective = NNCLR(5, {}, projector=[5], predictor=[7], queue=20).double()
    x, y, px, py = torch.randn(4, 6, 5, dtype=torch.float64).unbind()
    px.requires_grad_()
    value = objective.embedding_loss(x, y, px, py)["info_nce"]
    expected, with_own_view = 0.0, 0.0
    for z, p in ((x, py), (y, px)):
        neighbours = objective.queue.vectors[(F.normalize(z, dim=1) @ objective.queue.vectors.T).argmax(dim=1)]
        expected += F.cross_entropy(neighbours @ F.normalize(p, dim=1).T / 0.1, torch.arange(6)).item() / 2
        with_own_view += NTXentLoss(temperature=0.1)(neighbours, p).item() / 2
    assert value.value.item() == pytest.approx(expected, rel=1e-6)
    assert abs(with_own_view - expected) > 0.05
    value.value.backward()
    assert px.grad is not None


def test_neighbours_are_exact_and_projections_of_the_first_view_come_in():
    backbone, objective = build(lambda features: NNCLR(features, {}, projector=[8], predictor=[8], queue=4))
    objective.queue.put(torch.eye(8)[:4])
    objective.queue.flush()
    torch.testing.assert_close(objective.neighbours(torch.eye(8)[[2, 0]] + 0.3), torch.eye(8)[[2, 0]])
    batch = noise([16, 16], 3)
    first = losses.unit_rows(objective.projector(backbone(batch[0].pixels)))
    objective.loss(batch, backbone)
    objective.after_step(backbone, 1, 10)
    torch.testing.assert_close(objective.queue.vectors[:3], first, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_adaptive_heads_are_their_equation(negatives):
    torch.manual_seed(0)
    settings = {"heads": 2, "hidden": 7, "temperatures": [0.1, 2.0], "regularisation": 0.3, "negatives": negatives}
    objective = AdaptiveMultiHead(5, {}, projector=[6], **settings).double()
    features = [torch.randn(4, 5, dtype=torch.float64) for _ in range(2)]
    terms = objective.loss(views_of(features), nn.Identity())
    expected = 0.0
    for head, temperature in zip(objective.projectors, objective.temperatures, strict=True):
        z = F.normalize(torch.cat([head(one) for one in features]), dim=1)
        t = temperature(z, z)
        for i in range(8):
            j = (i + 4) % 8
            omega = 6 / 2 * t.log() + 1 / t
            others = [n for n in range(8) if n % 4 != i % 4]
            scores = torch.stack([z[i] @ z[n] / t[i, n] for n in others])
            weights = scores.softmax(dim=0) if negatives == "all" else (scores == scores.max()).double()
            repulsion = scores.logsumexp(dim=0) if negatives == "all" else scores.max()
            expected += -z[i] @ z[j] / t[i, j] + repulsion + 0.3 * (omega[i, j] - weights @ omega[i, others])
    assert total(terms).item() == pytest.approx(expected.item() / 8, rel=1e-12)


def test_temperatures_are_an_mlp_of_both_views_within_their_range():
    network = PairTemperature(3, 5, 0.2, 1.5)
    rows, columns = torch.randn(4, 3), torch.randn(6, 3)
    weight = torch.cat((network.row.weight, network.column.weight), dim=1)
    for i, j in ((0, 0), (3, 5)):
        hidden = torch.relu(weight @ torch.cat((rows[i], columns[j])) + network.row.bias)
        expected = 0.2 + 1.3 * torch.sigmoid(network.output(hidden))
        torch.testing.assert_close(network(rows, columns)[i, j], expected[0])
    with torch.no_grad():
        network.output.bias.fill_(100.0)
    torch.testing.assert_close(network(rows, columns), torch.full((4, 6), 1.5))


def test_a_low_temperature_pays_for_positives_above_the_regularisation():
    def loss(cosine: float, temperature: float) -> float:
        similarities, temperatures = torch.full((4, 4), cosine), torch.ones(4, 4)
        temperatures[torch.arange(4), torch.tensor([2, 3, 0, 1])] = temperature
        attraction, _, regularity = pair_terms(similarities, temperatures, 128)
        return float(attraction + 0.1 * regularity)

    assert loss(0.5, 1e-4) < loss(0.5, 1e-3) < loss(0.5, 1e-2)
    assert loss(0.05, 1e-4) > loss(0.05, 1e-3)


def test_a_contrast_without_information_costs_the_logarithm_of_the_choices():
    assert losses.contrast(torch.ones(3), torch.ones(3, 9), 0.2).item() == pytest.approx(math.log(10))
    assert losses.find_own(torch.ones(5, 3), torch.ones(5, 3), 0.2).item() == pytest.approx(math.log(5))
