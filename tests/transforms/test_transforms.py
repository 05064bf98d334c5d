"""Algebra of transforms: steps lead where they should, paths are straight, quaternions are scipy's."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation as ScipyRotation
from scipy.spatial.transform import Slerp
from torch import Tensor

from ssl_inv.transforms import Box, Circle, Flag, Group, Pose, Real, Rotation, Transform
from ssl_inv.transforms.quaternions import (
    quaternion_conjugate,
    quaternion_from_euler,
    quaternion_multiply,
    quaternion_to_matrix,
)

BATCH = 200
GROUPS: dict[str, Group] = {
    "rotation": Rotation(),
    "hue": Circle(),
    "azimuth": Circle(2 * math.pi),
    "crop": Box(),
    "brightness": Real(scale=0.8, neutral_value=1.0),
    "fixation": Real(dimensions=2),
    "flip": Flag(),
    "pose": Pose(scale=0.5),
}


def values(name: str, seed: int) -> Tensor:
    torch.manual_seed(seed * len(GROUPS) + list(GROUPS).index(name))
    return GROUPS[name].random(BATCH, torch.float64)


def transform(seed: int) -> Transform:
    return Transform({name: values(name, seed) for name in GROUPS}, GROUPS)


def test_quaternions_are_those_of_scipy():
    generator = torch.Generator().manual_seed(0)
    angles = (2 * torch.rand(BATCH, 3, generator=generator, dtype=torch.float64) - 1) * math.pi
    expected = ScipyRotation.from_euler("xyz", angles.numpy())
    found = quaternion_from_euler(angles)
    assert np.allclose(quaternion_to_matrix(found), expected.as_matrix(), atol=1e-12)
    a, b = values("rotation", 0), values("rotation", 1)
    one, other = ScipyRotation.from_quat(a.numpy()), ScipyRotation.from_quat(b.numpy())
    assert np.allclose(quaternion_to_matrix(quaternion_multiply(a, b)), (one * other).as_matrix(), atol=1e-12)
    assert np.allclose(quaternion_to_matrix(quaternion_conjugate(a)), one.inv().as_matrix(), atol=1e-12)
    assert np.allclose(Rotation().distance(a, b), (one.inv() * other).magnitude(), atol=1e-7)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.9, 1.0])
def test_rotation_paths_are_scipys_slerp(fraction):
    a, b = transform(0), transform(1)
    found = a.path(b, fraction)["rotation"]
    for row in range(20):
        ends = ScipyRotation.from_quat(np.stack((a["rotation"][row], b["rotation"][row])))
        expected = Slerp([0, 1], ends)(fraction).as_matrix()
        assert np.allclose(quaternion_to_matrix(found[row]), expected, atol=1e-9)


def matrices(pose: Tensor) -> Tensor:
    """4x4 matrices of rigid motions, by scipy."""
    motion = torch.eye(4, dtype=torch.float64).repeat(len(pose), 1, 1)
    motion[:, :3, :3] = torch.from_numpy(ScipyRotation.from_quat(pose[:, :4].numpy()).as_matrix())
    motion[:, :3, 3] = pose[:, 4:]
    return motion


def test_poses_are_rigid_motions():
    a, b, step = values("pose", 0), values("pose", 1), values("pose", 2)
    group = GROUPS["pose"]
    torch.testing.assert_close(matrices(group.relative(a, b)), matrices(a).inverse() @ matrices(b))
    torch.testing.assert_close(matrices(group.compose(a, step)), matrices(a) @ matrices(step))
    moved, also_moved = group.compose(step, a), group.compose(step, b)
    # Where the world's origin is has no influence.
    torch.testing.assert_close(group.relative(moved, also_moved), group.relative(a, b))
    torch.testing.assert_close(group.distance(moved, also_moved), group.distance(a, b))


def test_the_same_shift_is_another_step_of_a_pose_from_another_rotation():
    start, shift = values("pose", 0), torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    end = torch.cat((start[:, :4], start[:, 4:] + shift), dim=1)
    step = Pose().relative(start, end)[:, 4:]
    assert torch.allclose(step.norm(dim=1), shift.norm())
    assert (step.std(dim=0) > 0.1).all()
    assert np.allclose(ScipyRotation.from_quat(start[:, :4].numpy()).apply(step.numpy()), shift.numpy())


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, math.pi - 1e-6, math.pi])
def test_rotation_paths_have_no_hole_at_tiny_and_half_turns(angle):
    a, b = (quaternion_from_euler(torch.tensor([[turn, 0.0, 0.0]]).double()) for turn in (0.0, angle))
    group = Rotation()
    middle = group.compose(a, group.scale_step(group.relative(a, b), 0.5))
    assert middle.isfinite().all()
    assert group.distance(a, middle).item() == pytest.approx(angle / 2, abs=1e-7)


def test_circles_go_the_short_way_round():
    hue = Circle()
    a, b = torch.tensor([0.9, 0.1, 0.2]), torch.tensor([0.1, 0.9, 0.7])
    torch.testing.assert_close(hue.relative(a, b), torch.tensor([0.2, -0.2, -0.5]))
    torch.testing.assert_close(hue.compose(a, hue.relative(a, b)), b)
    start, end = hue.value_vector(torch.tensor([0.0, 1.0 - 1e-6]))
    assert (start - end).norm() < 1e-4, "both ends of the circle are one place"


def test_vectors_stand_in_the_order_asked_for():
    a, b = transform(0), transform(1)
    widths = {"rotation": 4, "hue": 2, "azimuth": 2, "crop": 4, "brightness": 1, "fixation": 2, "flip": 1, "pose": 7}
    for chosen in (["flip", "rotation"], ["hue", "crop", "brightness"], None):
        names = chosen or list(GROUPS)
        for told in (a, a.relative(b)):
            single = [told.as_vector([name]) for name in names]
            assert [one.shape[1] for one in single] == [widths[name] for name in names]
            assert torch.equal(told.as_vector(chosen), torch.cat(single, dim=1))


def test_unknown_parameters_and_conventions_are_named():
    a = transform(0)
    with pytest.raises(ValueError, match="no transform parameter is called 'zoom'; this data has rotation, hue"):
        a.as_vector(["zoom"])
    with pytest.raises(ValueError, match="no convention is called 'mine'"):
        a.relative(a).as_vector(convention="mine")


def test_canonical_quaternions_do_not_know_their_sign_and_plain_ones_do():
    a, b = transform(0), transform(1)
    flipped = Transform({**b.values, "rotation": -b["rotation"]}, GROUPS)
    one, other = a.relative(b), a.relative(flipped)
    assert torch.allclose(one.as_vector(["rotation"]), other.as_vector(["rotation"]))
    assert (one.as_vector(["rotation"])[:, 3] >= 0).all()
    assert torch.allclose(one.as_vector(["rotation"], "sie"), -other.as_vector(["rotation"], "sie"))


@pytest.mark.parametrize("latents", ["rot", "color", "rotcolor"])
def test_actions_are_those_of_the_authors_of_seq_jepa(latents, golden):
    facts = golden("seq_jepa_actions")["relative_action_3diebench"]
    raw = torch.tensor(facts["latents"], dtype=torch.float64)
    groups: dict[str, Group] = {"rotation": Rotation(), "floor_hue": Circle(), "light_hue": Circle()}
    values = {"rotation": quaternion_from_euler(raw[:, :3]), "floor_hue": raw[:, 3], "light_hue": raw[:, 6]}
    views = Transform(values, groups)
    colours = ["floor_hue", "light_hue"]
    names = {"rot": ["rotation"], "color": colours, "rotcolor": ["rotation", *colours]}[latents]
    before, after = views.select(torch.arange(3)), views.select(torch.arange(1, 4))
    expected = torch.tensor(facts["values"][latents]["relative"], dtype=torch.float64)
    torch.testing.assert_close(before.relative(after).as_vector(names, "seq-jepa"), expected, rtol=1e-5, atol=1e-6)
