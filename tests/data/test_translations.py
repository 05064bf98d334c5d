"""Claims about objects that are shifted as well as turned: rendered, on disk as 3DIEBench-T, as an action, and as a
target.
"""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from small_data import every_view, load_all, solids
from torch import Tensor

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.data.latents import TRANSLATION_SCALE
from ssl_inv.data.source import Subset
from ssl_inv.data.sources.rendered.objects import surface_points
from ssl_inv.data.sources.rendered.renderer import BOUNDING_RADIUS, Scenes, render
from ssl_inv.data.sources.rendered.source import RenderedSolids
from ssl_inv.data.sources.threediebench import ThreeDIEBench, threediebench
from ssl_inv.data.sources.threediebench_writing import write_threediebench
from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.transforms_r2 import TransformR2
from ssl_inv.objectives.base import action_dimensions
from ssl_inv.run.schema import schema_of
from ssl_inv.testing.cases import Case, losses_of, total_of
from ssl_inv.transforms import Pose, Real, Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler, quaternion_rotate, quaternion_to_matrix
from ssl_inv.transforms.words import describe_action, describe_view
from ssl_inv.views import View, Views, Way

FRAMES = ["object", "base"]
NAMES = {"object": "translation", "base": "position"}
MEANS_BEFORE = [92.315283, 85.839779, 97.782535]
BRIGHTNESS_BEFORE = [77.320638, 99.61556, 107.544596, 75.24056, 101.978841, 104.080078, 90.174805, 92.211263, 86.988281]
"""Of red, green and blue, and of every seventh image, measured before objects could be shifted."""
SPLIT = (np.array([0, 2, 3]), np.array([5, 1]))


def small(**changes: object) -> RenderedSolids:
    return solids(**{"translation_range": 0.2, **changes})


# Rendering.


def test_without_translation_images_are_what_they_were():
    source = solids()
    images = load_all(source)
    assert images.transform.names == ["rotation", "floor_hue", "light_theta", "light_phi", "light_hue"]
    assert source.all_latents().shape == (12, 5, 7)
    pixels = images.pixels.double()
    # The tolerance is for another library's sines, which may move a few of the 3072 numbers of an image by one.
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(MEANS_BEFORE, abs=2e-3)
    assert pixels.mean((1, 2, 3))[::7].tolist() == pytest.approx(BRIGHTNESS_BEFORE, abs=2e-3)


def test_shifted_objects_have_the_other_latents_of_still_ones():
    still, shifted = solids().all_latents(), small().all_latents()
    assert shifted.shape == (12, 5, 10)
    np.testing.assert_array_equal(shifted[..., :7], still)
    shifts = small(objects=400).all_latents()[..., 7:].reshape(-1, 3)
    # Uniform and independent: a mean of 2000 draws has a standard error of 0.006, a correlation one of 0.022.
    assert np.abs(shifts / 0.4).max() <= 0.5
    assert np.abs((shifts / 0.4).mean(0)).max() < 0.03
    assert np.abs(np.corrcoef(shifts.T) - np.eye(3)).max() < 0.1


def test_an_object_is_shifted_along_its_own_axes_before_it_is_turned():
    """It looks as one whose parts were all moved by t in its own frame and which was then turned, shadow included."""
    source = small()
    objects, views = every_view(source)
    latents, still = torch.from_numpy(source.latents(objects, views)), source._solids.select(torch.from_numpy(objects))
    moved = replace(still, positions=still.positions + latents[:, None, 7:])
    expected = render(moved, Scenes(quaternion_from_euler(latents[:, :3]), *latents[:, 3:7].unbind(1)), source.size)
    difference = (source.load(objects, views).pixels.int() - expected.int()).abs()
    assert (difference > 1).float().mean() < 1e-4


@pytest.mark.parametrize("most", [0.05, 0.3])
def test_shifted_objects_stay_in_the_ball_that_the_frame_shows(most):
    source = small(translation_range=most)
    points = surface_points(source._solids).flatten(1, 2)
    corners = most * torch.cartesian_prod(*[torch.tensor((-1.0, 1.0), dtype=torch.float64)] * 3)
    farthest = (points[:, None] + corners[:, None]).norm(dim=-1).max()
    assert 0.8 * BOUNDING_RADIUS < farthest <= BOUNDING_RADIUS + 1e-9
    assert np.abs(source.all_latents()[..., 7:]).max() <= most


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("pose", [False, True])
def test_an_image_can_be_rendered_again_from_its_record(frame, pose):
    source = small(translation_frame=frame, pose=pose)
    objects, views = every_view(source)
    images = source.load(objects, views)
    again = source.render(objects, images.transform)
    assert ((images.pixels.int() - again.pixels.int()).abs() > 1).float().mean() < 1e-4
    assert again.transform.names == images.transform.names == list(source.groups)
    assert source.groups[NAMES[frame]] == Real(TRANSLATION_SCALE, dimensions=3)
    assert torch.equal(images.pixels, load_all(small()).pixels), "the frame is a way to record, not to render"


