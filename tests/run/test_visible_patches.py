"""The loss does not depend on the patches that the page of views shows pale."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_inv.augment.policies import none
from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.data.batches import StepBatches
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.objectives.base import Objective
from ssl_inv.run.pages.view_samples import samples
from ssl_inv.testing import GROUPS, random_transform
from ssl_inv.testing.networks import SIDE, Noise
from ssl_inv.views import View, Views
from ssl_inv.views.maker import ViewMaker

PATCH = 3
PREDICTOR = {"predictor_width": 8, "predictor_depth": 1, "least_context": 2}
MASKED = {"mask_probability": 1.0, "prototypes": 6, "local_crops": 0}
OBJECTIVES_ON_PATCHES: dict[str, dict[str, Any]] = {
    "capi": {"clusters": 6, "predictor_depth": 1, "predictor_heads": 1},
    "i-jepa": PREDICTOR,
    "iwm": {"parameters": ["rotation"], **PREDICTOR},
    "ibot": MASKED,
    "msn": {"prototypes": 6, "focal_views": 0, "random_views": 2},
    "split": {
        "invariant": {"name": "ibot", **MASKED},
        "equivariant": {"name": "augself", "parameters": ["rotation"], "projector": [8]},
    },
    "ec-reconstruction": {"base": {"name": "ibot", **MASKED}, "parameters": ["rotation"], "decoder": [4]},
}


def build(name: str) -> tuple[Backbone, Objective]:
    torch.manual_seed(0)
    arguments = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": 12, "depth": 1, "num_heads": 2}
    if name in ("capi", "i-jepa", "iwm"):
        arguments |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    backbone = make_backbone(name="vit_tiny_patch16_224", arguments=arguments)
    objective: Objective = OBJECTIVES.find(name).load()(backbone.features, GROUPS, **OBJECTIVES_ON_PATCHES[name])
    objective.adopt(backbone)
    return backbone, objective


def noise(count: int, batch: int) -> Views:
    pixels = [torch.randn(batch, 3, SIDE, SIDE, requires_grad=True) for _ in range(count)]
    return Views(tuple(View(one, random_transform(GROUPS, batch)) for one in pixels), torch.arange(batch))


@pytest.mark.parametrize("name", ["capi", "i-jepa", "iwm", "ibot", "msn"])
def test_the_loss_has_a_gradient_for_the_patches_that_are_visible_and_for_no_others(name: str) -> None:
    backbone, objective = build(name)
    # One sample, where of several some contexts would lose a surplus.
    views = noise(objective.plan.count, 1 if name in ("i-jepa", "iwm") else 3)
    visible = objective.visible_patches(views, backbone)
    torch.stack([term.value * term.weight for term in objective.loss(views, backbone).values()]).sum().backward()
    compared = 0
    for number, patches in visible.items():
        if (gradient := views[number].pixels.grad) is not None:
            blocks = gradient.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).abs().sum(dim=(1, 4, 5))
            assert torch.equal(blocks > 0, patches)
            assert 0 < patches.float().mean() < 1
            compared += 1
    assert compared == {"capi": 1, "i-jepa": 1, "iwm": 1, "ibot": 2, "msn": 2}[name]


def test_of_a_view_that_the_teacher_sees_what_is_predicted_is_visible() -> None:
    backbone, objective = build("iwm")
    views = noise(2, 5)
    targets = objective.masking(views.index, objective.grid, torch.device("cpu")).targets  # type: ignore[operator]
    for shown, wanted in zip(objective.visible_patches(views, backbone)[1], targets, strict=True):
        assert set(shown.flatten().nonzero().flatten().tolist()) == set(wanted.flatten().tolist())


@pytest.mark.parametrize("name", ["split", "ec-reconstruction"])
def test_an_objective_around_another_one_numbers_views_by_its_own_plan(name: str) -> None:
    backbone, objective = build(name)
    views = noise(objective.plan.count, 2)
    masked = build("ibot")[1].visible_patches(Views(views.views[:2], views.index), backbone)
    found = objective.visible_patches(views, backbone)
    assert found.keys() == {0, 1}
    assert all(torch.equal(found[number], masked[number]) for number in found)


def test_pale_patches_are_those_that_are_not_visible() -> None:
    backbone, objective = build("ibot")
    source = Noise()
    augmentation = none(extra=[{"name": "crop", "scale": [1.0, 1.0]}])
    maker = ViewMaker(objective.plan, source, augmentation, [0.5] * 3, [0.25] * 3, 0)
    batch = StepBatches(source, 4, 1, 0)[0]
    given = (source, batch, maker)
    whole, masked = samples(*given), samples(*given, lambda views: objective.visible_patches(views, backbone))
    visible: dict[int, Tensor] = dict(objective.visible_patches(maker(batch), backbone))
    for row, (one, other) in enumerate(zip(whole, masked, strict=True)):
        for before, after in zip(one.sources[0].views, other.sources[0].views, strict=True):
            shown = np.kron(visible[after.number][row].numpy(), np.ones((PATCH, PATCH))).astype(bool)
            assert np.array_equal(after.pixels[shown], before.pixels[shown])
            assert after.pixels[~shown].min() > 210
            assert after.words == f"{before.words}, {int(visible[after.number][row].sum())} of 16 patches"
