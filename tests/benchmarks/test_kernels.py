"""The benchmark of kernels gives kornia the same work: the same images and parameters make the same result."""

import importlib
import math
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ALIKE = {"homographies of four corners": 1e-12, "affine matrices": 1e-12, "crop and resize, of bytes": 1.5 / 255}


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("kernels")


def test_both_make_the_same_of_the_same(benchmark):
    pixels = benchmark.photographs(6, 48) / 255
    cases = [*benchmark.colours(pixels), *benchmark.maps(pixels, 48), *benchmark.host(6)]
    apart = {one.name: benchmark.furthest(one) for one in cases}
    assert math.isnan(apart.pop("noise")), "the two draw in other ways"
    assert len(apart) >= 16
    for name, distance in apart.items():
        assert distance <= ALIKE.get(name, 1e-3), name


def test_a_row_says_how_much_longer_kornia_takes(benchmark, monkeypatch, capsys):
    times = {"ours": 1.0, "theirs": 3.0}
    one = benchmark.Case("twice", lambda: torch.ones(1), lambda: torch.ones(1), ())
    monkeypatch.setattr(
        benchmark, "seconds", lambda function, device, least: times["ours" if function is one.ours else "theirs"]
    )
    mine, found = benchmark.ratios(one, one.theirs, torch.device("cpu"), 4, 0.0)
    assert mine == 1e6
    assert found == [3.0] * 4
