"""Corruptions follow their definitions and their keys, and take from an encoder what it depends on."""

import colorsys

import numpy as np
import pytest
import torch
from imaged import encoded_by
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ssl_inv.evaluation.protocols.corruptions import Corruptions
from ssl_inv.evaluation.protocols.image_corruptions import (
    BENCHMARK,
    CORRUPTIONS,
    corrupted,
    gaussian_rows,
    plasma,
)
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.evaluation.protocols.logistic import LogisticRegression
from ssl_inv.evaluation.results import Bootstrap
from ssl_inv.transforms.keyed_random import bits

KEYS = bits(0, np.arange(6), count=1)[:, 0]
COLOURS = (torch.zeros(3), torch.ones(3))


def photographs(count: int = 6, side: int = 48) -> Tensor:
    """Smooth random colours in the middle of [0, 1]."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return 0.1 + 0.8 * torch.nn.functional.interpolate(noise, (side, side), mode="bilinear")


DRAWN = ("glass_blur", "frost", "snow")


def changed(images: Tensor, found: Tensor) -> float:
    return float((found - images).abs().mean())


def lost(images: Tensor, found: Tensor) -> float:
    """The share of the variance of an image that the corrupted one does not tell: frost darkens and brightens."""
    both = [one.flatten(1) - one.flatten(1).mean(dim=1, keepdim=True) for one in (images, found)]
    return 1 - float(torch.nn.functional.cosine_similarity(*both).square().mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
class TestEveryCorruption:
    def test_gives_colours_that_depend_on_the_image_and_its_key_alone(self, name):
        images = photographs()
        found = corrupted(images, name, 3, KEYS)
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        alone = corrupted(images[2:4], name, 3, KEYS[2:4])
        torch.testing.assert_close(found[2:4], alone, atol=1e-6, rtol=0)

    def test_the_highest_severity_changes_more_than_the_lowest(self, name):
        images = photographs(side=64)
        # The first two severities of elastic are of another kind: they move the image as a whole.
        severities = (3, 5) if name == "elastic_transform" else (1, 5)
        measure = lost if name in DRAWN else changed
        light, heavy = (measure(images, corrupted(images, name, one, KEYS)) for one in severities)
        assert heavy > 1.1 * light > 0

    @pytest.mark.parametrize("sides", [(9, 16), (2, 2)])
    def test_takes_images_of_any_shape(self, name, sides):
        assert corrupted(torch.rand(1, 3, *sides), name, 5, KEYS[:1]).isfinite().all()


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_by_noise_changes_more_at_every_severity(name):
    noise = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    side = 96 if name == "glass_blur" else 128
    images = torch.nn.functional.interpolate(noise, (side, side), mode="bilinear")
    changes = [lost(images, corrupted(images, name, one, KEYS[:2])) for one in range(1, 6)]
    assert changes == sorted(changes), changes
    other = corrupted(images, name, 3, KEYS[2:4])
    assert changed(other, corrupted(images, name, 3, KEYS[:2])) > 1e-3


def test_glass_exchanges_pixels_of_a_neighbourhood():
    """Without blur, the colours of a severity are those of the image at other places nearby."""
    place = torch.stack(torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij"))
    image = torch.cat((place, torch.zeros(1, 224, 224)))[None] / 224
    moved = 224 * (CORRUPTIONS["glass_blur"](image, 0, KEYS[:1]) - image)[0, :2, 8:-8, 8:-8]
    # Many exchanges in turn can carry a pixel further than one reach.
    assert 0.3 < float(moved.abs().mean()) < 3
    assert abs(float(moved.mean())) < 0.2


def test_frost_and_snow_whiten():
    dark = torch.full((6, 3, 64, 64), 0.2)
    for name in ("frost", "snow"):
        found = corrupted(dark, name, 5, KEYS)
        assert found.mean() > 0.35
        assert found.std() > 0.05
    blue, red = (corrupted(dark, "frost", 3, KEYS)[:, channel].mean() for channel in (2, 0))
    assert blue > red


def test_noise_has_the_published_size():
    grey = torch.full((6, 3, 64, 64), 0.5)
    assert (corrupted(grey, "gaussian_noise", 1, KEYS) - grey).std() == pytest.approx(0.08, rel=0.02)
    assert (corrupted(grey, "speckle_noise", 1, KEYS) - grey).std() == pytest.approx(0.075, rel=0.02)
    shot = CORRUPTIONS["shot_noise"](grey, 3, KEYS)
    assert shot.mean() == pytest.approx(128 / 255, rel=0.01)
    assert shot.var() == pytest.approx(128 / 255 / 5, rel=0.03)
    assert not CORRUPTIONS["shot_noise"](0 * grey, 0, KEYS).any()
    salted = corrupted(grey, "impulse_noise", 5, KEYS)
    for extreme in (0, 1):
        assert (salted == extreme).double().mean() == pytest.approx(0.135, rel=0.05)


def test_colours_change_as_defined():
    images = photographs(1, 4)
    brighter, richer = (corrupted(images, name, 2, KEYS[:1])[0] for name in ("brightness", "saturate"))
    for place in np.ndindex(4, 4):
        hue, saturation, value = colorsys.rgb_to_hsv(*images[0][:, *place].tolist())
        wanted = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        assert brighter[:, *place].tolist() == pytest.approx(wanted, abs=1e-5)
        assert richer[:, *place].tolist() == pytest.approx(colorsys.hsv_to_rgb(hue, 0.1 * saturation, value), abs=1e-5)
    flat = corrupted(images, "contrast", 1, KEYS[:1])
    torch.testing.assert_close(flat.mean(dim=(2, 3)), images.mean(dim=(2, 3)))
    torch.testing.assert_close(flat.std(dim=(2, 3)), 0.4 * images.std(dim=(2, 3)))


@pytest.mark.parametrize("sigma", [0.2, 1.3, 9.0])
def test_the_filter_of_shifts_is_that_of_scipy(sigma):
    signal = np.random.RandomState(0).randn(12, 3)
    wanted = gaussian_filter(signal, sigma, mode="reflect", truncate=3, axes=0)
    assert gaussian_rows(12, sigma).numpy() @ signal == pytest.approx(wanted, abs=0.02 if sigma < 1 else 1e-3)
    assert gaussian_rows(12, sigma).sum(dim=1).tolist() == pytest.approx([1] * 12)


def test_lengths_follow_the_side_of_the_image():
    small, large = photographs(2, 56), photographs(2, 112)
    for name in ("gaussian_blur", "defocus_blur", "zoom_blur", "elastic_transform"):
        lost = [(corrupted(one, name, 5, KEYS[:2]) - one).abs().mean() for one in (small, large)]
        assert lost[0] == pytest.approx(float(lost[1]), rel=0.4), name


def test_clouds_are_rougher_where_they_fade_slowly():
    rough, smooth = plasma(KEYS, 64, 1.4), plasma(KEYS, 64, 2.0)
    assert rough.diff(dim=1).abs().mean() > 1.3 * smooth.diff(dim=1).abs().mean()
    assert rough.amin() == smooth.amin() == 0
    # On a torus there is no seam.
    assert (smooth[:, 0] - smooth[:, -1]).abs().mean() < 3 * smooth.diff(dim=1).abs().mean()


@pytest.mark.parametrize("head", [NearestNeighbours(k=3), LogisticRegression(strengths=(1.0, 100.0))])
def test_an_encoder_loses_under_a_corruption_what_it_depends_on(head):
    """Classes of brightness: their mean survives what keeps the mean, and brightness is what confuses it."""
    bases = torch.tensor([0.3, 0.5, 0.7]).repeat_interleave(2).repeat(8).view(-1, 1, 1, 1)
    images = bases + 0.05 * torch.rand(48, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    names = ("defocus_blur", "pixelate", "brightness")
    protocol = Corruptions(corruptions=names, severities=(3, 5), head=head, bootstrap=Bootstrap(10))

    def encode(pixels: Tensor) -> dict[str, Tensor]:
        mean = pixels.mean(dim=(1, 2, 3))
        return {"all": torch.stack((mean, 1 - mean), dim=1)}

    found = {row.name: row for row in protocol.run(encoded_by(encode, None, images, colours=COLOURS))}
    assert found["corruptions/clean"].value == found["corruptions/defocus_blur/error"].value == 0
    assert found["corruptions/pixelate/error"].value == 0
    assert found["corruptions/brightness/error"].value > 0.5
    assert found["corruptions/error"].value == pytest.approx(found["corruptions/brightness/error"].value / 3)
    assert found["corruptions/relative"].value == found["corruptions/error"].value
    assert "a constant prediction has 0.667" in found["corruptions/clean"].detail


def test_a_baseline_divides_the_errors_of_each_corruption():
    images = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    baseline = (("clean", 0.1), ("contrast", 0.2), ("brightness", 0.5))
    protocol = Corruptions(corruptions=("contrast", "brightness"), baseline=baseline, bootstrap=Bootstrap(5))
    encoded = encoded_by(lambda one: {"all": one.flatten(1)[:, ::40]}, None, images, colours=COLOURS)
    found = {row.name.removeprefix("corruptions/"): row.value for row in protocol.run(encoded)}
    of_each = [100 * found[f"{name}/error"] / level for name, level in baseline[1:]]
    assert found["mce"] == pytest.approx(sum(of_each) / 2)
    lost = [(found[f"{name}/error"] - found["clean"]) / (level - 0.1) for name, level in baseline[1:]]
    assert found["relative_mce"] == pytest.approx(50 * sum(lost))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"corruptions": ()}, "needs a corruption"),
        ({"corruptions": ("fogg",)}, "no corruption is called 'fogg'; there are gaussian_noise"),
        ({"severities": (0, 1)}, "severities from 1 to 5"),
        ({"baseline": (("clean", 0.1),)}, "the baseline has no error of gaussian_noise"),
    ],
)
def test_wrong_settings_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Corruptions(**wrong)


def test_the_benchmark_has_all_of_its_corruptions():
    assert len(BENCHMARK) == 15
