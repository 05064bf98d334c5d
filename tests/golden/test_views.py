"""Patches, fixations and augmentation vectors equal those of the authors' code of OBoW and seq-JEPA."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from ssl_inv.augment.policies import none
from ssl_inv.objectives.seq_jepa import seq_jepa_actions, seq_jepa_vector
from ssl_inv.transforms import Box, Circle, Flag, Real, Transform
from ssl_inv.views import Patches, Saccades
from ssl_inv.views.cutters import SaccadeCutter, patch_corners
from ssl_inv.views.saccades import inhibit, official_patches

FACTS = "seq_jepa_views"


def test_patches_of_obow_lie_where_its_code_cuts_them(golden):
    case = golden("obow_patches")["patch_crops"]
    shifts = np.array(next(value for name, value in case["inputs"].items() if name.startswith("jitter")))
    plan, shifts = Patches(), shifts.reshape(1, 9, 2)
    assert plan.step == 68
    corners = patch_corners(plan, shifts, np.array([case["inputs"]["permutation"]]))
    assert corners[0].tolist() == case["expected"]["top_left_y_x_of_the_5_patches"]


def one_view(**parameters: float | list[float]) -> Transform:
    groups = {"crop": Box(), "hue": Circle(), "flip": Flag(), "grey": Flag(), "blur": Real()}
    groups |= {name: Real(neutral_value=1.0) for name in ("brightness", "contrast", "saturation")}
    values = {name: torch.tensor([value]) for name, value in parameters.items()}
    return Transform(values, {name: groups[name] for name in parameters})


def test_augmentation_vectors_of_seq_jepa(facts):
    top, left, height, width, side = 3, 5, 20, 18, 32
    crop = [(left + width / 2) / side, (top + height / 2) / side, width / side, height / side]
    a = one_view(crop=crop, flip=1.0, brightness=1.2, contrast=0.7, saturation=1.1, hue=0.05, grey=1.0, blur=0.9)
    b = one_view(crop=crop, flip=0.0)
    case = facts["augmentation_parameter_vector"]
    assert_allclose(seq_jepa_vector(a, (side, side))[0], case["vector_A"], rtol=1e-6)
    assert_allclose(seq_jepa_vector(b, (side, side))[0], case["vector_B"], rtol=1e-6)


def test_relative_actions_of_seq_jepa(facts):
    case = facts["relative_action_augmentation"]
    vectors = torch.tensor(case["raw_params"])
    actions = seq_jepa_actions(vectors, (32, 32), "official")
    assert_allclose(actions[:, :2], np.array(case["relative_actions_observed"])[:, :2], atol=1e-6)
    assert_allclose(actions[:, 2], case["action_for_predictor"], atol=1e-6)
    of_two = seq_jepa_actions(vectors[:, :2], (32, 32), "official")[:, 0]
    assert_allclose(of_two, case["same_two_views_but_V2_normalisation"], atol=1e-6)


def test_corrected_actions_depend_on_two_views_only(facts):
    vectors = torch.tensor(facts["relative_action_augmentation"]["raw_params"])
    vectors[:, 1, 7], vectors[:, 0, 7] = 0.45, -0.45
    actions = seq_jepa_actions(vectors, (32, 64))
    assert torch.equal(actions[:, :1], seq_jepa_actions(vectors[:, :2], (32, 64)))
    assert_allclose(actions[:, 0, :2], (vectors[:, 1, :2] - vectors[:, 0, :2]) / torch.tensor([32.0, 64.0]))
    assert_allclose(actions[:, 0, 7], -0.1 / 0.2, rtol=1e-5)


FIXATIONS = np.array([(20, 70), (48, 48), (5, 90)])


def test_inhibition_of_return_is_that_of_the_authors_code(facts):
    case = facts["saccades_fixations_and_actions"]
    weights = np.random.RandomState(6).uniform(0, 1, (1, 96, 96))
    weights /= weights.sum()
    for draw, fixation in zip(case["probability_before_draw"].values(), FIXATIONS, strict=True):
        for place, probability in draw.items():
            row, column = map(int, place.split(","))
            assert weights[0, row, column] == pytest.approx(probability, rel=1e-5)
        inhibit(weights, fixation[None], "square", 16)


def test_fixations_and_actions_are_fractions_of_the_view(facts):
    case = facts["saccades_fixations_and_actions"]
    cutter = SaccadeCutter(Saccades(observed=2), none().policy(0))
    records = [cutter.record(fixation[None], 96) for fixation in FIXATIONS]
    assert_allclose([record["fixation"][0] for record in records], case["absolute_positions"], rtol=1e-6)
    steps = [here.relative(there).as_vector(["fixation"])[0] for here, there in pairwise(records)]
    assert_allclose(steps, case["relative_actions"], rtol=1e-6)


def official(image: np.ndarray) -> Tensor:
    """The three patches in 0 .. 255, `(3, 3, 32, 32)`."""
    view = torch.from_numpy(image.astype(np.uint8)).expand(3, -1, -1, -1).float() / 255
    return official_patches(view, torch.from_numpy(FIXATIONS / 96).float(), 32) * 255


def test_official_patches_are_those_of_the_authors_code(facts):
    case = facts["saccades_patch_extraction"]
    row, column = np.mgrid[:96, :96]
    patches = official(np.stack((2 * row, 2 * column, row + column)))
    for channel, name in enumerate(("channel0_2xrow_at", "channel1_2xcol_at")):
        for patch, expected in enumerate(case[name].values()):
            for place, value in expected.items():
                found = float(patches[patch, channel][tuple(map(int, place.split(",")))])
                assert found == pytest.approx(value, abs=1e-3), (name, patch)
        assert_allclose(patches[:, channel].mean((1, 2)), case[f"mean_channel{channel}"], rtol=1e-6)
    patches = official(np.random.RandomState(5).randint(0, 256, (96, 96, 3)).transpose(2, 0, 1))
    assert_allclose(patches.mean((1, 2, 3)), case["random_image_patch_means_0_255"], rtol=1e-6)
    assert_allclose(patches[1, 0, 0], case["random_image_patch1_ch0_row0"], atol=1e-3)
