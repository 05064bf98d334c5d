"""Measures of equivariance against recorded numbers of independent computations in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import conv2d

from ssl_inv.evaluation.protocols.action_maps import (
    composition_error,
    distance_from_identity,
    inverse_error,
    orthogonality_error,
)
from ssl_inv.evaluation.protocols.frames import distances, in_frames
from ssl_inv.evaluation.protocols.geodesic import (
    accuracy_within,
    angular_errors,
    area_under_recall,
    rotation_from_nine,
    rotation_from_six,
)
from ssl_inv.evaluation.protocols.leakage import leaks
from ssl_inv.evaluation.protocols.lie_derivative import decibels, lie_derivative
from ssl_inv.evaluation.protocols.linear_maps import Span, ridge
from ssl_inv.evaluation.protocols.map_decibels import masked_errors
from ssl_inv.evaluation.protocols.motions import gradient, overlap
from ssl_inv.evaluation.protocols.sensitivity import sensitivity
from ssl_inv.evaluation.protocols.transforms_r2 import r2_mean, r2_pooled
from ssl_inv.transforms import Real, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler, quaternion_multiply, quaternion_to_matrix

FACTS = json.loads((Path(__file__).parent / "data" / "equivariance.json").read_text())


def expected(case: str) -> dict:
    return FACTS[case]["values"]


def unit(array: np.ndarray) -> np.ndarray:
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def golden_poses() -> tuple[Tensor, Tensor, Tensor]:
    """True and predicted quaternions, scalar last, and nine free numbers of each row."""
    rs = np.random.RandomState(101)
    q, d = unit(rs.randn(400, 4)), 0.25 * rs.randn(400, 3)
    angle = np.linalg.norm(d, axis=1, keepdims=True)
    steps = torch.from_numpy(np.hstack((np.sin(angle / 2) * d / angle, np.cos(angle / 2))))
    true = torch.from_numpy(np.roll(q, -1, axis=1))
    guess = quaternion_multiply(true, steps)
    guess[1::2] *= -1
    guess[:40] = torch.from_numpy(np.roll(unit(rs.randn(40, 4)), -1, axis=1))
    return true, guess, torch.from_numpy(rs.randn(400, 9))


def matrix_error(matrices: Tensor, true: Tensor) -> float:
    between = matrices.transpose(1, 2) @ quaternion_to_matrix(true)
    cosine = ((between.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2).clamp(-1, 1)
    return float(np.median(torch.rad2deg(cosine.acos()).numpy()))


def test_geodesic_errors_equal_the_recorded_ones() -> None:
    true, guess, numbers = golden_poses()
    values, errors = expected("pose_error"), angular_errors(true, guess)
    assert errors[:5].tolist() == pytest.approx(values["first5_deg"], rel=1e-8)
    assert errors[-5:].tolist() == pytest.approx(values["last5_deg"], rel=1e-8)
    assert float(errors.mean()) == pytest.approx(values["mean_deg"], rel=1e-8)
    assert float(np.median(errors.numpy())) == pytest.approx(values["median_deg"], rel=1e-8)
    for limit, share in values["accuracy"].items():
        assert accuracy_within(errors, float(limit)) == share
    for limit, area in values["auc_percent_kornia"].items():
        assert area_under_recall(errors, float(limit)) == pytest.approx(area, rel=1e-8)
    nine, six = rotation_from_nine(numbers), rotation_from_six(numbers[:, :6])
    assert matrix_error(nine, true) == pytest.approx(values["raw9_special_orthogonal_procrustes_median_deg"], rel=1e-6)
    assert matrix_error(six, true) == pytest.approx(values["raw_first6_gram_schmidt_columns_median_deg"], rel=1e-6)


def test_the_errors_of_a_learnt_group_equal_the_recorded_ones() -> None:
    rs, values = np.random.RandomState(103), expected("group_action")
    rs.randn(6, 6)
    basis = np.array(FACTS["group_action"]["Q"])
    z, noise = rs.randn(400, 6), 0.1 * rs.randn(6, 400, 6)

    def turn(angle: float) -> np.ndarray:
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    rho = np.stack([np.eye(6) for _ in range(6)])
    for g in range(6):
        rho[g, :2, :2], rho[g, 2:4, 2:4] = turn(2 * np.pi * g / 6), turn(4 * np.pi * g / 6)
    rho = basis @ rho @ basis.T
    after = torch.from_numpy(np.einsum("nj,gij->gni", z, rho) + noise)
    before, exact = torch.from_numpy(z), torch.from_numpy(rho)
    maps = torch.stack([ridge(before[:200], one[:200], 1.0)[0] for one in after])
    numbers = torch.arange(6)
    products = (numbers[:, None] + numbers) % 6
    found = {
        "identity_error_fro_over_sqrt_d": distance_from_identity(maps[:1]),
        "inverse_error_mean_over_g": inverse_error(maps, -numbers % 6),
        "composition_error_matrix_relative_mean_over_all_pairs": composition_error(maps, products),
        "orthogonality_error": orthogonality_error(maps),
        "prediction_r2_mean_over_g": np.mean([r2_mean(after[g, 200:], before[200:] @ maps[g].T) for g in range(6)]),
        "r2_of_true_representation": np.mean([r2_mean(after[g, 200:], before[200:] @ exact[g].T) for g in range(6)]),
        "r2_of_doing_nothing_mean_over_g_not_e": np.mean([r2_mean(one[200:], before[200:]) for one in after[1:]]),
    }
    for name, number in found.items():
        assert number == pytest.approx(values[name], rel=1e-8), name
    for error in (inverse_error(exact, -numbers % 6), composition_error(exact, products), orthogonality_error(exact)):
        assert error < 1e-10


def test_leaks_at_equal_capacity_equal_the_recorded_ones() -> None:
    rs, values = np.random.RandomState(105), expected("leakage")
    labels, centres, pose = rs.randint(0, 6, 800), 1.5 * rs.randn(6, 24), rs.randn(800, 3)
    a, b, kinds = rs.randn(3, 12), 0.3 * rs.randn(3, 24), 0.4 * rs.randn(6, 12)
    parts = {"invariant": centres[labels] + pose @ b + rs.randn(800, 24)}
    parts["equivariant"] = pose @ a + kinds[labels] + rs.randn(800, 12)
    parts["all"] = np.hstack((parts["invariant"], parts["equivariant"]))
    target, scores = torch.from_numpy(pose), {}
    for name, rows in parts.items():
        features = torch.from_numpy(rows)
        span = Span.fit(features[:400], 12)
        x = span(features) * span.scale
        weights, constant = ridge(x[:400], target[:400], 1.0, intercept=True)
        r2 = r2_mean(target[400:], x[400:] @ weights.T + constant)
        classifier = LogisticRegression(C=1.0, max_iter=5000).fit(x[:400].numpy(), labels[:400])
        scores[name] = r2, classifier.score(x[400:].numpy(), labels[400:])
        assert r2 == pytest.approx(values["parts"][name]["pose_r2_equal_capacity"], rel=1e-6)
        assert scores[name][1] == pytest.approx(values["parts"][name]["class_top1_equal_capacity"], abs=0.003)
    given = [torch.tensor([scores[part][kind]]) for kind in (0, 1) for part in ("invariant", "equivariant")]
    names = ("pose_leak_ratio_inv_over_equi", "class_leak_ratio_chance_corrected_equi_over_inv")
    for found, name in zip(leaks(*given, chance=1 / 6), (*names, "separation_1_minus_mean_leak"), strict=True):
        assert float(found[0]) == pytest.approx(values[name], rel=1e-5)


MAPS = {
    "linear_functional": lambda x, w, k: x.flatten(1) @ w.T,
    "pixelwise_square": lambda x, w, k: x.square(),
    "conv3x3_zero_padding": lambda x, w, k: conv2d(x, k, padding=1),
    "conv3x3_stride2": lambda x, w, k: conv2d(x, k, padding=1, stride=2),
    "identity": lambda x, w, k: x,
}


def golden_images() -> tuple[Tensor, Tensor, Tensor]:
    rs = np.random.RandomState(102)
    x, w, k = rs.randn(2, 4, 9, 9), rs.randn(3, 324) / 9, rs.randn(4, 4, 3, 3) / 3
    return torch.from_numpy(x), torch.from_numpy(w), torch.from_numpy(k)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("motion", ["translation_x", "translation_y", "rotation"])
def test_lie_derivatives_equal_the_recorded_ones(name: str, motion: str) -> None:
    x, w, k = golden_images()
    # The recorded translations are in units of half the image, which has 8 steps.
    unit = 1.0 if motion == "rotation" else 4.0
    found = unit * lie_derivative(lambda images: MAPS[name](images, w, k), x, motion, scheme="forward")
    values = expected("lee")["reference"][name][motion]
    assert float(found.abs().mean()) == pytest.approx(values["mean_abs"], rel=1e-8, abs=1e-10)
    per_image = found.square().flatten(1).mean(dim=1)
    assert per_image.tolist() == pytest.approx(values["per_image_mean_square"], rel=1e-8, abs=1e-10)


def test_decibels_of_whole_shifts_equal_the_recorded_ones() -> None:
    x, _, k = golden_images()
    for rows, columns in ((1, 2), (-2, 1)):
        values = expected("lee")["eq_t_integer_conv_zero_fill_valid_mask"][f"shift_rows_{rows}_cols_{columns}"]
        mask = overlap((9, 9), torch.full((2,), float(columns)), torch.full((2,), float(rows)))
        moved, wanted = (
            torch.roll(one, (rows, columns), (2, 3)) * (mask if entering else 1)
            for one, entering in ((x, True), (conv2d(x, k, padding=1), False))
        )
        error = float(masked_errors(conv2d(moved, k, padding=1), wanted, mask).sum() / mask.sum())
        assert error == pytest.approx(values["masked_mse"], rel=1e-8)
        assert decibels(error) == pytest.approx(values["eq_t_db_imax2"], rel=1e-8)


def test_the_derivative_of_a_band_limited_signal_is_exact() -> None:
    t = torch.arange(36, dtype=torch.float64) * (2 * np.pi / 36)
    slope = gradient((t.sin() + 0.5 * (2 * t).cos())[None], "cyclic")[0] * (36 / (2 * np.pi))
    exact = expected("lee")["band_limited_check"]["exact_derivative_mean_square"]
    assert float(slope.square().mean()) == pytest.approx(exact, rel=1e-10)


def golden_frames() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Euler angles and shifts of both views, noise, and Euler angles beyond a quarter turn."""
    rs = np.random.RandomState(104)
    angles, shifts = rs.uniform(-np.pi / 2, np.pi / 2, (2, 2000, 3)), rs.uniform(-0.5, 0.5, (2, 2000, 3))
    noise, beyond = rs.randn(2000, 3), rs.uniform(np.pi / 2, np.pi, (2, 2000, 3))
    beyond = beyond * np.where(rs.rand(2, 2000, 3) < 0.5, -1, 1)
    return tuple(torch.from_numpy(one) for one in (angles, shifts, noise, beyond))


