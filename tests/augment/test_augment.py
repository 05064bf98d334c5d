"""What is drawn has the distribution asked for and depends on the key alone; what is not applied is neutral and leaves
the pixels.
"""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_inv.augment.colour import Grey
from ssl_inv.augment.geometry import draw_crops
from ssl_inv.augment.kernels import gaussian
from ssl_inv.augment.maps import maps
from ssl_inv.augment.operation import Operation
from ssl_inv.augment.policies import byol, custom, dino, moco, none, simclr
from ssl_inv.augment.policy import Augmentation, Policy
from ssl_inv.augment.warp import smooth
from ssl_inv.catalogue import AUGMENTATIONS, OPERATIONS
from ssl_inv.run.recipe import RecipeError, resolve
from ssl_inv.transforms import Real
from ssl_inv.transforms.keyed_random import Key

EVERYTHING: list[dict[str, Any]] = [
    {"name": name} for name in OPERATIONS.members if name not in ("rotation", "translation", "scale", "shear", "shared")
]
"""All operations that do not draw the same parameter."""


def images(batch: int = 6, size: int = 48) -> Tensor:
    coarse = torch.rand(batch, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    pixels = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return pixels.clamp(0, 1).mul(255).round().to(torch.uint8)


def key(index: list[int], view: int = 0, epoch: int = 0) -> Key:
    return Key(3, np.full(len(index), epoch), np.array(index), view)


def test_crops_have_the_areas_and_ratios_asked_for_and_begin_and_end_at_pixels():
    random = np.random.default_rng(0).random((4000, 40))
    x, y, width, height = draw_crops(random, (0.2, 0.6), (3 / 4, 4 / 3), 400, 500).T
    left, top = (x - width / 2) * 500, (y - height / 2) * 400
    for edge, most in ((left, 500), (top, 400), (left + width * 500, 500), (top + height * 400, 400)):
        np.testing.assert_allclose(edge, np.rint(edge), atol=1e-9)
        assert -1e-9 <= edge.min() <= edge.max() <= most + 1e-9
    area, ratio = width * height, width * 500 / (height * 400)
    assert 0.199 <= area.min() < 0.21
    assert 0.59 < area.max() <= 0.601
    assert abs(area.mean() - 0.4) < 0.01
    assert 0.745 < ratio.min() < 0.77
    assert abs(np.log(ratio).mean()) < 0.01


def test_a_crop_that_never_fits_is_the_largest_centred_one():
    boxes = draw_crops(np.full((1, 40), 0.999), (1.0, 1.0), (1.0, 1.0), 100, 300)
    np.testing.assert_allclose(boxes, [[0.5, 0.5, 1 / 3, 1.0]])


# Those of other libraries are tried in test_library_transforms.py: they need transforms, and run on the host.
OURS = [name for name in AUGMENTATIONS.members if name not in ("lightly", "torchvision")]


@pytest.mark.parametrize("name", OURS)
def test_a_view_depends_on_its_key_and_not_on_its_batch(name):
    settings = {"custom": {"operations": EVERYTHING}, "none": {"extra": EVERYTHING}}
    augmentation = AUGMENTATIONS.find(name).load()(**settings.get(name, {"extra": [{"name": "random_field"}]}))
    index, pixels = [4, 8, 15, 16, 23, 42], images()
    views, transform = augmentation(pixels, key(index))
    for rows in ([3], [5, 0], [2, 1, 4]):
        some, partial = augmentation(pixels[rows], key([index[row] for row in rows]))
        torch.testing.assert_close(some, views[rows], rtol=0, atol=1e-5)
        for parameter in transform.names:
            assert torch.equal(partial[parameter], transform[parameter][rows]), parameter
    again, record = augmentation(pixels, key(index))
    assert torch.equal(again, views)
    # The views of one have the same crop, and the first view of the other is not cropped.
    drawn = {"iwm": "brightness", "obow": "flip"}.get(name, "crop")
    for other in (key(index, view=1), key(index, epoch=1)):
        assert not torch.isclose(augmentation.draw(other, 48, 48)[drawn], record[drawn]).all()


def test_what_is_not_applied_is_neutral_and_leaves_the_pixels():
    nothing = custom(operations=[{**one, "probability": 0.0} for one in EVERYTHING])
    pixels = images()
    views, transform = nothing(pixels, key([*range(6)]))
    for name, group in nothing.groups.items():
        assert torch.equal(transform[name], group.neutral(6)), name
    assert torch.equal(views, pixels / 255)
    assert torch.equal(nothing.render(pixels / 255, transform), pixels / 255)


@pytest.mark.parametrize("number", range(len(EVERYTHING)), ids=[one["name"] for one in EVERYTHING])
def test_an_operation_happens_to_the_share_of_views_that_its_probability_says(number):
    augmentation = custom(operations=[{**EVERYTHING[number], "probability": 0.3}])
    transform = augmentation.draw(key([*range(3000)]), 64, 64)
    neutral = {name: group.neutral(3000) for name, group in augmentation.groups.items()}
    changed = torch.stack([(transform[name] != neutral[name]).reshape(3000, -1).any(1) for name in neutral]).any(0)
    assert 0.27 < changed.float().mean() < 0.33


def test_jitter_stays_in_its_ranges_and_reaches_their_ends():
    transform = simclr(jitter=1.0, strength=0.5).draw(key([*range(2000)]), 32, 32)
    for name in ("brightness", "contrast", "saturation"):
        assert 0.6 <= transform[name].min() < 0.61
        assert 1.39 < transform[name].max() <= 1.4
    turns = torch.remainder(transform["hue"] + 0.5, 1) - 0.5
    assert -0.1 <= turns.min() < -0.098
    assert 0.098 < turns.max() <= 0.1
    assert torch.bincount(transform["jitter_order"], minlength=24).min() > 40


@pytest.mark.parametrize(("order", "different"), [("sample", 24), ("epoch", 1), ("fixed", 1)])
def test_the_order_of_the_jitter_is_as_asked(order, different):
    jitter = custom(operations=[{"name": "jitter", "order": order, "probability": 1.0}])
    drawn = [jitter.draw(key([*range(500)], epoch=epoch), 32, 32)["jitter_order"] for epoch in range(8)]
    assert len(drawn[0].unique()) == different
    assert (len({int(one[0]) for one in drawn}) > 1) == (order != "fixed")


def test_the_two_policies_of_byol_are_its_views():
    augmentation = byol()
    first, second, third = (augmentation.draw(key([*range(1000)], view=view), 64, 64) for view in range(3))
    assert (first["blur"] > 0).all()
    assert (first["solarise"] > 1).all()
    for one in (second, third):
        assert 0.07 < (one["blur"] > 0).float().mean() < 0.13
        assert 0.16 < (one["solarise"] < 1).float().mean() < 0.24
    assert first.names == second.names
    assert [*dino().groups] == [*byol().groups]
    assert "solarise" not in moco().groups


def test_views_of_another_size_or_scale_can_be_asked_of_a_policy():
    small = simclr(size=48).policy(0).with_crop(16, (0.05, 0.2))
    transform = simclr().draw(key([*range(500)]), 48, 48, small)
    area = transform["crop"][:, 2] * transform["crop"][:, 3]
    assert area.max() < 0.24
    assert small.render(images(), transform.select(torch.arange(6))).shape == (6, 3, 16, 16)
    with pytest.raises(ValueError, match="does not crop"):
        none().policy(0).with_crop(16, (0.05, 0.2))


def test_a_small_view_passes_over_no_pixel_of_its_source():
    """White and black by turns become grey, whichever way the source is read."""
    stripes = (torch.arange(128) % 2 * 255).to(torch.uint8).expand(2, 3, 128, 128)
    upright = none(size=16)(stripes, key([0, 1]))[0]
    tilted = custom(operations=[{"name": "rotation", "degrees": 3.0}], size=16)(stripes, key([0, 1]))[0]
    for views, tolerance in ((upright, 0.03), (tilted, 0.01)):
        assert (views - 0.5).abs().max() < tolerance


def test_filters_have_the_variance_asked_for():
    point = torch.zeros(3, 1, 33, 33)
    point[:, :, 16, 16] = 1
    place = torch.arange(33.0) - 16
    sigmas = np.array([[1.0, 2.0], [0.0, 1.5], [0.8, 0.0]])
    variances = np.array([[0.1, 0.5], [0.0, 0.3], [0.6, 0.0]])
    for filtered, given, expected in ((gaussian, sigmas, sigmas**2), (smooth, variances, variances)):
        blurred = filtered(point.clone(), given)
        torch.testing.assert_close(blurred.sum((1, 2, 3)), torch.ones(3))
        across, down = (blurred * place**2).sum((1, 2, 3)), (blurred * place[:, None] ** 2).sum((1, 2, 3))
        np.testing.assert_allclose(torch.stack((across, down), 1), expected, rtol=0.04, atol=0.005)


def test_a_local_shift_moves_what_is_in_the_view_and_nothing_is_applied_at_strength_zero():
    field = [{"name": "random_field", "transforms": ["translate", "hue"], "probability": 1.0}]
    augmentation, pixels = none(extra=field), images()
    views, transform = augmentation(pixels, key([*range(6)]))
    assert torch.equal(augmentation.render(pixels, transform), views)
    assert ((views - pixels / 255).abs().mean((1, 2, 3)) > 0.005).all()
    still = none(extra=[{**field[0], "alpha": [0.0, 0.0]}])
    assert torch.equal(still(pixels, key([*range(6)]))[0], pixels / 255)


def test_of_dropped_colours_one_stays_and_the_others_tell_nothing():
    pixels = images(64)
    views, transform = custom(operations=[{"name": "colour_dropping"}])(pixels, key([*range(64)]))
    kept = transform["colour_dropping"] - 1
    assert torch.bincount(kept, minlength=3).min() > 8
    for view, source, channel in zip(views, pixels / 255, kept.tolist(), strict=True):
        assert torch.equal(view[channel], source[channel])
        noise = view[[other for other in range(3) if other != channel]]
        torch.testing.assert_close(noise.mean((1, 2)), torch.full((2,), 0.5), rtol=0, atol=1e-3)
        torch.testing.assert_close(noise.std((1, 2)), (source[channel].std() / 100).expand(2), rtol=0.1, atol=0)
        assert torch.corrcoef(torch.cat((noise, source[channel : channel + 1])).flatten(1)).triu(1).abs().max() < 0.1


def test_a_map_leads_from_the_view_s_corners_to_the_box_in_the_source():
    record = {"crop": np.array([[0.4, 0.6, 0.2, 0.5]]), "flip": np.array([1.0])}
    matrices, upright = maps(record, 1)
    assert upright.all()
    np.testing.assert_allclose(matrices[0] @ [-1, -1, 1], [0.0, -0.3, 1], atol=1e-12)


class Darker(Grey):
    """An operation of another package, in the place of the one it derives from."""

    @staticmethod
    def apply(views, rows, record, style):
        views[rows] /= 2


class Unapplied(Darker):
    neutral = {}


def test_operations_of_other_packages_are_applied_once_and_only_by_policies_that_have_them():
    pixels, key = images(), Key(0, 0, np.arange(6), 0)
    darker = Augmentation((Policy((Darker(probability=1),)),))
    views, record = darker(pixels, key)
    torch.testing.assert_close(views, none()(pixels, key)[0] / 2)
    assert torch.equal(darker.render(pixels, record), views)
    grey = custom(operations=[{"name": "grey", "probability": 1}])
    assert torch.equal(grey.render(pixels, record), grey(pixels, key)[0])
    with pytest.raises(ValueError, match="Unapplied declares no `neutral` values"):
        Policy((Unapplied(probability=1),))


class Recorded(Operation):
    """Derives from no kind of operation that is applied."""

    groups = {"sparkle": Real()}
    neutral = {"sparkle": 0.0}

    def draw(self, key, height, width):
        return {"sparkle": np.ones(len(key))}


class Misspelt(Darker):
    def draw(self, key, height, width):
        return {"gray": np.ones(len(key))}


def test_a_parameter_that_nothing_would_apply_is_refused():
    with pytest.raises(ValueError, match="Recorded records sparkle, which no operation applies; derive it from Geom"):
        Policy((Recorded(probability=1),))
    with pytest.raises(ValueError, match=r"Misspelt\.draw gives gray, which its `groups` do not name"):
        Augmentation((Policy((Misspelt(probability=1),)),)).draw(Key(0, 0, np.arange(6), 0), 8, 8)


REFUSED = [
    ("simclr", {"flip": 1.5}, "flip: must be a probability between 0 and 1"),
    ("moco", {"blur": -1.0}, "blur: must be a probability between 0 and 1"),
    ("byol", {"min_scale": 1.5}, "min_scale: must lie between 0 and 1"),
    ("equimod", {"strength": -1.0}, "strength: must be at least 0"),
    ("custom", {"operations": [{"name": "crop", "scale": [0.5, 0.2]}]}, r"operations\[0\]\.scale: must be a range"),
    ("custom", {"operations": [{"name": "jitter", "hue": 0.7}]}, "hue: must lie between 0 and 0.5, got 0.7"),
    ("custom", {"operations": [{"name": "shear", "degrees": [95, 0]}]}, "at most 89"),
    ("simclr", {"extra": [{"name": "crop"}]}, "two operations draw 'crop'"),
    ("custom", {"operations": [{"name": "rotation"}, {"name": "affine"}]}, "two operations draw 'angle'"),
    ("byol", {"blur": [1.0]}, "a probability for each policy"),
    (
        "none",
        {"extra": [{"name": "random_field", "transforms": []}]},
        "transforms: must name one or more transforms",
    ),
]


@pytest.mark.parametrize(("name", "settings", "message"), REFUSED)
def test_impossible_settings_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        AUGMENTATIONS.find(name).load()(**settings)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([{"name": "rotate"}], "[0].name: no operation is called 'rotate'; did you mean 'rotation'?"),
        ([{"name": "grey"}, {"name": "blur", "sigmas": 3}], "[1].sigmas: no such setting; did you mean 'sigma'?"),
        ([{"name": "rotation", "degrees": "many"}], "[0].degrees: expected a number, got 'many'"),
        ([{"degrees": 3}], "[0].name: required"),
        (["rotation"], ": expected a list of"),
    ],
)
def test_a_recipe_s_operations_are_checked_by_name_and_type(extra, message):
    recipe = {"objective": {"name": "simclr"}, "data": {"name": "rendered"}, "trainer": {"steps": 1}}
    with pytest.raises(RecipeError, match=re.escape(f"augmentation.extra{message}")):
        resolve({**recipe, "augmentation": {"name": "simclr", "extra": extra}})
    assert resolve({**recipe, "augmentation": {"name": "simclr", "extra": [{"name": "blur"}]}})
    assert resolve({**recipe, "augmentation": {"name": "none"}})
