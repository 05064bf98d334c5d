"""Contestants have our backbone, are kept where the clock says, and never stand beside cells of other settings."""

import argparse
import importlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssl_inv.nn.backbones import make_backbone

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CHANNELS = [8, 8, 16, 16]


@pytest.fixture
def module(monkeypatch):
    """A module of the benchmarks by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_the_backbone_of_the_contestants_is_ours(module):
    theirs = module("rival_trainers").backbone(CHANNELS)
    ours = make_backbone(name="resnet18", stem="3x3-stride2", arguments={"channels": CHANNELS})
    theirs.load_state_dict(ours.model.state_dict())
    pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(theirs.eval()(pixels), ours.eval()(pixels))


def test_the_clock_keeps_the_network_after_seconds_and_after_steps_without_the_time_to_write(
    module, tmp_path, monkeypatch
):
    trainers, time, ended = module("rival_trainers"), [0.0], []
    clock = trainers.Clock(tmp_path, batch=10, seconds=5.0, steps=2, kind="wall")
    monkeypatch.setattr(trainers.Clock, "now", lambda self: time[0])
    monkeypatch.setattr(trainers.os, "_exit", ended.append)
    monkeypatch.setattr(trainers.torch, "save", lambda *given: time.__setitem__(0, time[0] + 100))
    clock.begin()
    for _ in range(4):
        assert not ended
        time[0] += 1.5
        clock.stepped(torch.nn.Linear(1, 1))
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert ended == [0]
    assert facts["at_steps"] == {"step": 2, "passed_s": 3.0}
    assert facts["at_seconds"] == {"step": 4, "passed_s": 6.0}
    assert facts["images_per_s"] == pytest.approx(10 * 3 / 4.5)
    assert facts["peak_mb"] >= facts["imported_mb"] > 1


def test_images_are_equally_many_of_every_class(module, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (32, 32), (number * 80, 0, 0)).save(tmp_path / name / f"{number}.png")
    pixels, labels = module("rivals").split(tmp_path, 4)
    assert labels.tolist() == [0, 0, 1, 1]
    assert pixels.shape == (4, 3, 32, 32)
    assert pixels[1, 0, 0, 0] > pixels[0, 0, 0, 0]


def test_cells_of_other_settings_are_refused_and_a_library_that_is_not_there_is_named(module, tmp_path):
    rivals = module("rivals")
    output = tmp_path / "rivals.json"
    settings = {"seconds": 1.0, "steps": 2, "clock": "wall", "batch": 4, "channels": CHANNELS, "bank": 4, "queries": 4}
    output.write_text(json.dumps({"settings": {**settings, "steps": 3}, "machine": "", "images": "x"}))
    given = argparse.Namespace(**settings, images=tmp_path / "x", output=output, note="")
    with pytest.raises(SystemExit, match=r"settings was .*'steps': 3.* remove the file"):
        rivals.compared(given, {})
    with pytest.raises(SystemExit, match="must be LIBRARY=FILE with one of ours, lightly"):
        rivals.interpreters(["lightning=python"])
