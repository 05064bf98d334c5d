"""Actions in words: what they say of each group, and in which order."""

import math

import pytest
import torch

from ssl_inv.transforms import Box, Circle, Code, Flag, Group, Projective, Real, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler
from ssl_inv.transforms.words import describe_action, describe_view


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


MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
ON = {"applied": (Flag(), 1.0)}
ANGLE = (Circle(2 * math.pi), math.radians(12))
SHADOW = {"roughness": (Real(), 0.3), "shade_intensity": (Real(), -0.4), "seed": (Code(), 7)}


def recorded(**operations):
    """One row of a record of operations, each `{parameter: (group, value)}`."""
    every = {f"{label}.{name}": both for label, own in operations.items() for name, both in own.items()}
    values = {name: torch.tensor([value]) for name, (_, value) in every.items()}
    return Transform(values, {name: group for name, (group, _) in every.items()})


@pytest.mark.parametrize(
    ("operations", "words"),
    [
        ({"RandomPlasmaShadow": {**ON, **SHADOW}}, f"plasma shadow: roughness 0.3, shade intensity {MINUS}0.4"),
        ({"RandomPlasmaShadow": {**SHADOW, "applied": (Flag(), 0.0)}}, "unchanged"),
        (
            {"RandomAffine": {**ON, "angle": ANGLE, "translation": (Real(dimensions=2), [0.05, 0.0])}},
            "affine turned 12° counter-clockwise, shifted 5% right",
        ),
        ({"RandomAffine": {**ON, "scale": (Real(1, 1, 2), [1.2, 1.2])}}, f"affine scaled {TIMES}1.20"),
        ({"RandomRotation": {"angle": (Circle(2 * math.pi), math.radians(348))}}, "turned 12° clockwise"),
        ({"RandomMotionBlur": {**ON, "angle": ANGLE}}, "motion blur at 12°"),
        (
            {"RandomPerspective": {**ON, "corners": (Real(dimensions=8), [0.03, 0.04, *[0.0] * 6])}},
            "perspective: a corner moved by 5%",
        ),
        ({"RandomResizedCrop": {"crop": (Box(), [0.4, 0.5, 0.86, 0.5])}}, "resized crop: 43% of the view"),
        ({"RandomErasing": {**ON, "widths": (Real(), 0.5), "heights": (Real(), 0.4)}}, "erasing: 20% of the view"),
        ({"RandomPosterize": {"bits_factor": (Real(), 1.0)}}, "posterised to 1 bit"),
        ({"RandomGrayscale": ON, "RandomJPEG": {"jpeg_quality": (Real(), 37.0)}}, "grey, JPEG: quality 37"),
        ({"RandomGaussianNoise": {"seed": (Code(), 0)}}, "gaussian noise"),
        ({"RandomChannelShuffle": {**ON, "channels": (Code(3), [2, 0, 1])}}, "channel shuffle"),
        ({"RandomTranslate": {**ON, "translate_y": (Real(), 0.001)}}, "unchanged"),
        (
            {"RandomTranslate": {**ON, "translate_x": (Real(), -0.1), "translate_y": (Real(), 0.2)}},
            "shifted 10% left 20% down",
        ),
        ({"RandomHue": {"hue_factor": (Circle(), 0.96)}}, f"hue {MINUS}0.04 turns"),
        ({"ColorJiggle": {"brightness_factor": (Real(1, 1), 1.2)}}, "colour jiggle: brightness +0.20"),
        (
            {"ColorJitter": {"order": (Code(4), [3, 1, 0, 2]), "brightness_factor": (Real(1, 1), 1.2)}},
            f"colour jitter: brightness {TIMES}1.20",
        ),
        # Members that a sample did not choose have neutral values.
        (
            {
                "RandAugment": {"choice": (Code(2), [3, 1])},
                "RandAugment.Rotate": {"angle": ANGLE},
                "RandAugment.Posterize": {"bits_factor": (Real(2.0, 5.0), 5.0)},
            },
            "turned 12° counter-clockwise",
        ),
        (
            {"RandAugment": {"choice": (Code(2), [4, 2])}, "RandAugment.Rotate": {"angle": (Circle(), 0.0)}},
            "rand augment",
        ),
    ],
)
def test_augmentations_of_kornia_in_words(operations, words):
    assert describe_view(recorded(**operations), 0) == words


def test_the_map_is_told_where_nothing_else_is():
    half = torch.tensor([[1.0, 0.0, 0.2, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]])
    groups: dict[str, Group] = {"projective": Projective(), "flip": Flag()}
    assert (
        describe_view(Transform({"projective": half, "flip": torch.zeros(1)}, groups), 0) == "map moves a corner by 10%"
    )
    assert describe_view(Transform({"projective": half, "flip": torch.ones(1)}, groups), 0) == "flipped"


def test_actions_name_the_augmentation_and_its_parameter():
    a = recorded(RandomAffine={"applied": (Flag(), 0.0), "angle": (Circle(2 * math.pi), 0.0)})
    b = recorded(RandomAffine={**ON, "angle": ANGLE})
    assert describe_action(a.relative(b), 0) == "affine on, affine angle +12°"
