"""Claims about rendered meshes: geometry that can be worked out by hand, and views that depend on numbers alone."""

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation as ScipyRotation
from small_data import every_view, load_all
from small_meshes import (
    BLUE,
    GREEN,
    RED,
    WHOLE,
    box,
    coloured,
    rendered,
    scene,
    six_boxes,
    stored,
    trimesh,
)

from ssl_inv.data.sources.meshes import renderer
from ssl_inv.data.sources.rendered import renderer as solids
from ssl_inv.data.sources.rendered.posed import scenes_of
from ssl_inv.data.sources.rendered.source import RenderedSolids

RADIUS = solids.BOUNDING_RADIUS


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    return six_boxes(tmp_path / "boxes.npz")


# Geometry.


def test_the_depth_of_a_sphere_is_that_of_a_ray_on_a_sphere(tmp_path):
    ball = coloured(trimesh.creation.icosphere(subdivisions=5), np.tile(RED, (20480, 1)))
    source = rendered(stored(tmp_path / "balls.npz", ball, ball), size=48)
    depth, faces, parts = source.surfaces(np.array([0]), np.array([1]))
    grid = ((np.arange(48) + 0.5) / 24 - 1) * solids.FIELD
    forward, right, up = (np.array(axis) for axis in (solids.FORWARD, solids.RIGHT, solids.UP))
    rays = forward + grid[None, :, None] * right - grid[:, None, None] * up
    # |camera + t ray| = radius, and t is the distance along the axis of the camera.
    camera = -solids.CAMERA_DISTANCE * forward
    a, b, c = (rays**2).sum(-1), rays @ camera, camera @ camera - RADIUS**2
    inside = b * b - a * c
    expected = (-b - np.sqrt(np.maximum(inside, 0))) / a
    well_inside, outside = inside > 0.05, inside < -1e-3
    assert well_inside.mean() > 0.5
    assert np.abs(depth[0].numpy() - expected)[well_inside].max() < 2e-3
    assert (faces[0].numpy() >= 0)[well_inside].all()
    assert (parts[0].numpy() == 1)[well_inside].all()
    assert (faces[0].numpy() == -1)[outside].all()
    floor = (-RADIUS - camera[2]) / rays[..., 2]
    assert np.allclose(depth[0].numpy()[outside], floor[outside], rtol=1e-6)


def test_every_pixel_knows_its_place_on_the_mesh(tmp_path):
    source = rendered(stored(tmp_path / "boxes.npz", box(), box()), views=6, translation_range=0.1)
    found = source.surface(torch.zeros(6, dtype=torch.int64), torch.arange(6), 48)
    hit = found.depth < math.inf
    assert 0.1 < hit.double().mean() < 0.6
    sides = source.poses.radius * np.array((1.0, 0.6, 0.3)) / math.sqrt(1 + 0.36 + 0.09)
    beyond = found.points[hit].abs() / torch.from_numpy(sides) - 1
    assert beyond.max(dim=1).values.abs().max() < 1e-5, "on a side of the box, and not outside of it"
    places, depths = found.project(found.points.flatten(1, 2))
    middles = torch.arange(48) + 0.5
    assert (
        places.view(6, 48, 48, 2)[hit]
        - torch.cartesian_prod(middles, middles).view(48, 48, 2).flip(-1).expand(6, -1, -1, -1)[hit]
    ).abs().max() < 1e-5
    assert (depths.view(6, 48, 48)[hit] - found.depth[hit]).abs().max() < 1e-9


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.4, -0.7, 1.1), (-1.5, 1.2, 0.3)])
def test_the_silhouette_of_a_box_is_that_of_the_solids_box(tmp_path, angles):
    """Our ray tracer for solids draws the same box: its outline, its colours, and what `rotation` means."""
    half = np.array((1.0, 0.6, 0.3)) / np.linalg.norm((1.0, 0.6, 0.3)) * RADIUS
    source = rendered(stored(tmp_path / "boxes.npz", box(), box()), size=64)
    quaternion = torch.from_numpy(ScipyRotation.from_euler("xyz", angles).as_quat())[None]
    one = torch.ones(1, dtype=torch.float64)
    scenes = solids.Scenes(quaternion, one * 0.6, one * 0.3, one * 0.0, one * 0.0)
    same = solids.Solids(
        torch.tensor([[solids.BOX]]),
        torch.from_numpy(half)[None, None],
        torch.zeros(1, 1, 3, dtype=torch.float64),
        torch.eye(3, dtype=torch.float64)[None, None],
        torch.ones(1, 1, 3, dtype=torch.float64),
    )
    expected = solids.silhouettes(same, scenes, 64)[0] >= 0.5
    (_, caster, view), *_ = source._each(np.array([0]), scenes)
    found = torch.from_numpy(renderer.coverage(caster, view, 64, 1)) >= 0.5
    assert expected.double().mean() > 0.1
    assert (found != expected).sum() <= 2, "a ray along an edge may be rounded to either side"
    white = source.render(np.array([0]), scene(source, ScipyRotation.from_euler("xyz", angles))).pixels[0].float()
    as_solid = solids.render(same, scenes, 64)[0].float()
    lit = expected & found
    # The sides of the box are red, green and blue, of a white one: each has one of the white box's channels.
    own = white.amax(0)
    assert ((own[:, None] - as_solid.flatten(1).T.reshape(64, 64, 3).permute(0, 2, 1)).abs().amin(1) <= 1)[lit].all()


