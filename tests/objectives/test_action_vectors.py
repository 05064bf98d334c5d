"""What objectives read about how views differ: nothing by mistake, and nothing without a meaning."""

import inspect

import pytest
import torch
from torch import nn

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.nn.backbones import make_backbone
from ssl_inv.nn.teacher import Teacher
from ssl_inv.objectives.augself import AugSelf
from ssl_inv.transforms import Code, Flag, Rotation, Transform

GROUPS = {"rotation": Rotation(), "order": Code(), "flip": Flag()}
SETTINGS = {name: inspect.signature(OBJECTIVES.find(name).load()).parameters for name in OBJECTIVES.members}
TOLD = [name for name, settings in SETTINGS.items() if "parameters" in settings and "base" not in settings]


@pytest.mark.parametrize("name", TOLD)
def test_an_objective_is_told_something_that_measures(name):
    with pytest.raises(ValueError, match="'order' has no numeric value"):
        OBJECTIVES.find(name).load()(8, GROUPS, parameters=["order"])


@pytest.mark.parametrize("name", sorted({*TOLD} - {"vicreg-trajectory"}))  # it then takes views in their given order
def test_an_objective_is_told_something(name):
    with pytest.raises(ValueError, match="parameters: is empty"):
        OBJECTIVES.find(name).load()(8, GROUPS, parameters=[])


@pytest.mark.parametrize("name", ["equimod", "conditional-byol"])
def test_an_action_is_not_embedded_into_nothing(name):
    with pytest.raises(ValueError, match="action_embedding: must be at least 1, got 0"):
        OBJECTIVES.find(name).load()(8, GROUPS, parameters=["rotation"], action_embedding=0)


def test_a_comparison_without_actions_names_parameters_that_exist():
    with pytest.raises(ValueError, match="no view of this data records 'rotatoin'"):
        OBJECTIVES.find("seq-jepa").load()(8, GROUPS, parameters=["rotatoin"], conditioning="none", heads=2)


@pytest.mark.parametrize("convention", ["canonical", "sie"])
def test_whether_two_views_differ_in_a_flag_is_yes_or_no(convention):
    objective = AugSelf(8, GROUPS, parameters=["flip"], convention=convention)
    rotation, order = torch.eye(4)[3].repeat(4, 1), torch.zeros(4, dtype=torch.int64)
    one, other = (
        Transform({"rotation": rotation, "order": order, "flip": torch.tensor(flip)}, GROUPS)
        for flip in ([0.0, 0, 1, 1], [0.0, 1, 0, 1])
    )
    assert objective.targets[0](one.relative(other)).flatten().tolist() == [0, 1, 1, 0]


def test_augself_tells_everything_once():
    with pytest.raises(ValueError, match="parameters: names one twice: flip, flip"):
        AugSelf(8, GROUPS, parameters=["flip", "flip"])


@pytest.mark.parametrize(("share", "projector"), [(0.9999, [16]), (0.01, [16]), (0.5, [16, 1])])
def test_no_part_of_sie_is_empty_by_rounding(share, projector):
    with pytest.raises(ValueError, match="leaves a part empty"):
        OBJECTIVES.find("sie").load()(64, GROUPS, equivariant_share=share, projector=projector)


def test_a_teacher_has_no_dropout_of_its_network():
    network = make_backbone(name="test_resnet", arguments={"drop_path_rate": 0.5, "drop_rate": 0.5}).train()
    teacher = Teacher(nn.Sequential(network, nn.Dropout(0.5))).train()
    pixels = torch.randn(4, 3, 32, 32)
    assert torch.equal(teacher(pixels), teacher(pixels))
    assert any(not torch.equal(network(pixels), network(pixels)) for _ in range(10))