def test_frames_and_pose_tell_the_same():
    inner, outer = (load_all(small(translation_frame=frame, pose=True)).transform for frame in FRAMES)
    torch.testing.assert_close(outer["position"], quaternion_rotate(inner["rotation"], inner["translation"]))
    for transform, name in ((inner, "translation"), (outer, "position")):
        assert torch.equal(transform["pose"], torch.cat((transform["rotation"], transform[name]), dim=1))
        assert transform.groups["pose"] == Pose(TRANSLATION_SCALE)


@pytest.mark.parametrize("names", [("translation",), ("rotation",), ("pose",), ("rotation", "translation", "pose")])
def test_a_way_along_some_parameters_is_rendered_or_refused(names):
    source = small(pose="pose" in names)
    zero, one = (source.load(np.arange(12), np.full(12, view)).transform for view in (0, 1))
    (middle,) = Way(names, (0.5,)).between(zero, one)
    if names == ("pose",):
        with pytest.raises(ValueError, match="pose differs from rotation and translation; change all three together"):
            source.render(np.arange(12), middle)
    else:
        found = source.render(np.arange(12), middle)
        assert (found.pixels != source.render(np.arange(12), one).pixels).any()


# On disk.


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("form", ["latents", "recorded", "no tables"])
def test_threediebench_t_round_trip(tmp_path, frame, form):
    source = small(translation_frame=frame, pose=True)
    latents = source.all_latents()
    write_threediebench(tmp_path / "data", source, None if form == "recorded" else latents, SPLIT)
    stored = np.load(tmp_path / "data" / "solid-02" / "000002" / "latent_4.npy")
    assert (stored.shape, stored.dtype) == ((10,), np.float64)
    if form == "no tables":
        for name in ("train", "val"):
            (tmp_path / "data" / f"all_latents_{name}.npy").unlink()
    data = threediebench(path=str(tmp_path / "data"), size=None, translation_frame=frame, pose=True)
    for read, objects in zip((data.train, data.validation), SPLIT, strict=True):
        assert isinstance(read, ThreeDIEBench)
        np.testing.assert_allclose(read.latents, latents[objects], atol=1e-4 if form == "recorded" else 0)
        assert read.groups == source.groups
        found, expected = load_all(read).transform, load_all(Subset(source, objects)).transform
        for name in expected.names:
            torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


def test_translations_that_do_not_fit_are_refused(tmp_path):
    source = small()
    with pytest.raises(ValueError, match=r"latents have shape \(12, 5, 7\), expected \(12, 5, 10\)"):
        write_threediebench(tmp_path / "seven", source, source.all_latents()[..., :7], SPLIT)
    write_threediebench(tmp_path / "mixed", source, None, SPLIT)
    np.save(tmp_path / "mixed" / "solid-03" / "000003" / "latent_4.npy", np.zeros(7))
    with pytest.raises(ValueError, match=r"000003/latent_4.npy has shape \(7,\), expected \(10,\)"):
        ThreeDIEBench(str(tmp_path / "mixed"))
    write_threediebench(tmp_path / "still", solids(), None, SPLIT)
    for build in (lambda: solids(pose=True), lambda: ThreeDIEBench(str(tmp_path / "still"), pose=True)):
        with pytest.raises(ValueError, match="objects of this data are not shifted; set pose to false"):
            build()
    with pytest.raises(ValueError, match=r"translation_range: must lie between 0 and 0\.3, got 0\.5"):
        small(translation_range=0.5)


# As an action.

ACTIONS = {
    ("rotation", "translation", "floor_hue"): {"canonical": 9, "sie": 8, "seq-jepa": 8},
    ("rotation", "translation"): {"canonical": 7, "sie": 7, "seq-jepa": 7},
    ("translation",): {"canonical": 3, "sie": 3, "seq-jepa": 3},
    ("pose", "light_hue"): {"canonical": 9, "sie": 8, "seq-jepa": 8},
}


@pytest.mark.parametrize("names", ACTIONS, ids="+".join)
@pytest.mark.parametrize("convention", ["canonical", "sie", "seq-jepa"])
def test_any_parameters_are_an_action_in_every_convention(names, convention):
    source = small(pose=True)
    assert action_dimensions(source.groups, list(names), convention) == ACTIONS[names][convention]
    case = Case("sie", {"parameters": list(names), "convention": convention, "projector": [24, 16]}, source.groups)
    networks = case.build()
    weight = networks.get_parameter("objective.action_predictor.weight")
    (gradient,) = torch.autograd.grad(total_of(losses_of(networks, case.views(1))), weight)
    assert len(weight) == ACTIONS[names][convention]
    assert (gradient.abs().amax((1, 2)) > 0).all(), "every number of the action is told"


NETWORKS = {"capsie": {"capsules": 3, "pose": 4, "map_side": 3}}
"""Settings that fit the small network of the conformance suite."""


def told_rotations() -> list[str]:
    settings = {name: schema_of(entry).settings.get("parameters") for name, entry in OBJECTIVES.members.items()}
    return [name for name, setting in settings.items() if setting is not None and setting.default == ["rotation"]]


