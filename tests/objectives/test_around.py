"""What objectives around other ones forward, and what an objective must declare."""

import pytest

from ssl_inv.objectives.around import Around
from ssl_inv.objectives.base import Objective
from ssl_inv.objectives.byol import BYOL
from ssl_inv.objectives.odc import ODC
from ssl_inv.objectives.split import Split
from ssl_inv.objectives.vicreg import VICReg
from ssl_inv.testing import GROUPS


def test_a_wrapper_forwards_everything_but_the_loss():
    asked = {name for name, value in vars(Objective).items() if not name.startswith("_") and name != "loss"}
    set_by_the_constructor = {"parameters_used", "told_of_plain_views", "least_batch", "needs_whole_backbone"}
    set_by_the_constructor |= {"needs_labels", "invariant_features"}
    # The number of classes is a setting of the base, wherever it stands.
    assert asked - set_by_the_constructor - {"counts_classes"} <= vars(Around).keys()


@pytest.mark.parametrize("looks", [False, True])
def test_a_wrapper_looks_between_epochs_if_a_base_does(looks):
    second = ODC(4, {}, projector=[8, 4]) if looks else VICReg(4, {}, projector=[4])

    class Bare(Around):
        def loss(self, views, backbone):
            return {}

    assert Bare(first=BYOL(4, {}, projector=[4]), second=second).looks_between_epochs == looks


def test_work_between_epochs_must_be_declared():
    with pytest.raises(TypeError, match="Forgetful has between_epochs, so it must set looks_between_epochs = True"):

        class Forgetful(Objective):
            def between_epochs(self, backbone, epoch, gallery):
                pass


def test_what_an_augmentation_may_make_untrue_is_what_the_equivariant_base_reads():
    equivariant = {"name": "augself", "parameters": ["rotation"], "projector": [8]}
    split = Split(8, GROUPS, invariant={"name": "vicreg", "projector": [8]}, equivariant=equivariant)
    assert split.parameters_used == []
    assert split.parameters_told == ["rotation"]
