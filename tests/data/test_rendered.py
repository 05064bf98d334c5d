"""Claims about the embedded data set: its geometry is right, its views are functions of their numbers, its poses can be
told apart.
"""

import itertools
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation as ScipyRotation
from small_data import every_view, load_all, solids
from torch import Tensor

from ssl_inv.data.sources.rendered import rays, renderer
from ssl_inv.data.sources.rendered import source as rendered_source
from ssl_inv.data.sources.rendered.objects import class_prototypes, jittered, surface_points
from ssl_inv.data.sources.rendered.rays import Vector
from ssl_inv.data.sources.rendered.renderer import BOUNDING_RADIUS, ELLIPSOID, Scenes, Solids, render
from ssl_inv.engine.features import masks_of

Hit = Callable[[Vector, Vector], tuple[Tensor, Vector]]


def frustum(top: float) -> tuple[Hit, Callable[[Tensor], Tensor]]:
    def hit(origin: Vector, direction: Vector) -> tuple[Tensor, Vector]:
        return rays.hit_frustum(origin, direction, torch.tensor(top, dtype=torch.float64))

    def depth(p: Tensor) -> Tensor:
        radius = (1 + top) / 2 - (1 - top) / 2 * p[..., 2]
        return torch.maximum(p[..., :2].norm(dim=-1) - radius, p[..., 2].abs() - 1)

    return hit, depth


