"""Claims about Gram anchoring: what its anchor is, when it is copied, and that nothing else changes."""

import pytest
import torch
from small import PROJECTOR, build, noise, total, vit

from ssl_inv.catalogue import SettingError
from ssl_inv.objectives.gram_anchoring import gram_anchor

DINO = {"name": "dino", "prototypes": 10, "local_crops": 2, "local_size": 6, "projector": PROJECTOR}
TRANSFORMER = vit(dynamic_img_size=True)


def weights_of(network):
    return [one.detach().clone() for one in network.parameters()]


def same(network, weights):
    return all(torch.equal(one, other) for one, other in zip(network.parameters(), weights, strict=True))


def step(backbone, objective, number, steps):
    with torch.no_grad():
        for one in backbone.parameters():
            one.add_(0.01 * torch.randn_like(one))
    objective.after_step(backbone, number, steps)


def test_the_anchor_is_the_bases_teacher_at_the_start_and_at_every_refresh():
    settings = {"start": 0.5, "refresh_every": 3, "refreshes": 1, "base": DINO}
    backbone, objective = build("gram-anchoring", **settings, backbone=TRANSFORMER)
    teacher = objective.base.teacher.network[0]
    for number in range(1, 13):
        before = weights_of(objective.anchor.network)
        step(backbone, objective, number, 12)
        if number in (6, 9):
            assert same(objective.anchor.network, weights_of(teacher))
            assert not same(objective.anchor.network, weights_of(backbone))
        else:
            assert same(objective.anchor.network, before)
        assert objective.anchored == (number >= 6)


def test_a_base_without_teacher_is_anchored_to_the_backbone_itself():
    backbone, objective = build("gram-anchoring", start=0.1)
    step(backbone, objective, 1, 10)
    assert same(objective.anchor.network, weights_of(backbone))


def test_before_the_start_the_loss_is_the_bases_and_the_anchor_does_not_run():
    backbone, objective = build("gram-anchoring", start=0.5, base=DINO, backbone=TRANSFORMER)
    objective.anchor.forward = objective.anchor.network.encode = None
    views = noise((12, 12, 6, 6))
    terms = objective.loss(views, backbone)
    torch.testing.assert_close(total(terms), total(objective.base.loss(views, backbone)))
    assert terms["gram"].value == 0


def test_global_crops_alone_are_compared_and_the_anchor_learns_nothing():
    backbone, objective = build("gram-anchoring", start=0.0, base=DINO, backbone=TRANSFORMER)
    views = noise((12, 12, 6, 6))
    assert objective.loss(views, backbone)["gram"].value.item() == pytest.approx(0, abs=1e-10)
    step(backbone, objective, 1, 10)
    value = objective.loss(views, backbone)["gram"].value
    pairs = [[one.tokens(views[i].pixels) for one in (backbone, objective.anchor.network)] for i in (0, 1)]
    torch.testing.assert_close(value, sum(gram_anchor(*pair) for pair in pairs) / 2)
    value.backward()
    assert all(one.grad is None for one in objective.anchor.parameters())
    assert any(one.grad is not None and one.grad.any() for one in backbone.parameters())


def test_a_saved_anchor_is_loaded_with_what_is_known_of_it():
    backbone, objective = build("gram-anchoring", start=0.1, base=DINO, backbone=TRANSFORMER)
    step(backbone, objective, 1, 10)
    _, other = build("gram-anchoring", start=0.1, base=DINO, backbone=TRANSFORMER)
    assert not other.anchored
    other.load_state_dict(objective.state_dict())
    assert other.anchored
    assert same(other.anchor.network, weights_of(objective.anchor.network))


def test_similarities_do_not_change_by_a_rotation_of_all_patches():
    patches = torch.randn(3, 9, 8)
    turned = patches @ torch.linalg.qr(torch.randn(8, 8))[0]
    assert gram_anchor(turned, 2 * patches).item() == pytest.approx(0, abs=1e-10)
    assert gram_anchor(patches.flip(1), patches).item() > 1e-2


def test_a_share_above_all_steps_is_refused():
    with pytest.raises(SettingError, match="start: must be a share of all steps from 0 to below 1, got 2"):
        build("gram-anchoring", start=2.0)
