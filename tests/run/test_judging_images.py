"""A judgement hands on the images behind its features, in their order, with maps and colours; protocols use them."""

import json
from pathlib import Path

import pytest
import torch
from small import CHANNELS, vit
from small_data import solids
from torch import nn

from ssl_inv.data.source import Data
from ssl_inv.engine.settings import EvaluationSettings
from ssl_inv.evaluation.protocols.base import Encoded
from ssl_inv.evaluation.suite import QUICK
from ssl_inv.nn.backbones import make_backbone
from ssl_inv.run.cli import main
from ssl_inv.run.judging import encode_data

MEAN, DEVIATION = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
NETWORKS = {
    "convolutions": lambda: make_backbone(name="resnet18", stem="3x3-stride1", arguments=CHANNELS),
    "tokens": lambda: make_backbone(**vit(img_size=32, patch_size=8)),
    "any module": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)),
}


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - MEAN.view(3, 1, 1)) / DEVIATION.view(3, 1, 1)


def judged(network: nn.Module) -> Encoded:
    data = Data(solids(), solids(seed=1))
    settings = EvaluationSettings(views=3)
    found = encode_data(data, network, None, normalise, settings, torch.device("cpu"), seed=0)
    assert found is not None
    return found


def test_masks_of_the_data_reach_the_protocols() -> None:
    encoded, source = judged(NETWORKS["any module"]()), solids(seed=1)
    assert encoded.masks is not None
    rows = torch.tensor([5, 0, 7])
    objects, views = encoded.validation.objects[rows], encoded.validation.views[rows]
    masks = encoded.masks("validation", objects, views)
    assert torch.equal(masks, source.masks(objects.numpy(), views.numpy()))
    assert masks.unique().tolist() == [0, 1]


@pytest.mark.parametrize("name", NETWORKS)
def test_images_come_in_the_order_of_their_features_and_are_encoded_alike(name: str) -> None:
    encoded = judged(NETWORKS[name]())
    assert encoded.encode is not None
    assert encoded.images is not None
    for split, table in (("train", encoded.train), ("validation", encoded.validation)):
        batches = list(encoded.images(split))
        assert torch.equal(torch.cat([batch.objects for batch in batches]), table.objects)
        assert torch.equal(torch.cat([batch.views for batch in batches]), table.views)
        features = torch.cat([encoded.encode(batch.pixels)["all"] for batch in batches])
        torch.testing.assert_close(features, table.part("all"), atol=1e-4, rtol=1e-4)
    assert encoded.colours is not None
    for found, given in zip(encoded.colours, (MEAN, DEVIATION), strict=True):
        torch.testing.assert_close(found, given)
    if name == "any module":
        assert encoded.maps is None
    else:
        assert encoded.maps is not None
        maps = encoded.maps(batches[0].pixels)
        assert maps.shape[2:] == (4, 4)
        assert maps.shape[0] == len(batches[0].pixels)
        assert not maps.requires_grad


def test_the_command_line_runs_a_protocol_that_moves_images(tiny_run: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ssl_inv.run.judging.QUICK", {"knn": QUICK["knn"]})
    settings = ["--evaluation.protocol", "quick", "--evaluation.also", "[lie_derivative]"]
    assert main(["evaluate", str(tiny_run), *settings, "--output", str(tmp_path / "out")]) == 0
    rows = {row["trained"]["name"]: row for row in json.loads((tmp_path / "out" / "results.json").read_text())}
    moved = rows["lee/vector/translation_x"]
    assert moved["trained"]["value"] > 0
    assert moved["untrained"]["value"] > 0
    assert moved["shuffled"] is None
    assert rows["eq_t"]["trained"]["detail"]
    assert rows["lee/vector/hue"]["trained"]["value"] > 0
