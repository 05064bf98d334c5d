"""Self-routing capsules and EquiCaps give the numbers of the authors' code; CapsIE and EquiCaps do what they claim."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from scipy.spatial.transform import Rotation as Turns
from small import THEIR_TERMS, total, views_of
from torch import Tensor, nn

from ssl_inv.nn import losses
from ssl_inv.nn.backbones import make_backbone
from ssl_inv.nn.capsules import CapsuleProjector, Capsules
from ssl_inv.objectives.base import Objective
from ssl_inv.objectives.capsie import CapsIE
from ssl_inv.objectives.equicaps import EquiCaps, turn
from ssl_inv.testing import random_transform
from ssl_inv.transforms import Circle, Pose, Rotation
from ssl_inv.transforms.quaternions import quaternion_to_matrix

FACTS = "capsules"
GROUPS = {"rotation": Rotation()}


def test_projector(facts: dict[str, Any]) -> None:
    case, rng = facts["SR_capsule_projector"], RandomState(22)
    projector = CapsuleProjector(6, 3, 9, 2).double()
    activation, pose, routing = projector.activation, projector.poses, projector.routing
    places = [activation[0].weight, pose[0].weight, activation[1].weight, activation[1].bias]
    places += [pose[1].weight, pose[1].bias, routing.votes, routing.routing, routing.bias]
    for parameter, (name, shape) in zip(places, case["param_order"], strict=True):
        drawn = rng.randn(*shape)
        drawn = 1 + 0.1 * drawn if name in ("bn_a.weight", "bn_pose.weight") else 0.3 * drawn
        parameter.data = torch.tensor(drawn).view(parameter.shape)
    activations, poses = projector(torch.tensor(rng.randn(4, 6, 2, 2)))
    values = case["values"]
    np.testing.assert_allclose(activations[0].detach(), values["a[0]"], rtol=1e-10)
    np.testing.assert_allclose(activations.sum(1).detach(), 1, rtol=1e-12)
    np.testing.assert_allclose(poses[0, 0].detach(), values["pose[0,:9]"], rtol=1e-10)
    assert poses.sum().item() == pytest.approx(values["pose_sum"], rel=1e-10)
    assert poses.square().sum().item() == pytest.approx(values["pose_sumsq"], rel=1e-10)


def test_equicaps_terms_and_gradients(facts: dict[str, Any]) -> None:
    case, rng = facts["EquiCaps_3x3_loss"], RandomState(20)
    shapes = ((12, 5), (12, 5), (12, 5, 9), (12, 5, 9))
    a1, a2, p1, p2 = (torch.tensor(rng.randn(*shape)) for shape in shapes)
    a1, a2 = a1.softmax(1).requires_grad_(), a2.softmax(1)
    p1.requires_grad_(), p2.requires_grad_()
    rotation = torch.tensor(case["transform"], dtype=torch.float64)
    terms = EquiCaps(4, GROUPS, capsules=5, map_side=1).capsule_loss(Capsules(a1, p1), Capsules(a2, p2), rotation)
    for name, term in terms.items():
        assert term.value.item() == pytest.approx(case["values"][THEIR_TERMS[name]], rel=1e-10), name
    assert total(terms).item() == pytest.approx(case["values"]["loss"], rel=1e-10)
    total(terms).backward()
    for tensor, name in ((a1, "a1"), (p1, "p1"), (p2, "p2")):
        assert tensor.grad is not None
        assert tensor.grad.norm().item() == pytest.approx(case["values"][f"grad_{name}_norm"], rel=1e-9), name


def test_routing_begins_uniform() -> None:
    activations, poses = CapsuleProjector(6, 4, 9, 2)(torch.randn(5, 6, 2, 2))
    torch.testing.assert_close(activations, torch.full((5, 4), 0.25))
    assert poses.isfinite().all()


def test_poses_that_turn_with_the_object_leave_no_equivariance_error() -> None:
    """If poses are a capsule's own matrix times the view's rotation, the action turns one view's into the other's."""
    first, second = random_transform(GROUPS, 6), random_transform(GROUPS, 6)
    own = F.normalize(torch.randn(6, 3, 9), dim=2)
    objective = EquiCaps(4, GROUPS, capsules=3, map_side=1)
    activations = torch.full((6, 3), 1 / 3)
    x, y = (Capsules(activations, turn(own, quaternion_to_matrix(view["rotation"]))) for view in (first, second))
    action = quaternion_to_matrix(first.relative(second)["rotation"])
    terms = objective.capsule_loss(x, y, action)
    assert terms["equivariance"].value.item() == pytest.approx(0, abs=1e-12)
    assert terms["mean_entropy"].value.item() == pytest.approx(0, abs=1e-6)


def test_poses_that_move_with_the_object_leave_no_equivariance_error() -> None:
    """A capsule's own 4x4 matrix times each view's [R | c] becomes the other by M_x^-1 M_y, up to its norm."""
    groups = {"pose": Pose(0.5)}
    first, second = random_transform(groups, 6), random_transform(groups, 6)
    matrices = []
    for view in (first, second):
        matrix = np.tile(np.eye(4), (6, 1, 1))
        matrix[:, :3, :3] = Turns.from_quat(view["pose"][:, :4].numpy()).as_matrix()
        matrix[:, :3, 3] = view["pose"][:, 4:]
        matrices.append(torch.tensor(matrix).float())
    objective = EquiCaps(4, groups, poses="4x4", capsules=3, map_side=1)
    motion = objective.matrix(first.relative(second))
    torch.testing.assert_close(motion, matrices[0].inverse() @ matrices[1])
    own, activations = torch.randn(6, 3, 16), torch.full((6, 3), 1 / 3)
    x, y = (Capsules(activations, turn(own, matrix)) for matrix in matrices)
    assert objective.capsule_loss(x, y, motion)["equivariance"].value.item() == pytest.approx(0, abs=1e-12)
    assert objective.capsule_loss(x, y, motion.mT)["equivariance"].value.item() > 1e-3
    assert objective.parameters_used == ["pose"]


def test_four_by_four_poses_of_rotations_alone_are_three_by_three_ones() -> None:
    rotation = quaternion_to_matrix(random_transform(GROUPS, 6)["rotation"])
    small = [torch.randn(6, 3, 3, 3) for _ in range(2)]
    large = [F.pad(one, (0, 1, 0, 1)) for one in small]
    activations = torch.full((6, 3), 1 / 3)
    motion = F.pad(rotation, (0, 1, 0, 1))
    motion[:, 3, 3] = 1
    three = EquiCaps(4, GROUPS, capsules=3, map_side=1)
    four = EquiCaps(4, {"pose": Pose()}, poses="4x4", capsules=3, map_side=1)
    errors = [
        objective.capsule_loss(*(Capsules(activations, one.flatten(2)) for one in poses), matrix)["equivariance"].value
        for objective, poses, matrix in ((three, small, rotation), (four, large, motion))
    ]
    torch.testing.assert_close(9 * errors[0], 16 * errors[1])


@pytest.mark.parametrize(("rows", "gap"), [(torch.eye(4), 0.0), (torch.eye(4)[:1].repeat(4, 1), np.log(4))])
def test_mean_entropy_gap(rows: Tensor, gap: float) -> None:
    assert losses.mean_entropy_gap(rows).item() == pytest.approx(gap, abs=1e-6)
    assert losses.distribution_cross_entropy(rows, rows).item() == pytest.approx(0, abs=1e-6)
    assert losses.distribution_cross_entropy(rows, rows.roll(1, 1)).isfinite()


def test_what_no_sample_uses_has_a_finite_gradient() -> None:
    logits = torch.tensor([[0.0, 0.0, -200.0]], requires_grad=True)
    losses.mean_entropy_gap(logits.softmax(dim=1)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", [EquiCaps, CapsIE])
def test_predictor_maps_between_embeddings(kind: type[Objective]) -> None:
    """Training lowers the error of the same prediction that retrieval measures."""

    class Map(nn.Module):
        def feature_map(self, pixels: Tensor) -> Tensor:
            return pixels

    objective = kind(6, GROUPS, capsules=4, map_side=2).eval()
    predictor = objective.predictor(Map())
    x, y = torch.randn(5, 6, 2, 2), torch.randn(5, 6, 2, 2)
    action = random_transform(GROUPS, 5).relative(random_transform(GROUPS, 5))
    assert predictor is not None
    error = F.mse_loss(predictor.predict(predictor.embed(x), action), predictor.embed(y))
    told = quaternion_to_matrix(action["rotation"]) if kind is EquiCaps else objective.action_vector(action)
    terms = objective.capsule_loss(objective.projector(x), objective.projector(y), told)
    torch.testing.assert_close(error, terms["equivariance"].value)


def test_maps_of_another_size_and_data_without_rotations_are_refused() -> None:
    message = "map_side: 8, but the backbone's feature maps of these images have 2 x 2 places"
    with pytest.raises(ValueError, match=message):
        CapsuleProjector(6, 4, 9, 8)(torch.randn(5, 6, 2, 2))
    with pytest.raises(ValueError, match="no view of this data records 'rotation'; there are floor_hue"):
        EquiCaps(6, {"floor_hue": Circle()})
    with pytest.raises(ValueError, match=r"poses: '4x4', but no view of this data records 'pose'; .*data.pose: true"):
        EquiCaps(6, GROUPS, poses="4x4")


@pytest.mark.parametrize("kind", [CapsIE, EquiCaps])
def test_what_lies_behind_the_map_learns_nothing_and_is_not_waited_for(kind: type[Objective]) -> None:
    backbone = make_backbone(name="test_convnext", arguments={})
    objective = kind(backbone.features, GROUPS, capsules=2, map_side=2)
    objective.adopt(backbone)
    views = views_of(torch.randn(2, 4, 3, 64, 64), [random_transform(GROUPS, 4) for _ in range(2)])
    total(objective.loss(views, backbone)).backward()
    without = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    assert without == [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad] != []
