"""A constant is consistent, a pixel is not, and a window that is chosen by its content follows it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from imaged import encoded_by
from torch import Tensor

from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.protocols.motions import displacements
from ssl_inv.evaluation.protocols.shift_consistency import (
    ShiftConsistency,
    best_window,
    window_scores,
)
from ssl_inv.evaluation.results import Bootstrap

PROTOCOL = ShiftConsistency(shifts=(1, 4), draws=8, windows=17, bootstrap=Bootstrap(10))


def noise(count: int = 48, size: int = 24) -> Tensor:
    """Rough on purpose: a window one pixel away shows other numbers at the same place."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def measured(encode: Callable[[Tensor], Tensor], given: Encoded | None = None) -> dict[str, object]:
    given = encoded_by(lambda one: {"all": encode(one)}, None, noise()) if given is None else given
    return {row.name: row for row in PROTOCOL.run(given)}


def corner(pixels: Tensor) -> Tensor:
    """What stands in one place."""
    return pixels[:, :, 10:12, 10:12].flatten(1)


def test_an_encoder_of_colours_is_consistent_and_one_of_single_pixels_is_not():
    mean, single = measured(lambda one: one.mean(dim=(2, 3)) + 5), measured(corner)
    for name in ("shift/1/cosine", "shift/4/cosine"):
        assert mean[name].value > 0.8 > single[name].value
    assert mean["shift/1/consistency"].value > single["shift/1/consistency"].value
    assert single["shift/4/robust"].value <= single["shift/4/consistency"].value < 0.8
    assert single["shift/1/robust"].value < 0.3
    assert "8 shifts of each image; independent predictions agree in 0." in single["shift/1/consistency"].detail


def test_a_chosen_window_makes_any_encoder_consistent_where_the_same_content_wins():
    single = measured(corner)
    # (17 - 1) / (17 + 1) for each axis that moves; six of eight shifts by one pixel move along one, two along none.
    assert single["shift_chosen/1/same"].value == pytest.approx(0.84, abs=0.08)
    assert single["shift_chosen/1/same"].value > single["shift_chosen/4/same"].value > 0.4
    assert single["shift_chosen/1/consistency"].value >= single["shift_chosen/1/same"].value
    assert single["shift_chosen/1/cosine"].value > single["shift/1/cosine"].value + 0.2


def test_a_constant_prediction_is_consistent_and_its_accuracy_says_so():
    given = encoded_by(lambda one: {"all": one.new_ones(len(one), 2)}, None, noise(12))
    found = measured(corner, given)
    assert found["shift/4/consistency"].value == found["shift/4/robust"].value == 1
    assert found["shift/accuracy"].value < 0.5


def test_without_labels_the_cosine_is_left():
    given = encoded_by(lambda one: {"all": corner(one)}, None, noise(12))
    bare = {name: replace(getattr(given, name), labels=None) for name in ("train", "validation")}
    found = measured(corner, replace(given, **bare))
    assert found["shift/accuracy"].detail == "there are no labels of two classes in train"
    assert {name for name in found if name.startswith("shift/1/")} == {"shift/1/cosine"}


def test_displacements_differ_and_none_is_zero():
    one = displacements(5, 1, 20, seed=0)
    assert one.shape == (5, 8, 2)
    assert {tuple(move) for move in one[0].tolist()} == {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)} - {(0, 0)}
    assert displacements(5, 8, 3, seed=0).abs().amax() <= 8


def test_the_score_is_a_function_of_the_windows_own_pixels():
    images = noise(3, 20)
    scores = window_scores(images, (12, 12))
    own = torch.stack([window_scores(images[:, :, y : y + 12, 3:15], (12, 12))[:, 0, 0] for y in range(9)], dim=1)
    torch.testing.assert_close(scores[:, :, 3], own, atol=1e-4, rtol=1e-4)
    best = best_window(scores, torch.tensor([[0, 0], [2, 1], [0, 0]]), 6)
    assert [int(scores[i, :6, :6].argmax()) for i in (0, 2)] == [int(best[i, 0] * 6 + best[i, 1]) for i in (0, 2)]
