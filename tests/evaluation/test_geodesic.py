"""Errors in degrees are those of scipy and kornia, and an encoder that knows the pose has none."""

import math

import kornia
import numpy as np
import pytest
import torch
from posed import noise, rotated, turntable
from scipy.spatial.transform import Rotation as ScipyRotation

from ssl_inv.evaluation.protocols.geodesic import (
    Geodesic,
    accuracy_within,
    angle_vectors,
    angular_errors,
    area_under_recall,
    mean_direction,
    median_error,
    signed_angles,
)
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2
from ssl_inv.evaluation.results import Bootstrap, to_json
from ssl_inv.transforms import Circle, Pose, Rotation

SHORT = Geodesic(heads=TransformR2(hidden=64, epochs=1, minimum_steps=300, learning_rate=1e-2, kinds=("absolute",)))


def quaternions(seed: int, count: int = 50) -> torch.Tensor:
    return torch.nn.functional.normalize(noise(count, 4, seed).double(), dim=1)


def test_the_error_is_the_angle_of_scipys_rotation_whatever_the_sign():
    q, p = quaternions(0), quaternions(1)
    expected = np.degrees((ScipyRotation.from_quat(q).inv() * ScipyRotation.from_quat(p)).magnitude())
    torch.testing.assert_close(angular_errors(q, -p), torch.from_numpy(expected))
    assert angular_errors(q, -q).max() < 1e-5


def test_on_a_circle_the_error_is_the_shorter_arc_of_a_full_turn_whatever_the_unit():
    hue = Circle(1.0)
    true, guess = (angle_vectors(hue, hue.value_vector(torch.tensor(turns))) for turns in ([0.9, 0.5], [0.1, 0.25]))
    torch.testing.assert_close(angular_errors(true, 3 * guess), torch.tensor([72.0, 90.0], dtype=torch.float64))
    assert signed_angles(guess).tolist() == pytest.approx([36, 90], abs=1e-4)


def test_of_a_pose_the_rotation_counts_alone():
    pose = Pose(0.5).random(4)
    torch.testing.assert_close(
        angle_vectors(Pose(0.5), Pose(0.5).value_vector(pose)), Rotation().value_vector(pose[:, :4]).double()
    )


@pytest.mark.parametrize("threshold", [5, 15, 30])
def test_the_area_is_that_of_kornia(threshold):
    errors = 40 * torch.rand(97, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = kornia.metrics.auc_from_errors(errors, thresholds=threshold)
    assert area_under_recall(errors, threshold) == pytest.approx(expected[threshold])


def test_the_mean_of_rotations_does_not_see_signs_and_is_the_nearest_constant():
    centre = quaternions(3, 1)
    near = torch.nn.functional.normalize(centre + 0.1 * quaternions(4), dim=1)
    near[::2] *= -1
    assert float(angular_errors(mean_direction(near), centre)) < 3
    best = angular_errors(near, mean_direction(near).expand_as(near)).square().mean()
    assert best <= min(angular_errors(near, one.expand_as(near)).square().mean() for one in near.split(1)) + 1e-6


def test_the_spread_of_a_median_is_that_of_resampled_medians():
    errors, objects = 60 * torch.rand(300, generator=torch.Generator().manual_seed(1)), torch.arange(100).repeat(3)
    drawn = np.random.RandomState(0).randint(0, 100, (400, 100))
    medians = [np.median(errors.view(3, 100)[:, row].numpy()) for row in drawn]
    assert median_error(errors, objects, Bootstrap(400)) == pytest.approx(np.std(medians), rel=0.25)


def values(results, part="all"):
    return {row.name.removeprefix("geodesic/"): row for row in results if row.part == part}


def test_an_encoder_that_knows_the_pose_has_small_errors_and_an_invariant_one_those_of_a_constant():
    encoded = rotated(lambda turns, kinds: {"all": turns, "invariant": noise(len(turns), 4)})
    rows = list(SHORT.run(encoded))
    exact, blind = values(rows), values(rows, "invariant")
    assert exact["linear/absolute/rotation/median"].value < 2 < 90 < blind["linear/absolute/rotation/median"].value
    assert (
        exact["mlp/absolute/rotation/accuracy@10"].value > 0.9 > 0.1 > blind["mlp/absolute/rotation/accuracy@10"].value
    )
    assert exact["linear/absolute/rotation/auc@15"].value > 80
    best = exact["linear/absolute/rotation/median"]
    assert len(best.pairs) == 60
    assert all(abs(true - guess) < 10 for true, guess in best.pairs)
    assert "a constant scores 1" in best.detail
    assert len(best.errors) > 3
    assert to_json([best]).count('"pairs"') == 1
    assert '"pairs"' not in to_json([exact["linear/absolute/rotation/mean"]])


def test_a_turntable_is_told_by_its_angle():
    encoded = turntable(lambda angles, kinds: {"all": Circle(2 * math.pi).value_vector(angles)})
    found = values(SHORT.run(encoded))
    assert found["linear/absolute/azimuth/mean"].value < 1
    assert accuracy_within(torch.tensor([1.0, 15.0, 16.0]), 15) == pytest.approx(2 / 3)