def test_a_known_turn_shows_the_side_that_the_quaternion_says(tmp_path):
    """The camera looks from +y and +z: after a quarter turn about x, what was at -z is at +y, and so on."""
    shape = trimesh.creation.box((1, 1, 1))
    colours = np.zeros((12, 3), dtype=np.uint8)
    sides = {(1, 0, 0): RED, (0, 1, 0): GREEN, (0, 0, 1): BLUE, (-1, 0, 0): (255, 255, 0), (0, -1, 0): (0, 255, 255)}
    sides[(0, 0, -1)] = (255, 0, 255)
    normals = np.rint(shape.face_normals).astype(int)
    for normal, colour in sides.items():
        colours[(normals == normal).all(1)] = colour
    source = rendered(stored(tmp_path / "cubes.npz", coloured(shape, colours), box()), size=64)
    for euler in ((0, 0, 0), (90, 0, 0), (-90, 0, 0), (0, 90, 0), (0, 0, 90), (0, 0, 180), (90, 0, 90)):
        turn = ScipyRotation.from_euler("xyz", euler, degrees=True)
        image = source.render(np.array([0]), scene(source, turn)).pixels[0].float()
        # The front is seen below the middle, the top above it.
        for direction, row in (((0, 1, 0), 44), ((0, 0, 1), 20)):
            own = tuple(np.rint(turn.inv().apply(direction)).astype(int).tolist())
            seen = image[:, row, 32]
            # A half-turned channel is dark where the colour has none of it.
            assert [int(value > 40) for value in seen] == [value // 255 for value in sides[own]], (euler, direction)


def test_light_comes_from_where_its_latents_say_and_shadows_fall_to_the_other_side(boxes):
    source = rendered(boxes, size=64, samples=2)
    upright = ScipyRotation.identity()
    dark = {}
    for phi in (0.0, math.pi):
        image = source.render(np.array([0]), scene(source, upright, light_theta=0.75, light_phi=phi)).pixels[0]
        other = source.render(np.array([0]), scene(source, upright, light_theta=0.0, light_phi=phi)).pixels[0]
        depth, _, _ = source.surfaces(np.array([0]), np.array([0]))
        assert depth.shape == (1, 64, 64)
        darker = (image.float().sum(0) < 0.8 * other.float().sum(0)).float()
        dark[phi] = float((darker * torch.arange(64.0)).sum() / darker.sum())
    # The camera's right is the world's -x: light from +x comes from the left, and the shadow falls to the right.
    assert dark[0.0] > 36 > 28 > dark[math.pi]
    with_hue = [source.render(np.array([0]), scene(source, upright, floor_hue=hue)).pixels[0] for hue in (0.0, 1 / 3)]
    corner = [image[:, 60, 4].int() for image in with_hue]
    assert corner[0].argmax() == 0
    assert corner[1].argmax() == 1


def test_objects_stay_in_the_frame_in_every_pose_shifted_or_not(boxes):
    for shift in (0.0, 0.3):
        source = rendered(boxes, size=32, views=40, translation_range=shift, angle_range=180.0)
        masks = source.masks(*every_view(source))
        edge = torch.cat((masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]), dim=1)
        assert masks.flatten(1).any(1).all()
        assert edge.double().mean() < 0.01
        assert source.latents(np.array([0]), np.array([0])).shape == (1, 10 if shift else 7)