def test_translations_in_both_frames_equal_the_recorded_ones() -> None:
    angles, shifts, noise, _ = golden_frames()
    values, groups = expected("pose_frames"), {"rotation": Rotation(), "translation": Real(dimensions=3)}
    one, two = (
        in_frames(Transform({"rotation": quaternion_from_euler(turn), "translation": shift}, groups))
        for turn, shift in zip(angles, shifts, strict=True)
    )
    targets = {name: one.relative(two)[name].double() for name in ("object", "last")}
    assert targets["object"][0].tolist() == pytest.approx(values["object_frame_target_row0"], rel=1e-5)
    assert targets["last"][0].tolist() == pytest.approx(values["final_frame_target_row0"], rel=1e-5)
    assert float(targets["last"].square().sum()) == pytest.approx(values["final_frame_target_sumsq"], rel=1e-6)
    for name, recorded in (("object", "object"), ("last", "final")):
        guess = 0.7 * targets[name] + 0.15 * noise
        scores = values["r2"][recorded]
        assert r2_mean(targets[name], guess) == pytest.approx(scores["sklearn_uniform"], rel=1e-6)
        assert r2_pooled(targets[name], guess) == pytest.approx(scores["pooled_single_scalar_mean"], rel=1e-6)
    mixed = values["r2"]["final_frame_predicted_by_object_target"]["sklearn_uniform"]
    assert r2_mean(targets["last"], targets["object"]) == pytest.approx(mixed, rel=1e-5)


