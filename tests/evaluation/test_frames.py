"""An encoder that knows the pose loses nothing outside of training's poses; one that was fitted by rote loses all."""

import math
from dataclasses import replace

import pytest
import torch
from posed import matrices, noise

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.protocols.frames import Frames, distances, in_frames
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2
from ssl_inv.evaluation.results import Bootstrap
from ssl_inv.transforms import Circle, Real, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler, quaternion_rotate

PROTOCOL = Frames(TransformR2(hidden=32, epochs=1, minimum_steps=100, learning_rate=2e-2), bootstrap=Bootstrap(10))
OBJECTS, VIEWS = 60, 4


def table(seed: int, out: bool, encoder) -> FeatureTable:
    """Yaw within a quarter turn, or beyond it for half of the objects; the other angles are small."""
    draws = torch.rand(OBJECTS * VIEWS, 7, generator=torch.Generator().manual_seed(seed))
    ids = torch.arange(OBJECTS).repeat_interleave(VIEWS)
    angles = (draws[:, :3] - 0.5) * torch.tensor([0.4, 0.4, math.pi])
    angles[:, 2] += math.pi * (out & (ids % 2 == 0))
    turns, shifts = quaternion_from_euler(angles), draws[:, 3:6] - 0.5
    size = draws[:, 6] + (out & (ids % 2 == 0))
    values = {"rotation": turns, "translation": shifts, "size": size}
    transform = Transform(values, {"rotation": Rotation(), "translation": Real(dimensions=3), "size": Real()})
    features = {name: value.float() for name, value in encoder(turns, shifts, size).items()}
    return FeatureTable(features, ids, torch.arange(VIEWS).repeat(OBJECTS), ids % 3, transform=transform)


def measured(encoder, part="all", **heads):
    encoded = Encoded(table(0, False, encoder), table(1, True, encoder))
    return {
        row.name: row
        for row in replace(PROTOCOL, heads=replace(PROTOCOL.heads, **heads)).run(encoded)
        if row.part == part
    }


def test_each_frame_is_told_by_the_encoder_that_knows_it():
    encoders = {
        "all": lambda turns, shifts: shifts,
        "last": quaternion_rotate,
    }
    found = [
        measured(
            lambda turns, shifts, size: {name: one(turns, shifts) for name, one in encoders.items()},
            part,
            parameters=("size",),
            kinds=("absolute",),
        )
        for part in encoders
    ]
    assert found[0]["frames/object/r2"].value > 0.95 > 0.6 > found[0]["frames/last/r2"].value
    assert found[1]["frames/last/r2"].value > 0.95 > 0.6 > found[1]["frames/object/r2"].value
    assert found[0]["frames/object/r2_pooled"].value == pytest.approx(found[0]["frames/object/r2"].value, abs=0.02)


def test_distance_to_training_tells_memory_from_knowledge():
    def encoder(turns, shifts, size):
        yaw = 2 * torch.atan2(turns[:, 2], turns[:, 3])
        folded = torch.asin(yaw.sin())  # knows the yaw up to a quarter turn, and takes the others for those
        return {"all": torch.cat((turns, size[:, None]), 1), "folded": torch.stack((folded.sin(), folded.cos()), 1)}

    knows, folds = (
        measured(encoder, part, parameters=("rotation", "size"), minimum_steps=2) for part in ("all", "folded")
    )
    for label in ("0-15", "60-90"):
        assert knows[f"ood/linear/absolute/rotation/{label}"].value < 1
    assert folds["ood/linear/absolute/rotation/0-15"].value < 30
    assert folds["ood/linear/absolute/rotation/60-90"].value > 60
    assert "a constant scores" in knows["ood/linear/absolute/rotation/0-15"].detail
    assert knows["ood/linear/absolute/size/inside"].value < 0.01 > knows["ood/linear/absolute/size/outside"].value
    assert folds["ood/linear/absolute/size/outside"].value > 2
    assert knows["ood/linear/relative/rotation/one"].value is not None
    assert knows["ood/linear/absolute/rotation/90-180"].detail.startswith("2 of the validation draws")


def test_frames_follow_from_either_record_and_from_none():
    turns, shifts = Rotation().random(5), noise(5, 3)
    groups = {"rotation": Rotation(), "translation": Real(dimensions=3), "position": Real(dimensions=3)}
    by_object = in_frames(
        Transform({"rotation": turns, "translation": shifts}, {k: groups[k] for k in ("rotation", "translation")})
    )
    last = {"rotation": turns, "position": by_object["last"]}
    by_last = in_frames(Transform(last, {name: groups[name] for name in last}))
    torch.testing.assert_close(by_last["object"], shifts)
    torch.testing.assert_close(by_object["last"], quaternion_rotate(turns, shifts))
    assert in_frames(Transform.empty()) is None
    assert matrices(turns).shape == (5, 9)


def test_distances_are_to_the_nearest_and_those_of_numbers_to_their_range():
    hue = Circle(1.0)
    far = distances(hue, torch.tensor([0.9, 0.95]), torch.tensor([0.0, 0.4, 0.95]))
    assert far.tolist() == pytest.approx([18, 162, 0], abs=1e-3)
    assert distances(Real(), torch.tensor([1.0, 2.0]), torch.tensor([0.5, 1.5, 4.0])).tolist() == [0.5, 0, 2]
    turns = Rotation().random(6)
    assert distances(Rotation(), turns, -turns).max() < 0.1
