"""A map that moves with the image has no error, one that stays has all of it, and aliasing is told from the rest."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from imaged import encoded_by
from torch import Tensor

from ssl_inv.evaluation.protocols import map_decibels
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.protocols.chosen_images import some_images
from ssl_inv.evaluation.protocols.lie_derivative import LieDerivative, difference_step, lie_derivative
from ssl_inv.evaluation.protocols.motions import colour_generator, disk, generator, overlap, rotated, shifted
from ssl_inv.evaluation.results import Bootstrap

SIZE = 32
PROTOCOL = LieDerivative(draws=2, bootstrap=Bootstrap(10))


def smooth(count: int, sharpness: float = 6.0) -> Tensor:
    """Random images of low frequencies that fade towards their border."""
    noise = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axis = torch.fft.fftfreq(SIZE, dtype=torch.float64) * SIZE
    low = torch.exp(-(axis[:, None].square() + axis.square()) / (2 * sharpness**2 / 4))
    place = torch.linspace(-1, 1, SIZE, dtype=torch.float64)
    window = torch.exp(-4 * (place[:, None].square() + place.square()))
    found = torch.fft.ifft2(torch.fft.fft2(noise) * low).real * window
    return (found / found.std()).float()


def measured(maps: Callable, pixels: Tensor, **fields: object) -> dict[str, object]:
    encoded = encoded_by(lambda one: {"all": maps(one).mean(dim=(2, 3))}, maps, pixels, **fields)
    return {row.name: row for row in PROTOCOL.run(encoded)}


def low_passed(pixels: Tensor, stride: int) -> Tensor:
    """Next to nothing is left above the frequencies of the map, by a filter without long tails."""
    whole = torch.cat((pixels, pixels.flip(-1)), -1)
    whole = torch.cat((whole, whole.flip(-2)), -2)
    axis = torch.fft.fftfreq(2 * SIZE) * stride
    kept = torch.exp(-(axis[:, None].square() + axis.square()) / (2 * 0.15**2))
    return torch.fft.ifft2(torch.fft.fft2(whole) * kept).real[..., :SIZE, :SIZE]


def sampled(pixels: Tensor, stride: int = 4) -> Tensor:
    # The mean of the cell's place: half a stride from its border, as cells of networks stand.
    return shifted(pixels, 0.5, 0.5)[..., stride // 2 :: stride, stride // 2 :: stride]


def test_a_map_that_is_the_image_moves_with_it():
    found = measured(lambda one: one, smooth(6))
    for motion in ("translation_x", "translation_y", "rotation", "scale"):
        assert found[f"lee/map/{motion}"].value < 1e-3
        assert found[f"lee/map/{motion}"].spread is not None
    assert found["eq_t"].value > 40
    assert found["eq_t_whole"].value > 60
    assert "the unmoved map scores" in found["eq_t_whole"].detail
    assert found["eq_r"].value > 25
    assert found["eq_r90"].value > 60
    assert found["aliasing"].value is None


def test_a_map_that_stays_is_as_wrong_as_it_can_be():
    found = measured(
        lambda one: one.mean(dim=(2, 3), keepdim=True) + torch.linspace(-1, 1, 8).expand(1, 1, 8, 8), smooth(6)
    )
    assert found["lee/map/translation_x"].value == pytest.approx(1, abs=0.05)
    assert found["lee/vector/translation_x"].value < 1e-3
    assert found["eq_r90"].value < 10
    assert found["eq_t_whole"].value < 30, "also where an eighth of the map is one cell"


def test_sampling_without_a_filter_is_aliasing_and_sampling_of_a_band_is_not():
    noise = torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    gain = torch.linspace(1, 2, SIZE // 4)
    rough, fine = measured(sampled, noise), measured(lambda one: sampled(low_passed(one, 4)), smooth(8, 10.0))
    placed = measured(lambda one: gain * sampled(low_passed(one, 4)), smooth(8, 10.0))
    assert rough["aliasing/map"].value > 0.95
    assert placed["aliasing/map"].value < 0.3
    assert fine["eq_t"].value > rough["eq_t"].value + 15
    assert rough["eq_t_whole"].value > rough["eq_t"].value + 20


def test_colours_are_felt_by_what_sees_them_and_not_by_what_sees_light_alone():
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    pixels, colours = (
        torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)),
        (torch.zeros(3), torch.ones(3)),
    )
    grey = measured(lambda one: (one * luma).sum(dim=1, keepdim=True), pixels, colours=colours)
    seen = measured(lambda one: one, pixels, colours=colours)
    assert grey["lee/vector/saturation"].value < 1e-6 < 0.1 < seen["lee/vector/saturation"].value
    assert seen["lee/vector/hue"].value > 0.1
    assert "not known" in measured(lambda one: one, pixels)["lee/vector/hue"].detail


def test_without_maps_vectors_are_measured_and_the_rest_has_a_reason():
    encoded = encoded_by(lambda one: {"all": one.flatten(1)}, None, smooth(4))
    found = {row.name: row for row in PROTOCOL.run(encoded)}
    assert found["lee/vector/rotation"].value > 0
    assert found["eq_t"].detail == found["lee/map"].detail == "the encoder gives no feature maps"


@pytest.mark.parametrize(("cells", "lacking"), [(1, ("eq_t", "eq_t_whole", "eq_r", "eq_r90")), (2, ("eq_r",))])
def test_a_map_that_is_too_small_to_move_has_a_reason_in_place_of_a_number(cells, lacking):
    found = measured(lambda one: torch.nn.functional.avg_pool2d(one, SIZE // cells), smooth(6))
    assert {name for name in found if name.startswith("eq_") and found[name].value is None} == set(lacking)
    for motion in ("translation_x", "translation_y", "rotation", "scale"):
        assert "fewer than 4 cells" in found[f"lee/map/{motion}"].detail
        assert found[f"lee/map/{motion}"].value is None
        assert math.isfinite(found[f"lee/vector/{motion}"].value)
    assert all(math.isfinite(row.value) if row.value is not None else row.detail for row in found.values())


def test_the_smallest_maps_that_are_measured_can_follow_a_shift():
    """The bound on the size of maps is where a map of nothing that cells could not hold has a number below 1."""
    for cells, most in ((4, 0.3), (8, 0.03)):
        found = measured(lambda one, by=SIZE // cells: sampled(low_passed(one, by), by), smooth(8, 10.0))
        assert found["lee/map/translation_x"].value < most


def test_every_layer_has_the_number_of_its_own_map():
    pixels = smooth(40)
    layers = {
        "layer 00": lambda one: one,
        "layer 01 patches": lambda one: one.mean(dim=(2, 3), keepdim=True) + torch.linspace(-1, 1, 8).expand(8, 8),
    }
    encoded = encoded_by(lambda one: {"all": one.mean(dim=(2, 3))}, layers["layer 00"], pixels, layer_maps=layers)
    alone = encoded_by(lambda one: {"all": one.mean(dim=(2, 3))}, layers["layer 00"], pixels)
    found, whole = ({(row.name, row.part): row.value for row in PROTOCOL.run(one)} for one in (encoded, alone))
    for motion in ("translation_x", "rotation", "scale"):
        name = f"lee/map/{motion}"
        assert found[name, "layer 00"] == whole[name, "all"] < 1e-3
        assert found[name, "layer 01 patches"] == pytest.approx(1, abs=0.05)
        assert (name, "all") not in found
    for name in ("eq_t", "eq_t_whole", "eq_r", "eq_r90"):
        assert found[name, "layer 00"] == whole[name, "all"] > 20
        assert found[name, "layer 01 patches"] < 15
        assert (name, "all") not in found


def test_large_maps_in_pieces_have_the_numbers_of_the_whole(monkeypatch):
    pixels = smooth(7)
    whole = measured(lambda one: one[..., ::2, ::2], pixels)
    monkeypatch.setattr(map_decibels, "_FLOATS", 3 * 3 * 16 * 16)
    pieces = measured(lambda one: one[..., ::2, ::2], pixels)
    for name in map_decibels.NAMES:
        assert pieces[name].value == pytest.approx(whole[name].value, rel=1e-9)
        assert pieces[name].spread == pytest.approx(whole[name].spread, rel=1e-6)


@pytest.mark.parametrize("motion", ["translation_x", "rotation", "scale"])
def test_differences_agree_with_forward_differentiation(motion):
    torch_net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.GELU(), torch.nn.Conv2d(4, 2, 3, stride=2, padding=1)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for one in torch_net.parameters():
            torch.nn.init.normal_(one, std=0.3)
    pixels = smooth(2)
    velocity = generator(pixels, motion)
    step = difference_step(pixels, velocity, 0.01).view(-1, 1, 1, 1)
    with torch.no_grad():
        moved = (torch_net(pixels + step * velocity) - torch_net(pixels - step * velocity)) / (2 * step)
        wanted = generator(torch_net(pixels), motion, 2.0)
        exact = lie_derivative(torch_net, pixels, motion)
    torch.testing.assert_close(moved - wanted, exact, atol=2e-3 * float(exact.abs().max()), rtol=0)


def test_motions_are_those_of_the_moved_image():
    pixels, t = smooth(3).double(), 1e-4
    torch.testing.assert_close(shifted(pixels, 3, -2)[..., :-2, 3:], pixels[..., 2:, :-3])
    place = torch.arange(SIZE, dtype=torch.float64) + 0.5
    wave, moved = ((5 * math.pi * (place - by) / SIZE).cos().expand(1, 1, 2, SIZE) for by in (0, 0.3))
    torch.testing.assert_close(shifted(wave, 0.3, 0.8), moved)
    slope = (shifted(pixels, t, 0) - shifted(pixels, -t, 0)) / (2 * t)
    torch.testing.assert_close(slope, -generator(pixels, "translation_x"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        rotated(pixels, torch.full((3,), math.pi / 2)), pixels.rot90(1, (-1, -2)), atol=1e-6, rtol=0
    )
    assert disk(9, 9)[0, 0].equal(disk(9, 9)[0, 0].T)
    assert disk(9, 9).sum() == 49
    assert (
        overlap((4, 3), torch.tensor([1.0]), torch.tensor([-2.0]))[0, 0].tolist() == [[0, 1, 1]] * 2 + [[0, 0, 0]] * 2
    )
    grey = torch.full((1, 3, 2, 2), 0.3)
    for motion in ("hue", "saturation"):
        assert colour_generator(grey - 0.1, motion, torch.full((3,), 0.1), torch.ones(3)).abs().max() < 1e-6


def test_images_are_chosen_from_all_objects_first_and_come_in_order():
    pixels = torch.arange(12.0).view(12, 1, 1, 1).expand(12, 3, 2, 2)
    encoded = encoded_by(lambda one: {"all": one[:, :, 0, 0]}, None, pixels, views=3)
    found, objects, rows = some_images(encoded, "validation", 6)
    assert objects.unique().tolist() == [0, 1, 2, 3]
    assert found[:, 0, 0, 0].tolist() == rows.tolist() == sorted(rows.tolist())
    lost = partial(lambda images, split: (one for one in images(split) if 0 not in one.objects), encoded.images)
    with pytest.raises(ValueError, match="its image is missing"):
        some_images(Encoded(encoded.train, encoded.validation, images=lost), "validation", 12)
