"""Predictors that begin as the group's own action."""

import pytest
import torch

from ssl_inv.nn.heads import mlp
from ssl_inv.nn.predictors import EmbeddedActionPredictor, action_predictor
from ssl_inv.objectives.capsie import CapsIE
from ssl_inv.objectives.sie import SIE
from ssl_inv.transforms import Circle, Pose, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler, quaternion_multiply

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
    turned = [quaternion_multiply(offset, view["rotation"]) for view in (here, there)]
    x, y = (torch.cat([*one, torch.ones(5, 2)], dim=1) for one in turned)
    predicted = objective.action_predictor(x, objective.action_vector(action))
    sign = (predicted[:, :8] * y[:, :8]).sum(dim=1, keepdim=True).sign()
    # A quaternion with w >= 0 leads to either of the two that are one rotation.
    assert convention == "canonical" or (sign == 1).all()
    torch.testing.assert_close(predicted[:, :8], y[:, :8] * sign)
    torch.testing.assert_close(predicted[:, 8:], action.as_vector(["rotation"], convention)[:, 3:].expand(-1, 2))
    assert objective.action_predictor.weight.requires_grad


def test_capsules_and_rigid_motions_begin_in_the_same_way():
    capsules = {"capsules": 2, "pose": 4, "map_side": 2, "predictor_initialisation": "quaternion"}
    objective = CapsIE(8, {"pose": Pose()}, parameters=["pose"], **capsules)
    x, action = torch.randn(3, 8), torch.randn(3, 7)
    expected = quaternion_multiply(x.view(3, 2, 4), action[:, None, :4]).flatten(1)
    torch.testing.assert_close(objective.action_predictor(x, action), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parameters": ["hue"]}, "predictor_initialisation: 'quaternion', but no parameter is a rotation: hue"),
        ({"predictor": "concatenation"}, "predictor_initialisation: 'quaternion', but predictor is 'concatenation'"),
    ],
)
def test_what_is_no_multiplication_cannot_begin_as_one(settings, message):
    with pytest.raises(ValueError, match=message):
        SIE(20, GROUPS, projector=[20], predictor_initialisation="quaternion", **settings)


@pytest.mark.parametrize("kind", ["bilinear", "hypernetwork", "magnitude-invariant", "concatenation", "embedded"])
def test_half_precision_does_not_round_the_action(kind):
    torch.manual_seed(0)
    embedded = EmbeddedActionPredictor(4, 16, mlp((24, 32, 8))).eval()
    predictor = embedded if kind == "embedded" else action_predictor(kind, 8, 4)
    angles = torch.deg2rad(torch.linspace(60.0, 60.3, 16)) / 2
    action = torch.stack((torch.zeros(16), torch.zeros(16), angles.sin(), angles.cos()), dim=1)
    x = torch.randn(1, 8).expand(16, -1)
    told = len(action.bfloat16().unique(dim=0))
    with torch.autocast("cpu", torch.bfloat16):
        predicted = predictor(x, action)
    assert len(predicted.unique(dim=0)) > told + 1


@pytest.mark.parametrize(("kind", "grows"), [("magnitude-invariant", False), ("hypernetwork", True)])
def test_weights_of_a_magnitude_invariant_hypernetwork_do_not_grow_with_the_action(kind, grows):
    torch.manual_seed(0)
    hypernetwork = action_predictor(kind, 6, 3).hypernetwork
    for layer in hypernetwork:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.zeros_(layer.bias)
    small, large = (hypernetwork(size * torch.tensor([[0.3, -0.5, 0.4]])).norm() for size in (1.0, 100.0))
    assert (large > 50 * small) == grows
    assert grows or large < 3 * small


def test_a_magnitude_invariant_hypernetwork_begins_near_a_network_of_its_own():
    torch.manual_seed(0)
    predictor = action_predictor("magnitude-invariant", 32, 4, [24])
    begun = predictor.hypernetwork[-1].bias.detach()
    assert begun.abs().max() <= 1 / 24**0.5
    assert begun[: 24 * 33].abs().max() <= 1 / 32**0.5
    assert begun.std().item() == pytest.approx(0.55 / 28**0.5, rel=0.1)
    weights = predictor.hypernetwork(torch.randn(20, 4))
    assert (weights - begun).norm(dim=1).max() < 3 * begun.norm(), "the action corrects, and does not drown"
    assert (weights[0] - weights[1]).norm() > 0.01 * begun.norm()
