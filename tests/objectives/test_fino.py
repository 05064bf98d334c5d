"""FINO: columns that attract are told, those that repel are forgotten, and unknown kinds count for nothing."""

import pytest
import torch
from small import build, views_of
from torch import Tensor

from ssl_inv.memories.centroids import Centroids, known_cross_entropy
from ssl_inv.nn.backbones import Cached
from ssl_inv.objectives.fino import scaled_gradient
from ssl_inv.transforms import Category, Circle, Transform

SITE = {"site": Category(3)}


def guided(head: str, sign: str, weight: float = 1.0) -> Tensor:
    """The gradient at the features of one column that attracts or repels with all its strength."""
    settings = {"attract": [], "repel": [], "head": head, "schedule": "constant", "warmup": 0.0, sign: ["site"]}
    settings |= {"weight": weight, "repel_weight": weight}
    _, objective = build("fino", groups=SITE, **settings)
    torch.manual_seed(3)
    features = torch.randn(6, 12).requires_grad_()
    record = Transform({"site": torch.tensor([0, 1, 2, 0, -1, 1])}, SITE)
    (term,) = objective.guide_losses([features, features], [record, record]).values()
    (term.weight * term.value).backward()
    assert features.grad is not None
    return features.grad


@pytest.mark.parametrize("head", ["prototypes", "classification"])
def test_columns_that_repel_turn_the_gradient_round_and_weights_act(head: str) -> None:
    attracted = guided(head, "attract")
    assert attracted.abs().sum() > 0
    torch.testing.assert_close(guided(head, "repel"), -attracted)
    torch.testing.assert_close(guided(head, "attract", weight=0.25), attracted / 4)
    assert not attracted[4].any(), "a row of unknown kind"


def test_a_repelled_head_still_learns() -> None:
    _, objective = build("fino", groups=SITE, attract=[], repel=["site"], head="classification", warmup=0.5)
    record = Transform({"site": torch.tensor([0, 1, 2, 0])}, SITE)
    features = torch.randn(4, 12).requires_grad_()
    terms = objective.guide_losses([features], [record])
    terms["guide_site"].value.backward()
    assert not features.grad.any(), "before the warm-up is over"
    assert all(bool(one.grad.any()) for one in objective.heads[0].parameters())


def test_only_kinds_that_were_seen_move() -> None:
    torch.manual_seed(0)
    head = Centroids(4, 5, 0.9, 0.07)
    before = head.centroids.clone()
    features, kinds = torch.randn(5, 5), torch.tensor([0, 0, 2, -1, -1])
    head.put((features, kinds))
    assert torch.equal(head.centroids, before), "until the step is done"
    head.flush()
    unit = torch.nn.functional.normalize(features, dim=1)
    torch.testing.assert_close(head.centroids, torch.stack((unit[:2].mean(0), before[1], unit[2], before[3])))
    assert head.counts.tolist() == [2, 0, 1, 0]
    assert head.concentration.tolist() == pytest.approx([0.07] * 4), "no centroid had been seen before"
    head.put((features, kinds))
    head.flush()
    spread = (unit[:2] - torch.nn.functional.normalize(unit[:2].mean(0), dim=0)).square().sum(1).mean().sqrt()
    assert head.concentration.tolist() == pytest.approx([0.063 + 0.1 * spread.item(), 0.07, 0.07, 0.07])


def test_a_batch_of_unknown_kinds_costs_nothing() -> None:
    logits = torch.randn(3, 4).requires_grad_()
    value = known_cross_entropy(logits, torch.full((3,), -1))
    value.backward()
    assert value == 0
    assert not logits.grad.any()


def test_scaled_gradient_passes_values_on() -> None:
    tensor = torch.randn(3).requires_grad_()
    made = scaled_gradient(tensor, -0.5)
    assert torch.equal(made, tensor)
    made.sum().backward()
    assert tensor.grad.tolist() == [-0.5] * 3


def test_views_pass_the_backbone_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, objective = build("fino", groups={"hue": Circle()}, attract=["hue"], repel=[])
    passed: list[int] = []
    original = Cached._passed
    monkeypatch.setattr(
        Cached,
        "_passed",
        lambda self, pixels, change=None: passed.append(len(pixels)) or original(self, pixels, change),
    )
    record = Transform({"hue": torch.rand(4)}, {"hue": Circle()})
    objective.loss(views_of(torch.randn(2, 4, 3, 12, 12), [record, record]), backbone)
    assert sum(passed) == 8
