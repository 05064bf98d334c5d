"""Every entry of an export's config.json is right, or refused with its file and its key."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from fuzz.mutations import ODD

from ssl_inv.catalogue import RecipeError, within
from ssl_inv.data.reading import Reading
from ssl_inv.memories.frozen_encoder import FrozenEncoder
from ssl_inv.nn.weight_files import read_weights
from ssl_inv.run.exports.export import Preprocessing, export_timm
from ssl_inv.run.exports.reading import load_backbone_file

PREPROCESSING = Preprocessing((0.5,) * 5, (0.25,) * 5, 32, reading=Reading(channels=5, ends=((0.0, 1000.0),)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model("test_resnet", num_classes=0, in_chans=5)
    place = tmp_path_factory.mktemp("exported") / "export"
    return export_timm(network, "test_resnet", place, PREPROCESSING, {"in_chans": 5}, parts={"invariant": (0, 8)})


def _entries(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key in value if isinstance(value, dict) else range(len(value[:1])) if isinstance(value, list) else ():
        yield (*path, key)
        yield from _entries(value[key], (*path, key))


def _changed(exported: Path, place: Path, path: tuple[Any, ...], value: Any) -> Path:
    """A copy of an export with another entry in its config.json, or without it if the value is `...`."""
    config = json.loads((exported / "config.json").read_text())
    del config["ssl_inv"]["crc32"]  # who edits a file can make its checksum too
    holder = config
    for key in path[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = place / "model.safetensors"
    if not weights.exists():
        weights.hardlink_to(exported / "model.safetensors")
    return place


def test_every_entry_may_hold_anything(exported, tmp_path):
    config = json.loads((exported / "config.json").read_text())
    refusals = []
    for path in _entries(config):
        for value in (..., *ODD):
            if path == ("ssl_inv", "crc32"):
                continue
            folder = _changed(exported, tmp_path / "export", path, value)
            try:
                with within("model"):
                    read = load_backbone_file(folder).preprocessing
            except RecipeError as error:
                refusals.append(str(error))
            else:
                assert read is not None
                assert read.input_shape[0] == 5, (path, value)
    assert len(refusals) > 500
    named = f"model: {folder / 'config.json'}"
    assert [one for one in refusals if not one.startswith(named) or "\n" in one] == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("pretrained_cfg.input_size", [], "must be [channels, height, width], each from 1 to 65535, got []"),
        ("pretrained_cfg.input_size", [5, 32], "must be [channels, height, width]"),
        ("pretrained_cfg.input_size", [5, 32, 2**16], "must be [channels, height, width]"),
        ("pretrained_cfg.input_size", [5, 32, 32.5], "must be [channels, height, width]"),
        ("pretrained_cfg.mean", [0.5] * 4, "has 4 number(s), and pretrained_cfg.std has 5"),
        ("pretrained_cfg.mean", [10**400] * 5, "must be a list of numbers, one for each channel"),
        ("pretrained_cfg.std", [0.0] * 5, "must be a list of numbers above 0"),
        ("pretrained_cfg.crop_pct", 1e-9, "the whole must have 1 to 65535 pixels a side"),
        ("pretrained_cfg.interpolation", 3, "must be a text, got 3"),
        ("model_args", [], "must be a mapping, got []"),
        ("model_args.in_chans", 3, "pretrained_cfg.mean has 5 number(s), and model_args.in_chans is 3"),
        ("ssl_inv", 5, "must be a mapping, got 5"),
        ("ssl_inv.parts.invariant", [8, 8], "must be [first column, first column after it], got [8, 8]"),
        ("ssl_inv.parts.invariant", [0, 10**6], "the part invariant of the features ends at column 1000000"),
        ("ssl_inv.reading.range", [[0]], "must be a list of [lowest, highest], got [[0]]"),
        ("ssl_inv.reading.range", [[1, 0]], "reading.range: must be the lowest and the highest number"),
        ("ssl_inv.reading.channels", 4, "reading.channels: are 5, but these settings read 4"),
    ],
)
def test_an_entry_of_another_form_is_named(exported, tmp_path, path, value, told):
    folder = _changed(exported, tmp_path / "export", tuple(path.split(".")), value)
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        load_backbone_file(folder).build()
    if "ends at column" not in told:  # known only when the network is made
        assert str(error.value).startswith(f"{folder / 'config.json'}: ")


def test_all_who_read_a_config_refuse_the_same(exported, tmp_path):
    folder = _changed(exported, tmp_path / "export", ("pretrained_cfg", "mean"), [10**400] * 5)
    problem = "config.json: pretrained_cfg.mean must be a list of numbers"
    with pytest.raises(RecipeError, match=problem):
        FrozenEncoder(str(folder))
    with pytest.raises(RecipeError, match=problem):
        read_weights(str(folder), "test_resnet")


def test_what_is_right_is_read(exported):
    file = load_backbone_file(exported)
    assert (file.preprocessing, file.parts) == (PREPROCESSING, {"invariant": slice(0, 8)})
    assert file.build()(PREPROCESSING.sample(1)).shape == (1, 96)
