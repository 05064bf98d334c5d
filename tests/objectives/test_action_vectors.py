"""What objectives read about how views differ: nothing by mistake, and nothing without a meaning."""

import pytest
import torch
from torch import nn

from ssl_inv.nn.backbones import make_backbone
from ssl_inv.nn.teacher import Teacher
from ssl_inv.objectives.augself import AugSelf
from ssl_inv.transforms import Code, Flag, Rotation, Transform

GROUPS = {"rotation": Rotation(), "order": Code(), "flip": Flag()}


@pytest.mark.parametrize("convention", ["canonical", "sie"])
def test_whether_two_views_differ_in_a_flag_is_yes_or_no(convention):
    objective = AugSelf(8, GROUPS, parameters=["flip"], convention=convention)
    rotation, order = torch.eye(4)[3].repeat(4, 1), torch.zeros(4, dtype=torch.int64)
    flips, alike = torch.tensor([[0.0, 0, 1, 1], [0.0, 1, 0, 1]]), {"rotation": rotation, "order": order}
    one, other = (Transform({**alike, "flip": flip}, GROUPS) for flip in flips)
    assert objective.targets[0](one.relative(other)).flatten().tolist() == [0, 1, 1, 0]


def test_a_teacher_has_no_dropout_of_its_network():
    network = make_backbone(name="test_resnet", arguments={"drop_path_rate": 0.5, "drop_rate": 0.5}).train()
    teacher = Teacher(nn.Sequential(network, nn.Dropout(0.5))).train()
    pixels = torch.randn(4, 3, 32, 32)
    assert torch.equal(teacher(pixels), teacher(pixels))
    assert any(not torch.equal(network(pixels), network(pixels)) for _ in range(10))
