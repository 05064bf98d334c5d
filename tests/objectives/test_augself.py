"""Claims about AugSelf: its targets for crops and colours, and what learns from them."""

import numpy as np
import pytest
import torch

from ssl_inv.augment.policies import simclr
from ssl_inv.objectives.augself import AugSelf
from ssl_inv.testing import GROUPS, random_transform
from ssl_inv.transforms import Flag, Transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.views import Views


def test_augself_tells_the_crop_in_the_frame_of_the_view_that_one_sees():
    told = AugSelf(6, GROUPS, parameters=["crop"]).targets[0]
    boxes = [[0.2, 0.4, 0.4, 0.5], [0.3, 0.6, 0.2, 0.9]]

    def difference(groups, **flips):
        flips = {name: torch.tensor(both)[:, None] for name, both in flips.items()}
        values = [
            {"crop": torch.tensor([box])} | {name: flips[name][i] for name in flips} for i, box in enumerate(boxes)
        ]
        first, second = (Transform({**random_transform(groups, 1).values, **one}, groups) for one in values)
        return told(first.relative(second))

    for flips, expected in (((0.0, 0.0), 0.1), ((1.0, 1.0), -0.1), ((0.0, 1.0), 0.5), ((1.0, 0.0), -0.5)):
        torch.testing.assert_close(difference(GROUPS, flip=flips), torch.tensor([[expected, 0.2, -0.2, 0.4]]))
    upside_down = difference({**GROUPS, "vertical_flip": Flag()}, flip=(0.0, 0.0), vertical_flip=(0.0, 1.0))
    torch.testing.assert_close(upside_down, torch.tensor([[0.1, 0.0, -0.2, 0.4]]))


def test_augself_tells_colours_between_minus_one_and_one():
    augmentation = simclr()
    first, second = (augmentation.draw(Key(0, 0, np.arange(4096), view), 32, 32) for view in (0, 1))
    told = AugSelf(6, GROUPS).targets[1](first.relative(second))
    assert told.shape == (4096, 4)
    assert 0.8 < told.abs().max() <= 1
    torch.testing.assert_close(told[:, 0], (second["brightness"] - first["brightness"]) / 1.6)


@pytest.mark.parametrize("parameters", [["crop", "colour"], ["rotation", "flip", "blur"]], ids=str)
def test_augself_does_not_depend_on_the_order_of_views_and_leaves_the_projector_alone(
    parameters, backbone, some_views, build
):
    objective = build("augself", backbone, parameters=parameters, hidden=[8])
    views = some_views(2)
    terms = objective.loss(views, backbone)
    for name, term in objective.loss(Views(views.views[::-1], views.index), backbone).items():
        torch.testing.assert_close(term.value, terms[name].value)
    terms[parameters[0]].value.backward()
    assert all(one.grad is None for one in objective.projector.parameters())
    assert all(one.grad is not None for one in backbone.parameters())


def test_parameters_that_an_augmentation_makes_untrue_are_warned_of():
    assert AugSelf(6, GROUPS, parameters=["rotation", "flip"]).parameters_told == ["rotation", "flip"]
