"""A resumed run changes what cannot change its result, and what its owner says; it keeps, and stops, as it is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ssl_inv
from ssl_inv.data.batches import StepBatches
from ssl_inv.run.cli import main
from ssl_inv.run.exports.reading import load_backbone_file
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.plain_yaml import dump_yaml, parse_yaml
from ssl_inv.run.saved_run import SavedRun
from ssl_inv.run.side_by_side.comparison import compare

RECIPE = """\
objective: {name: vicreg, projector: [8, 8]}
backbone: {name: test_resnet}
data: {name: rendered, classes: 4, objects: 30, views: 3, size: 16}
trainer: {steps: 6, batch_size: 8, accelerator: cpu, log_every: 1, checkpoint_every: 2, workers: 0}
monitor: {every: 2, objects: 8, share: 1.0}
evaluation: {protocol: none}
"""
Pretrain = Callable[..., int]
pytestmark = pytest.mark.usefixtures("short_probes")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """A complete run; to be copied, not changed."""
    folder = recipe.parent / "whole"
    assert main(["pretrain", str(recipe), "--output", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def resumed(run: Path, *arguments: str) -> int:
    return main(["pretrain", "--resume", str(run), "--quiet", *arguments])


def continued(run: Path, *said: str) -> int:
    return resumed(run, *(word for one in said for word in ("--continue", one)))


def losses(run: Path) -> list[dict[str, float]]:
    return [line["loss"] for line in RunFolder(run).metrics() if "loss" in line]


def files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_more_steps_go_on_from_the_last_one_and_are_recorded(run: Path, whole: Path) -> None:
    assert continued(run, "trainer.steps=8", "optimizer.lr=0.0005") == 0
    record = RunFolder(run).record()
    assert record["state"] == "complete"
    (once,) = record["continued"]
    assert (once["step"], once["changes"]) == (6, {"optimizer.lr": [0.001, 0.0005], "trainer.steps": [6, 8]})
    assert RunFolder(run).recipe().trainer.steps == 8
    assert len(losses(run)) == 8
    assert losses(run)[:6] == losses(whole)
    # A second pause, without a word, is one of the run as it is now.
    (run / "checkpoints" / "last.ckpt").unlink()
    shutil.copy(whole / "checkpoints" / "last.ckpt", run / "checkpoints" / "last.ckpt")
    before = losses(run)
    assert resumed(run) == 0
    assert losses(run) == before
    assert len(RunFolder(run).record()["continued"]) == 1


def test_another_evaluation_trains_no_further_and_old_results_do_not_outlive_it(recipe: Path, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", RunFolder(tmp_path / "run")
    stop = ["--trainer.steps", "20", "--trainer.stop", "{name: knn, patience: 2, change: 2.0}"]
    assert main(["pretrain", str(recipe), "--output", str(run), "--quiet", *stop]) == 0
    ended = folder.record()["stopped"]
    assert continued(run, "evaluation.protocol=quick", "evaluation.objects=12") == 0
    assert (len(losses(run)), folder.record()["stopped"]) == (6, ended)
    assert folder.record()["score"]
    assert "`knn/top1`" in (run / "export" / "README.md").read_text()
    assert continued(run, "evaluation.protocol=none") == 0
    assert (len(losses(run)), folder.record()["stopped"]) == (6, ended)
    assert not list(run.glob("results.*"))
    assert folder.record()["score"] == {}
    assert "This network was not evaluated" in (run / "export" / "README.md").read_text()


def test_loggers_are_told_the_results_of_another_evaluation(recipe: Path, tmp_path: Path) -> None:
    run, logger = tmp_path / "run", ["--trainer.loggers", "[csv]"]
    assert main(["pretrain", str(recipe), "--output", str(run), "--quiet", *logger]) == 0
    assert continued(run, "evaluation.protocol=quick", "evaluation.objects=12") == 0
    assert "result/knn/top1/all" in (run / "csv" / "metrics.csv").read_text().splitlines()[0]
    before = (run / "csv" / "metrics.csv").read_text()
    assert resumed(run) == 0
    assert (run / "csv" / "metrics.csv").read_text() == before


def test_a_run_that_goes_on_has_no_scores_until_it_ends(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert continued(run, "evaluation.protocol=quick", "evaluation.objects=12") == 0
    with monkeypatch.context() as patch:
        broken_at(patch, 7)
        assert continued(run, "trainer.steps=9") == 1
    record = RunFolder(run).record()
    assert record["state"].startswith("failed")
    assert not {"score", "ended"} & set(record)
    assert not list(run.glob("results.*"))


def test_what_cannot_change_the_result_changes_without_a_word(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        broken_at(patch, 4)
        assert main(["pretrain", str(recipe), "--output", str(run), "--quiet"]) == 1
    assert resumed(run, "--trainer.checkpoint_every", "1", "--trainer.keep", "2", "--monitor.every", "0") == 0
    assert losses(run) == losses(whole)
    assert "continued" not in RunFolder(run).record()
    assert RunFolder(run).recipe().trainer.keep == 2


def broken_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Reading of one batch fails."""
    really = StepBatches.__getitem__

    def read(self: StepBatches, number: int) -> Any:
        if number == step:
            raise OSError(5, "the disk is gone")
        return really(self, number)

    patch.setattr(StepBatches, "__getitem__", read)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainer.steps", "9"], "trainer.steps: 6 -> 9; if that is meant, say so: --continue trainer.steps=9"),
        (["--trainer.seed", "1"], "began with another recipe: trainer.seed: 0 -> 1"),
        (["--continue", "trainer.steps=4"], "trainer.steps: 4, but the run has done 6 steps already"),
        (["--continue", "trainer.seed=1"], "--continue trainer.seed: cannot change in a run that has begun"),
        (["--continue", "trainer.batch_size=4"], "--continue trainer.batch_size: cannot change"),
        (["--continue", "backbone.name=resnet18"], "its weights are those of this network"),
        (["--continue", "data.objects=90"], "--continue data.objects: cannot change"),
        (["--continue", "objective.name=simclr"], "--continue objective.name: cannot change"),
        (
            ["--continue", "objective.projector=[16, 16]"],
            "--continue objective.projector: the run's weights do not fit",
        ),
        (
            ["--continue", "objective.invariance=3.0"],
            "--continue objective.invariance: the run has done all of its 6 steps, so nothing would be trained with "
            "it; say more steps too: --continue trainer.steps=12",
        ),
        (
            ["--continue", "optimizer.lr=0.1", "--continue", "evaluation.neighbours=3"],
            "--continue optimizer.lr: the run",
        ),
        (["--continue", "trainer.stpes=9"], "trainer.stpes: no such setting; did you mean 'steps'?"),
        (["--continue", "steps=9"], "expected section.key=value"),
        (["--continue", "trainer.epochs=9"], "give steps or epochs, not both"),
        (["--trainer.best", "monitor/knm"], "trainer.best: no score is called 'monitor/knm'; did you mean 'knn'?"),
        (["--trainer.best", "knn", "--monitor.every", "0"], "'knn' is a monitor score, but monitor.every is 0"),
        (
            ["--trainer.callbacks", "[json.JSONDecoder]"],
            "callbacks[0].name: 'json.JSONDecoder' does not derive from pytorch_lightning.Callback",
        ),
        (["--trainer.callbacks", "[{name: Timer, durtion: 1}]"], "callbacks[0].durtion: no such setting; did you mean"),
        (
            ["--trainer.callbacks", "[{name: pytorch_lightning.callbacks.EarlyStopping, monitor: loss/total}]"],
            "trainer.stop ends training early",
        ),
        (["--trainer.callbacks", "[nowhere.Callback]"], "'nowhere.Callback' cannot be imported"),
        (
            ["--trainer.loggers", "[json.JSONDecoder]"],
            "'json.JSONDecoder' does not derive from pytorch_lightning.loggers.Logger",
        ),
        (["--trainer.loggers", "[{name: csv, flash: 1}]"], "loggers[0].flash: no such setting"),
    ],
)
def test_what_cannot_change_is_one_line_and_nothing_is_written(
    arguments: list[str], message: str, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(whole)
    assert resumed(whole, *arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert files(whole) == before


def test_continue_needs_a_run(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", str(recipe), "--continue", "trainer.steps=9"]) == 2
    assert capsys.readouterr().err == "error: --continue: needs the run that is continued, --resume RUN\n"


def test_a_run_without_whole_photographs_refuses_them_if_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        Image.fromarray(np.full((24, 20, 3), 20 * number, dtype=np.uint8)).save(images / f"{number}.png")
    content = {
        **parse_yaml(RECIPE),
        "data": {"name": "folder", "path": str(images), "size": 16, "photographs": "squares"},
        "augmentation": {"name": "simclr"},
        "monitor": {"every": 0},
    }
    content["trainer"] = {**content["trainer"], "steps": 2, "batch_size": 4}
    recipe = tmp_path / "photographs.yaml"
    recipe.write_text(dump_yaml(content))
    run = tmp_path / "run"
    assert main(["pretrain", str(recipe), "--output", str(run), "--quiet"]) == 0
    saved = parse_yaml((run / "recipe.yaml").read_text())
    del saved["data"]["photographs"], content["data"]["photographs"]
    (run / "recipe.yaml").write_text(dump_yaml(saved))
    recipe.write_text(dump_yaml(content))
    capsys.readouterr()
    for given in ([], [str(recipe)]):
        assert resumed(run, *given, "--data.photographs", "whole") == 2
        assert "data.photographs: 'squares' -> 'whole'" in capsys.readouterr().err
    assert resumed(run, str(recipe)) == 0
    # The same files elsewhere are the same data; others are not.
    for copy, how, code in (("same", shutil.copy2, 0), ("other", shutil.copyfile, 2)):
        shutil.copytree(images, tmp_path / copy, copy_function=how)
        assert resumed(run, "--data.path", str(tmp_path / copy)) == code
    assert "data.path: the files there are not those that the run began with" in capsys.readouterr().err


def test_the_best_checkpoint_and_the_last_ones_are_kept(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    settings = ["--trainer.best", "variance", "--trainer.keep", "2"]
    assert main(["pretrain", str(recipe), "--output", str(run), "--quiet", *settings]) == 0
    folder = RunFolder(run)
    assert list(folder.checkpoints()) == ["best", "last", "step-4", "step-6"]
    variances = [one["variance"] for one in losses(run)]
    least = int(np.argmin(variances)) + 1
    assert folder.record()["best"] == {
        "name": "variance",
        "mode": "min",
        "value": pytest.approx(min(variances)),
        "step": least,
    }
    for name, step in (("best", least), ("step-4", 4), ("last", 6)):
        state = folder.at_checkpoint(name).load_checkpoint()
        assert state is not None
        assert state["step"] == step
        weights = SavedRun.open(folder.at_checkpoint(name)).backbone().state_dict()
        assert all(torch.equal(weight, weights[key]) for key, weight in state["backbone"].items())
    before = files(run)
    for name, message in {"bets": "did you mean 'best'", "5": "has no checkpoint 'step-5'"}.items():
        for command in ("evaluate", "export", "embed"):
            output = ["--output", str(tmp_path / "new")]
            assert main([command, str(run), "--checkpoint", name, *output]) == 2
            assert message in capsys.readouterr().err
    assert main(["export", str(run), "--checkpoint", "4"]) == 0
    card = (run / "export-step-4" / "README.md").read_text()
    assert "| steps | 4 of 8 samples |" in card
    assert all(content == before[name] for name, content in files(run).items() if "export-step-4" not in name)
    exported = load_backbone_file(run / "export-step-4").build().state_dict()
    kept = torch.load(run / "checkpoints" / "step-4.ckpt", weights_only=True)["backbone"]
    assert all(any(torch.equal(weight, other) for other in kept.values()) for weight in exported.values())


@pytest.mark.parametrize(
    ("keep", "steps"), [(1, []), (2, [8, 10]), (3, [6, 8, 10]), (4, [4, 6, 8, 10]), (9, [2, 4, 6, 8, 10])]
)
def test_as_many_checkpoints_as_asked_for_are_kept(keep: int, steps: list[int], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoint_file.parent.mkdir()
    for step in range(2, 12, 2):
        folder.checkpoint_file.unlink(missing_ok=True)
        folder.checkpoint_file.write_text(str(step))
        folder.keep_checkpoint(step, keep)
    assert set(folder.checkpoints()) == {"last", *(f"step-{step}" for step in steps)}
    assert all((tmp_path / "checkpoints" / f"step-{step}.ckpt").read_text() == str(step) for step in steps)


def test_another_checkpoint_is_measured_by_itself(recipe: Path, tmp_path: Path) -> None:
    run, quick = tmp_path / "run", ["--evaluation.protocol", "quick", "--evaluation.objects", "12"]
    assert main(["pretrain", str(recipe), "--output", str(run), "--quiet", "--trainer.keep", "3", *quick]) == 0
    assert main(["export", str(run), "--checkpoint", "last", "--output", str(tmp_path / "last")]) == 0
    assert main(["export", str(run), "--checkpoint", "4", "--output", str(tmp_path / "four")]) == 0
    assert "`knn/top1`" in (tmp_path / "last" / "README.md").read_text()
    assert "was not evaluated" in (tmp_path / "four" / "README.md").read_text()
    judged = tmp_path / "judged"
    assert main(["evaluate", str(run), "--checkpoint", "4", "--output", str(judged)]) == 0
    row, other = compare([run, judged], measures="knn/top1:all")
    assert (row["checkpoint"], other["checkpoint"]) == (None, "step-4")
    weights = ssl_inv.load(run / "checkpoints" / "step-4.ckpt").backbone.state_dict()
    kept = torch.load(run / "checkpoints" / "step-4.ckpt", weights_only=True)["backbone"]
    assert all(torch.equal(weight, weights[name]) for name, weight in kept.items())


def test_a_run_that_stops_early_is_complete_and_says_why_and_goes_on_if_told(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = ["--trainer.steps", "20", "--trainer.stop", "{name: knn, patience: 2, change: 2.0}"]
    run, killed = tmp_path / "run", tmp_path / "killed"
    assert main(["pretrain", str(recipe), "--output", str(run), "--quiet", *stop]) == 0
    record = RunFolder(run).record()
    assert record["state"] == "complete"
    assert record["stopped"]["step"] == 6
    assert record["stopped"]["why"].startswith("plateau: knn stays no better than")
    assert "stopped" in (run / "report.html").read_text()
    with monkeypatch.context() as patch:
        broken_at(patch, 5)
        assert main(["pretrain", str(recipe), "--output", str(killed), "--quiet", *stop]) == 1
    assert resumed(killed) == 0
    assert RunFolder(killed).record()["stopped"] == record["stopped"]
    one, other = (torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (run, killed))
    assert all(torch.equal(weight, other["backbone"][name]) for name, weight in one["backbone"].items())
    # Killed just before it said that it stopped, it stops where it was.
    RunFolder(killed).update(stopped=None, state="training")
    assert resumed(killed) == 0
    assert RunFolder(killed).record()["stopped"] == record["stopped"]
    # Resumed as it is, it stays as it is; its owner may go on.
    assert resumed(run) == 0
    assert len(losses(run)) == 6
    assert continued(run, "trainer.stop=null", "trainer.steps=8") == 0
    assert len(losses(run)) == 8
    assert "stopped" not in RunFolder(run).record()


def test_a_callback_by_dotted_path_gets_its_settings_and_may_end_training(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    callback = "[{name: pytorch_lightning.callbacks.Timer, duration: {microseconds: 1}}]"
    assert main(["pretrain", str(recipe), "--output", str(run), "--quiet", "--trainer.callbacks", callback]) == 0
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "complete"
    assert record["stopped"] == {"step": 1, "why": "a callback ended training"}
    state = RunFolder(run).load_checkpoint()
    assert state is not None
    assert state["step"] == 1