def test_all_angles_beyond_a_quarter_turn_are_rotations_of_training_and_one_alone_is_not() -> None:
    angles, _, _, beyond = golden_frames()
    sign = beyond.sign()
    within = torch.stack((beyond[..., 0] - sign[..., 0] * np.pi, sign[..., 1] * np.pi - beyond[..., 1]), dim=-1)
    within = torch.cat((within, (beyond[..., 2] - sign[..., 2] * np.pi)[..., None]), dim=-1)
    assert (within.abs() <= np.pi / 2).all()
    outer, inner = (quaternion_from_euler(one) for one in (beyond, within))
    difference = (quaternion_to_matrix(outer) - quaternion_to_matrix(inner)).abs().max()
    assert float(difference) < 1e-14
    assert float(distances(Rotation(), inner[0], outer[0]).max()) < 1e-5
    # What the papers' quaternions make of an exact rotation, and what canonical ones do.
    facts, (first, second), turn = expected("pose_frames")["all_three_angles_outside"], outer, Rotation()
    target, guess = turn.plain_step_vector(first, second), turn.plain_step_vector(*inner)
    r2 = facts["r2_sklearn_uniform_of_the_exact_rotation_written_from_equivalent_triples"]
    assert r2_mean(target, guess) == pytest.approx(r2, rel=1e-8)
    assert r2_mean(turn.step_vector(target), turn.step_vector(guess)) == pytest.approx(1)
    one_outside = torch.cat((beyond[0, :, :1], angles[0, :, 1:]), dim=1)
    assert float(distances(turn, quaternion_from_euler(angles[1]), quaternion_from_euler(one_outside)).median()) > 10


def test_sensitivity_equals_the_recorded_one() -> None:
    rs, values = np.random.RandomState(12), expected("transforms2d_sensitivity")
    one = rs.randn(64, 16)
    other = one + 0.5 * rs.randn(64, 16)
    found = sensitivity(torch.from_numpy(one), torch.from_numpy(other))
    assert found == pytest.approx(values["sens_ratio_all_distinct_pairs"], rel=1e-8)
