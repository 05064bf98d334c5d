"""With the same parameters every operation does what torchvision's function does, and the record makes every view
again.
"""

import importlib
import importlib.util
import io
import math
import random
import runpy
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image
from torch import Tensor

from ssl_inv.augment.colour import ORDERS
from ssl_inv.augment.policies import custom, simclr
from ssl_inv.augment.policy import Augmentation
from ssl_inv.catalogue import OPERATIONS
from ssl_inv.run.schema import schema_of
from ssl_inv.transforms import Transform
from ssl_inv.transforms.keyed_random import Key

TOLERANCE = 2 / 255
SIDE = 64
BILINEAR = F.InterpolationMode.BILINEAR
GEOMETRIC = ("crop", "flip", "vertical_flip", "affine", "perspective")
COLOURS = ("jitter", "grey", "blur", "solarise", "posterise", "noise", "colour_dropping", "erasing")
OF_ITSELF = [name for name in OPERATIONS.members if name != "shared"]
"""Operations whose views do not depend on their batch."""
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The benchmark of views."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("views")


photographs = runpy.run_path(str(BENCHMARKS / "view_contestants.py"), run_name="view_contestants")["photographs"]


def real(folder: Path, side: int) -> Tensor:
    if not (folder / "grocery_96px.zip").is_file():
        pytest.skip(f"no grocery_96px.zip in {folder}")
    with zipfile.ZipFile(folder / "grocery_96px.zip") as archive:
        name = next(name for name in sorted(archive.namelist()) if name.endswith(".jpg"))
        image = Image.open(io.BytesIO(archive.read(name))).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).unsqueeze(0)


@pytest.fixture(params=["made", "real"])
def any_photograph(request: pytest.FixtureRequest) -> Callable[[int, torch.dtype], Tensor]:
    """A photograph that is made or a real one, by its side and type."""

    def photograph(side: int, dtype: torch.dtype) -> Tensor:
        pixels = photographs(1, side) if request.param == "made" else real(request.getfixturevalue("real_data"), side)
        return pixels if dtype == torch.uint8 else pixels.float() / 255

    return photograph


@pytest.fixture(params=[torch.uint8, torch.float32], ids=["bytes", "floats"])
def photograph(any_photograph, request: pytest.FixtureRequest) -> Callable[[int], Tensor]:
    return lambda side: any_photograph(side, request.param)


def rendered(pixels: Tensor, size: int | None = None, parameters: Mapping[str, Any] = MappingProxyType({})) -> Tensor:
    """Views by the given parameters, all others neutral; black lies outside."""
    augmentation = custom(operations=[{"name": name} for name in (*GEOMETRIC, *COLOURS)], size=size, padding="zeros")
    values = {name: group.neutral(len(pixels)) for name, group in augmentation.groups.items()}
    for name, value in parameters.items():
        values[name] = torch.as_tensor(value, dtype=values[name].dtype).expand_as(values[name]).clone()
    return augmentation.render(pixels, Transform(values, augmentation.groups))


