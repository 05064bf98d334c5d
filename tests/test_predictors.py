"""Predictors that begin as the group's own action."""

import pytest
import torch

from ssl_inv.objectives.capsie import CapsIE
from ssl_inv.objectives.sie import SIE
from ssl_inv.quaternions import quaternion_from_euler, quaternion_multiply
from ssl_inv.transforms import Circle, Pose, Rotation, Transform

GROUPS = {"hue": Circle(), "rotation": Rotation()}


def poses(count: int) -> Transform:
    rotation = quaternion_from_euler(torch.rand(count, 3) * 3 - 1.5)
    return Transform({"hue": torch.rand(count), "rotation": rotation}, GROUPS)


@pytest.mark.parametrize("parameters", [["rotation"], ["hue", "rotation"], ["rotation", "hue"]])
@pytest.mark.parametrize("convention", ["sie", "canonical"])
def test_features_that_are_poses_are_predicted_from_the_beginning(parameters, convention):
    settings = {"parameters": parameters, "convention": convention, "predictor_initialisation": "quaternion"}
    objective = SIE(20, GROUPS, projector=[20], **settings)
    here, there = poses(5), poses(5)
    action = here.relative(there)
    offset = torch.randn(2, 1, 4)  # a frame of its own for each four dimensions
    x, y = (torch.cat([*quaternion_multiply(offset, view["rotation"]), torch.ones(5, 2)], dim=1) for view in (here, there))
    predicted = objective.action_predictor(x, objective.action_vector(action))
    sign = (predicted[:, :8] * y[:, :8]).sum(dim=1, keepdim=True).sign()
    assert convention == "canonical" or (sign == 1).all()  # a quaternion with w >= 0 leads to either of the two that are one rotation
    torch.testing.assert_close(predicted[:, :8], y[:, :8] * sign)
    torch.testing.assert_close(predicted[:, 8:], action.as_vector(["rotation"], convention)[:, 3:].expand(-1, 2))
    assert objective.action_predictor.weight.requires_grad


def test_capsules_and_rigid_motions_begin_in_the_same_way():
    objective = CapsIE(8, {"pose": Pose()}, parameters=["pose"], capsules=2, pose=4, map_side=2, predictor_initialisation="quaternion")
    x, action = torch.randn(3, 8), torch.randn(3, 7)
    expected = quaternion_multiply(x.view(3, 2, 4), action[:, None, :4]).flatten(1)
    torch.testing.assert_close(objective.action_predictor(x, action), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parameters": ["hue"]}, "predictor_initialisation is 'quaternion', but no parameter is a rotation: hue"),
        ({"predictor": "concatenation"}, "predictor_initialisation is 'quaternion', but predictor is 'concatenation'"),
    ],
)
def test_what_is_no_multiplication_cannot_begin_as_one(settings, message):
    with pytest.raises(ValueError, match=message):
        SIE(20, GROUPS, projector=[20], predictor_initialisation="quaternion", **settings)
