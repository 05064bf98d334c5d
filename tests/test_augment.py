"""Augmentations are torchvision's, a view depends on its key alone, and what was not applied has its neutral value."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor

from ssl_inv.augment import geometric, photometric
from ssl_inv.augment.pipeline import Key, SimCLRAugmentation
from ssl_inv.augment.view_maker import ViewMaker
from ssl_inv.data.base import Images, Subset
from ssl_inv.data.loading import Batch
from ssl_inv.data.rendered import RenderedSolids
from ssl_inv.transforms import Transform
from ssl_inv.views import Pair


def noise(batch: int = 6, size: int = 32) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def smooth(batch: int = 6, size: int = 48) -> Tensor:
    return torch.nn.functional.interpolate(noise(batch, 5), (size, size), mode="bicubic", align_corners=True).clamp(0, 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (photometric.brightness, F.adjust_brightness, (0.0, 0.4, 1.0, 1.7)),
        (photometric.contrast, F.adjust_contrast, (0.0, 0.4, 1.0, 1.7)),
        (photometric.saturation, F.adjust_saturation, (0.0, 0.4, 1.0, 1.7)),
        (photometric.hue, F.adjust_hue, (-0.5, -0.13, 0.0, 0.31, 0.5)),
        (photometric.blur, lambda image, sigma: F.gaussian_blur(image, [3, 3], [sigma, sigma]), (0.1, 0.9, 2.0)),
    ],
)
def test_colours_change_as_in_torchvision(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[[Tensor, float], Tensor], factors: tuple[float, ...]
) -> None:
    pixels = noise(len(factors), 24)
    found = ours(pixels, torch.tensor(factors))
    expected = torch.stack([theirs(one, factor) for one, factor in zip(pixels, factors, strict=True)])
    assert (found - expected).abs().max() < 2 / 255


def test_grey_is_torchvisions() -> None:
    assert (photometric.grey(noise()) - F.rgb_to_grayscale(noise())).abs().max() < 1e-6


def test_jitter_applies_each_sample_s_factors_in_its_own_order() -> None:
    pixels = noise(2)
    factors = torch.tensor([[0.5, 1.4, 0.7, 0.2], [1.3, 0.6, 1.5, -0.1]])
    order = torch.tensor([[3, 0, 2, 1], [1, 2, 0, 3]])
    changes = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    before = pixels.clone()
    found = photometric.jitter(pixels, factors, order)
    for row in range(2):
        expected = pixels[row]
        for number in order[row].tolist():
            expected = changes[number](expected, float(factors[row, number]))
        assert (found[row] - expected).abs().max() < 2 / 255
    assert torch.equal(pixels, before), "the images themselves stay"


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 48, 48), (5, 12, 20, 28), (30, 2, 16, 16)], ids=str)
def test_crops_and_flips_are_torchvisions(box: tuple[int, int, int, int], flip: bool) -> None:
    top, left, height, width = box
    pixels, size = smooth(1), 48
    place = torch.tensor([[(left + width / 2) / 48, (top + height / 2) / 48, width / 48, height / 48]])
    found = geometric.resample(pixels, place, torch.tensor([float(flip)]), size)
    expected = F.resized_crop(pixels, top, left, height, width, [size, size], antialias=True)
    expected = F.horizontal_flip(expected) if flip else expected
    assert -10 * (found - expected).square().mean().log10() > 40


def test_strong_shrinking_reads_every_pixel() -> None:
    pixels = noise(2, 128)
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]]).repeat(2, 1)
    shrunk = geometric.resample(pixels, whole, torch.zeros(2), 16)
    assert (shrunk - F.resize(pixels, [16, 16], antialias=True)).abs().mean() < 0.03
    mixed = geometric.resample(pixels, torch.stack((whole[0], torch.tensor([0.5, 0.5, 0.1, 0.1]))), torch.zeros(2), 16)
    assert torch.equal(mixed[0], shrunk[0])
    assert mixed[1].std() > 2 * shrunk[1].std(), "a crop that is enlarged is not averaged"


def test_crops_have_the_areas_and_ratios_asked_for() -> None:
    random = np.random.default_rng(0).random((4000, 40))
    boxes = geometric.draw_crops(random, (0.2, 0.6), (3 / 4, 4 / 3))
    x, y, width, height = boxes.T
    assert (x - width / 2).min() >= -1e-12
    assert (x + width / 2).max() <= 1 + 1e-12
    assert (y - height / 2).min() >= -1e-12
    assert (y + height / 2).max() <= 1 + 1e-12
    area, ratio = width * height, width / height
    assert 0.2 <= area.min() < 0.21
    assert 0.59 < area.max() <= 0.6
    assert abs(area.mean() - 0.4) < 0.01
    assert 0.75 - 1e-9 <= ratio.min() < 0.77
    assert abs(np.log(ratio).mean()) < 0.01


def key(index: list[int], view: int = 0, epoch: int = 0) -> Key:
    return Key(3, np.full(len(index), epoch), np.array(index), view)


def test_a_view_depends_on_its_key_and_not_on_its_batch() -> None:
    augmentation, pixels = SimCLRAugmentation(), smooth()
    views, transform = augmentation(pixels, key([4, 8, 15, 16, 23, 42]))
    for rows in ([3], [5, 0], [2, 1, 4]):
        some, partial = augmentation(pixels[rows], key([[4, 8, 15, 16, 23, 42][row] for row in rows]))
        torch.testing.assert_close(some, views[rows], rtol=0, atol=1e-6)
        assert torch.equal(partial.as_vector(), transform.as_vector()[rows])
    for other in (key([4, 8, 15, 16, 23, 42], view=1), key([4, 8, 15, 16, 23, 42], epoch=1)):
        assert not torch.isclose(augmentation(pixels, other)[1]["crop"], transform["crop"]).all(dim=1).any()


def test_what_is_not_applied_is_recorded_as_neutral_and_leaves_the_pixels() -> None:
    nothing = SimCLRAugmentation(min_scale=1.0, flip=0.0, jitter=0.0, grey=0.0, blur=0.0)
    pixels = smooth()
    views, transform = nothing(pixels, key([*range(6)]))
    for name, group in nothing.groups.items():
        assert torch.equal(transform[name], group.neutral(6)), name
    assert (views - pixels).abs().max() < 1e-6


def test_the_record_tells_how_to_make_the_view_again() -> None:
    augmentation, pixels = SimCLRAugmentation(jitter=0.0, blur=0.0), smooth(64)
    views, transform = augmentation(pixels, key([*range(64)]))
    again = geometric.resample(pixels, transform["crop"], transform["flip"], 48)
    again = torch.where(transform["grey"].view(-1, 1, 1, 1) > 0, photometric.grey(again), again)
    torch.testing.assert_close(views, again)
    assert 20 <= transform["flip"].sum() <= 44
    assert 4 <= transform["grey"].sum() <= 26


def test_jitter_stays_in_its_ranges_and_reaches_their_ends() -> None:
    _, transform = SimCLRAugmentation(jitter=1.0, strength=0.5)(smooth(1, 8).expand(2000, -1, -1, -1), key([*range(2000)]))
    for name in ("brightness", "contrast", "saturation"):
        assert 0.6 <= transform[name].min() < 0.61
        assert 1.39 < transform[name].max() <= 1.4
    turns = torch.remainder(transform["hue"] + 0.5, 1) - 0.5
    assert -0.1 <= turns.min() < -0.098
    assert 0.098 < turns.max() <= 0.1


@pytest.mark.parametrize("settings", [{"flip": 1.5}, {"min_scale": 0.0}, {"grey": -0.1}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        SimCLRAugmentation(**settings)  # type: ignore[arg-type]


def test_views_of_the_data_and_of_the_augmentation_are_told_in_one_transform() -> None:
    source = RenderedSolids(classes=2, objects=4, views=3, size=16)
    maker = ViewMaker(Pair(), source, SimCLRAugmentation(), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), seed=0)
    assert maker.loaded_views == 2
    objects = np.arange(4)
    loaded = tuple(source.load(objects, objects * 0 + view) for view in range(2))
    views = maker(Batch(loaded, torch.arange(4), 0, ()))
    assert set(views[0].transform.names) == set(maker.groups) == {*source.groups, *SimCLRAugmentation().groups}
    assert not torch.equal(views[0].transform["crop"], views[1].transform["crop"])


def test_one_view_is_not_passed_off_as_two() -> None:
    from ssl_inv.augment.pipeline import NoAugmentation

    source = RenderedSolids(classes=2, objects=4, views=1, size=16)
    with pytest.raises(ValueError, match=r"1 view\(s\) and 2 are needed; choose an augmentation"):
        ViewMaker(Pair(), source, NoAugmentation(), (0.0,) * 3, (1.0,) * 3, seed=0)
    maker = ViewMaker(Pair(), Subset(source, np.arange(4)), SimCLRAugmentation(), (0.0,) * 3, (1.0,) * 3, seed=0)
    images = Images(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), Transform.empty(), torch.ones(4, dtype=torch.bool))
    views = maker(Batch((images,), torch.arange(4), 0, ()))
    assert len(views) == 2