def test_shadows_are_looked_for_wherever_they_can_fall(boxes):
    """Only floor whose way to the light passes through the ball around a mesh is asked for its shadow."""
    source = rendered(boxes, size=32, translation_range=0.2, views=6)
    objects, views = every_view(source)
    scenes = scenes_of(torch.from_numpy(source.latents(objects, views)))
    expected = load_all(source).pixels.numpy()
    for row, caster, view in source._each(objects, scenes):
        assert np.array_equal(renderer.render(caster, view, 32, 1, radius=100.0), expected[row])


# Keys.


def test_a_view_is_the_same_in_any_order_in_a_copy_and_with_little_memory(boxes, tmp_path):
    settings = {"samples": 2, "views": 4}
    source = rendered(boxes, **settings)
    objects, views = every_view(source)
    expected = load_all(source).pixels
    order = np.random.default_rng(0).permutation(len(objects))
    for other in (pickle.loads(pickle.dumps(source)), rendered(boxes, **settings, memory_gb=1e-6)):
        parts = [other.load(objects[rows], views[rows]).pixels for rows in np.array_split(order, 7)]
        assert torch.equal(torch.cat(parts), expected[order])
    assert len(other._ready) == 1
    other_seed = rendered(boxes, **settings, seed=1)
    assert not torch.equal(load_all(other_seed).pixels, expected)


@pytest.mark.slow
def test_another_process_with_other_threads_renders_the_same_bits(boxes, tmp_path):
    expected = load_all(rendered(boxes, samples=2, views=4)).pixels
    alone = (
        "import sys, torch; from ssl_inv.data.sources.meshes.source import meshes; import numpy as np;"
        f"source = meshes(path={str(boxes)!r}, up='z', size=32, cache=False, views=4).train.source;"
        f"torch.save(source.load(np.array([5, 0]), np.array([3, 1])).pixels, {str(tmp_path / 'seen.pt')!r})"
    )
    subprocess.run([sys.executable, "-c", alone], check=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert torch.equal(torch.load(tmp_path / "seen.pt"), expected[[23, 1]])


def test_views_of_a_file_stay_the_same_when_others_are_added(tmp_path):
    for name in ("b", "c"):
        (tmp_path / f"{name}.off").write_text(WHOLE)
    before = rendered(tmp_path).latents(np.array([0, 1]), np.array([2, 2]))
    (tmp_path / "a.off").write_text(WHOLE)
    after = rendered(tmp_path).latents(np.array([1, 2]), np.array([2, 2]))
    assert np.array_equal(before, after)


@pytest.mark.parametrize("kind", ["meshes", "solids"])
def test_angles_that_were_not_trained_on_are_apart_from_those_that_were(kind, boxes):
    def angles(**settings: float) -> np.ndarray[Any, Any]:
        if kind == "solids":
            source: Any = RenderedSolids(classes=2, objects=6, views=50, size=8, cache=False, **settings)
        else:
            source = rendered(boxes, views=50, **settings)
        return np.degrees(source.all_latents()[..., :3])

    trained, judged = angles(angle_range=40.0), angles(angle_range=90.0, angle_from=40.0)
    assert np.abs(trained).max() < 40 <= np.abs(judged).min() < 43
    assert 85 < np.abs(judged).max() < 90
    assert abs(np.sign(judged).mean()) < 0.15


def test_a_forked_process_builds_meshes_of_its_own(boxes, monkeypatch):
    source = rendered(boxes)
    expected, before = load_all(source).pixels, dict(source._ready)
    assert len(before) == 6, "what was read at first stays ready"
    assert all(source._caster(item) is caster for item, caster in before.items())
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert torch.equal(load_all(source).pixels, expected)
    assert all(source._caster(item) is not caster for item, caster in before.items())
