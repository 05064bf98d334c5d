"""Any augmentation of kornia depends on the key alone, is recorded in groups, and is made again from its record."""

import inspect
import io
import json
import math
import pickle
import runpy
from pathlib import Path
from typing import Any

import kornia.augmentation
import numpy as np
import pytest
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from kornia.augmentation import (
    AugmentationBase2D,
    ColorJitter,
    ImageSequential,
    MixAugmentationBaseV2,
    RandomAffine,
    RandomCrop,
    RandomGaussianNoise,
    RandomMotionBlur,
    RandomRotation,
    Resize,
)
from torch import Tensor

from ssl_inv.augment import Keyed, kornia_names
from ssl_inv.augment.geometry import Affine
from ssl_inv.augment.maps import PROJECTIVE
from ssl_inv.augment.policies import custom
from ssl_inv.catalogue import OPERATIONS, RecipeError, SettingError
from ssl_inv.run.recipe import resolve
from ssl_inv.testing.processes import on_processes
from ssl_inv.transforms import Circle, Flag, Group, Key, Projective, Real, Transform

SIDE = 32
BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "keyed.py"), run_name="keyed")
SETTINGS: dict[str, dict[str, Any]] = {**BENCHMARK["REQUIRED"], "PadTo": {"size": [40, 40]}}
RESIZING: tuple[str, ...] = BENCHMARK["RESIZING"]
"""They change the size of all images, so none can be left as it is."""
QUICK = {
    *("CenterCrop", "ColorJitter", "RandAugment", "RandomAffine", "RandomErasing", "RandomGaussianNoise"),
    *("RandomHorizontalFlip", "RandomJPEG", "RandomJigsaw", "RandomMotionBlur", "RandomPlasmaShadow", "RandomRain"),
}
"""One or more of each way of drawing; all others are tried with the slow tests."""
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in kornia_names.names()]
BATCHES = ([0], [5], [3, 1], [6, 2, 4], [0, 1, 2, 3], [4, 0, 1, 2, 6])
"""Of one, two, ... images; three and four are also lengths within augmentations: of channels, and of an order."""


def made(name: str, **settings: Any) -> Keyed:
    maker = getattr(kornia_names, name)
    gate = {"p": 0.7} if "p" in inspect.signature(maker).parameters and name not in RESIZING else {}
    operation: Keyed = maker(**{**gate, **SETTINGS.get(name, {}), **settings})
    return operation


def key(index: list[int], view: int = 0) -> Key:
    return Key(3, np.zeros(len(index), np.int64), np.array(index), view)


def images(count: int = 7, side: int = SIDE) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def same(record: Transform, other: Transform, rows: list[int]) -> bool:
    return record.groups == other.groups and all(torch.equal(record[one], other[one][rows]) for one in other.names)


def through_file(record: Transform) -> Transform:
    file = io.BytesIO()
    np.savez(file, **{name: value.numpy() for name, value in record.values.items()})
    groups = json.loads(json.dumps({name: group.record() for name, group in record.groups.items()}))
    values = {name: torch.from_numpy(value) for name, value in np.load(io.BytesIO(file.getvalue())).items()}
    return Transform(values, {name: Group.from_record(one) for name, one in groups.items()})


def test_every_augmentation_of_images_that_kornia_has_is_offered_or_refused_with_a_reason():
    kinds = (AugmentationBase2D, MixAugmentationBaseV2)
    classes = {name for name in kornia.augmentation.__all__ if inspect.isclass(getattr(kornia.augmentation, name))}
    found = {name for name in classes if issubclass(getattr(kornia.augmentation, name), kinds) and "Base" not in name}
    assert found <= {*kornia_names.names(), *kornia_names.REFUSED}
    for name, reason in kornia_names.REFUSED.items():
        with pytest.raises(AttributeError, match=f"^kornia.{name} cannot be used: {reason.split()[0]}"):
            getattr(kornia_names, name)


@pytest.mark.parametrize("name", EVERY)
def test_views_and_records_depend_on_the_key_alone_and_are_made_again(name):
    operation, pixels, state = made(name), images(), torch.get_rng_state()
    views, record = operation(pixels, key([*range(7)]))
    assert len(views.unique(dim=0)) == 7
    for rows in BATCHES:
        some, of_some = operation(pixels[rows], key(rows))
        assert same(of_some, record, rows)
        assert torch.equal(some, views[rows])
    assert torch.equal(operation.replay(pixels, through_file(record)), views)
    assert torch.equal(state, torch.get_rng_state())
    other, _ = operation(pixels, key([*range(7)], view=1))
    if operation.groups:
        assert not torch.equal(other, views)


