"""Every group keeps the laws of a group, is drawn, saved and put into words; a new group gets a line in `CASES`."""

import json
from dataclasses import dataclass
from math import pi

import pytest
import torch
from torch import Tensor

from ssl_inv.transforms import Box, Category, Circle, Code, Flag, Group, Pose, Projective, Real, Rotation, Transform
from ssl_inv.transforms.words import describe_action, describe_view

BATCH = 200
CASES: dict[str, Group] = {
    "rotation": Rotation(),
    "hue_of_floor": Circle(),
    "azimuth": Circle(2 * pi),
    "window": Box(),
    "light": Real(scale=0.8, neutral_value=1.0),
    "gaze": Real(dimensions=2),
    "lit": Flag(),
    "motion": Pose(scale=0.5),
    "site": Category(5),
    "order": Code(),
    "channels": Code(dimensions=3),
    "plane": Projective(),
}


def values(name: str, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return CASES[name].random(BATCH, torch.float64)


def pair(name: str) -> tuple[Group, Transform, Transform]:
    a, b = (Transform({name: values(name, seed)}, {name: CASES[name]}) for seed in (0, 1))
    return CASES[name], a, b


def test_every_group_has_a_case():
    own = {kind for kind in Group.__subclasses__() if kind.__module__.startswith("ssl_inv.transforms")}
    assert own == {type(group) for group in CASES.values()}


@pytest.mark.parametrize("name", CASES)
class TestEveryGroup:
    def test_composing_with_the_relative_step_leads_there_and_the_step_to_itself_is_no_step(self, name):
        group, a, b = pair(name)
        assert group.distance(a.compose(a.relative(b))[name], b[name]).max() < 1e-7
        assert group.distance(a.compose(a.relative(a))[name], a[name]).max() < 1e-7
        zero = a.relative(a).as_vector([name])
        assert torch.allclose(zero, zero[:1].expand_as(zero), atol=1e-9)

    def test_a_path_begins_here_ends_there_and_halves_the_distance(self, name):
        group, a, b = pair(name)
        assert group.distance(a.path(b, 0.0)[name], a[name]).max() < 1e-7
        assert group.distance(a.path(b, 1.0)[name], b[name]).max() < 1e-7
        if group.continuous:
            middle, half = a.path(b, 0.5)[name], group.distance(a[name], b[name]) / 2
            torch.testing.assert_close(group.distance(a[name], middle), half, rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(group.distance(middle, b[name]), half, rtol=1e-6, atol=1e-7)

    def test_distance_is_symmetric_and_zero_only_at_the_same_place(self, name):
        group, a, b = pair(name)
        there, back = group.distance(a[name], b[name]), group.distance(b[name], a[name])
        torch.testing.assert_close(there, back, rtol=1e-9, atol=1e-9)
        assert (group.distance(a[name], a[name]) < 1e-7).all()
        assert ((there > 0) | (a[name].view(BATCH, -1) == b[name].view(BATCH, -1)).all(1)).all()

    def test_neutral_and_random_values_have_one_shape_and_vectors_their_rows(self, name):
        group, a, b = pair(name)
        assert group.neutral(BATCH).shape == a[name].shape
        assert group.random(BATCH).dtype == group.neutral(BATCH).dtype
        assert len(a[name].unique(dim=0)) > 1
        assert a.as_vector([name]).shape[0] == a.relative(b).as_vector([name]).shape[0] == BATCH

    def test_plain_steps_are_canonical_ones_scaled_where_the_group_says_so(self, name):
        group, a, b = pair(name)
        if group.plain_is_scaled:
            plain, step = (a.relative(b).as_vector([name], convention) for convention in ("sie", "canonical"))
            torch.testing.assert_close(plain / step, (plain / step)[:1].expand_as(step))

    def test_a_record_gives_the_same_group_back(self, name):
        assert Group.from_record(json.loads(json.dumps(CASES[name].record()))) == CASES[name]

    def test_neutral_values_and_no_step_need_no_words(self, name):
        group, a, b = pair(name)
        neutral = Transform({name: group.neutral(2)}, {name: group})
        assert describe_view(neutral, 1) == describe_action(a.relative(a), 3) == "unchanged"
        assert any(describe_action(a.relative(b), row) != "unchanged" for row in range(20))
        if not isinstance(group, Code):
            assert any(name.replace("_", " ").split()[0][:4] in describe_view(b, row) for row in range(20))


def test_groups_that_files_cannot_hold_are_refused_and_unknown_ones_named():
    @dataclass(frozen=True)
    class Table(Flag):
        of: tuple[float, ...] = (0.5,)

    with pytest.raises(ValueError, match="the group Table cannot be saved"):
        Table().record()
    with pytest.raises(ValueError, match="no group is called 'Helix'"):
        Group.from_record(("Helix", {}))