@pytest.mark.parametrize("name", told_rotations())
def test_every_objective_that_is_told_rotations_can_be_told_translations(name):
    settings = {"parameters": ["rotation", "translation", "floor_hue"], **NETWORKS.get(name, {})}
    case = Case(name, settings, small().groups)
    networks, views = case.build(), case.views(1)
    with torch.no_grad():
        for of, one in networks.named_parameters():
            if "modulation" in of:  # by which an action does nothing before training
                one.normal_()
    records = [{**view.transform.values, "translation": torch.zeros(len(view.pixels), 3)} for view in views.views]
    still = [
        View(view.pixels, Transform(record, view.transform.groups))
        for view, record in zip(views.views, records, strict=True)
    ]
    losses = [total_of(losses_of(networks, some)) for some in (views, Views(tuple(still), views.index))]
    assert torch.stack(losses).isfinite().all()
    assert losses[0] != losses[1]


def test_actions_are_those_of_equicaps():
    """Its regression targets t2 - t1 and R2 t2 - R1 t1, and its matrices M1^-1 M2, M being [R | t] or [R | R t]."""
    objects = np.arange(12)
    for frame in FRAMES:
        source = small(translation_frame=frame, pose=True)
        latents = torch.from_numpy(source.all_latents())
        views = [source.load(objects, np.full(12, view)).transform for view in (0, 1)]
        action = views[0].relative(views[1])
        columns, motions = [], []
        for view in (0, 1):
            rotation = quaternion_from_euler(latents[:, view, :3])
            axes = quaternion_to_matrix(rotation)
            shift = latents[:, view, 7:]
            columns.append(shift if frame == "object" else (axes @ shift[..., None])[..., 0])
            motions.append(torch.eye(4, dtype=torch.float64).repeat(12, 1, 1))
            motions[-1][:, :3, :3], motions[-1][:, :3, 3] = axes, columns[-1]
        difference, step = columns[1] - columns[0], motions[0].inverse() @ motions[1]
        for convention, scale in (("sie", 1.0), ("canonical", TRANSLATION_SCALE)):
            shift, vector = (action.as_vector([name], convention).double() for name in (NAMES[frame], "pose"))
            torch.testing.assert_close(shift, difference / scale, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(vector[:, 4:], step[:, :3, 3] / scale, atol=1e-5, rtol=1e-5)
            assert torch.equal(vector[:, :4].float(), action.as_vector(["rotation"], convention))


# As a target.


def table(source: RenderedSolids, features: str) -> FeatureTable:
    """The motion of every view, and one parameter of it as features."""
    objects, views = every_view(source)
    latents = torch.from_numpy(source.latents(objects, views))
    rotation = quaternion_from_euler(latents[:, :3])
    values = {"rotation": rotation, **source._motion.values(rotation, latents[:, 7:])}
    transform = Transform(values, {name: source.groups[name] for name in values}).map(Tensor.float)
    parts = {"all": transform.as_vector([features])}
    return FeatureTable(parts, torch.from_numpy(objects), torch.from_numpy(views), transform=transform)


@pytest.mark.parametrize("frame", FRAMES)
def test_translation_r2_is_of_the_frame_that_is_recorded(frame, tmp_path):
    heads = TransformR2(hidden=0, epochs=1, minimum_steps=200, learning_rate=3e-2, batch=512, joint=True)
    shown = {"objects": 600, "translation_frame": frame, "pose": True, "angle_range": 180}
    train, validation = (table(small(**shown, seed=seed), NAMES[frame]) for seed in (0, 1))
    train.save(tmp_path / "features.safetensors")
    assert FeatureTable.load(tmp_path / "features.safetensors").transform.groups == train.transform.groups
    scores = {result.name: result.value or 0.0 for result in heads.measure(train, validation, "all")}
    forms, kinds = ("r2", "r2_pooled"), ("relative", "absolute")
    assert scores.keys() == {"/".join(parts) for parts in product(forms, kinds, train.transform.names)}
    for kind in kinds:
        assert scores[f"r2/{kind}/{NAMES[frame]}"] > 0.99
        assert scores[f"r2/{kind}/rotation"] < 0.1
        assert scores[f"r2/{kind}/pose"] < 0.6


def test_poses_are_told_in_words():
    turn = quaternion_from_euler(torch.tensor([0.0, 0.0, math.radians(37)]))
    values = torch.stack((Pose().neutral(1)[0], torch.cat((turn, torch.tensor([0.1, 0.0, -0.25])))))
    poses = Transform({"pose": values}, {"pose": Pose()})
    assert describe_view(poses, 0) == "unchanged"
    told = "pose rotated 37° about (0.0, 0.0, 1.0), pose shifted (0.1, 0, \N{MINUS SIGN}0.25)"
    assert describe_view(poses, 1) == told
    action = poses.select(torch.tensor([0])).relative(poses.select(torch.tensor([1])))
    assert describe_action(action, 0) == "pose rotated 37°, pose shifted (+0.10, +0.00, \N{MINUS SIGN}0.25)"
