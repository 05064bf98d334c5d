"""Claims about InterCLR: what has gradients, what its bank gets and when, and what is refused."""

import math
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.objectives.base import PairLoss, PairObjective, Term
from ssl_inv.objectives.interclr import InterCLR, with_margin
from ssl_inv.testing import check_objective
from ssl_inv.transforms import Group, Rotation, Transform
from ssl_inv.views import Pair, View, Views

MOCO: dict[str, Any] = {"name": "moco-v2", "projector": [16, 5], "queue": 16}
SMALL: dict[str, Any] = {"clusters": 6, "smallest_cluster": 0, "negative_count": 10, "pool": 24}
CONFORMANCE: dict[str, Any] = {
    "clusters": 4,
    "smallest_cluster": 2,
    "negative_count": 5,
    "pool": 9,
    "cluster_iterations": 5,
}
INDEX = torch.tensor([0, 13, 28, 51])


def backbone() -> Backbone:
    """A small transformer with 8 features."""
    arguments = {"img_size": 12, "patch_size": 3, "embed_dim": 8, "depth": 1, "num_heads": 2}
    return make_backbone(name="vit_tiny_patch16_224", arguments=arguments)


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


def test_queries_have_gradients_and_keys_and_bank_have_none(interclr):
    network, whole = backbone().double(), interclr()
    terms = whole.loss(views(), network)
    terms["inter"].value.backward()
    assert all(one.grad is not None for one in whole.base.projector.parameters())
    assert any(one.grad is not None for one in network.parameters())
    assert not any(one.requires_grad for one in (*whole.base.teacher.parameters(), whole.bank.vectors))


@pytest.mark.parametrize(("warmup", "weights"), [(0.0, (0.75, 0.25)), (0.5, (1.0, 0.0))])
def test_the_warmup_leaves_the_base_alone(warmup, weights, interclr):
    network, whole = backbone().double(), interclr(warmup=warmup)
    terms = whole.loss(views(), network)
    assert (terms["info_nce"].weight, terms["inter"].weight) == weights
    whole.after_step(network, 5, 10)
    assert whole.loss(views(), network)["inter"].weight == 0.25


@pytest.mark.parametrize("online", [True, False])
def test_the_key_takes_the_place_and_offline_labels_stay(online, interclr):
    network, whole = backbone().double(), interclr(labels="online" if online else "offline")
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
    check_objective(
        "interclr", **{"base": {"name": "moco-v2", "projector": [24, 16], "queue": 32}, **CONFORMANCE, **settings}
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": 70}, "clusters: must lie between 2 and the 60 objects"),
        ({"smallest_cluster": 11}, "smallest_cluster: 11 times 6 clusters is more than the 60 objects"),
        ({"pool": 61}, "pool: must be at most the 60 training objects, got 61"),
        ({"negative_count": 25}, "negative_count: 25, but there are 24 objects to draw from"),
        ({"negatives": "random", "negative_count": 61}, "negative_count: 61, but there are 60 objects"),
        ({"negatives": "none", "share_neck": False}, "so share_neck must be true"),
        ({"weight": 2.0}, "weight: must lie between 0 and 1"),
        ({"base": {"name": "rotnet"}}, "'rotnet' gives no queries and keys"),
        ({"base": {"name": "equicaps"}}, "'equicaps' gives no queries and keys"),
        (
            {"base": {"name": "transitive", "weights": {"intra": 1}}},
            "'transitive' gives no queries and keys",
        ),
        ({"base": {"name": "swav"}}, "'swav' has views of other images or crops of several sizes"),
        ({"cluster_points": 0}, "cluster_points: must be at least 1, got 0"),
        ({"smallest_cluster": -1}, "smallest_cluster: must be at least 0, got -1"),
        ({"boundary": "angle", "margin": 4.0}, "margin: must be an angle within pi of 0, got 4.0"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    base = settings.pop("base", MOCO)
    with pytest.raises(ValueError, match=re.escape(message)):
        InterCLR(8, {"rotation": Rotation()}, base=base, **{**SMALL, **settings}).allocate(60, 60)


@pytest.mark.parametrize("share_neck", [True, False])
@pytest.mark.parametrize("base", ["conditional-byol", "byol", "moco-v2", "simclr", "essl"])
def test_the_bank_gets_the_key_of_the_last_view_whatever_the_order_of_the_passes(base, share_neck):
    made = InterCLR(
        8,
        {"rotation": Rotation()},
        base={"name": base, "projector": [16, 5]},
        share_neck=share_neck,
        neck=[16, 5],
        **SMALL,
    )
    network = backbone()
    made.adopt(network)
    made.allocate(60, 60)
    x, y, *others = (
        View(torch.randn(4, 3, 12, 12), Transform({"rotation": torch.eye(4)}, {"rotation": Rotation()}))
        for _ in range(made.plan.count)
    )
    made.eval()
    network.eval()
    made.loss(Views((x, y, *others), INDEX), network)
    ((_, keys),) = made.bank.flush()
    encoder = made.base.teacher.network[0] if made.base.has_teacher else network
    projector = made.base.teacher.network[1] if made.base.has_teacher and share_neck else made.projector
    torch.testing.assert_close(keys, F.normalize(projector(encoder(y.pixels)), dim=1), atol=1e-5, rtol=1e-5)


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
    whole = InterCLR(8, {}, base=base, negatives=negatives, **SMALL)
    network = backbone().double()
    whole.double().adopt(network)
    whole.allocate(60, 60)
    whole.double()
    terms = whole.loss(views(), network)
    assert terms.keys() == {"own", "inter"}
    terms["inter"].value.backward()
    assert (whole.base.prediction.weight.grad is None) == (negatives != "none")
    assert whole.base.projector.weight.grad is not None


def test_offline_labels_ask_nothing_of_the_smallest_cluster():
    InterCLR(8, {}, base=MOCO, **{**SMALL, "labels": "offline", "smallest_cluster": 20}).allocate(60, 60)
