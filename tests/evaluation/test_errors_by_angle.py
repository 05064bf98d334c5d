"""The error of a predicted angle is that of the angle, whatever the length and sign of what was predicted."""

import math

import pytest
import torch

from ssl_inv.evaluation.protocols.transforms_r2 import errors_by_angle
from ssl_inv.evaluation.results import Result, to_json
from ssl_inv.transforms import Circle, Real, Rotation


def about_z(degrees: torch.Tensor) -> torch.Tensor:
    half = torch.deg2rad(degrees) / 2
    return torch.stack((0 * half, 0 * half, half.sin(), half.cos()), dim=1)


ANGLES = torch.arange(1.0, 180.0, 2)
BINS = [f"{start}-{start + 30}" for start in range(0, 180, 30)]


def test_of_rotations_off_by_ten_degrees_the_error_is_ten_degrees() -> None:
    found = errors_by_angle(Rotation(), about_z(ANGLES), -3 * about_z(ANGLES + 10))
    assert [angle for angle, _ in found] == BINS
    assert [error for _, error in found] == pytest.approx([10] * 6, abs=1e-3)


def test_of_angles_on_a_circle_both_directions_count_as_the_same_size() -> None:
    circle, signs = Circle(2 * math.pi), torch.ones(len(ANGLES))
    signs[::2] = -1
    angles = torch.deg2rad(ANGLES) * signs
    found = errors_by_angle(circle, circle.step_vector(angles), 2 * circle.step_vector(angles + math.radians(200)))
    assert [angle for angle, _ in found] == BINS
    assert [error for _, error in found] == pytest.approx([160] * 6, abs=1e-3)


def test_angles_that_few_pairs_have_and_parameters_that_are_no_angles_give_no_error() -> None:
    few = torch.cat((torch.full((4,), 10.0), torch.full((5,), 100.0)))
    assert [angle for angle, _ in errors_by_angle(Rotation(), about_z(few), about_z(few))] == ["90-120"]
    for group in (Circle(), Real()):
        vectors = group.step_vector(torch.rand(20))
        assert errors_by_angle(group, vectors, vectors) == ()


def test_the_json_of_a_result_has_errors_only_where_there_are_some() -> None:
    text = to_json([Result("r2", "all", 0.5), Result("r2", "all", 0.5, errors=(("0-30", 4.0),))])
    assert text.count("errors") == 1
