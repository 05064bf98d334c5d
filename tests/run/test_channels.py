"""Images of five channels, from files of 16 bits to the features of an export; see also tests/data/test_channels.py."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import ssl_inv
from ssl_inv.data.reading import Reading, reading_from
from ssl_inv.engine.module import Pretraining
from ssl_inv.run.cli import main
from ssl_inv.run.folder import RunFolder

# Fewer channels than 16 in a layer crash the backward pass of torch's convolutions on some processors.
NETWORK = {"name": "resnet18", "stem": "3x3-stride1", "arguments": {"layers": [1] * 4, "channels": [16] * 4}}
HOW = {"channels": 5, "range": [0, 1000]}
RECIPE = {
    "objective": {"name": "simclr", "projector": [16]},
    "backbone": NETWORK,
    "data": {"name": "folder", "path": "bands", "size": 16, **HOW},
    "augmentation": {"name": "custom", "operations": [{"name": "crop"}, {"name": "flip"}, {"name": "blur"}]},
    "trainer": {"steps": 4, "batch_size": 6, "accelerator": "cpu", "checkpoint_every": 2},
    "monitor": {"every": 0},
    "evaluation": {"protocol": "none"},
}
AGAIN = ["--data.size=16", "--data.channels=5", "--data.range=[0, 1000]"]


def values(number: int) -> np.ndarray[Any, Any]:
    """Two classes by the brightness of the bands, of two shapes."""
    random = np.random.default_rng(number)
    bright = np.array([[100, 900, 300, 500, 700], [900, 100, 700, 300, 200]])[number % 2]
    return (bright + random.normal(0, 60, (20, (20, 26)[number // 2 % 2], 5))).clip(0, 65535).astype(np.uint16)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images, and a run of four steps on them."""
    top = tmp_path_factory.mktemp("channels")
    for number in range(24):
        folder = top / "bands" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{number:02}.npy", values(number))
    (top / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    before = Path.cwd()
    os.chdir(top)
    try:
        assert main(["pretrain", "recipe.yaml", "--output", "run", "--quiet"]) == 0
    finally:
        os.chdir(before)
    return top


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def weights(run: str) -> dict[str, torch.Tensor]:
    state = RunFolder.open(Path(run)).load_checkpoint()
    assert state is not None
    return state["backbone"]


def test_a_run_that_was_stopped_ends_with_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Pretraining.training_step

    def stopped(self: Pretraining, *given: Any) -> Any:
        if self.step == 2:
            raise KeyboardInterrupt
        return step(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Pretraining, "training_step", stopped)
        assert main(["pretrain", "recipe.yaml", "--output", "half", "--quiet"]) != 0
    halfway = weights("half")
    assert main(["pretrain", "--resume", "half", "--quiet"]) == 0
    whole, half = weights("run"), weights("half")
    assert any(not torch.equal(halfway[name], value) for name, value in whole.items())
    assert all(torch.equal(half[name], value) for name, value in whole.items())


def test_what_was_measured_is_what_the_files_have_and_is_in_the_recipe() -> None:
    recipe = RunFolder.open(Path("run")).recipe()
    assert recipe.backbone["arguments"]["in_chans"] == 5
    expected = np.mean([(values(number) / 1000).clip(0, 1).mean((0, 1)) for number in range(24)], axis=0)
    assert np.allclose(recipe.normalization.mean, expected, atol=0.05)


def test_a_run_and_its_export_have_the_same_features_of_files_and_of_pixels() -> None:
    run, export = ssl_inv.load("run"), ssl_inv.load("run/export")
    files = sorted(Path("bands").rglob("*.npy"))
    pixels = torch.rand(2, 5, 16, 16)
    with torch.no_grad():
        assert torch.equal(run(files)["all"], export(files)["all"])
        assert torch.equal(run(pixels)["all"], export(pixels)["all"])
        table = ssl_inv.embed("run")
        assert torch.allclose(torch.as_tensor(table["all"]), run(list(files))["all"], atol=1e-4)
    card = Path("run/export/README.md").read_text()
    assert "16 x 16 pixels and 5 channels" in card
    assert "`range: [[0.0, 1000.0]]`, `channels: 5`" in card


def test_a_run_and_its_export_have_the_same_numbers() -> None:
    ours, theirs = [
        ssl_inv.evaluate("run", protocols=["linear", "knn"], quiet=True),
        ssl_inv.evaluate(
            "run/export",
            data={"name": "folder", "path": "bands", "size": 16, **HOW},
            protocols=["linear", "knn"],
            quiet=True,
        ),
    ]
    assert [row["value"] for row in ours.rows] == [row["value"] for row in theirs.rows]
    assert len(ours.rows) == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["evaluate", "run", "--data", "bands", "--data.bands=[1, 2, 3]", AGAIN[2]],
            "3 channel(s), and this encoder takes 5",
        ),
        (["evaluate", "timm:test_resnet", "--data", "bands", *AGAIN], "5 channel(s), and this encoder takes 3"),
        (["embed", "run/export", "--data", "bands", "--data.bands=[2]", AGAIN[2], "--output", "no"], "takes 5"),
        (["export", "run", "--format", "torchvision", "--output", "no"], "has no counterpart in torchvision"),
        (["pretrain", "recipe.yaml", "--output", "no", "--data.channels=4"], "it has 5 band(s), and `channels` is 4"),
        (["pretrain", "recipe.yaml", "--output", "no", "--data.channels=0"], "data.channels: must be at least 1"),
        (["pretrain", "recipe.yaml", "--output", "no", "--data.range=[5]"], "data.range: must be [lowest, highest]"),
        (["pretrain", "recipe.yaml", "--output", "no", "--data.range=[[0, 1], [0, 1]]"], "each of 5 band(s), got 2"),
        (["pretrain", "recipe.yaml", "--output", "no", "--data.white=9"], "data.range: excludes `white`"),
        (
            ["pretrain", "recipe.yaml", "--output", "no", "--backbone.arguments.in_chans=3"],
            "is 3, and the images have 5",
        ),
        (["pretrain", "recipe.yaml", "--output", "no", "--augmentation.name=simclr"], "error: augmentation: jitter"),
        (
            ["pretrain", "recipe.yaml", "--output", "no", "--augmentation.operations=[{name: flip}, {name: grey}]"],
            "error: augmentation.operations[1]: grey needs red, green and blue, and images have 5",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    errors = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]
    assert len(errors) == 1
    assert line in errors[0]
    assert not Path("no").exists()


def test_an_export_of_another_reading_than_its_channels_is_refused() -> None:
    assert reading_from({"bands": [4, 2]}, 2) == Reading(bands=(4, 2))
    assert reading_from({}, 5) == Reading(channels=5)
    with pytest.raises(ValueError, match="are 5, but these settings read 2"):
        reading_from({"bands": [4, 2]}, 5)
    config = json.loads(Path("run/export/config.json").read_text())
    assert config["ssl_inv"]["reading"] == {"range": [[0.0, 1000.0]], "channels": 5}