def four_corners(shifts: list[float], side: int) -> tuple[list[list[float]], list[list[float]]]:
    """Where the corners of a view are in torchvision's count, and where perspective moves them to."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    return (side * corners).tolist(), (side * (corners + np.reshape(shifts, (4, 2)))).tolist()


def as_float(pixels: Tensor) -> Tensor:
    return pixels / 255 if pixels.dtype == torch.uint8 else pixels


def psnr(found: Tensor, expected: Tensor) -> float:
    return -10 * math.log10(max(float((found - as_float(expected)).square().mean()), 1e-12))


def furthest(found: Tensor, expected: Tensor) -> float:
    return float((found - as_float(expected)).abs().max())


def blurred(pixels: Tensor, sigma: float) -> Tensor:
    side = max(3, pixels.shape[-1] // 10 // 2 * 2 + 1)
    return F.gaussian_blur(pixels, [side, side], [sigma, sigma])


def solarised(pixels: Tensor, at: float) -> Tensor:
    return F.solarize(pixels, at if pixels.is_floating_point() else round(255 * at))


PHOTOMETRIC = {
    "brightness": (F.adjust_brightness, (0.0, 0.3, 1.2, 1.8)),
    "contrast": (F.adjust_contrast, (0.0, 0.3, 1.2, 1.8)),
    "saturation": (F.adjust_saturation, (0.0, 0.3, 1.2, 1.8)),
    "hue": (F.adjust_hue, (-0.5, -0.2, 0.01, 0.13, 0.2, 0.5)),
    "grey": (lambda pixels, _: F.rgb_to_grayscale(pixels, num_output_channels=3), (1.0,)),
    "blur": (blurred, (0.1, 0.19, 0.4, 0.9, 1.3, 2.0)),
    "solarise": (solarised, (0.0, 128 / 255, 0.8)),
}


@pytest.mark.parametrize("name", PHOTOMETRIC)
def test_one_photometric_operation(photograph, name):
    """All values as one batch."""
    change, values = PHOTOMETRIC[name]
    pixels = photograph(SIDE)
    recorded = torch.tensor(values) % 1.0 if name == "hue" else torch.tensor(values)
    found = rendered(pixels.repeat(len(values), 1, 1, 1), parameters={name: recorded})
    for view, value in zip(found, values, strict=True):
        assert furthest(view, change(pixels, value)[0]) < TOLERANCE, value


def test_posterise_is_torchvisions_on_bytes(any_photograph):
    pixels, bits = any_photograph(SIDE, torch.uint8), (1, 3, 5, 7)
    for source in (pixels, pixels / 255):
        found = rendered(source.repeat(len(bits), 1, 1, 1), parameters={"posterise": torch.tensor(bits)})
        for view, kept in zip(found, bits, strict=True):
            assert furthest(view, F.posterize(pixels, kept)[0]) < 1e-6, kept


@pytest.mark.parametrize("box", [(3, 5, 20, 30), (0, 0, 64, 64), (50, 1, 14, 7)], ids=str)
def test_erasing_paints_torchvisions_rectangle(photograph, box):
    pixels, (top, left, height, width) = photograph(SIDE), box
    expected = F.erase(as_float(pixels), top, left, height, width, torch.tensor(0.5))
    found = rendered(pixels, parameters={"erasing": [left / SIDE, top / SIDE, width / SIDE, height / SIDE]})
    assert furthest(found, expected) < 1e-6


@pytest.mark.parametrize("factors", [(1.4, 0.6, 1.7, 0.15), (0.5, 1.8, 0.3, 0.9), (1.0, 1.3, 1.0, 0.4)], ids=str)
def test_jitter_in_every_order(photograph, factors):
    """All 24 orders as one batch; torchvision works on floats, since on bytes it rounds after every step."""

    def turned(one: Tensor, turn: float) -> Tensor:
        return F.adjust_hue(one, (turn + 0.5) % 1 - 0.5)

    changes = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, turned)
    pixels = photograph(SIDE).repeat(len(ORDERS), 1, 1, 1)
    parameters = dict(zip(("brightness", "contrast", "saturation", "hue"), factors, strict=True))
    found = rendered(pixels, parameters={"jitter_order": torch.arange(len(ORDERS)), **parameters})
    for view, one, order in zip(found, as_float(pixels), ORDERS, strict=True):
        for number in order:
            one = changes[number](one, factors[number])
        assert furthest(view, one) < TOLERANCE, order


def test_the_whole_colour_chain(photograph):
    pixels = photograph(SIDE)
    parameters = {"brightness": 1.3, "saturation": 0.6, "hue": 0.1, "grey": 1.0, "blur": 1.1, "solarise": 0.6}
    found = rendered(pixels, parameters=parameters)
    expected = F.adjust_saturation(F.adjust_brightness(as_float(pixels), 1.3), 0.6)
    expected = blurred(F.rgb_to_grayscale(F.adjust_hue(expected, 0.1), num_output_channels=3), 1.1)
    # Next to the threshold a rounding error decides whether a value is inverted.
    decided = (expected - 0.6).abs() > 1e-4
    assert float(((found - F.solarize(expected, 0.6)).abs() * decided).max()) < TOLERANCE


@pytest.mark.parametrize(
    ("side", "box", "size"),
    [
        (96, (0, 0, 96, 96), 96),
        (96, (7, 12, 40, 60), 64),
        (96, (80, 0, 9, 12), 64),
        (96, (33, 91, 1, 5), 48),
        (256, (0, 0, 256, 256), 32),
        (256, (19, 40, 200, 170), 24),
        (128, (5, 6, 100, 20), 48),
    ],
    ids=str,
)
def test_crops_and_flips(photograph, side, box, size):
    """No flip, each of the two and both, as one batch."""
    pixels, (top, left, height, width) = photograph(side), box
    crop = [(left + width / 2) / side, (top + height / 2) / side, width / side, height / side]
    flips = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    parameters = {"crop": crop, "flip": flips[:, 0], "vertical_flip": flips[:, 1]}
    views = rendered(pixels.repeat(4, 1, 1, 1), size, parameters)
    resized = F.resized_crop(pixels, top, left, height, width, [size, size], antialias=True)[0]
    for found, flip in zip(views, flips.tolist(), strict=True):
        expected = resized.flip([axis for axis, turned in zip((-1, -2), flip, strict=True) if turned])
        assert psnr(found, expected) > 40, flip
        assert furthest(found, expected) < TOLERANCE, flip


def test_crops_of_images_that_are_not_square(photograph):
    pixels = photograph(96)[..., :60, :]
    found = rendered(pixels, 40, {"crop": [(20 + 35) / 96, (8 + 22) / 60, 70 / 96, 44 / 60]})
    assert furthest(found, F.resized_crop(pixels, 8, 20, 44, 70, [40, 40], antialias=True)) < TOLERANCE


@pytest.mark.parametrize("degrees", [-170.0, -90.0, -33.0, 4.0, 45.0, 180.0])
def test_rotation_is_counter_clockwise(photograph, degrees):
    pixels = photograph(SIDE)
    found = rendered(pixels, parameters={"angle": math.radians(degrees) % (2 * math.pi)})
    assert psnr(found, F.rotate(as_float(pixels), degrees, BILINEAR)) > 40


AFFINE = [
    (0.0, (0.1, -0.25), 1.0, (0.0, 0.0)),
    (0.0, (0.0, 0.0), 1.3, (0.0, 0.0)),
    (0.0, (0.0, 0.0), 1.1, (8.0, 0.0)),
    (0.0, (0.0, 0.0), 1.1, (0.0, -8.0)),
    (25.0, (0.125, 0.05), 1.2, (0.0, 0.0)),
    (-40.0, (-0.2, 0.11), 1.5, (12.0, -7.0)),
    (100.0, (0.03, 0.07), 1.4, (-10.0, 15.0)),
]
"""Angles and shears in degrees. Nothing shrinks, for what torchvision aliases is blurred here."""


@pytest.mark.parametrize(("degrees", "shift", "zoom", "shear"), AFFINE, ids=str)
def test_affine_maps(photograph, degrees, shift, zoom, shear):
    """torchvision's angle is clockwise here, and it shifts by pixels."""
    pixels = photograph(SIDE)
    angle, slant = math.radians(degrees) % (2 * math.pi), [math.radians(one) for one in shear]
    found = rendered(pixels, parameters={"angle": angle, "translation": shift, "zoom": zoom, "shear": slant})
    pixel_shift = [one * SIDE for one in shift]
    assert psnr(found, F.affine(as_float(pixels), -degrees, pixel_shift, zoom, list(shear), BILINEAR)) > 40