# Each shape with a function that is negative inside it and positive outside.
SHAPES: dict[str, tuple[Hit, Callable[[Tensor], Tensor]]] = {
    "sphere": (rays.hit_sphere, lambda p: p.norm(dim=-1) - 1),
    "cube": (rays.hit_cube, lambda p: p.abs().amax(-1) - 1),
    "cone": frustum(0.0),
    "frustum": frustum(0.4),
    "cylinder": frustum(1.0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_intersections_agree_with_marching(shape):
    hit, depth = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    origin = 3 * torch.nn.functional.normalize(torch.randn(200, 3, generator=generator, dtype=torch.float64), dim=-1)
    direction = 2.6 * torch.rand(200, 3, generator=generator, dtype=torch.float64) - 1.3 - origin
    distance, normal = hit(origin.unbind(-1), direction.unbind(-1))
    steps = torch.linspace(0, 2, 8001, dtype=torch.float64)
    inside = depth(origin[:, None] + steps[:, None] * direction[:, None]) < 0
    marched = inside.any(1)
    assert 50 < marched.sum() < 200
    assert torch.isfinite(distance[marched]).all()
    error = (steps[inside.float().argmax(1)] - distance)[marched]
    assert -1e-9 < error.min() <= error.max() < steps[1] + 1e-9
    found = torch.isfinite(distance)
    surface = (origin + distance[:, None] * direction)[found]
    outward = torch.nn.functional.normalize(torch.stack(normal, dim=-1)[found], dim=-1)
    assert depth(surface).abs().max() < 1e-9
    assert (depth(surface + 1e-6 * outward) > 0).all()
    assert (depth(surface - 1e-6 * outward) < 0).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rays_along_axes_edges_and_tips_have_a_distance(shape, dtype):
    """Directions with zeros, origins in the plane of a face, rays through apex and edges: never NaN, and right where
    there is no doubt.
    """
    values = (-3.0, -1.0, 0.0, 1.0, 3.0)
    origins = torch.tensor([p for p in itertools.product(values, repeat=3) if max(map(abs, p)) == 3], dtype=dtype)
    directions = torch.tensor([d for d in itertools.product((-1.0, 0.0, 1.0), repeat=3) if any(d)], dtype=dtype)
    origin, direction = origins.repeat_interleave(len(directions), 0), directions.repeat(len(origins), 1)
    hit, depth = SHAPES[shape]
    distance, normal = hit(origin.unbind(-1), direction.unbind(-1))
    assert not distance.isnan().any()
    assert (distance > 0).all()
    found = torch.isfinite(distance)
    assert all(torch.isfinite(part.expand_as(distance)[found]).all() for part in normal)
    steps = torch.linspace(0, 6, 601, dtype=dtype)
    deepest = depth(origin[:, None] + steps[:, None] * direction[:, None]).amin(1)
    assert found[deepest < -1e-3].all()
    assert not found[deepest > 1e-3].any()


@pytest.mark.parametrize(("size", "samples"), [(32, 1), (30, 1), (19, 2), (32, 3)])
def test_a_view_has_the_same_pixels_in_every_batch(monkeypatch, size, samples):
    source = solids(size=size, samples=samples)
    objects, views = every_view(source)
    together = source.load(objects, views).pixels
    order = np.random.default_rng(0).permutation(len(objects))
    parts = [source.load(objects[rows], views[rows]).pixels for rows in np.array_split(order, 7)]
    assert torch.equal(together[order], torch.cat(parts))
    monkeypatch.setattr(rendered_source, "_SAMPLES_PER_CHUNK", {"cpu": 3 * (size * samples) ** 2})
    assert torch.equal(together, source.load(objects, views).pixels)


def test_the_cache_and_a_pickled_copy_give_identical_pixels():
    plain, cached = solids(), solids(cache=True)
    expected = load_all(plain).pixels
    repeated = np.array([3, 3, 0, 11, 3]), np.array([1, 1, 4, 0, 2])
    rows = torch.from_numpy(repeated[0] * 5 + repeated[1])
    assert torch.equal(cached.load(*repeated).pixels, expected[rows])
    done: list[tuple[int, int]] = []
    cached.render_all(lambda count, total: done.append((count, total)))
    assert done[-1] == (60, 60)
    first = load_all(cached).pixels
    assert torch.equal(first, expected)
    first.zero_()
    again = load_all(cached).pixels
    assert torch.equal(again, expected), "what the caller does to a batch must not reach the cache"
    dumped = pickle.dumps(cached)
    assert len(dumped) < 100_000
    assert torch.equal(load_all(pickle.loads(dumped)).pixels, expected)


@pytest.mark.parametrize(("size", "samples"), [(32, 1), (19, 2)])
def test_tiles_miss_no_part_of_an_object(monkeypatch, size, samples):
    source = solids(size=size, samples=samples)
    expected = load_all(source).pixels

    def whole_image(axes: Tensor, centre: Tensor, half: Tensor, side: int) -> tuple[Tensor, Tensor]:
        start = torch.zeros(len(half), 2, dtype=torch.long)
        return start, torch.full_like(start, math.ceil(side / renderer.TILE))

    monkeypatch.setattr(renderer, "_covered", whole_image)
    assert torch.equal(load_all(source).pixels, expected)


def test_latents_have_their_ranges_and_are_what_the_transform_records():
    source = solids(objects=400, views=4, angle_range=60, hue_range=0.3)
    objects, views = every_view(source)
    latents, transform = source.latents(objects, views), source.load(objects[:64], views[:64]).transform
    assert latents.shape == (1600, 7)
    assert latents.dtype == np.float64
    low = np.array([-math.pi / 3] * 3 + [0] * 4)
    high = np.array([math.pi / 3] * 3 + [0.3, math.pi / 4, 2 * math.pi, 0.3])
    unit = (latents - low) / (high - low)
    assert 0 <= unit.min() <= unit.max() < 1
    # Uniform and independent: a mean of 1600 draws has a standard error of 0.007, a correlation one of 0.025.
    assert np.abs(unit.mean(0) - 0.5).max() < 0.04
    assert np.abs(np.corrcoef(unit.T) - np.eye(7)).max() < 0.11
    assert transform.names == list(source.groups) == ["rotation", "floor_hue", "light_theta", "light_phi", "light_hue"]
    matrix = ScipyRotation.from_quat(transform["rotation"].numpy()).as_matrix()
    assert np.allclose(matrix, ScipyRotation.from_euler("xyz", latents[:64, :3]).as_matrix(), atol=1e-6)
    for column, name in enumerate(transform.names[1:], start=3):
        assert np.allclose(transform[name].numpy(), latents[:64, column], atol=1e-6)


def test_the_recorded_rotation_is_the_one_that_is_seen():
    """A small ball at p appears where a pinhole camera, written out here once more, sees R p."""
    angles = np.random.default_rng(1).uniform(-math.pi / 2, math.pi / 2, (24, 3))
    rotation = ScipyRotation.from_euler("xyz", angles)
    place = np.array([0.5, -0.2, 0.35])
    ball = Solids(
        torch.full((24, 1), ELLIPSOID),
        torch.full((24, 1, 3), 0.06, dtype=torch.float64),
        torch.from_numpy(place).expand(24, 1, 3),
        torch.eye(3, dtype=torch.float64).expand(24, 1, 3, 3),
        torch.ones(24, 1, 3, dtype=torch.float64),
    )
    zero = torch.zeros(24, dtype=torch.float64)
    # Blue floor without much red, and a white ball.
    scenes = Scenes(torch.from_numpy(rotation.as_quat()), zero + 2 / 3, zero + 0.3, zero, zero)
    seen = (render(ball, scenes, size=96)[:, 0] > 120).double()
    grid = torch.arange(96, dtype=torch.float64) + 0.5
    centre = torch.stack([(seen.sum(axis) * grid).sum(-1) / seen.sum((1, 2)) for axis in (1, 2)], dim=-1)
    camera = renderer.CAMERA_DISTANCE * np.array([0, math.sin(math.pi / 4), math.cos(math.pi / 4)])
    forward = -camera / renderer.CAMERA_DISTANCE
    right = np.cross(forward, [0, 0, 1]) / np.linalg.norm(np.cross(forward, [0, 0, 1]))
    relative = rotation.apply(place) - camera
    depth, up = relative @ forward, np.cross(right, forward)
    expected = np.stack((relative @ right / depth, -(relative @ up) / depth), axis=-1) / renderer.FIELD * 48 + 48
    assert np.abs(centre.numpy() - expected).max() < 0.8


def test_no_object_looks_the_same_after_a_symmetric_turn():
    """Half, third and quarter turns about the axes and diagonals of a cube change every class."""
    classes, group = 55, ScipyRotation.create_group("O")
    turns = group[np.flatnonzero(group.magnitude() > 1e-6)]
    objects = jittered(class_prototypes(classes, 5, seed=0), 0.15, seed=0)
    start = ScipyRotation.from_euler("xyz", (0.3, -0.5, 0.4))
    zero = torch.zeros(classes, dtype=torch.float64)

    def pixels(rotation: ScipyRotation) -> Tensor:
        quaternion = torch.from_numpy(rotation.as_quat()).expand(classes, 4)
        return render(objects, Scenes(quaternion, zero, zero + 0.4, zero, zero), size=32).short()

    still = pixels(start)
    for turn in turns:
        changed = ((pixels(start * turn) - still).abs().amax(1) > 25).float().mean((1, 2))
        assert changed.min() > 0.1, f"class {int(changed.argmin())} under {turn.as_rotvec()}"


def test_objects_touch_the_bounding_sphere_and_classes_are_balanced():
    labels = solids(classes=7, objects=200, views=1).labels
    counts = torch.bincount(labels.classes)
    assert counts.max() - counts.min() <= 1
    assert labels.known.all()
    assert labels.names == tuple(f"solid-0{number}" for number in range(7))
    objects = jittered(class_prototypes(7, 6, seed=3), 0.2, seed=3)
    radius = surface_points(objects).norm(dim=-1).flatten(1).amax(1)
    assert torch.allclose(radius, torch.full_like(radius, BOUNDING_RADIUS))
    apart = (objects.positions[:, :, None] - objects.positions[:, None]).norm(dim=-1) + torch.eye(6)
    assert apart.min() > 0.05


@pytest.mark.parametrize(("dial", "value"), [("instance_jitter", 0.3), ("hue_range", 0.5), ("angle_range", 60.0)])
def test_every_dial_of_difficulty_spreads_the_images(dial, value):
    """With all dials at zero only the direction of the light moves; each dial alone adds to that."""

    def spread(**changes: float) -> float:
        still = {"instance_jitter": 0.0, "hue_range": 0.0, "angle_range": 0.0}
        return float(load_all(solids(classes=1, objects=40, views=1, **still | changes)).pixels.float().std(0).mean())

    assert spread(**{dial: value}) > 1.3 * spread()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 20}, "objects: must be at least 20, got 12"),
        ({"primitives": 2}, "primitives: must be at least 3, got 2"),
        ({"angle_range": 200.0}, "angle_range: must lie between 0 and 180, got 200"),
        ({"hue_range": -0.1}, "hue_range: must lie between 0 and 1, got -0.1"),
        ({"objects": 10**6, "cache": True}, "cache: 1000000 objects x .* and 4 GB are kept at most; set it to false"),
        ({"objects": 10**9}, "objects: must be at most 2,000,000, got 1,000,000,000"),
        ({"primitives": 10**9}, "primitives: must be at most 1,000, got 1,000,000,000"),
        ({"size": 100_000}, "size: must be at most 4,096, got 100,000"),
        ({"views": 10**8}, "views: must be at most 100,000, got 100,000,000"),
        (
            {"size": 32, "samples": 3000},
            "samples: 3,000 rays along each of 32 pixels are 96,000, more than 4,096; .* 128",
        ),
    ],
)
def test_bad_settings_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        solids(**changes)


