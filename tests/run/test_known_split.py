"""An evaluation says that its objects are new to a run only where the run has held them out itself."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_data import png

from ssl_inv.run.cli import main
from ssl_inv.run.encoders import load_model
from ssl_inv.run.known_split import with_known_split
from ssl_inv.run.remarks import SPLITS, Remarks

OWN, VIEWS = SPLITS["objects"], SPLITS["views"]
NOT_ITS_OWN = "but the run may have been trained on them: the split is not its own"


def told(model: Path | str, *overrides: str) -> Remarks:
    """The remarks on the split of a model's evaluation."""
    loaded = load_model(str(model), None, list(overrides), False)
    trained, _ = loaded.networks()
    return with_known_split(Remarks((SPLITS[loaded.data.held_out], "classes")), loaded, trained[1])


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ([], None),
        (["--evaluation.views", "2", "--data.cache", "false"], None),
        (["--data.views", "5", "--data.angle_range", "0.2"], None),
        (["--data.seed", "1"], "data.seed: 0 -> 1"),
        (["--data.validation_share", "0.6"], "data.validation_share: 0.2 -> 0.6"),
        (["--data.objects", "30"], "data.objects: "),
        (["--data.held_out", "views", "--data.views", "5"], "data.held_out: 'objects' -> 'views'"),
    ],
    ids=str,
)
def test_another_split_of_rendered_data_is_warned_of(overrides: list[str], why: str | None, tiny_run: Path) -> None:
    found = told(tiny_run, *overrides)
    assert found.facts[1:] == ("classes",)
    if why is None:
        assert found.facts[0] == OWN
        assert not found.warnings
        return
    assert NOT_ITS_OWN in found.facts[0]
    (warning,) = found.warnings
    assert warning.startswith("what is judged may have been trained on, as the split is not that of the run: ")
    assert why in warning


def remove_some(images: Path) -> None:
    for path in sorted(images.rglob("*.png"))[:6]:
        path.unlink()


def touch(images: Path) -> None:
    os.utime(next(images.rglob("*.png")), (0, 0))


def nothing(images: Path) -> None:
    pass


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, and a run on them."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(24):
        path = folder / "images" / ("ab"[number % 2]) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(9 * number))
    recipe = (
        "objective: {name: vicreg, projector: [8, 8]}\n"
        "backbone: {name: test_resnet}\n"
        f"data: {{name: folder, path: {folder / 'images'}, size: 16, validation_share: 0.25}}\n"
        "augmentation: {name: simclr}\n"
        "trainer: {steps: 2, batch_size: 4, accelerator: cpu, workers: 0}\n"
        "monitor: {every: 0}\n"
        "evaluation: {protocol: none}\n"
    )
    (folder / "recipe.yaml").write_text(recipe)
    assert main(["pretrain", str(folder / "recipe.yaml"), "--output", str(folder / "run"), "--quiet"]) == 0
    return folder


@pytest.mark.parametrize(
    ("change", "overrides", "why"),
    [
        (nothing, [], None),
        (nothing, ["--data.size", "8"], None),
        (nothing, ["--data.split_seed", "1"], "data.split_seed: 0 -> 1"),
        (remove_some, [], "it began with 18 objects in 18 images, and there are "),
        (touch, [], "files have changed since it began"),
    ],
)
def test_another_split_of_files_is_warned_of(
    change: Callable[[Path], None], overrides: list[str], why: str | None, photographs: Path
) -> None:
    images, aside = photographs / "images", photographs / "aside"
    shutil.copytree(images, aside)  # with the times
    try:
        change(images)
        found = told(photographs / "run", *overrides)
    finally:
        shutil.rmtree(images)
        aside.rename(images)
    assert (found.facts[0] == OWN) == (why is None)
    assert [why in one for one in found.warnings] == ([] if why is None else [True])


def test_data_that_have_moved_are_those_of_the_run_and_others_are_not(photographs: Path, tmp_path: Path) -> None:
    shutil.copytree(photographs / "images", tmp_path / "moved")
    assert told(photographs / "run", "--data.path", str(tmp_path / "moved")).facts[0] == OWN
    touch(tmp_path / "moved")
    found = told(photographs / "run", "--data.path", str(tmp_path / "moved"))
    assert (
        "objects that no probe has seen; the run was trained on other data, by its recipe: data.path" in found.facts[0]
    )
    assert not found.warnings


def test_of_an_encoder_of_no_run_no_training_data_are_known(photographs: Path) -> None:
    loaded = load_model("timm:test_resnet", str(photographs / "images"), ["--data.size", "16"], False)
    found = with_known_split(Remarks((OWN,)), loaded, None)
    assert found.facts[0] == "split: objects that no probe has seen; what the encoder was trained on is not known here"


@pytest.mark.usefixtures("short_probes")
def test_an_evaluation_prints_and_keeps_what_is_known(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--evaluation.protocol", "quick", "--data.seed", "1", "--output", str(tmp_path / "out")]
    assert main(["evaluate", str(tiny_run), *arguments]) == 0
    printed = capsys.readouterr().out
    assert OWN not in printed
    assert NOT_ITS_OWN in printed
    kept = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert NOT_ITS_OWN in kept["facts"][0]
    assert kept["warnings"][0].endswith("data.seed: 0 -> 1")
