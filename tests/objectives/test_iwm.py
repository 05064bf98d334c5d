"""Claims about Image World Models: whose patches are predicted, what of, and that the predictor is told what leads
there.
"""

import numpy as np
import pytest
import torch
from small import MEAN_OF_PATCHES, transformer, views_of
from torch import Tensor

from ssl_inv.augment.policies import iwm
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.tokens import TokenPredictor, normalised
from ssl_inv.objectives.iwm import IWM, evenly_spread
from ssl_inv.testing import random_transform
from ssl_inv.transforms import Circle, Real, Rotation, Transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.views import View, Views

GROUPS = {"rotation": Rotation(), "hue": Circle(), "brightness": Real(scale=0.8, neutral_value=1.0)}
SMALL = {"predictor_width": 16, "predictor_depth": 2, "least_context": 4, "parameters": ["rotation", "hue"]}


def build(**settings) -> tuple[Backbone, IWM]:
    torch.manual_seed(0)
    backbone = transformer(img_size=24, patch_size=4, depth=2, **MEAN_OF_PATCHES)
    objective = IWM(backbone.features, GROUPS, **{**SMALL, **settings})
    objective.adopt(backbone)
    return backbone, objective


def images(count: int = 4) -> Views:
    pixels = [torch.randn(count, 3, 24, 24, requires_grad=True) for _ in range(2)]
    return views_of(pixels, [random_transform(GROUPS, count) for _ in pixels])


def test_patches_of_the_target_are_predicted_from_the_context_of_the_source():
    backbone, objective = build()
    views = images()
    masks = objective.masking(views.index, (6, 6), torch.device("cpu"))
    value = objective.loss(views, backbone)["prediction"].value
    value.backward()
    source, target = views[0].pixels, views[1].pixels
    assert target.grad is None, "the target is the teacher's to see"
    reached = source.grad.unfold(2, 4, 4).unfold(3, 4, 4).movedim(1, 3).flatten(1, 2).flatten(2).abs().sum(dim=2) > 0
    assert torch.equal(reached, torch.zeros(4, 36, dtype=torch.bool).scatter(1, masks.context, True))
    assert all(one.grad is None for one in objective.teacher.parameters())
    swapped = Views(views.views[::-1], views.index)
    assert objective.loss(swapped, backbone)["prediction"].value != value


def test_the_loss_is_the_equation():
    backbone, objective = build()
    views = images(2)
    masks = objective.masking(views.index, (6, 6), torch.device("cpu"))
    action = views.actions()[0].as_vector(["rotation", "hue"])
    with torch.no_grad():
        visible = [backbone.model.norm(backbone.model.blocks(take_rows(backbone, views[0].pixels, masks.context)))]
        made = objective.token_predictor(normalised(visible[0]), masks.context, masks.targets, (6, 6), action)
        tokens = normalised(backbone.tokens(views[1].pixels))
        errors = [(made[b, i] - tokens[b, masks.targets[b, i]]).square().mean() for b in range(2) for i in range(4)]
    torch.testing.assert_close(objective.loss(views, backbone)["prediction"].value, torch.stack(errors).mean())


def take_rows(backbone: Backbone, pixels: Tensor, rows: Tensor) -> Tensor:
    embedded = backbone.model._pos_embed(backbone.model.patch_embed(pixels))
    return torch.stack([one[some] for one, some in zip(embedded, rows, strict=True)])


def test_the_action_changes_what_is_predicted_and_no_other_parameter_does():
    backbone, objective = build()
    views = images()

    def with_target(**values: Tensor) -> float:
        target = View(views[1].pixels, Transform({**views[1].transform.values, **values}, GROUPS))
        return objective.loss(Views((views[0], target), views.index), backbone)["prediction"].value.item()

    value = with_target()
    assert with_target(hue=views[1].transform["hue"] + 0.3) != value
    assert with_target(brightness=views[1].transform["brightness"] + 0.3) == value


def test_a_predictor_that_is_told_the_action_learns_what_it_does():
    """The target is the mean of the context, with the action added to each dimension; not told, the action's variance
    of 1 remains.
    """
    torch.manual_seed(0)
    context, targets = torch.arange(6).expand(64, -1), torch.tensor([[[7, 8]]]).expand(64, -1, -1)

    def fit(action: int) -> float:
        predictor = TokenPredictor(4, 16, 1, 2, action)
        optimizer = torch.optim.Adam(predictor.parameters(), lr=1e-2)
        recent = []
        for _ in range(120):
            seen, told = torch.randn(64, 6, 4), torch.randn(64, 1)
            wanted = (seen.mean(dim=1) + told)[:, None, None].expand(-1, 1, 2, -1)
            made = predictor(seen, context, targets, (3, 3), told if action else None)
            value = losses.token_error(made, wanted, "squared")
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            recent.append(value.item())
        return float(np.mean(recent[-20:]))

    told, untold = fit(1), fit(0)
    assert untold > 0.7
    assert told < 0.3 * untold


def test_retrieval_works_in_the_space_of_the_loss():
    backbone, objective = build(judged_side=3)
    views, action = images(), images().actions()[0]
    predictor = objective.eval().predictor(backbone.eval())
    patches = evenly_spread((6, 6), 3)
    with torch.no_grad():
        embedding = predictor.embed(views[0].pixels)
        predicted = predictor.predict(embedding, action)
        tokens = normalised(backbone.tokens(views[0].pixels))[:, patches]
        told = action.as_vector(["rotation", "hue"])
        made = objective.token_predictor(tokens, patches.expand(4, -1), patches.expand(4, 1, -1), (6, 6), told)
    torch.testing.assert_close(embedding, tokens.flatten(1))
    torch.testing.assert_close(predicted, made.flatten(1))
    assert predicted.shape == embedding.shape == (4, 9 * 12)


@pytest.mark.parametrize(
    ("grid", "side", "patches"), [((4, 4), 2, [5, 7, 13, 15]), ((2, 3), 4, [*range(6)]), ((14, 14), 1, [105])]
)
def test_judged_patches_are_evenly_spread(grid, side, patches):
    assert evenly_spread(grid, side).tolist() == patches


def test_the_augmentation_changes_colours_between_views_and_nothing_else():
    augmentation, pixels = iwm(size=16, jitter=1.0, blur=0.5), torch.rand(300, 3, 24, 24)
    (_, source), (_, target) = (augmentation(pixels, Key(0, 1, np.arange(300), view)) for view in range(2))
    for name in ("crop", "flip"):
        assert torch.equal(source[name], target[name])
    assert len(source["crop"].unique(dim=0)) > 200
    assert (source["hue"] != target["hue"]).all()
    for name in ("grey", "blur", "solarise"):
        assert torch.equal(target[name], augmentation.groups[name].neutral(300))
        assert 0.1 < (source[name] != target[name]).float().mean() < 0.6
    assert set(IWM.__init__.__kwdefaults__["parameters"]) == set(augmentation.groups) - {"crop", "flip", "jitter_order"}
