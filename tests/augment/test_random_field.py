"""Random fields have the statistics that they claim, and warps and colours are the formulas of the paper at every
pixel.
"""

import colorsys
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor

from ssl_inv.augment import fields as field_module
from ssl_inv.augment.fields import coefficients, field_count, local_colour, synthesise, warp


def fields(seed: Tensor, gamma: float | Tensor, count: int = 2, size: int = 64, periodic: bool = False) -> Tensor:
    gamma = torch.as_tensor(gamma, dtype=torch.float32).expand(len(seed))
    return synthesise(coefficients(seed, gamma, count, size, periodic=periodic), size, periodic=periodic)


def grid(batch: int, size: int) -> Tensor:
    return F.affine_grid(torch.eye(2, 3).expand(batch, 2, 3), [batch, 3, size, size], align_corners=False)


def spectral_slope(planes: Tensor, largest: float) -> float:
    """Slope of log power over log |k|, for the wave vectors up to `largest`."""
    size = planes.shape[-1]
    power = torch.fft.fft2(planes.double()).abs().square().flatten(0, -3).mean(0)
    wave = torch.fft.fftfreq(size, 1 / size)
    length = torch.hypot(wave[:, None], wave)
    chosen = (length > 0) & (length <= largest)
    return float(np.polyfit(length[chosen].log().numpy(), power[chosen].log().numpy(), 1)[0])


def folded_share(planes: Tensor, alpha: float) -> float:
    """Share of pixels, in percent, at which a periodic shift by `planes` turns the image inside out."""
    moved = alpha * planes * planes.shape[-1] / 4
    along_x, along_y = (moved.roll(-1, axis) - moved.roll(1, axis) for axis in (-1, -2))
    jacobian = (1 + along_x[:, 0]) * (1 + along_y[:, 1]) - along_y[:, 0] * along_x[:, 1]
    return 100 * float((jacobian <= 0).float().mean())


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1])


def full_field(noise: Tensor, gamma: float) -> Tensor:
    """The reference for `synthesise`, `(..., H, W)`: white noise with every mode, filtered by |k|^(-gamma/2)."""
    height, width = noise.shape[-2:]
    rows = torch.fft.fftfreq(height, 1 / height, dtype=noise.dtype)
    columns = torch.fft.rfftfreq(width, 1 / width, dtype=noise.dtype)
    squared = rows[:, None] ** 2 + columns**2
    squared[0, 0] = math.inf
    field = torch.fft.irfft2(torch.fft.rfft2(noise) * squared ** (-gamma / 4), s=(height, width))
    return field / field.abs().amax((-2, -1), keepdim=True)


def test_full_field_golden(golden):
    values = golden("random_field")["gaussian_random_field_own_spec"]["values"]
    field = full_field(torch.from_numpy(RandomState(16).randn(64, 48)), gamma=8.0)
    assert field.flatten()[:3].tolist() == pytest.approx(values["H64_W48_gamma8_seed16_first3"], rel=1e-12)
    assert float(field.square().sum()) == pytest.approx(values["H64_W48_gamma8_seed16_sum_of_squares"], rel=1e-12)
    assert int(field.abs().argmax()) == values["H64_W48_argmax_abs"]