@pytest.mark.parametrize("samples", [1, 2])
def test_masks_are_the_object_and_what_is_outside_of_them_is_the_floor(samples):
    source = rendered_source.RenderedSolids(classes=3, objects=6, views=3, size=48, samples=samples)
    objects, views = np.array([4, 0, 5]), np.array([2, 1, 0])
    masks, pixels = source.masks(objects, views), source.load(objects, views).pixels
    scenes = rendered_source.scenes_of(torch.from_numpy(source.latents(objects, views)))
    floor = torch.stack(renderer._floor(source._solids.select(torch.from_numpy(objects)), scenes, 48), dim=1)
    differs = (pixels != (floor.clamp_max(1) * 255 + 0.5).to(torch.uint8)).any(dim=1)
    if samples == 1:
        assert not differs[masks == 0].any()
    covered = (differs & (masks == 1)).sum() / (masks == 1).sum()
    assert covered > 0.99
    assert 0.02 < masks.double().mean() < 0.6
    subset = rendered_source.Subset(source, np.array([5, 4]))
    assert subset.masks(np.array([1]), np.array([2])).equal(masks[:1])
    assert torch.equal(masks_of(subset, torch.tensor([1]), torch.tensor([2]), 32), masks[:1, 8:40, 8:40])
    assert torch.equal(masks_of(subset, torch.tensor([1]), torch.tensor([2]), 96)[:, ::2, ::2], masks[:1])
