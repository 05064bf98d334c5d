"""Actions in words: what they say of each group, and in which order."""

import math

import pytest
import torch

from ssl_inv.transforms import Box, Circle, Code, Flag, Group, Real, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler
from ssl_inv.transforms.words import describe_action


def quaternion(degrees: float) -> list[float]:
    result: list[float] = quaternion_from_euler(torch.tensor([0.0, 0.0, math.radians(degrees)])).tolist()
    return result


@pytest.mark.parametrize(
    ("name", "group", "first", "second", "words"),
    [
        ("rotation", Rotation(), quaternion(0), quaternion(37), "rotated 37°"),
        ("camera", Rotation(), quaternion(350), quaternion(10), "camera rotated 20°"),
        ("floor_hue", Circle(), 0.98, 0.06, "floor hue +0.08"),
        ("azimuth", Circle(2 * math.pi), 0.1, 0.1 - math.radians(20), "azimuth \N{MINUS SIGN}20°"),
        ("crop", Box(), [0.5, 0.5, 0.4, 0.4], [0.6, 0.45, 0.8, 0.4], "crop 10% right 5% up width ×2.00"),
        ("brightness", Real(), 0.1, 0.3, "brightness +0.20"),
        ("gaze", Real(dimensions=2), [0.0, 0.0], [0.5, -0.25], "gaze (+0.50, \N{MINUS SIGN}0.25)"),
        ("flip", Flag(), 0.0, 1.0, "flip on"),
        ("flip", Flag(), 1.0, 0.0, "flip off"),
        ("rotation", Rotation(), quaternion(5), [-x for x in quaternion(5)], "unchanged"),
        ("jitter_order", Code(), 3, 17, "another jitter order"),
        ("jitter_order", Code(), 3, 3, "unchanged"),
    ],
)
def test_actions_in_words(name, group, first, second, words):
    a, b = (Transform({name: torch.tensor([value, value])}, {name: group}) for value in (first, second))
    assert describe_action(a.relative(b), 1) == words


def test_words_of_several_steps_stand_side_by_side():
    groups: dict[str, Group] = {"floor_hue": Circle(), "flip": Flag()}
    rows = ((0.1, 0.0), (0.3, 1.0))
    a, b = (Transform({"floor_hue": torch.tensor([h]), "flip": torch.tensor([f])}, groups) for h, f in rows)
    assert describe_action(a.relative(b), 0) == "floor hue +0.20, flip on"
