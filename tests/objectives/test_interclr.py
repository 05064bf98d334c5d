"""Claims about InterCLR: what has gradients, what its bank gets and when, and what is refused."""

import math
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from small import build, transformer, views_of, vit
from torch import nn

from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.objectives.base import PairLoss, PairObjective, Term
from ssl_inv.objectives.interclr import with_margin
from ssl_inv.transforms import Group, Rotation, Transform
from ssl_inv.views import Pair, Views

ROTATION = {"rotation": Rotation()}


@pytest.mark.parametrize("margin", [-0.5, 0.5, 0.0])
def test_a_margin_on_the_angle_rises_with_the_cosine(margin):
    angles = torch.linspace(0, math.pi, 200, dtype=torch.float64)
    found = with_margin(angles.cos(), margin, "angle")
    assert (found.diff() < 1e-7).all()
    inside = (angles + margin > 0.01) & (angles + margin < math.pi - 0.01)
    torch.testing.assert_close(found[inside], (angles + margin).cos()[inside], atol=1e-6, rtol=0)


def views() -> Views:
    return views_of(torch.randn(2, 4, 3, 12, 12, dtype=torch.float64))


def test_queries_have_gradients_and_keys_and_bank_have_none(interclr):
    network, whole = transformer(embed_dim=8).double(), interclr()
    terms = whole.loss(views(), network)
    terms["inter"].value.backward()
    assert all(one.grad is not None for one in whole.base.projector.parameters())
    assert any(one.grad is not None for one in network.parameters())
    assert not any(one.requires_grad for one in (*whole.base.teacher.parameters(), whole.bank.vectors))


@pytest.mark.parametrize(("warmup", "weights"), [(0.0, (0.75, 0.25)), (0.5, (1.0, 0.0))])
def test_the_warmup_leaves_the_base_alone(warmup, weights, interclr):
    network, whole = transformer(embed_dim=8).double(), interclr(warmup=warmup)
    terms = whole.loss(views(), network)
    assert (terms["info_nce"].weight, terms["inter"].weight) == weights
    whole.after_step(network, 5, 10)
    assert whole.loss(views(), network)["inter"].weight == 0.25


@pytest.mark.parametrize("online", [True, False])
def test_the_key_takes_the_place_and_offline_labels_stay(online, interclr):
    network, whole = transformer(embed_dim=8).double(), interclr(labels="online" if online else "offline")
    seen = views()
    before = whole.clusters.labels.clone()
    key = whole.base.teacher(seen[1].pixels)
    whole.loss(seen, network)
    whole.after_step(network, 1, 10)
    torch.testing.assert_close(whole.bank.vectors[:4], losses.unit_rows(key))
    assert torch.equal(whole.clusters.labels, before) != online


@pytest.mark.parametrize("share_neck", [True, False])
@pytest.mark.parametrize("base", ["conditional-byol", "byol", "moco-v2", "simclr", "essl"])
def test_the_bank_gets_the_key_of_the_last_view_whatever_the_order_of_the_passes(base, share_neck):
    base = {"name": base, "projector": [16, 5]}
    network, made = build("interclr", backbone=vit(), base=base, share_neck=share_neck, neck=[16, 5])
    pixels = torch.randn(made.plan.count, 4, 3, 12, 12)
    made.eval()
    network.eval()
    made.loss(views_of(pixels, [Transform({"rotation": torch.eye(4)}, ROTATION)] * len(pixels)), network)
    ((_, keys),) = made.bank.flush()
    encoder = made.base.teacher.network[0] if made.base.has_teacher else network
    projector = made.base.teacher.network[1] if made.base.has_teacher and share_neck else made.projector
    torch.testing.assert_close(keys, F.normalize(projector(encoder(pixels[1])), dim=1), atol=1e-5, rtol=1e-5)


class Own(PairObjective):
    """An objective of a user, with a predictor."""

    def __init__(self, features: int, groups: Mapping[str, Group], *, width: int = 6) -> None:
        super().__init__()
        self.projector, self.prediction = nn.Linear(features, width), nn.Linear(width, width)

    @property
    def plan(self) -> Pair:
        return Pair()

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        x, y = (self.embed(view.pixels, backbone) for view in views.views)
        predicted = self.prediction(x.embeddings)
        error = losses.cosine_error(predicted, y.embeddings.detach())
        return PairLoss({"own": Term(error)}, queries=x, keys=y, predictions=predicted)


@pytest.mark.parametrize("negatives", ["semi-hard", "none"])
def test_an_objective_of_a_user_that_hands_over_its_pair_is_a_base(negatives):
    base = {"name": f"{__name__}.Own", "width": 5}
    network, whole = build("interclr", backbone=vit(), base=base, negatives=negatives)
    terms = whole.double().loss(views(), network.double())
    assert terms.keys() == {"own", "inter"}
    terms["inter"].value.backward()
    assert (whole.base.prediction.weight.grad is None) == (negatives != "none")
    assert whole.base.projector.weight.grad is not None


def test_offline_labels_ask_nothing_of_the_smallest_cluster():
    build("interclr", labels="offline", smallest_cluster=20)
