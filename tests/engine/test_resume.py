"""A run that is killed and resumed ends with the same weights, and so does a run on two processes."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from launching import Launcher
from PIL import Image

from ssl_inv.run.folder import RunFolder
from ssl_inv.run.recipe import RecipeError
from ssl_inv.transforms.keyed_random import uniform

STEPS = 24
RENDERED = {
    "objective": {"name": "sie", "projector": [16, 16]},
    "backbone": {"name": "test_resnet", "arguments": {"drop_rate": 0.2}},
    "data": {"name": "rendered", "classes": 4, "objects": 24, "views": 3, "size": 16},
    "trainer": {"steps": STEPS, "batch_size": 8, "checkpoint_every": 3, "log_every": 1, "accelerator": "cpu"},
    "monitor": {"every": 4, "objects": 8, "share": 1.0},
    "evaluation": {"protocol": "none"},
}


class CommandLine(Launcher):
    """Writes recipes of RENDERED, and runs commands one after the other."""

    def recipe(self, name: str, **sections: dict[str, Any]) -> str:
        """Writes RENDERED with other sections; returns the path."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**RENDERED, **sections}))
        return str(path)

    def run(self, *arguments: str) -> None:
        """Pretrains to the end."""
        assert self.end(self.start("pretrain", *arguments, "--quiet")) == 0, self.log()

    def log(self) -> str:
        return (self.folder / "log.txt").read_text()


