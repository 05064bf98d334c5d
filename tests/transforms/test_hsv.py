"""Colours are converted as in Python's `colorsys`, also hues beyond one turn, grey and black."""

import colorsys

import pytest
import torch

from ssl_inv.transforms.hsv import hsv_to_rgb, write_hsv


def test_hsv_to_rgb_is_that_of_colorsys():
    hue = torch.linspace(-0.4, 1.7, 43, dtype=torch.float64).view(1, 43)
    saturation = torch.linspace(0, 1, 43, dtype=torch.float64)
    found = hsv_to_rgb(hue, saturation, 0.75)
    assert found.shape == (1, 43, 3)
    for rgb, h, s in zip(found[0].tolist(), hue[0].tolist(), saturation.tolist(), strict=True):
        assert rgb == pytest.approx(colorsys.hsv_to_rgb(h % 1, s, 0.75), abs=1e-12)


def test_write_hsv_is_that_of_colorsys():
    pixels = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    pixels[:3] = torch.tensor([[0.4, 0.4, 0.4], [0.0, 0.0, 0.0], [1.0, 1.0, 0.2]])
    hue, saturation, value, *spare = torch.empty(5, 60)
    write_hsv(pixels, hue, saturation, value, spare, torch.empty_like(pixels))
    for row, rgb in enumerate(pixels.tolist()):
        expected = colorsys.rgb_to_hsv(*rgb)
        assert (float(hue[row]) / 6 % 1, float(saturation[row]), float(value[row])) == pytest.approx(expected, abs=1e-6)
