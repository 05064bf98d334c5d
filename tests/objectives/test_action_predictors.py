"""Claims about SIE, EquiMod, SEN and conditional BYOL, which predict one view from another and an action."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import total
from torch import nn

from ssl_inv.augment.policies import equimod
from ssl_inv.nn import losses
from ssl_inv.objectives.conditional_byol import ConditionalBYOL
from ssl_inv.testing import GROUPS
from ssl_inv.transforms import Transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.views import Views

PREDICTING = ["sie", "equimod", "sen", "conditional-byol"]


@pytest.mark.parametrize("name", PREDICTING)
def test_predictions_depend_on_the_parameters_that_are_named_and_no_others(name, backbone, some_views, build):
    objective = build(name, backbone, parameters=["rotation"]).eval()
    first, second, third = some_views(3).views
    predictor = objective.predictor(backbone)
    embedding = predictor.embed(first.pixels)
    told = predictor.predict(embedding, first.transform.relative(second.transform))
    assert told.shape == embedding.shape
    assert not torch.allclose(told, predictor.predict(embedding, first.transform.relative(third.transform)))
    turned_alike = Transform({**third.transform.values, "rotation": second.transform["rotation"]}, GROUPS)
    torch.testing.assert_close(told, predictor.predict(embedding, first.transform.relative(turned_alike)))


def test_sie_with_nothing_invariant_is_prediction_held_up(backbone, build):
    objective = build("sie", backbone, equivariant_share=1.0)
    x, y = (torch.randn(8, 6) for _ in range(2))
    action = torch.randn(8, 4)
    terms = objective.embedding_loss(x, y, action)
    z_x, z_y = objective.equivariant_projector(x), objective.equivariant_projector(y)
    predicted = objective.action_predictor(z_x, action)
    expected = 4.5 * nn.functional.mse_loss(predicted, z_y) + 5 * sum(losses.variance(z) for z in (z_x, z_y, predicted))
    torch.testing.assert_close(total(terms), expected + losses.covariance(z_x) + losses.covariance(z_y))
    assert "invariance" not in terms
    assert not [name for name, _ in objective.named_parameters() if name.startswith("invariant")]
    assert objective.representations(backbone)(torch.randn(2, 6)).keys() == {"all"}


def test_equimod_of_images_predicts_from_the_image_itself():
    augmentation, pixels = equimod(size=16), torch.rand(4, 3, 16, 16)
    key = Key(0, 0, np.arange(4), 0)
    views = [augmentation(pixels, replace(key, view=number)) for number in range(3)]
    torch.testing.assert_close(views[2][0], pixels)
    assert all(torch.equal(value, augmentation.groups[name].neutral(4)) for name, value in views[2][1].values.items())
    assert not torch.equal(views[0][1]["crop"], views[1][1]["crop"])


def test_equimod_predicts_both_views_from_the_third_and_asks_no_invariance_of_it(backbone, some_views, build):
    objective = build("equimod", backbone)
    views = some_views(3)
    pixels = [view.pixels.requires_grad_() for view in views.views]
    terms = objective.loss(views, backbone)
    terms["invariance"].value.backward()
    assert [one.grad is not None for one in pixels] == [True, True, False]
    objective.loss(views, backbone)["equivariance"].value.backward()
    assert all(one.grad is not None and bool(one.grad.any()) for one in pixels)


def test_conditional_byol_is_symmetric_and_one_direction_is_half_of_it(backbone, some_views, build):
    both, one = (build("conditional-byol", backbone, symmetric=symmetric) for symmetric in (True, False))
    views = some_views(2)
    exchanged = Views(views.views[::-1], views.index)
    terms, swapped = both.loss(views, backbone), both.loss(exchanged, backbone)
    torch.testing.assert_close(terms["forward"].value, swapped["backward"].value)
    torch.testing.assert_close(total(terms), total(swapped))
    alone = one.loss(views, backbone)
    assert alone.keys() == {"forward"}
    torch.testing.assert_close(alone["forward"].value, terms["forward"].value)


def test_the_teacher_of_conditional_byol_follows_and_learns_nothing(backbone, some_views, build):
    objective = build("conditional-byol", backbone, momentum=0.9, symmetric=False)
    first, second = some_views(2).views
    second.pixels.requires_grad_()
    total(objective.loss(Views((first, second), torch.arange(8)), backbone)).backward()
    assert second.pixels.grad is None
    assert all(one.grad is None for one in objective.teacher.parameters())
    teacher, student = objective.teacher.network[0].model.layer.weight, backbone.model.layer.weight
    before = teacher.clone()
    with torch.no_grad():
        student.add_(1.0)
    objective.after_step(backbone, 5, 10)
    torch.testing.assert_close(teacher, before + 0.05)


def test_one_direction_needs_no_teacher_of_the_source(backbone, some_views):
    objective = ConditionalBYOL(6, GROUPS, projector=[8, 5], symmetric=False)
    objective.adopt(backbone)
    seen = []
    objective.teacher.network[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    views = some_views(2)
    objective.loss(views, backbone)
    assert len(seen) == 1
    assert seen[0] is views[1].pixels
