"""Claims about AugSelf: its targets for crops and colours, and what learns from them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import views_of

from ssl_inv.augment.policies import custom, simclr
from ssl_inv.catalogue import SettingError
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


def test_heads_have_the_weights_of_their_names(backbone, some_views, build):
    objective = build("augself", backbone, parameters=["crop", "colour", "flip"], weight=0.5, weights={"colour": 2.0})
    terms = objective.loss(some_views(2), backbone)
    assert {name: term.weight for name, term in terms.items()} == {
        "nt_xent": 1.0,
        "crop": 0.5,
        "colour": 2.0,
        "flip": 0.5,
    }


def test_quarter_turns_are_classes_of_the_turn_from_one_view_to_the_other(backbone, some_views, build):
    augmentation = custom(operations=[{"name": "kornia.RandomRotation90", "times": [-2, 2], "p": 1.0}])
    first, second = (augmentation.draw(Key(0, 0, np.arange(4096), view), 32, 32) for view in (0, 1))
    name = "RandomRotation90.angle"
    groups = {name: first.groups[name]}
    target = AugSelf(6, groups, parameters=[name], quarter_turns=[name]).targets[0]
    quarters = [(one[name] / (np.pi / 2)).round().long() for one in (first, second)]
    turns = target.turns(first.relative(second))
    assert torch.equal(turns, (quarters[1] - quarters[0]) % 4)
    assert turns.bincount(minlength=4).min() > 900, "all four are about as frequent"

    objective = AugSelf(6, groups, parameters=[name], quarter_turns=[name], projector=[8], hidden=[8])
    views = views_of((view.pixels for view in some_views(2, batch=4096).views), (first, second))
    objective.heads[0] = torch.nn.LazyLinear(4)
    x, y = (backbone(view.pixels) for view in views.views)
    value = objective.loss(views, backbone)[name].value
    both = [
        F.cross_entropy(objective.heads[0](torch.cat(pair, dim=1)), classes)
        for pair, classes in (((x, y), turns), ((y, x), -turns % 4))
    ]
    torch.testing.assert_close(value, sum(both) / 2)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"weights": {"color": 1.0}}, "weights: 'color' is not among parameters; did you mean 'colour'"),
        ({"weights": {"colour": -1.0}}, "weights.colour: must be at least 0, got -1.0"),
        ({"quarter_turns": ["angle"]}, "quarter_turns: 'angle' is not among parameters; "),
        ({"quarter_turns": ["crop"]}, "quarter_turns: 'crop' is no angle; "),
    ],
    ids=str,
)
def test_heads_that_cannot_be_are_refused(settings, line):
    with pytest.raises(SettingError, match=line):
        AugSelf(6, GROUPS, **settings)
