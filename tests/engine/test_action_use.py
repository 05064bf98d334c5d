"""The scores tell an equivariant objective from one that has become invariant, and the watch waits before it warns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_data import Numbered
from torch import nn

from ssl_inv.augment.policies import none, simclr
from ssl_inv.data.source import Images, Subset
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.engine.action_use import (
    ACTION,
    GAIN,
    WITHIN,
    ActionUse,
    InvarianceWatch,
    action_dependence,
    action_gain,
    action_use,
    invariance,
    within_object,
)
from ssl_inv.nn.backbones import Backbone
from ssl_inv.objectives.sie import SIE
from ssl_inv.objectives.simclr import SimCLR
from ssl_inv.testing.networks import SmallNetwork
from ssl_inv.transforms import Circle, Transform
from ssl_inv.views import Pair
from ssl_inv.views.maker import ViewMaker

CPU = torch.device("cpu")


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_shares_are_those_of_variances_that_are_known(share: float) -> None:
    draw = torch.Generator().manual_seed(0)
    start, own, other = (torch.randn(4000, 8, generator=draw, dtype=torch.float64) for _ in range(3))
    own, other = (start * (1 - share) ** 0.5 + one * share**0.5 for one in (own, other))
    assert action_dependence(own, other) == pytest.approx(share, abs=0.02)
    assert within_object(torch.stack((own, other), dim=1)) == pytest.approx(share, abs=0.02)
    assert action_dependence(5 * own + 3, 5 * other + 3) == pytest.approx(action_dependence(own, other))
    assert action_gain(own, other, own) == pytest.approx(1, abs=1e-6) if share else action_gain(own, own, other) == 0
    constant = torch.ones(4, 2)
    assert action_dependence(constant, constant) == within_object(constant.view(2, 2, 2)) == 0


def test_a_prediction_gains_by_the_right_action_only_if_it_knows_what_the_action_does() -> None:
    draw = torch.Generator().manual_seed(0)
    target, right, wrong, noise = (torch.randn(4000, 8, generator=draw) for _ in range(4))
    assert action_gain(target, wrong, target) == pytest.approx(1, abs=1e-6)
    assert action_gain(7 * (target + noise), wrong, target) == pytest.approx(0.5**0.5, abs=0.03)
    assert action_gain(right, wrong, target) == pytest.approx(0, abs=0.03)
    assert action_gain(target + noise, target + noise, target) == 0


class Poses(nn.Module):
    """Features that are the mean colours of an image, or of its object if invariant."""

    num_features = 6

    def __init__(self, invariant: bool) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(()))
        self.invariant = invariant

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = torch.cat((pixels.mean((2, 3)), pixels.std((2, 3), correction=0)), dim=1)
        if self.invariant:  # views of an object stand side by side
            features = features.view(-1, 2, 6).mean(1).repeat_interleave(2, 0)
        return features + self.mix


@pytest.mark.parametrize("invariant", [True, False])
def test_an_objective_that_ignores_actions_is_told_from_one_that_reads_them(invariant: bool) -> None:
    source, backbone = RenderedSolids(4, 24, 3, size=16), Backbone(Poses(invariant), "poses")
    torch.manual_seed(0)
    objective = SIE(6, source.groups, equivariant_share=1.0, projector=[8, 8], parameters=["rotation"])
    if invariant:
        with torch.no_grad():
            objective.action_predictor.weight.zero_()
    use = ActionUse(objective, backbone, source, lambda pixels: pixels, CPU)
    modes = [one.training for one in objective.modules()]
    found = use.scores()
    assert [one.training for one in objective.modules()] == modes
    assert found == use.scores()
    assert (found[ACTION] < 1e-6) == invariant
    assert not invariant or "makes nothing of the action" in str(invariance(found))
    assert (found[WITHIN] < 1e-6) == invariant


def test_pairs_of_an_object_differ_by_other_actions_than_those_of_others() -> None:
    class Turntable(Numbered):
        """Every object has the same eight azimuths."""

        view_counts, groups = np.full(24, 8), {"azimuth": Circle(360.0)}

        def load(self, objects: Any, views: Any) -> Images:
            azimuths = Transform({"azimuth": torch.from_numpy(45.0 * views)}, self.groups)
            return replace(super().load(objects % 12, views % 2), transform=azimuths)

    source, backbone = Turntable(), Backbone(Poses(False), "colours")
    objective = SIE(6, source.groups, equivariant_share=1.0, projector=[8, 8], parameters=["azimuth"], convention="sie")
    found = ActionUse(objective, backbone, source, lambda pixels: pixels, CPU).scores()
    assert found[ACTION] > 0.1


def test_only_objectives_that_are_told_how_views_differ_are_scored() -> None:
    solids = RenderedSolids(4, 24, 3, size=16)
    backbone = Backbone(SmallNetwork(), "small")

    def use(objective: Any, source: Any, augmentation: Any) -> ActionUse | None:
        maker = ViewMaker(Pair(), source, augmentation, [0.5] * 3, [0.5] * 3, 0)
        return action_use(objective, maker, backbone, source, CPU, 0)

    assert use(SimCLR(backbone.features, {}, projector=[8, 8]), solids, none()) is None
    told = SIE(backbone.features, solids.groups, projector=[8, 8])
    assert use(told, solids, none()).source is solids
    # Of one image, the augmentation makes the views that the predictor is told of.
    crops = SIE(backbone.features, simclr().groups, projector=[8, 8], parameters=["crop", "hue"])
    made = use(crops, RenderedSolids(4, 24, 1, size=16), simclr())
    assert {WITHIN, ACTION, GAIN} == made.scores().keys()
    few = ActionUse(told, backbone, Subset(solids, np.arange(8)), lambda pixels: pixels, CPU)
    assert few.scores() == {}


def test_the_watch_warns_once_after_enough_steps_and_again_after_a_recovery() -> None:
    dead, alive = {WITHIN: 0.4, ACTION: 1.0, GAIN: 0.01}, {WITHIN: 0.01, ACTION: 0.1, GAIN: 0.2}
    watch = InvarianceWatch()
    steps = range(50, 1001, 50)
    assert [step for step in steps if watch.see(step, dead)] == [300]
    assert [watch.see(step, alive) for step in (1050, 1100)] == [None, None]
    assert [step for step in (1150, 1200, 1250, 1300) if watch.see(step, dead)] == [1250]
    assert InvarianceWatch().see(500, {"knn": 0.1}) is None
    assert "nearly one vector" in str(invariance({WITHIN: 0.01}))