@pytest.fixture(scope="module")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    one = CommandLine(tmp_path_factory.mktemp("runs"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def uninterrupted(command_line: CommandLine) -> Path:
    command_line.run(command_line.recipe("recipe"), "--output", "uninterrupted")
    return command_line.folder / "uninterrupted"


def logged(run: Path) -> list[int]:
    """The steps whose loss was logged so far, without a line that is being written."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [line["step"] for line in map(json.loads, filter(lambda line: line.endswith("\n"), lines)) if "loss" in line]


def stop_at(command_line: CommandLine, run: Path, step: int, sign: signal.Signals, *how: str, delay: float = 0) -> int:
    """Pretrain until `step` is logged and for `delay` seconds more; returns the exit code."""
    before = logged(run)
    process = command_line.start("pretrain", *how, "--quiet")
    while not (logged(run) != before and max(logged(run), default=0) >= step):
        if command_line.has_ended(process):
            return command_line.end(process)
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(process, sign)  # one that has ended is still known to its parent
    return command_line.end(process)


def assert_same(one: Any, other: Any, where: str = "checkpoint") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{number}]")
    else:
        assert one == other, where


def checkpoint(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def losses(run: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def assert_as_if_uninterrupted(run: Path, uninterrupted: Path, steps: int = STEPS) -> None:
    assert_same(checkpoint(run), checkpoint(uninterrupted))
    assert logged(run) == list(range(1, steps + 1))
    assert losses(run) == losses(uninterrupted)
    assert RunFolder(run).record()["state"] == "complete"
    assert not [path for path in run.rglob(".*") if path.is_file()], "files written aside are left over"


def test_a_run_killed_at_five_moments_ends_bit_identically(command_line: CommandLine, uninterrupted: Path) -> None:
    run = command_line.folder / "killed"
    moments = uniform(0, count=5)[0]
    how = [str(command_line.folder / "recipe.yaml"), "--output", str(run)]
    for number, moment in enumerate(moments):
        # The last kill is between the last step and the end of the run.
        step = STEPS if number == len(moments) - 1 else 1 + STEPS * (number + moment) / len(moments)
        code = stop_at(command_line, run, int(step), signal.SIGKILL, *how, delay=0.03 * moment)
        assert code in (-signal.SIGKILL, 0)
        how = ["--resume", str(run)]
    command_line.run(*how)
    assert_as_if_uninterrupted(run, uninterrupted)


def test_ctrl_c_is_one_line_and_resumable(command_line: CommandLine, uninterrupted: Path) -> None:
    run = command_line.folder / "interrupted"
    before = len(command_line.log())
    recipe = str(command_line.folder / "recipe.yaml")
    assert stop_at(command_line, run, 5, signal.SIGINT, recipe, "--output", str(run)) == 130
    (said,) = command_line.log()[before:].strip().splitlines()
    assert "interrupted" in said
    assert RunFolder(run).record()["state"] == "interrupted"
    command_line.run("--resume", str(run))
    assert_as_if_uninterrupted(run, uninterrupted)


def test_a_run_is_not_resumed_twice_at_a_time(command_line: CommandLine, uninterrupted: Path) -> None:
    run = command_line.folder / "held"
    shutil.copytree(uninterrupted, run)
    (run / "checkpoints" / "last.ckpt").unlink()
    process = command_line.start("pretrain", "--resume", str(run), "--quiet")
    while RunFolder(run).record()["state"] != "training":
        os.kill(process, 0)
    with pytest.raises(RecipeError, match="being written by another process"), RunFolder.open(run).held():
        pass
    assert command_line.end(process) == 0
    assert_as_if_uninterrupted(run, uninterrupted)
    assert not (run / "run.lock").exists()


@pytest.mark.slow
def test_labels_held_out_views_growing_pairs_and_a_held_predictor_resume_too(command_line: CommandLine) -> None:
    sie = {"name": "sie", "projector": [16, 16], "predictor_initialisation": "group", "predictor_held": 5}
    told = {"name": "supervised", "labels": True, "parameters": ["rotation"], "hidden": [8]}
    recipe = command_line.recipe(
        "bounds",
        objective={
            **{"name": "split", "invariant": told},
            "equivariant": {"name": "anti-invariance", "base": sie, "views": 2, "growth": 6, "negatives": 1.0},
        },
        data={**RENDERED["data"], "views": 8, "held_out": "views"},
        trainer={**RENDERED["trainer"], "steps": 8},
    )
    whole, run = command_line.folder / "bounds", command_line.folder / "bounds-killed"
    command_line.run(recipe, "--output", str(whole))
    stop_at(command_line, run, 4, signal.SIGKILL, recipe, "--output", str(run))
    command_line.run("--resume", str(run))
    assert_as_if_uninterrupted(run, whole, 8)


def test_augmented_files_read_by_workers_resume_too(command_line: CommandLine) -> None:
    folder = command_line.folder / "images"
    folder.mkdir()
    for number in range(20):
        pixels = (uniform(number, count=24 * 24 * 3, high=256)[0]).astype(np.uint8).reshape(24, 24, 3)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    recipe = command_line.recipe(
        "files",
        objective={"name": "vicreg", "projector": [16, 16]},
        data={"name": "folder", "path": str(folder), "size": 24, "cache": False},
        augmentation={"name": "simclr", "size": 16},
        trainer={**RENDERED["trainer"], "steps": 8, "workers": 2},
    )
    whole, run = command_line.folder / "files", command_line.folder / "files-killed"
    command_line.run(recipe, "--output", str(whole))
    stop_at(command_line, run, 4, signal.SIGKILL, recipe, "--output", str(run))
    command_line.run("--resume", str(run), "--trainer.workers", "2")
    assert_as_if_uninterrupted(run, whole, 8)


@pytest.mark.slow
def test_a_lock_that_its_owner_has_just_removed_is_none(uninterrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="these locks are POSIX's")
    lock, really = uninterrupted / "run.lock", fcntl.lockf

    def late(file: Any, how: int) -> None:
        lock.unlink()
        lock.touch()  # somebody else's
        really(file, how)

    monkeypatch.setattr("fcntl.lockf", late)
    with pytest.raises(RecipeError, match="being written by another process"), RunFolder.open(uninterrupted).held():
        pass
    assert lock.exists()
    lock.unlink()


def test_what_any_process_cannot_read_is_said_and_recorded_once(command_line: CommandLine) -> None:
    folder = command_line.folder / "broken"
    folder.mkdir()
    for number in range(16):
        Image.new("RGB", (16, 16), (16 * number, 0, 0)).save(folder / f"{number:02}.png")
    broken = [f"{number:02}.png" for number in range(0, 12, 2)]
    for name in broken:
        (folder / name).write_bytes(b"no image")
    recipe = command_line.recipe(
        "broken",
        objective={"name": "vicreg", "projector": [16, 16]},
        backbone={"name": "test_resnet"},
        data={"name": "folder", "path": str(folder), "size": 16, "validation_share": 0.1, "max_broken": 1.0},
        augmentation={"name": "simclr"},
        trainer={**RENDERED["trainer"], "steps": 4, "devices": 2},
        monitor={"every": 0},
    )
    run = command_line.folder / "broken-run"
    started = command_line.torchrun(1, 2, "pretrain", recipe, "--output", str(run), "--quiet")
    assert command_line.ends(started) == [0, 0], command_line.logs()
    found = RunFolder(run).record()["broken_images"]
    assert set(found) <= set(broken)
    assert len(found) > 3, "two epochs meet all but those held out for validation"
    # What is met before training each process says with the reason; the rest is said by the first alone.
    lines = [command_line.said(rank).splitlines() for rank in (0, 1)]
    said = [[sum(name in line for line in own) for name in sorted(found)] for own in lines]
    assert said[0] == [1] * len(found)
    assert set(said[1]) <= {0, 1}
    assert sum(said[1]) < len(found)


@pytest.mark.slow
def test_two_processes_train_the_weights_of_one(command_line: CommandLine) -> None:
    recipe = command_line.recipe(
        "processes",
        backbone={"name": "test_resnet"},
        data={**RENDERED["data"], "size": 32},
        optimizer={"name": "sgd", "lr": 0.1, "warmup": 0.0},
        trainer={**RENDERED["trainer"], "steps": 2, "batch_size": 16, "accumulate": 2},
        monitor={"every": 0},
    )
    one, two = command_line.folder / "one", command_line.folder / "two"
    command_line.run(recipe, "--output", str(one))
    before = len(command_line.log())
    command_line.run(recipe, "--output", str(two), "--trainer.devices", "2")
    # The processes speak with one voice: where the export and the report are.
    assert len(command_line.log()[before:].splitlines()) == 2
    assert logged(two) == logged(one)
    for part in ("backbone", "objective"):
        expected, found = checkpoint(one)[part], checkpoint(two)[part]
        for name, tensor in expected.items():
            assert torch.allclose(found[name], tensor, rtol=1e-3, atol=1e-4), name