def _views_of(names: list[str]) -> list[Tensor]:
    rows = [[0, 3, 4], [6, 1]][distributed.get_rank()]
    return [made(name)(images()[rows], key(rows))[0] for name in names]


def test_two_processes_make_the_views_of_one():
    names = ["ColorJitter", "RandomAffine", "RandomGaussianNoise", "RandomMotionBlur", "RandAugment"]
    parts = on_processes(2, _views_of, names)
    for number, name in enumerate(names):
        views, _ = made(name)(images(), key([*range(7)]))
        assert torch.equal(torch.cat([part[number] for part in parts]), views[[0, 3, 4, 6, 1]])


def test_what_kornia_draws_once_a_batch_is_drawn_for_every_sample():
    many, pixels = key([*range(60)]), images(60, 8)
    jitter = Keyed(ColorJitter(0.2, 0.2, 0.2, 0.1))(pixels, many)[1]
    assert len(jitter["ColorJitter.order"].unique(dim=0)) > 15
    blur = Keyed(RandomMotionBlur((3, 7), 35.0, 0.5, p=1.0))(pixels, many)[1]
    assert set(blur["RandomMotionBlur.ksize_factor"].tolist()) == {3, 5, 7}
    choice = made("RandAugment")(pixels, many)[1]["RandAugment.choice"]
    assert choice.shape == (60, 2)
    assert len(choice.unique(dim=0)) > 40
    assert (choice[:, 0] != choice[:, 1]).all()
    some = ImageSequential(RandomRotation(30.0), RandomGaussianNoise(), RandomAffine(9.0), random_apply=(1, 2))
    chosen = Keyed(some)(pixels, many)[1]["ImageSequential.choice"]
    assert set((chosen > 0).sum(1).tolist()) == {1, 2}


def test_draws_have_the_distribution_that_kornia_gives_them():
    record = made("RandomAffine", p=0.3)(images(1, 8).expand(4000, -1, -1, -1), key([*range(4000)]))[1]
    assert abs(record["RandomAffine.applied"].mean() - 0.3) < 0.03
    scale = record["RandomAffine.scale"][record["RandomAffine.applied"] > 0, 0]
    assert abs(scale.mean() - 1) < 0.02
    assert scale.min() > 0.8
    assert scale.max() < 1.2
    assert abs(scale.std() - 0.4 / math.sqrt(12)) < 0.01
    noise = Keyed(RandomGaussianNoise(std=0.1, p=1.0))(torch.zeros(3, 3, 64, 64), key([0, 1, 2]))[0]
    assert abs(noise.std() - 0.1) < 0.002
    assert abs(noise.mean()) < 0.002
    assert abs(noise[0].flatten() @ noise[1].flatten()) < 0.02 * noise[0].square().sum()


def test_parameters_have_groups_whose_scales_come_from_the_constructor():
    groups = made("ColorJitter", brightness=0.5, p=0.7).groups
    assert groups["ColorJitter.applied"] == Flag()
    assert groups["ColorJitter.hue_factor"] == Circle()
    assert groups["ColorJitter.brightness_factor"] == Real(scale=0.5, neutral_value=1.0)
    assert made("RandomRotation").groups["RandomRotation.angle"] == Circle(2 * math.pi)
    own = Keyed(RandomRotation(30.0), "turn", {"angle": Real(scale=0.3)})
    assert own.groups == {"turn.applied": Flag(), "turn.angle": Real(scale=0.3)}
    unused = made("RandomRotation")(images(), key([*range(7)]))[1]
    assert (unused["RandomRotation.angle"][unused["RandomRotation.applied"] == 0] == 0).all()


MOVING = [name for name in kornia_names.names() if name not in ("AutoAugment", "TrivialAugment", "PadTo")]


@pytest.mark.parametrize("name", [name for name in MOVING if made(name).projective])
def test_the_recorded_map_is_the_way_in_which_kornia_moves_pixels(name):
    padding = {"padding_mode": "border"} if name in ("RandomAffine", "RandomShear", "RandomTranslate") else {}
    operation, pixels = made(name, **padding), images(7, 48)
    views, record = operation(pixels, key([*range(7)]))
    values = {one: value.numpy() for one, value in record.values.items()}
    matrices = torch.from_numpy(operation.maps(values, 7, 48, 48)).float()
    if name == "RandAugment":  # colours change, too
        pixels = operation.replay(pixels, record) * 0 + 0.5
        views = pixels
    height, width = views.shape[-2:]
    y, x = torch.meshgrid(*((2 * torch.arange(n) + 1 - n) / n for n in (height, width)), indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), -1) @ matrices[:, None].transpose(2, 3)
    grid = points[..., :2] / points[..., 2:]
    inside = (grid.abs() < 0.9).all(-1)
    expected = F.grid_sample(pixels, grid, align_corners=False, padding_mode="border")
    assert inside.float().mean() > 0.3
    assert ((views - expected).abs().amax(1)[inside]).mean() < 0.012