@pytest.mark.parametrize(
    "shifts",
    [
        [0.1, 0.05, -0.08, 0.12, -0.1, -0.02, 0.04, -0.09],
        [-0.2, -0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [-0.1, 0.0, 0.1, 0.0, 0.3, 0.2, -0.3, 0.2],
    ],
    ids=["inwards", "one corner", "outwards"],
)
def test_perspective(photograph, shifts):
    """Corners are the outer edges of the outer pixels, where torchvision counts 0 and the side."""
    pixels = photograph(SIDE)
    corners, ends = four_corners(shifts, SIDE)
    found = rendered(pixels, parameters={"perspective": shifts})
    assert psnr(found, F.perspective(as_float(pixels), corners, ends, BILINEAR)) > 40


def test_the_crop_comes_first_then_flips_then_the_affine_map_then_perspective(any_photograph):
    """Smooth images, since torchvision resamples twice; the zoom keeps what lies outside the crop out of sight."""
    pixels = F.gaussian_blur(any_photograph(96, torch.float32), [21, 21], [3.0, 3.0])
    shifts = [0.1, 0.05, -0.08, 0.12, -0.1, -0.02, 0.04, -0.09]
    corners, ends = four_corners(shifts, SIDE)
    expected = F.horizontal_flip(F.crop(pixels, 10, 24, SIDE, SIDE))
    expected = F.affine(expected, -25.0, [0.05 * SIDE, -0.1 * SIDE], 2.2, [6.0, -4.0], BILINEAR)
    seen = F.perspective(torch.ones_like(expected), corners, ends, BILINEAR) == 1
    expected = F.perspective(expected, corners, ends, BILINEAR)
    crop = [(24 + SIDE / 2) / 96, (10 + SIDE / 2) / 96, SIDE / 96, SIDE / 96]
    shear = [math.radians(6), math.radians(-4)]
    affine = {"angle": math.radians(25), "translation": [0.05, -0.1], "zoom": 2.2, "shear": shear}
    found = rendered(pixels, SIDE, {"crop": crop, "flip": 1.0, "perspective": shifts, **affine})
    assert psnr(found * seen, expected * seen) > 40


@pytest.mark.parametrize(
    ("side", "zoom", "degrees", "size"),
    [(128, 0.4, 0.0, 48), (128, 0.4, 30.0, 48), (256, 0.8, 17.0, 32), (96, 0.6, 45.0, 96)],
    ids=str,
)
def test_shrinking_by_an_affine_map_does_not_alias(photograph, side, zoom, degrees, size):
    """The reference is drawn at eight times the resolution, then brought to that of the view; the rim, half black, is
    left out.
    """

    def reference(one: Tensor) -> Tensor:
        fine = F.resize(one, [8 * size, 8 * size], antialias=True)
        fine = F.affine(fine, -degrees, [0, 0], zoom, [0.0, 0.0], BILINEAR)
        return F.resize(fine, [size, size], antialias=True)

    pixels = photograph(side)
    found = rendered(pixels, size, {"angle": math.radians(degrees), "zoom": zoom})
    whole = (reference(torch.ones_like(pixels, dtype=torch.float32)) > 0.999).float()
    inside = (-torch.nn.functional.max_pool2d(-whole, 3, 1, 1)).bool()
    assert psnr(found[inside], reference(as_float(pixels))[inside]) > 35


def key(count: int, epoch: int = 0) -> Key:
    return Key(5, np.full(count, epoch), np.arange(count), 0)


def alone(name: str, probability: float) -> Augmentation:
    """A policy of one operation."""
    return custom(operations=[{"name": name, "probability": probability}], size=40)


@pytest.fixture(params=[torch.uint8, torch.float32], ids=["bytes", "floats"])
def sources(request: pytest.FixtureRequest) -> Tensor:
    pixels = photographs(7, 48, seed=1)
    return pixels if request.param == torch.uint8 else pixels / 255


@pytest.mark.parametrize("name", OF_ITSELF)
def test_a_record_makes_the_view_again_in_any_batch(name, sources):
    augmentation = alone(name, 1.0)
    before = sources.clone()
    views, transform = augmentation(sources, key(len(sources)))
    assert torch.equal(sources, before), "the images themselves stay"
    assert views.dtype == torch.float32
    assert -1e-6 < views.min() <= views.max() < 1 + 1e-6
    assert not torch.equal(views, alone(name, 0.0)(sources, key(len(sources)))[0])
    assert torch.equal(augmentation.render(sources, transform), views)
    for rows in ([3], [6, 0], [2, 5, 1, 4]):
        assert torch.equal(augmentation.render(sources[rows], transform.select(torch.tensor(rows))), views[rows])


@pytest.mark.parametrize("name", OF_ITSELF)
def test_an_operation_says_how_likely_it_is_and_leaves_no_trace_where_it_is_not_applied(name, sources):
    assert "probability" in schema_of(OPERATIONS.find(name)).settings
    augmentation = alone(name, 0.0)
    views, transform = augmentation(sources, key(len(sources)))
    for parameter, group in augmentation.groups.items():
        assert torch.equal(transform[parameter], group.neutral(len(sources)).to(transform[parameter].dtype)), parameter
    assert torch.equal(views, custom(operations=[], size=40)(sources, key(len(sources)))[0])


@pytest.mark.parametrize("hue", ["hsv", "linear"])
def test_simclr_s_views_do_not_depend_on_their_batch(hue, sources):
    augmentation, pixels = simclr(size=32, hue=hue), sources.repeat(8, 1, 1, 1)
    views, transform = augmentation(pixels, key(len(pixels)))
    for rows in np.array_split(np.random.default_rng(0).permutation(len(pixels)), 6):
        some = augmentation.render(pixels[rows], transform.select(torch.from_numpy(rows)))
        assert torch.equal(some, views[rows])


def test_the_benchmark_gives_everybody_the_same_work(benchmark):
    """Views of one size, normalised, with about the same mean and contrast."""
    pixels = photographs(64, 48)
    ours = benchmark.ours("ours", pixels, 32)
    expected = torch.cat([ours.make() for _ in range(2)])
    for one in benchmark.contestants(pixels, 32):
        if isinstance(one, str):
            assert one.endswith("not installed")
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            random.seed(0)
            made = [one.make() for _ in range(2)]
        assert made[0].shape == (64 * (one.views if "lightly" in one.name else 1), 3, 32, 32), one.name
        assert made[0].dtype == torch.float32
        views = torch.cat(made)
        if "floor" not in one.name:
            assert abs(views.mean() - expected.mean()) < 0.4, one.name
            assert 0.7 < views.std() / expected.std() < 1.4, one.name


def test_the_benchmark_measures_and_tells_what_views_take_of_a_step(benchmark):
    pixels = photographs(4, 32)
    rows, _ = benchmark.compare(pixels, 24, rounds=1, seconds=0.0)
    assert {"ours", "torchvision v2, tensors"} <= {row["name"] for row in rows}
    for row in rows:
        middle, least, most = row["images_per_second"]
        assert 0 < least <= middle <= most
    step = benchmark.share_of_step(pixels, 32, steps=2, model="test_resnet")
    assert 0 < step["views_ms"] < step["step_ms"]
    assert 0 < step["share"] < 1
