"""On the page of views, outlines lie where views come from, words say what was done, and the views are the run's."""

import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_inv.augment.policies import custom
from ssl_inv.data.batches import StepBatches
from ssl_inv.data.source import Images, Indices, Labels, Source
from ssl_inv.run.build import build
from ssl_inv.run.cli import main
from ssl_inv.run.pages.view_samples import CORNERS, Sample, ShownView, first_samples, images_of, outline, samples
from ssl_inv.run.pages.views_page import write_page
from ssl_inv.run.recipe import load_recipe
from ssl_inv.transforms import Box, Circle, Code, Flag, Group, Real, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler
from ssl_inv.transforms.words import describe_view, in_words
from ssl_inv.views import Crops, MultiCrop, Pair, Patches, Plan, QuarterTurns, Saccades, Several, ViewSequence
from ssl_inv.views.maker import ViewMaker

SIZE = 64


class Ramps(Source):
    """Images whose red says how far to the right a pixel is, and whose green how far down."""

    view_counts: Indices = np.ones(24, dtype=np.int64)
    groups: dict[str, Group] = {}
    labels: Labels | None = None
    image_size = SIZE

    def load(self, objects: Indices, views: Indices) -> Images:
        ramp = (torch.arange(SIZE) + 0.5) / SIZE * 255
        picture = torch.stack((ramp.expand(SIZE, SIZE), ramp[:, None].expand(SIZE, SIZE), torch.zeros(SIZE, SIZE)))
        pixels = picture.round().to(torch.uint8).expand(len(objects), 3, SIZE, SIZE)
        return Images(pixels, Transform.empty(), torch.ones(len(objects), dtype=torch.bool))


def shown(plan: Plan, *operations: dict[str, Any]) -> list[ShownView]:
    """All views that a plan makes of ramps."""
    source = Ramps()
    maker = ViewMaker(plan, source, custom(operations=list(operations)), [0.5] * 3, [0.25] * 3, 0)
    found = samples(source, StepBatches(source, len(source), 1, 0)[0], maker)
    return [view for sample in found for part in sample.sources for view in part.views]


BORDER = np.concatenate(
    [
        here + np.arange(32)[:, None] / 32 * (there - here)
        for here, there in zip(CORNERS, np.roll(CORNERS, -1, 0), strict=True)
    ]
)
"""Where the points of an outline are in the view."""


def read_off(pixels: np.ndarray[Any, Any], row: int, column: int) -> np.ndarray[Any, Any]:
    """Where in its ramp a pixel of a view comes from, (x, y) from -1 to 1."""
    place: np.ndarray[Any, Any] = pixels[row, column, :2] / 255.0 * 2 - 1
    return place


CROP = {"name": "crop", "scale": [0.1, 0.3]}
ZOOMED = {"name": "kornia.RandomAffine", "degrees": 20.0, "scale": [1.6, 2.0], "shear": 10.0, "p": 1.0}
PATCHES = Patches(view=64, patch=24, jitter=4)