def test_angles_are_counter_clockwise_as_in_our_own_operations():
    dot = torch.zeros(1, 3, 33, 33)
    dot[..., 16, 26:29] = 1  # to the right of the centre
    for augmentation, name in (
        (RandomRotation((80.0, 80.0), p=1.0), "RandomRotation"),
        (RandomAffine((-80.0, -80.0), p=1.0), "RandomAffine"),
    ):
        operation = Keyed(augmentation)
        drawn = operation.draw(key([0]), 33, 33)
        assert not drawn or f"{name}.angle" not in drawn  # an angle without a range is no random parameter
        view, _ = operation(dot, key([0]))
        rows = view[0, 0].nonzero()[:, 0].float()
        assert rows.mean() < 12
    turned = Keyed(RandomAffine(40.0, p=1.0))
    record = turned.draw(key([*range(5)]), 33, 33)
    ours = Affine.matrices({"angle": record["RandomAffine.angle"].astype(np.float64)})
    np.testing.assert_allclose(turned.maps(record, 5, 33, 33), ours, atol=1e-6)


def test_a_policy_records_one_map_of_everything_that_moves_pixels():
    augmentation = custom(
        operations=[
            {"name": "kornia.RandomAffine", "degrees": 30.0, "padding_mode": "border", "p": 1.0},
            {"name": "crop", "scale": [0.5, 0.9]},
            {"name": "flip"},
        ]
    )
    pixels = images(6, 64)
    views, record = augmentation(pixels, key([*range(6)]))
    assert record.groups[PROJECTIVE] == Projective()
    matrices = record[PROJECTIVE].view(-1, 3, 3)
    y, x = torch.meshgrid(*[(2 * torch.arange(64) + 1 - 64) / 64] * 2, indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), -1) @ matrices[:, None].transpose(2, 3)
    grid = points[..., :2] / points[..., 2:]
    inside = (grid.abs() < 0.95).all(-1)
    expected = F.grid_sample(pixels, grid, align_corners=False, padding_mode="border")
    assert (views - expected).abs().amax(1)[inside].mean() < 0.012
    half = record.path(record.select(torch.tensor([1, 2, 3, 4, 5, 0])), 0.5)
    assert half[PROJECTIVE].isfinite().all()


