"""Predictors that begin as a representation: they are its matrices, compose as the group does, and are held so."""

from typing import Any

import pytest
import torch
from small import build
from torch import Tensor

from ssl_inv.catalogue import SettingError
from ssl_inv.nn.predictors import BilinearPredictor
from ssl_inv.nn.representations import RepresentedAction
from ssl_inv.objectives.conditioning import conditioned_predictor
from ssl_inv.testing import GROUPS
from ssl_inv.transforms import Box, Circle, Code, Flag, Group, Pose, Projective, Real, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_multiply

EVERY: dict[str, Group] = {
    "rotation": Rotation(),
    "circle": Circle(2.5),
    "number": Real(scale=0.7),
    "place": Real(dimensions=3),
    "crop": Box(),
    "projective": Projective(),
    "pose": Pose(scale=2.0),
    "flip": Flag(),
}
SIZES = {"rotation": 4, "circle": 2, "number": 2, "place": 4, "crop": 5, "projective": 3, "pose": 4, "flip": 1}


def _views(group: Group, count: int = 3, batch: int = 6) -> list[Transform]:
    torch.manual_seed(0)
    return [Transform({"x": group.random(batch, torch.float64)}, {"x": group}) for _ in range(count)]


@pytest.mark.parametrize("name", EVERY)
def test_two_steps_are_predicted_as_the_step_that_they_make(name: str) -> None:
    group, size = EVERY[name], 2 * SIZES[name]
    represented = RepresentedAction(["x"], {"x": group}, "canonical")
    predictor = BilinearPredictor(size, represented.length, initial=represented.weights(size)).double()
    first, second, third = _views(group)
    z = torch.randn(6, size, dtype=torch.float64)
    with torch.no_grad():
        there = predictor(predictor(z, represented(first.relative(second))), represented(second.relative(third)))
        at_once = predictor(z, represented(first.relative(third)))
        stays = predictor(z, represented(first.relative(first)))
    if name == "rotation":  # a quaternion and its negative are one rotation
        at_once = torch.where(((there * at_once).sum(1, keepdim=True)) < 0, -at_once, at_once)
    torch.testing.assert_close(there, at_once, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stays, z, rtol=1e-6, atol=1e-6)


def _expected(name: str, z: Tensor, before: Transform, after: Transform) -> Tensor:
    step = before.relative(after)["x"]
    if name == "rotation":
        return quaternion_multiply(z, step)
    if name == "circle":
        turned = torch.view_as_complex(z) * torch.polar(torch.ones_like(step), step * 2 * torch.pi / 2.5)
        return torch.view_as_real(turned)
    if name == "number":
        return torch.stack((z[:, 0], z[:, 1] + z[:, 0] * step / 0.7), dim=1)
    if name == "crop":
        x, y = (z[:, n] + z[:, 0] * step[:, n - 1] for n in (1, 2))
        return torch.stack((z[:, 0], x, y, z[:, 3] * step[:, 2].exp(), z[:, 4] * step[:, 3].exp()), dim=1)
    return (z[:, None] @ step.view(-1, 3, 3))[:, 0]


@pytest.mark.parametrize("name", ["rotation", "circle", "number", "crop", "projective"])
def test_a_predictor_begins_as_the_matrices_of_the_group(name: str) -> None:
    form, predictor = conditioned_predictor(
        {"x": EVERY[name]}, ["x"], "canonical", "bilinear", SIZES[name], initialisation="group"
    )
    before, after = _views(EVERY[name], 2)
    z = torch.randn(6, SIZES[name], dtype=torch.float64)
    with torch.no_grad():
        found = predictor.double()(z, form(before.relative(after)))
    torch.testing.assert_close(found, _expected(name, z, before, after), rtol=1e-6, atol=1e-6)


def test_every_parameter_acts_on_its_own_share_of_the_dimensions() -> None:
    names = ["rotation", "circle", "flip"]
    represented = RepresentedAction(names, EVERY, "canonical")
    before = Transform({name: EVERY[name].random(5) for name in names}, {name: EVERY[name] for name in names})
    after = Transform({**before.values, "circle": before["circle"] + 0.4}, before.groups)
    predictor = BilinearPredictor(17, represented.length, initial=represented.weights(17))
    z = torch.randn(5, 17)
    with torch.no_grad():
        moved = predictor(z, represented(before.relative(after))) - z
    # 5, 6 and 6 dimensions, and one of the first is left over.
    torch.testing.assert_close(moved[:, :5], torch.zeros(5, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[:, 11:], torch.zeros(5, 6), atol=1e-5, rtol=0)
    assert moved[:, 5:11].abs().min() > 1e-4


def test_the_representation_of_a_rotation_is_the_beginning_that_sie_has_had() -> None:
    names: list[str] = ["rotation"]
    known = BilinearPredictor(10, 4, quaternion=0)
    form, predictor = conditioned_predictor(GROUPS, names, "sie", "bilinear", 10, initialisation="group")
    assert torch.equal(predictor.weight, known.weight)
    a, b = (Transform({"rotation": Rotation().random(9)}, {"rotation": Rotation()}) for _ in range(2))
    assert torch.equal(form(a.relative(b)), a.relative(b).as_vector(names, "sie"))


CHOSEN: dict[str, dict[str, Any]] = {"sie": {}, "sen": {"predictor": "bilinear"}, "equimod": {"predictor": "bilinear"}}


@pytest.mark.parametrize("name", CHOSEN)
def test_objectives_hold_their_predictor_for_the_steps_that_they_are_told(name: str) -> None:
    settings = {**CHOSEN[name], "parameters": ["light_hue", "crop"], "predictor_initialisation": "group"}
    _, objective = build(name, **settings, predictor_held=3)
    held = [list(objective.held(step, 10)) for step in range(1, 6)]
    assert [len(one) for one in held] == [1, 1, 1, 0, 0]
    assert held[0][0] is objective.action_predictor.weight


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"predictor_held": 3}, "predictor_held: is 3, but the predictor begins with random matrices"),
        (
            {"predictor": "concatenation", "predictor_initialisation": "group"},
            "only a bilinear one is a representation",
        ),
        ({"parameters": ["code"], "predictor_initialisation": "group"}, "'code' has no numeric value"),
    ],
)
def test_what_cannot_begin_so_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        build("sie", {**GROUPS, "code": Code()}, **settings)
    with pytest.raises(SettingError, match="'group', but predictor is 'embedded'"):
        build("equimod", predictor_initialisation="group")
