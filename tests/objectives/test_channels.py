"""Every registered objective takes a step on images of any number of channels, or is refused by a setting."""

from dataclasses import replace

import pytest
import torch
from small import VICREG, small
from torch import nn

from ssl_inv.catalogue import OBJECTIVES, SettingError
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.testing.cases import GROUPS, Case, losses_of, total_of
from ssl_inv.testing.networks import OBJECTS, SIDE, Noise, SmallNetwork


class Bands(Noise):
    def __init__(self, channels):
        self.shown = channels

    @property
    def channels(self):
        return self.shown

    def load(self, objects, views):
        return super().load(objects, views).map(lambda pixels: pixels[:, :1].repeat(1, self.shown, 1, 1))


def networks_for(name, channels, **changes):
    settings = {**small(name), **changes}
    given = settings.pop("backbone", None)
    torch.manual_seed(0)
    if given is None:
        backbone = Backbone(SmallNetwork(channels), "small", {"in_chans": channels})
    else:
        backbone = make_backbone(**{**given, "arguments": {**given["arguments"], "in_chans": channels}})
    objective = OBJECTIVES.find(name).load()(backbone.features, GROUPS, **settings)
    objective.adopt(backbone)
    objective.allocate(OBJECTS, OBJECTS)
    return nn.ModuleDict({"backbone": backbone, "objective": objective}).train(), given


COLOURED = {"soft-equivariance": {"symmetries": ["turns", "flips", "shifts"]}}
"""Settings in place of those that are for red, green and blue alone."""


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("name", [*OBJECTIVES.members])
def test_a_step_on_images_of_other_channels(name, channels):
    changes = COLOURED.get(name, {})
    networks, given = networks_for(name, channels, **changes)
    backbone, objective = networks["backbone"], networks["objective"]
    of_three = Case(name, {**small(name), **changes}, GROUPS, given)
    vars(of_three).update(plan=objective.plan, needs_labels=objective.needs_labels)
    views = of_three.views(1)
    shown = [replace(view, pixels=torch.randn(8, channels, SIDE, SIDE)) for view in views.views]
    if objective.looks_between_epochs:
        gallery = Gallery(Bands(channels), lambda pixels: 2 * pixels.float() - 1, "cpu", batch_size=4)
        with torch.no_grad():
            objective.between_epochs(backbone, 0, gallery)
    total = total_of(losses_of(networks, replace(views, views=tuple(shown))))
    total.backward()
    first = next(one for one in backbone.parameters() if one.dim() == 4)
    assert total.isfinite()
    assert first.shape[1] == channels
    assert first.grad.isfinite().all()
    assert first.grad.any()
    assert objective.representations(backbone)(shown[0].pixels)["all"].shape == (8, backbone.features)


@pytest.mark.parametrize("channels", [1, 5])
def test_hues_are_for_red_green_and_blue(channels):
    with pytest.raises(SettingError, match=rf"^symmetries: `hues` permutes .* have {channels} channel"):
        networks_for("soft-equivariance", channels, base=VICREG, symmetries=["turns", "hues"])