@pytest.mark.parametrize("gamma", [3.0, 7.0, 10.0])
def test_every_mode_together_is_the_full_field(gamma):
    # On an odd torus the modes are an orthonormal basis, in which white noise is as white as it was.
    size, noise = 33, torch.from_numpy(RandomState(3).randn(33, 33))
    wave = torch.arange(1, 17).repeat_interleave(2)
    phase = wave[:, None] * math.pi * ((2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1)
    phase[1::2] -= math.pi / 2
    basis = torch.cat((torch.ones(1, size, dtype=torch.float64), math.sqrt(2) * phase.cos()))
    length = torch.hypot(*torch.meshgrid(F.pad(wave, (1, 0)).double(), F.pad(wave, (1, 0)).double(), indexing="ij"))
    length[0, 0] = math.inf
    amplitudes = (basis @ noise @ basis.T) * length ** (-gamma / 2)
    field = synthesise(amplitudes.float().view(1, 1, size, size), size, periodic=True)
    torch.testing.assert_close(field[0, 0], full_field(noise, gamma).float(), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("gamma", "largest"), [(3.0, 16), (7.0, 6), (10.0, 3)])
def test_spectrum_falls_as_a_power_law(gamma, largest):
    noise = torch.randn(200, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert spectral_slope(full_field(noise, gamma), 16) == pytest.approx(-gamma, rel=0.05)
    assert spectral_slope(fields(torch.arange(200), gamma, periodic=True), largest) == pytest.approx(-gamma, rel=0.05)


def test_amplitudes_are_independent_standard_normals():
    amplitudes = coefficients(torch.arange(4000), torch.full((4000,), 8.5), 2, 64)
    wave = (torch.arange(amplitudes.shape[-1]) + 1) // 2
    normals = amplitudes * (wave[:, None] ** 2 + wave**2) ** (8.5 / 4)
    samples = normals.flatten(2)[..., 1:].reshape(len(normals), -1)
    assert samples.mean(0).abs().max() < 0.07
    assert (samples.T.cov() - torch.eye(samples.shape[1])).abs().max() < 0.12
    assert float(samples.pow(4).mean()) == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("gamma", [3.0, 8.5])
def test_fields_span_exactly_the_unit_range_with_mean_zero(gamma, periodic):
    drawn = fields(torch.arange(8), gamma, periodic=periodic)
    assert (drawn.abs().amax((2, 3)) == 1).all()
    assert drawn.mean((2, 3)).abs().max() < 1e-6


def test_a_field_depends_on_its_own_seed_and_gamma_alone_and_not_on_mixed_precision():
    seed, gamma = torch.arange(5) + 2**40, torch.tensor([7.0, 9.0, 3.0, 10.0, 8.0])
    together = fields(seed, gamma)
    for row in range(5):
        alone = fields(seed[row : row + 1], gamma[row : row + 1])[0]
        torch.testing.assert_close(alone, together[row], atol=1e-6, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fields(seed, gamma), together)


def test_modes_are_the_same_at_every_size_and_tolerance():
    seed, gamma = torch.arange(4), torch.full((4,), 5.0)
    few, many = coefficients(seed, gamma, 2, 32, tolerance=0.1), coefficients(seed, gamma, 2, 64, tolerance=0)
    assert few.shape[-1] < many.shape[-1] == 127
    assert torch.equal(few, many[..., : few.shape[-1], : few.shape[-1]])


def test_a_batch_may_be_empty():
    none = torch.empty(0, dtype=torch.int64)
    drawn = fields(none, 8.0, 4, 16)
    order = torch.empty(0, 2, dtype=torch.int64)
    assert warp(torch.empty(0, 16, 16, 2), ["scale", "shear"], torch.empty(0, 2), drawn, order).shape == (0, 16, 16, 2)
    assert local_colour(torch.empty(0, 3, 16, 16), torch.empty(0, 3), drawn[:, :3]).shape == (0, 3, 16, 16)


def test_samples_and_axes_are_uncorrelated():
    drawn = fields(torch.arange(3000), 8.5, size=8, periodic=True)
    assert abs(correlation(drawn[:, 0], drawn[:, 1])) < 0.05
    assert abs(correlation(drawn[1:], drawn[:-1])) < 0.05


def test_opposite_borders_are_neighbours_on_the_torus_only():
    window, torus = (fields(torch.arange(1000), 8.5, periodic=periodic) for periodic in (False, True))
    for axis in (2, 3):
        assert abs(correlation(window.select(axis, 0), window.select(axis, -1))) < 0.15
        assert correlation(torus.select(axis, 0), torus.select(axis, -1)) > 0.98


FOLDED = {
    3.0: [(1 / 3, 34, 2)],
    5.0: [(1 / 3, 3.4, 0.8)],
    7.0: [(1 / 3, 0.6, 0.3), (2 / 3, 24, 3), (1.0, 35, 3)],
    8.5: [(1 / 3, 0.2, 0.3), (2 / 3, 24, 3), (1.0, 35, 3)],
    10.0: [(1 / 3, 0.05, 0.3), (2 / 3, 24, 3), (1.0, 35, 3)],
}
"""By gamma: the strength of a shift, the share in percent, and its tolerance."""


@pytest.mark.parametrize("gamma", FOLDED)
def test_share_of_pixels_that_a_shift_folds(gamma):
    samples, size = (24, 128) if gamma == 3 else (600, 64)
    drawn = fields(torch.arange(samples), gamma, size=size, periodic=True)
    for alpha, share, tolerance in FOLDED[gamma]:
        assert folded_share(drawn, alpha) == pytest.approx(share, abs=tolerance)


def matrix(name: str, gx: float, gy: float) -> np.ndarray:
    cos, sin = math.cos(math.pi * gx), math.sin(math.pi * gx)
    rows = {
        "rotate": [[cos, -sin, 0], [sin, cos, 0]],
        "scale": [[1 + gx, 0, 0], [0, 1 + gy, 0]],
        "shear": [[1, gx, 0], [gy, 1, 0]],
        "translate": [[1, 0, gx], [0, 1, gy]],
    }[name]
    return np.array([*rows, [0, 0, 1]])


@pytest.mark.parametrize(
    "transforms",
    [["rotate"], ["scale"], ["shear"], ["translate"], ["scale", "shear"], ["rotate", "scale", "shear", "translate"]],
)
def test_warp_is_the_product_of_the_matrices_at_every_pixel(transforms, monkeypatch):
    monkeypatch.setattr(field_module, "_CACHED_PIXELS", 80)  # two images at a time
    generator, batch, size = torch.Generator().manual_seed(5), 5, 6
    alphas = torch.rand(batch, len(transforms), generator=generator)
    order = torch.stack([torch.randperm(len(transforms), generator=generator) for _ in range(batch)])
    drawn = fields(torch.arange(batch), 7.0, field_count(transforms), size)
    coordinates = grid(batch, size)
    warped = warp(coordinates, transforms, alphas, drawn, order)
    first = np.cumsum([0, *(field_count([name]) for name in transforms)])
    for b, i, j in np.ndindex(batch, size, size):
        product = np.eye(3)
        for which in order[b].tolist():
            shifts = alphas[b, which] * drawn[b, [first[which], first[which + 1] - 1], i, j] / len(transforms) ** 0.5
            product = product @ matrix(transforms[which], *shifts.tolist())
        assert warped[b, i, j].tolist() == pytest.approx((product @ [*coordinates[b, i, j].tolist(), 1])[:2], abs=1e-6)


@pytest.mark.parametrize("transforms", [["translate"], ["rotate"], ["rotate", "scale", "shear", "translate"]])
def test_no_strength_is_exactly_the_identity(transforms):
    count = len(transforms)
    alphas = torch.rand(3, count)
    alphas[1] = 0
    coordinates = grid(3, 16)
    drawn = fields(torch.arange(3), 7.0, field_count(transforms), 16)
    warped = warp(coordinates, transforms, alphas, drawn, torch.arange(count).expand(3, -1))
    assert torch.equal(warped[1], coordinates[1])
    assert not torch.equal(warped[0], coordinates[0])


def test_local_colour_is_hsv_arithmetic_at_every_pixel(monkeypatch):
    monkeypatch.setattr(field_module, "_CACHED_PIXELS", 200)  # three images at a time
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    pixels[0, :, 0] = torch.linspace(0, 1, 8)  # grey, with black and white at its ends
    pixels[1] = (pixels[1] > 0.5).float()
    alphas = torch.tensor([[0.3, 0.2, 0.1], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    drawn = fields(torch.arange(4), 7.0, 3, 8)
    coloured = local_colour(pixels, alphas, drawn)
    assert 0 <= coloured.min() <= coloured.max() <= 1
    assert torch.equal(coloured[3], pixels[3])
    for b, i, j in np.ndindex(3, 8, 8):
        shift = (alphas[b] * drawn[b, :, i, j]).tolist()
        h, s, v = np.add(colorsys.rgb_to_hsv(*pixels[b, :, i, j].tolist()), shift)
        expected = colorsys.hsv_to_rgb(h % 1, min(max(s, 0), 1), min(max(v, 0), 1))
        assert coloured[b, :, i, j].tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transforms": ["rotat"]}, "called 'rotat'; there are rotate, scale"),
        ({"transforms": []}, "at least one transform"),
        ({"alphas": torch.zeros(2, 2)}, "alphas of 2 samples and 1 transform"),
        ({"fields": torch.zeros(2, 1, 4, 4)}, r"shear need 2 field\(s\)"),
        ({"transforms": ["rotate", "rotate"], "alphas": torch.zeros(2, 2)}, "need an order"),
        ({"order": torch.ones(2, 1, dtype=torch.int64)}, "permutation of 0 to 0"),
    ],
)
def test_warp_refuses_what_does_not_fit(change, message):
    settings = {"transforms": ["shear"], "alphas": torch.zeros(2, 1), "fields": torch.zeros(2, 2, 4, 4), **change}
    with pytest.raises(ValueError, match=message):
        warp(grid(2, 4), **settings)


@pytest.mark.parametrize(
    ("gamma", "size", "message"), [(0.0, 64, "got 0.0"), (math.nan, 64, "got nan"), (7.0, 2, "at least 3 pixels")]
)
def test_coefficients_refuse_impossible_fields(gamma, size, message):
    with pytest.raises(ValueError, match=message):
        coefficients(torch.arange(2), torch.tensor([8.0, gamma]), 2, size)


def test_fields_of_another_size_or_for_all_three_colours_are_refused():
    with pytest.raises(ValueError, match="63 waves do not fit into 64 pixels"):
        synthesise(coefficients(torch.arange(1), torch.tensor([3.0]), 1, 64), 32)
    with pytest.raises(ValueError, match="a field for hue, saturation and value"):
        local_colour(torch.rand(2, 3, 8, 8), torch.ones(2, 3), torch.zeros(2, 1, 8, 8))
