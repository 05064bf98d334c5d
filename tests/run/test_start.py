"""A run starts from weights of others or from another run, says what it took, and needs them only once."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ssl_inv.engine.module import Pretraining
from ssl_inv.run.build import build, build_networks
from ssl_inv.run.cli import main
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.recipe import resolve

MOCO = """\
objective: {name: moco-v2, projector: [8, 8], queue: 16}
backbone: {name: test_resnet}
data: {name: rendered, classes: 4, objects: 40, views: 3, size: 32}
trainer: {steps: 2, batch_size: 8, accelerator: cpu}
optimizer: {lr: 1.0e-12, weight_decay: 0.0}
monitor: {every: 0}
evaluation: {protocol: none}
"""


def pretrain(*words: str) -> RunFolder:
    assert main(["pretrain", *words, "--quiet"]) == 0
    return RunFolder.open(Path(words[words.index("--output") + 1]))


def backbone_of(folder: RunFolder) -> dict[str, torch.Tensor]:
    state = folder.load_checkpoint()
    assert state is not None
    return dict(state["backbone"])


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether weights are equal, up to steps of almost nothing. Running statistics may differ."""
    weights = [name for name in one if "running" not in name and "batches" not in name]
    return all(torch.allclose(one[name], other[name], rtol=0, atol=1e-9) for name in weights)


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_run, tiny_recipe):
    """A folder with a recipe whose steps change nothing, and a run."""
    shutil.copytree(tiny_run, tmp_path / "before")
    (tmp_path / "tiny.yaml").write_text(tiny_recipe + "optimizer: {lr: 1.0e-12, weight_decay: 0.0}\n")
    (tmp_path / "moco.yaml").write_text(MOCO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("source", ["before", "before/export", "before/checkpoints/last.ckpt"])
def test_a_backbone_starts_from_a_run_an_export_or_their_files(place, source):
    folder = pretrain("tiny.yaml", "--trainer.seed=7", "--backbone.weights", source, "--output", "new")
    before, after = RunFolder.open(Path("before")), folder
    assert same(backbone_of(before), backbone_of(after))
    told = folder.record()["start"]
    assert (told["source"], told["missing"], told["unknown"], told["other_shape"]) == (source, [], [], {})
    assert len(told["sha256"]) == 64
    recipe = after.recipe()
    untrained = build_networks(recipe, build(recipe).module.view_maker.groups)[0]
    assert not same(backbone_of(after), dict(untrained.state_dict())), "the baseline is random"


def test_a_run_goes_on_after_its_weights_are_gone_as_if_it_had_never_stopped(place, monkeypatch):
    settings = ["tiny.yaml", "--backbone.weights", "before", "--optimizer.lr=0.01", "--trainer.checkpoint_every=1"]
    whole = pretrain(*settings, "--output", "whole")
    step = Pretraining._step

    def stop(module: Pretraining) -> None:
        if module.step == 1:
            raise KeyboardInterrupt
        step(module)

    with monkeypatch.context() as stopping:
        stopping.setattr(Pretraining, "_step", stop)
        assert main(["pretrain", *settings, "--output", "cut", "--quiet"]) != 0
    shutil.rmtree("before")
    assert main(["pretrain", "--resume", "cut", "--quiet"]) == 0
    cut = RunFolder.open(Path("cut"))
    assert all(torch.equal(one, backbone_of(cut)[name]) for name, one in backbone_of(whole).items())
    assert cut.record()["start"] == whole.record()["start"]
    for file in (cut.checkpoint_file, cut.previous_file):
        file.unlink(missing_ok=True)
    assert main(["pretrain", "--resume", "cut", "--quiet"]) == 2, "without a checkpoint, the weights are needed"


def test_everything_of_a_run_starts_another_one_from_step_0(place):
    first = pretrain("moco.yaml", "--optimizer.lr=0.01", "--trainer.steps=3", "--output", "first")
    second = pretrain(
        "moco.yaml", "--trainer.seed=5", "--trainer.start=first", "--trainer.steps=1", "--output", "second"
    )
    before, after = first.load_checkpoint(), second.load_checkpoint()
    assert before is not None
    assert after is not None
    assert after["step"] == 1
    assert same(before["backbone"], after["backbone"])
    projector = [name for name in before["objective"] if name.startswith("projector")]
    assert all(torch.equal(before["objective"][name], after["objective"][name]) for name in projector)
    queue = next(name for name, one in before["objective"].items() if name.startswith("queue") and torch.is_tensor(one))
    differs = (before["objective"][queue] != after["objective"][queue]).flatten(1).any(1)
    assert 0 < differs.sum() <= 8, "the queue of 16 has the keys of the first run, and 8 of the new step"
    assert second.record()["start"]["everything"] is True
    assert second.record()["start"]["step"] == 3
    content = yaml.safe_load(MOCO)
    content["trainer"]["start"] = "first"
    assert build(resolve(content)).objective.steps_done == 0
    shutil.rmtree("first")
    assert main(["pretrain", "--resume", "second", "--quiet"]) == 0


REFUSALS = {
    "no file": (
        "--backbone.weights befor",
        "backbone.weights: no such file or folder: 'befor'; did you mean 'before'?",
    ),
    "no weights": (
        "--backbone.weights tiny.yaml",
        "backbone.weights: tiny.yaml cannot be read as tensors and plain values: it was not written by torch.save",
    ),
    "another network": (
        "--backbone.weights before --backbone.name resnet18",
        "backbone.weights: before fits resnet18 in part; ",
    ),
    "no run": ("--trainer.start tiny.yaml", "trainer.start: 'tiny.yaml' is not the folder of a run"),
    "another objective": (
        "--trainer.start before --objective.name vicreg --objective.projector [8,8]",
        "trainer.start: before has the objective sie, and this recipe has vicreg; backbone.weights: before takes",
    ),
    "another head": (
        "--trainer.start before --objective.projector [8,16]",
        "trainer.start: before does not fit this recipe: ",
    ),
    "both": ("--trainer.start before --backbone.weights before", "trainer.start: brings its own backbone"),
    "prefix of nothing": ("--backbone.weights_prefix a.", "backbone.weights_prefix: goes with backbone.weights"),
    "unknown prefix": (
        "--backbone.weights before --backbone.weights_prefix teacher.",
        "backbone.weights_prefix: no parameter of test_resnet is under 'teacher.'",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_start_that_does_not_fit_is_one_line_and_writes_nothing(place, capsys, case):
    words, message = REFUSALS[case]
    before = sorted(place.rglob("*"))
    assert main(["pretrain", "tiny.yaml", *words.split(), "--output", "new"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {message}")
    assert told.count("\n") == 1
    assert sorted(place.rglob("*")) == before


def test_a_part_is_loaded_with_a_warning_and_other_normalisation_is_pointed_out(place, capsys, caplog):
    words = ["tiny.yaml", "--backbone.weights=before", "--normalization.mean=[0.5,0.5,0.5]", "--output", "new"]
    state = torch.load("before/checkpoints/last.ckpt", weights_only=True)
    gone = next(name for name in state["backbone"] if name.endswith("weight"))
    del state["backbone"][gone]
    torch.save(state, "before/checkpoints/last.ckpt")
    assert main(["pretrain", *words]) == 2
    assert "weights_partial: true" in capsys.readouterr().err
    assert main(["pretrain", *words, "--backbone.weights_partial=true"]) == 0
    told = caplog.text
    assert f"loaded in part; missing: {gone.removeprefix('model.')}" in told
    assert "normalization: the weights of before were trained with mean [0.485, 0.456, 0.406]" in told
    record = json.loads(Path("new/run.json").read_text())
    assert record["start"]["missing"] == [gone.removeprefix("model.")]
    assert len(record["warnings"]) == 2