RECIPE = {"objective": {"name": "vicreg"}, "data": {"name": "rendered"}}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a typo in a name": (
        {"name": "kornia.RandomPlasmaShadw"},
        r"augmentation.extra\[0\].name: kornia has no augmentation called 'RandomPlasmaShadw'; "
        r"did you mean 'kornia.RandomPlasmaShadow'\?",
    ),
    "a name without kornia": ({"name": "RandomGamma"}, r"did you mean 'kornia.RandomGamma'\?"),
    "a typo in an argument": (
        {"name": "kornia.RandomRotation", "degree": 3.0},
        r"augmentation.extra\[0\].degree: no such setting; did you mean 'degrees'\?",
    ),
    "a missing argument": ({"name": "kornia.RandomRotation"}, r"extra\[0\].degrees: required"),
    "an argument of a wrong type": (
        {"name": "kornia.RandomRotation", "degrees": "far"},
        r"extra\[0\].degrees: expected a number or a list of numbers, got 'far'",
    ),
    "a class for volumes": (
        {"name": "kornia.RandomRotation3D"},
        r"kornia.RandomRotation3D cannot be used: it changes volumes",
    ),
    "a class that needs masks": ({"name": "kornia.RandomTransplantation"}, "cannot be used: it mixes the samples"),
    "a mixing class": ({"name": "kornia.RandomMixUpV2"}, "so a view would depend on its batch"),
    "normalisation": ({"name": "kornia.Normalize"}, "section `normalization`"),
    "a container": ({"name": "kornia.ImageSequential"}, "takes modules, which no recipe holds; in Python"),
    "a batch-wide argument": (
        {"name": "kornia.RandomGamma", "same_on_batch": True},
        r"extra\[0\].same_on_batch: no such",
    ),
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a gate of 0": ({"name": "kornia.RandomGamma", "p": 0.0}, r"operations\[0\].p: must be above 0"),
    "a value out of range": (
        {"name": "kornia.RandomPosterize", "bits": [9.0, 12.0]},
        r"operations\[0\]: kornia.RandomPosterize refuses its settings",
    ),
    "an unknown group": (
        {"name": "kornia.RandomRotation", "degrees": 3.0, "groups": {"angle": {"name": "cirle"}}},
        r"operations\[0\].groups.angle: no group is called 'cirle'; did you mean 'circle'\?",
    ),
    "a group of an unknown parameter": (
        {"name": "kornia.RandomRotation", "degrees": 3.0, "groups": {"angel": {"name": "real"}}},
        r"operations\[0\].groups.angel: RandomRotation records no such parameter; did you mean 'angle'\?",
    ),
    "a group of another shape": (
        {"name": "kornia.RandomPerspective", "groups": {"corners": {"name": "circle"}}},
        r"operations\[0\].groups.corners: must be a group of 8 numbers a view",
    ),
    "a group without a scale": (
        {"name": "kornia.RandomRotation", "degrees": 3.0, "groups": {"angle": {"name": "real", "scale": 0}}},
        r"operations\[0\].groups.angle.scale: must be a number above 0, got 0",
    ),
    "a probability above 1": ({"name": "kornia.RandomGamma", "p": 2.0}, r"operations\[0\].p: must be a probability"),
    "a label with a dot": (
        {"name": "kornia.RandomGamma", "label": "a.b"},
        r"operations\[0\].label: must be a name without dots",
    ),
}
TOO_SMALL: dict[str, tuple[dict[str, Any], str]] = {
    "a policy that shrinks views": (
        {"name": "kornia.Resize", "size": [3, 3]},
        "Resize makes 3x3 of views of 32x32 pixels; it must keep their size",
    ),
    "a crop larger than the view": ({"name": "kornia.CenterCrop", "size": 64}, "CenterCrop cannot change the images: "),
    "a grid that does not fit": (
        {"name": "kornia.RandomJigsaw", "grid": [5, 5]},
        "RandomJigsaw cannot change the images: ",
    ),
    "a crop left to chance": (
        {"name": "kornia.RandomResizedCrop", "size": [24, 24], "p": 0.5},
        "so it cannot be left to chance: p must be 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_in_a_recipe_is_named_by_its_key_with_the_closest_choice(case):
    wrong, message = WRONG[case]
    with pytest.raises(RecipeError, match=message) as caught:
        resolve({**RECIPE, "augmentation": {"name": "simclr", "extra": [wrong]}})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", REFUSED)
def test_what_kornia_or_the_key_cannot_do_is_refused_in_one_line(case):
    wrong, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message) as caught:
        custom(operations=[wrong])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", TOO_SMALL)
def test_views_of_a_wrong_size_are_refused_before_a_run(case):
    wrong, message = TOO_SMALL[case]
    with pytest.raises(ValueError, match=message) as caught:
        custom(operations=[wrong]).policies[0].check(32)
    assert "\n" not in str(caught.value)


def test_members_behind_a_change_of_size_draw_for_the_new_size():
    sequence = Keyed(ImageSequential(Resize((48, 48)), RandomCrop((32, 32))))
    views, record = sequence(images(), key([*range(7)]))
    assert views.shape == (7, 3, 32, 32)
    boxes = record["ImageSequential.RandomCrop.crop"]
    assert len(boxes.unique(dim=0)) > 3
    torch.testing.assert_close(boxes[:, 2:], torch.full((7, 2), 32 / 48))


def test_an_operation_goes_to_other_processes_and_a_key_has_a_row_for_every_image():
    operation = made("RandomAffine")
    views, record = operation(images(), key([*range(7)]))
    assert torch.equal(pickle.loads(pickle.dumps(operation)).replay(images(), record), views)
    assert len(operation(images()[:0], key([]))[0]) == 0
    with pytest.raises(SettingError, match="key: has 4 rows for 7 images"):
        operation(images(), key([0, 1, 2, 3]))


def test_two_of_a_kind_need_two_labels_and_modules_that_draw_by_themselves_are_refused():
    one = {"name": "kornia.RandomGamma", "gamma": [0.8, 1.2]}
    with pytest.raises(ValueError, match=r"two operations draw 'RandomGamma\.gamma_factor'.*label"):
        custom(operations=[one, one])
    custom(operations=[one, {**one, "label": "again"}])
    with pytest.raises(ValueError, match="Dropout2d is none of kornia's"):
        Keyed(ImageSequential(torch.nn.Dropout2d(0.5), RandomRotation(3.0)))
    assert OPERATIONS.find("kornia.RandomGamma").load()().label == "RandomGamma"
