"""Each encoder is sensitive to what it sees and to nothing else; each transform does what its name says, by its key."""

import numpy as np
import pytest
import torch
from imaged import encoded_by
from torch import Tensor

from ssl_inv.evaluation.protocols.sensitivity import CHANGES, Sensitivity, sensitivity
from ssl_inv.evaluation.results import Bootstrap

COLOURS = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
PROTOCOL = Sensitivity(images=24, bootstrap=Bootstrap(10))


def images(count: int = 24, size: int = 32) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").clamp(0, 1)


def normalised(pixels: Tensor) -> Tensor:
    mean, deviation = (one.view(3, 1, 1) for one in COLOURS)
    return (pixels - mean) / deviation


def grey_levels(pixels: Tensor) -> Tensor:
    """The mean light of every image and how much it varies, from normalised pixels."""
    mean, deviation = (one.view(3, 1, 1) for one in COLOURS)
    light = ((pixels * deviation + mean) * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1).flatten(1)
    return torch.stack((light.mean(dim=1), light.std(dim=1)), dim=1)


ENCODERS = {
    "everything": lambda pixels: pixels.flatten(1),
    "light": grey_levels,
    "symmetric": lambda pixels: (pixels + pixels.flip(-1)).flatten(1),
}


def test_encoders_are_sensitive_to_what_they_see():
    found = {}
    for name, encode in ENCODERS.items():
        given = encoded_by(lambda one, encode=encode: {"all": encode(one)}, None, normalised(images()), colours=COLOURS)
        found[name] = {row.name.removeprefix("sensitivity/"): row.value for row in PROTOCOL.run(given)}
    assert set(found["everything"]) == set(CHANGES)
    assert len(CHANGES) == 18
    assert min(found["everything"].values()) > 0.02
    for unseen in ("horizontal_flip", "vertical_flip", "grayscale"):
        assert found["light"][unseen] < 1e-3 < 0.2 < found["everything"][unseen]
    assert found["symmetric"]["horizontal_flip"] < 1e-5 < 0.2 < found["symmetric"]["vertical_flip"]
    assert found["light"]["brightness"] > found["light"]["blur"]


def test_without_the_normalisation_of_colours_it_says_so():
    (row,) = PROTOCOL.run(encoded_by(lambda one: {"all": one.flatten(1)}, None, images(4)))
    assert row.detail == "it is not known how colours were normalised"


def test_features_that_move_as_far_as_images_lie_apart_have_sensitivity_one():
    rows = torch.randn(400, 16, generator=torch.Generator().manual_seed(1))
    assert sensitivity(rows, rows) == 0
    assert sensitivity(rows, rows.roll(1, 0)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("size", [32, 48])
def test_a_change_is_one_of_its_numbers_alone_and_keeps_the_form(name, size):
    image, numbers = images(1, size)[0], np.array([0.9, 0.2, 0.4, 0.3])
    once, again = (CHANGES[name](image.clone(), numbers) for _ in range(2))
    assert once.shape == image.shape
    assert once.isfinite().all()
    torch.testing.assert_close(once, again, atol=0, rtol=0)
    assert (once - image).abs().max() > 0.01
    if name in ("horizontal_flip", "invert", "noise", "erase", "elastic"):
        assert CHANGES[name](image, np.array([0.9, 0.2, 0.4, 0.6])) is image


def test_the_elastic_field_bends_images_by_a_few_pixels_whatever_their_size():
    moves = []
    for size in (32, 64):
        ramp = torch.linspace(0, 1, size).expand(3, size, size).contiguous()
        bent = CHANGES["elastic"](ramp, np.array([0.7, 0.2, 0.4, 0.3]))
        moves.append(float((bent - ramp)[:, size // 4 : -size // 4, size // 4 : -size // 4].abs().mean()))
    assert moves[0] == pytest.approx(moves[1], rel=0.8)
    assert 0.002 < moves[0] < 0.2
