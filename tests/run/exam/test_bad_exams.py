"""Mistakes in the call of an exam, or in given features: one line, exit code 2, and nothing is written."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.run.cli import main
from ssl_inv.transforms import Rotation, Transform

Change = Callable[[FeatureTable], FeatureTable]


def features(seed: int, first: int) -> FeatureTable:
    ids = torch.arange(12).repeat_interleave(2)
    rows = {"all": torch.randn(24, 4, generator=torch.Generator().manual_seed(seed))}
    return FeatureTable(rows, ids + first, torch.arange(2).repeat(12), ids % 3, class_names=("a", "b", "c"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    for number, name in enumerate(("sharp", "keen")):
        features(2 * number, 0).save(folder / name / "train.safetensors")
        features(2 * number + 1, 12).save(folder / name / "validation.safetensors")
    shutil.copytree(tiny_run, folder / "run")
    (folder / "photos").mkdir()
    (folder / "note.txt").write_text("a note")
    return folder


CALLS: dict[str, tuple[str, str]] = {
    "no protocol of that name": ("sharp --protocols knnn", "none is called 'knnn'; did you mean 'knn'?"),
    "a set beside names": ("sharp --protocols quick knn", "--protocols: 'quick' stands alone"),
    "a protocol twice": ("sharp --protocols knn cka knn", "--protocols: 'knn' stands twice"),
    "no protocol at all": ("sharp keen --protocols", "--protocols: expected at least one argument"),
    "no such folder": ("sharp nothing", "'nothing' is neither the folder of a run, nor an exported folder"),
    "an empty folder": ("sharp photos", "'photos' is neither the folder of a run"),
    "a file of a run": ("run/recipe.yaml sharp", "'run/recipe.yaml' is neither the folder of a run"),
    "a name that is no path": (f"sharp {'x' * 300}", "File name too long"),
    "no such network": (
        "sharp torchvision:resnet19 --data run/recipe.yaml",
        "torchvision has no classifier called 'resnet19'; did you mean 'resnet18'?",
    ),
    "no name of a network": ("sharp timm:", "timm has no model called ''"),
    "no last layer": (
        "torchvision:squeezenet1_0 --data run/recipe.yaml",
        "'squeezenet1_0' has no last linear layer",
    ),
    "no data for a network": ("timm:test_resnet sharp", "--data is missing"),
    "no images": ("timm:test_resnet sharp --data photos", "data: photos has no images"),
    "features as data": ("timm:test_resnet sharp --data keen", "data: keen has no images"),
    "a run as data": ("run sharp --data run", "run is the folder of a run; its recipe names its data"),
    "data of features": ("sharp keen --data photos", "--data goes with an encoder; sharp has features without one"),
    "layers of features": ("sharp keen --layers", "--layers goes with an encoder; sharp has features without one"),
    "a network without layers": (
        "torchvision:resnet18 sharp --layers --data run/recipe.yaml",
        "--layers needs a model of timm that gives its layers",
    ),
    "weights of a run": ("sharp keen --pretrained", "--pretrained goes with timm:NAME and torchvision:NAME"),
    "a checkpoint of features": ("sharp --checkpoint 3", "--checkpoint goes with the folder of a run"),
    "no such checkpoint": ("run sharp --checkpoint 77", "has no checkpoint 'step-77'"),
    "an output that is there": ("sharp keen --output keen", "exists already; choose another name"),
    "an output that is a file": ("sharp keen --output note.txt", "exists already; choose another name"),
    "an output inside a run": ("sharp run --output run/exam", "'run/exam' lies inside of 'run', which is measured"),
    "an output inside features": ("sharp --output sharp/exam", "'sharp/exam' lies inside of 'sharp'"),
    "no such map": ("sharp --map tsne", "there is no 'tsne'; there are pca, umap"),
    "a setting that is none": ("sharp --evaluation.vews 2", "did you mean 'views'?"),
    "a setting of training": ("run sharp --trainer.steps 3", "no section 'trainer' can be set here"),
    "no views": ("run sharp --evaluation.views 0", "evaluation.views: must be at least 1, got 0"),
    "one class": ("run sharp --data.classes 1 --protocols knn", "labels have one class only"),
}


def _with(**columns: torch.Tensor) -> Change:
    return lambda table: replace(table, **columns)  # type: ignore[arg-type]


def _part(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda table: replace(table, features={"all": change(table.part("all").clone())})


def _hole(rows: torch.Tensor) -> torch.Tensor:
    rows[3, 1] = torch.nan
    return rows


TABLES: dict[str, tuple[str, Change, str]] = {
    "not a number": ("train", _part(_hole), "train.safetensors: the part 'all' is not finite for object 1, view 1"),
    "infinite": ("validation", _part(lambda rows: rows / 0), "validation.safetensors: the part 'all' is not finite"),
    "another width": ("train", _part(lambda rows: rows[:, :3]), "the tables have different parts"),
    "no width": ("train", _part(lambda rows: rows[:, :0]), "must be (N, D) with D of at least 1, got (24, 0)"),
    "maps": ("train", _part(lambda rows: rows[:, :, None]), "must be (N, D) with D of at least 1, got (24, 4, 1)"),
    "whole numbers": ("train", _part(torch.Tensor.long), "the part 'all' must be float32, got (24, 4) int64"),
    "no rows": ("validation", lambda table: table.select(torch.arange(0)), "validation.safetensors: there are no rows"),
    "a view twice": ("train", _with(views=torch.zeros(24, dtype=torch.int64)), "view 0 of object 0 stands in the"),
    "labels with a comma": ("train", _with(labels=torch.zeros(24)), "labels must be (N,) int64, got (24,) float32"),
    "labels by view": ("train", _with(labels=torch.arange(24) % 3), "the views of object 0 have the labels 0 and 1"),
    "one class": ("train", _with(labels=torch.zeros(24, dtype=torch.int64)), "labels have one class only"),
    "one object": ("train", lambda table: table.select(torch.arange(2)), "train has one object only; probes need two"),
    "other class names": ("validation", _with(class_names=("c", "b", "a")), "different class names"),  # type: ignore[arg-type]
    "a label below 0": (
        "train",
        lambda table: replace(table, labels=table.labels - 1, class_names=()),  # type: ignore[operator]
        "labels must be at least 0, got -1",
    ),
    "other parameters": (
        "train",
        lambda table: replace(table, transform=Transform({"turn": torch.ones(24, 4) / 2}, {"turn": Rotation()})),
        "the tables record different parameters: ['turn'] in train, [] in validation",
    ),
}


def _damaged(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-40] ^= 1
    file.write_bytes(bytes(content))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (_damaged, "train.safetensors is damaged"),
    "a text": (lambda file: file.write_text("features"), "train.safetensors is damaged"),
    "one table alone": (Path.unlink, "bad has validation.safetensors and no train.safetensors"),
}


def require_refused(words: str, problem: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = sorted(place.rglob("*"))
    assert main(["evaluate", *words.split()]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert problem in said
    assert sorted(place.rglob("*")) == there


@pytest.mark.parametrize("case", CALLS)
def test_a_wrong_call_is_one_line_and_nothing_is_written(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    words, problem = CALLS[case]
    require_refused(words if "--output" in words else f"{words} --output out", problem, place, capsys)


@pytest.mark.parametrize("case", [*TABLES, *FILES])
def test_features_that_cannot_be_measured_are_named_and_nothing_is_written(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    shutil.rmtree("bad", ignore_errors=True)
    shutil.copytree("sharp", "bad")
    if case in TABLES:
        split, change, problem = TABLES[case]
        file = Path("bad") / f"{split}.safetensors"
        change(FeatureTable.load(file)).save(file)
    else:
        damage, problem = FILES[case]
        damage(Path("bad") / "train.safetensors")
    require_refused("sharp bad --output out", problem, place, capsys)