@pytest.mark.parametrize(
    ("plan", "operation"),
    [
        (Pair(), {"name": "flip"}),
        (Pair(), {"name": "vertical_flip"}),
        (Pair(), {"name": "rotation", "degrees": 180}),
        (Pair(), {"name": "translation", "largest": [0.3, 0.3]}),
        (Pair(), {"name": "scale", "factor": [0.7, 1.5]}),
        (Pair(), {"name": "affine", "shear": [20, 10]}),
        (Pair(), {"name": "perspective", "probability": 1}),
        (Pair(), {"name": "random_field", "probability": 1, "alpha": [0.1, 0.2]}),
        (QuarterTurns(), {"name": "rotation", "degrees": 30}),
        (PATCHES, {"name": "random_field", "transforms": ["rotate", "shear"], "alpha": [0.0, 0.1]}),
        (Saccades(patch=24), {"name": "rotation", "degrees": 30}),
        (Several((MultiCrop((Crops(1, centre=0.5),)), replace(PATCHES, scale=None))), {"name": "flip"}),
        (Pair(), ZOOMED),
        (QuarterTurns(), ZOOMED),
        (Saccades(patch=24), ZOOMED),
        (Pair(), {"name": "kornia.RandomResizedCrop", "size": [SIZE, SIZE]}),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else type(value).__name__,
)
def test_the_corners_of_an_outline_are_where_the_corner_pixels_come_from(plan: Plan, operation: dict[str, Any]) -> None:
    compared = 0
    for view in shown(plan, CROP, operation):
        corners = view.outline[:: len(view.outline) // 4]
        side = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1).max()
        # A corner pixel's centre lies half a pixel inside; beyond the border, nothing can be read off.
        tolerance = 1.5 / len(view.pixels) * side + 1.5 / SIZE
        for corner, (row, column) in zip(corners, ((0, 0), (0, -1), (-1, -1), (-1, 0)), strict=True):
            if np.abs(view.outline).max() < 0.95 and view.pixels[row, column].any():
                compared += 1
                assert np.abs(read_off(view.pixels, row, column) - corner).max() < tolerance
    assert compared >= 20


def test_outlines_of_known_transforms() -> None:
    groups: dict[str, Group] = {"crop": Box(), "flip": Flag(), "angle": Circle(2 * math.pi)}
    values = {
        "crop": torch.tensor([[0.5, 0.25, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]),
        "flip": torch.tensor([1.0, 0.0]),
        "angle": torch.tensor([0.0, math.pi / 2]),
    }
    found = outline(Transform(values, groups), 2, 10)
    corners = found[:, :: found.shape[1] // 4]
    assert np.allclose(corners[0], [[0.5, -1], [-0.5, -1], [-0.5, 0], [0.5, 0]], atol=1e-6)
    # A quarter turn counter-clockwise: what is in the upper left corner afterwards was in the upper right one.
    assert np.allclose(corners[1], [[1, -1], [1, 1], [-1, 1], [-1, -1]], atol=1e-6)


def test_the_outline_of_an_affine_map_of_kornia_is_that_of_the_known_map() -> None:
    # The content moves a quarter to the right, so the view shows what lies a quarter to the left.
    turned = {"degrees": [90.0, 90.0], "p": 1.0}
    moved = {"translate_x": [0.25, 0.25], "translate_y": [0.0, 0.0], "p": 1.0}
    for operations, corners in (
        ([{"name": "kornia.RandomTranslate", **moved}], [[-1.5, -1], [0.5, -1], [0.5, 1], [-1.5, 1]]),
        # kornia turns this one counter-clockwise: the upper right corner becomes the upper left one.
        ([{"name": "kornia.RandomRotation", **turned}], [[1, -1], [1, 1], [-1, 1], [-1, -1]]),
        ([{"name": "flip", "probability": 1}, {"name": "kornia.RandomHorizontalFlip", "p": 1.0}], CORNERS),
    ):
        for view in shown(Pair(), *operations)[:4]:
            assert np.allclose(view.outline[:: len(view.outline) // 4], corners, atol=1e-5)


def test_outlines_know_what_comes_after_random_fields() -> None:
    compared = 0
    for view in shown(Pair(), CROP, {"name": "random_field", "probability": 1, "alpha": [0.1, 0.2]}, ZOOMED):
        for point, place in zip(view.outline[::8], BORDER[::8], strict=True):
            column, row = np.clip((place + 1) / 2 * SIZE, 0, SIZE - 1).astype(int)
            if np.abs(view.outline).max() < 0.95:
                compared += 1
                assert np.abs(read_off(view.pixels, row, column) - point).max() < 0.05
    assert compared > 200


def test_arrows_begin_where_points_would_be_without_fields() -> None:
    compared = 0
    field = {"name": "random_field", "transforms": ["translate", "rotate"], "probability": 1}
    for view in shown(Pair(), field):
        for tail, head in view.arrows:
            column, row = ((head + 1) / 2 * SIZE).astype(int)
            if np.abs(tail).max() < 0.95:
                compared += 1
                assert np.abs(read_off(view.pixels, row, column) - tail).max() < 4 / SIZE
    assert compared > 1000
    assert all(len(view.arrows) == 0 for view in shown(Pair(), {"name": "flip"}))
    # A mirror image of the whole view mirrors its arrows.
    mirrored = shown(Pair(), field, {"name": "kornia.RandomHorizontalFlip", "p": 1.0})
    for one, other in zip(shown(Pair(), field), mirrored, strict=True):
        arrows = one.arrows.reshape(12, 12, 2, 2)[:, ::-1].reshape(-1, 2, 2)
        assert np.allclose(other.arrows, arrows * [-1, 1], atol=0.02)


def test_views_know_their_image() -> None:
    several = Several((ViewSequence(observed=2), Patches(keep=2)))
    assert images_of(Pair(), 1) == [0, 0]
    assert images_of(Pair(), 2) == [0, 1]
    assert images_of(several, 3) == [0, 1, 2, 0, 0]


def quaternion(degrees: float) -> list[float]:
    result: list[float] = quaternion_from_euler(torch.tensor([0.0, 0.0, math.radians(degrees)])).tolist()
    return result


@pytest.mark.parametrize(
    ("name", "group", "value", "words"),
    [
        ("rotation", Rotation(), quaternion(37), "rotated 37° about (0.0, 0.0, 1.0)"),
        ("camera", Rotation(), quaternion(-20), "camera rotated 20° about (0.0, 0.0, \N{MINUS SIGN}1.0)"),
        ("floor_hue", Circle(), 0.98, "floor hue 0.98"),
        ("azimuth", Circle(2 * math.pi), math.radians(340), "azimuth \N{MINUS SIGN}20°"),
        ("gaze", Real(dimensions=2), [0.5, -0.25], "gaze (0.5, \N{MINUS SIGN}0.25)"),
        ("light_theta", Real(), 0.0271, "light theta 0.0271"),
        ("window", Box(), [0.25, 0.5, 0.5, 0.5], "window 25% at (0.25, 0.50)"),
        ("open", Flag(), 1.0, "open"),
        ("noise_seed", Code(), 7, ""),
        ("crop", Box(), [0.4, 0.5, 0.86, 0.5], "crop 43% of the image"),
        ("flip", Flag(), 1.0, "flipped"),
        ("angle", Circle(2 * math.pi), math.radians(12), "turned 12° counter-clockwise"),
        ("angle", Circle(2 * math.pi), math.radians(348), "turned 12° clockwise"),
        ("translation", Real(dimensions=2), [0.1, -0.05], "shifted 10% right 5% up"),
        ("brightness", Real(neutral_value=1.0), 1.21, "brightness \N{MULTIPLICATION SIGN}1.21"),
        ("hue", Circle(), 0.96, "hue \N{MINUS SIGN}0.04 turns"),
        ("blur", Real(), 1.31, "blur 1.3 px"),
        ("solarise", Real(neutral_value=256 / 255), 0.5, "solarised above 0.50"),
        ("posterise", Real(neutral_value=8.0), 4.0, "posterised to 4 bits"),
        ("colour_dropping", Code(), 3, "nothing but blue"),
        ("erasing", Real(dimensions=4), [0.1, 0.2, 0.5, 0.4], "20% erased"),
        # Names that data uses for something else.
        ("translation", Real(dimensions=3), [1.0, 2.0, 3.0], "translation (1, 2, 3)"),
        ("blur", Flag(), 1.0, "blur"),
    ],
)
def test_values_in_words(name: str, group: Group, value: Any, words: str) -> None:
    assert in_words(name, torch.tensor(value), group) == words
    assert in_words(name, group.neutral(1)[0], group) == ""


def test_every_operation_is_neutral_without_words() -> None:
    geometry = ("crop", "flip", "vertical_flip", "affine", "perspective", "random_field", "erasing")
    colours = ("jitter", "grey", "blur", "solarise", "posterise", "noise", "colour_dropping")
    operations = [{"name": name, "probability": 0} for name in (*geometry, *colours)]
    assert {view.words for view in shown(Pair(), *operations)} == {"unchanged"}


def test_what_happens_to_every_view_is_told_without_a_record() -> None:
    grey, flip = {"name": "kornia.RandomGrayscale", "p": 1.0}, {"name": "flip", "probability": 1.0}
    still = {"name": "rotation", "degrees": 0.0}
    assert {view.words for view in shown(Pair(), still, grey)} == {"grey"}
    assert {view.words for view in shown(Pair(), flip, grey)} == {"flipped, grey"}


def test_words_follow_what_happens() -> None:
    groups: dict[str, Group] = {"blur": Real(), "flip": Flag(), "pose": Real()}
    row = {"blur": torch.tensor([1.0]), "flip": torch.tensor([1.0]), "pose": torch.tensor([2.0])}
    assert describe_view(Transform(row, groups), 0) == "pose 2, flipped, blur 1.0 px"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: str) -> Path:
    (tmp_path / "tiny.yaml").write_text(tiny_recipe)
    (tmp_path / "photos").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 30 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def views(arguments: str) -> int:
    return main(["views", *shlex.split(arguments)])


FOLDER = "simclr-folder --data.path photos --augmentation.size=24 --backbone.name=test_resnet --backbone.stem=default"


def size_of(page: str) -> tuple[int, int]:
    with Image.open(page) as picture:
        return picture.width, picture.height


def test_a_folder_of_any_size_gives_a_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert views(FOLDER) == views(f"{FOLDER} --images 50") == 0
    assert capsys.readouterr().out == "views.png\nviews-2.png\n"
    (few_width, few_height), (width, height) = size_of("views.png"), size_of("views-2.png")
    # Two samples abreast, each an image and two views of 256 pixels; seven of the eight photographs are for training.
    assert few_width == width == 24 + 6 * (256 + 24)
    assert 3 * 350 < few_height < height < 4 * 600
    assert sorted(path.name for path in here.iterdir()) == ["photos", "tiny.yaml", "views-2.png", "views.png"]


def test_pages_are_deterministic(here: Path) -> None:
    for suffix in ("png", "html"):
        assert views(f"{FOLDER} --output=new/a.{suffix}") == views(f"{FOLDER} --output=new/b.{suffix}") == 0
        assert Path(f"new/a.{suffix}").read_bytes() == Path(f"new/b.{suffix}").read_bytes()


def test_a_page_of_rendered_data_tells_its_latents(here: Path) -> None:
    assert views("tiny.yaml --output=page.html --images=3") == 0
    page = Path("page.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert len(re.findall("rotated [0-9]+° about", page)) == 6
    assert all(source.startswith("data:image/png;base64,") for source in re.findall('src="([^"]*)"', page))
    assert not re.search(r"<script|<link|url\(|https?:", page)
    assert views("tiny.yaml --output=page.png --images=3 --augmentation.name=simclr --data.size=24") == 0
    assert size_of("page.png")[0] == 24 + 4 * (256 + 24)


def test_the_views_are_those_that_the_run_begins_with(here: Path) -> None:
    recipe = load_recipe("tiny.yaml", ["--augmentation.name=simclr"])
    run = build(recipe)
    made = run.module.view_maker(run.module.batches[0]).views
    found = first_samples(recipe, 3)
    for row, sample in enumerate(found):
        for part, view in zip(sample.sources, made, strict=True):
            expected = (view.pixels[row] * run.module.view_maker.std[0] + run.module.view_maker.mean[0]) * 255
            assert np.abs(part.views[0].pixels - expected.permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-3


def test_names_are_escaped(tmp_path: Path) -> None:
    write_page("<i>", "<i>", [Sample("<i>", [])] * 2 + first_of_ramps(), tmp_path / "page.html")
    assert "<i>" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def first_of_ramps() -> list[Sample]:
    source = Ramps()
    maker = ViewMaker(Pair(), source, custom(operations=[CROP]), [0.5] * 3, [0.25] * 3, 0)
    return samples(source, StepBatches(source, 1, 1, 0)[0], maker)
