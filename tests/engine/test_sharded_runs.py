"""Runs with shards: one run, equal to one process, that goes on with or without shards, whatever ends it."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import Launcher, until_logged

from ssl_inv.run.folder import RunFolder

pytestmark = pytest.mark.slow

SECTIONS: dict[str, dict[str, Any]] = {
    "backbone": {"name": "test_vit", "arguments": {"img_size": 32, "patch_size": 8}},
    "objective": {"name": "byol", "projector": [24, 16]},
    "monitor": {"every": 2, "objects": 8, "share": 1.0},
}
SAVES = {"name": "ModelCheckpoint", "dirpath": "lightning", "every_n_train_steps": 6}
TRAINER: dict[str, Any] = {"steps": 6, "checkpoint_every": 2, "clip": 0.3, "best": "rankme", "callbacks": [SAVES]}
TOLERANCE = 1e-5
"""Relative, of losses, and absolute, of weights, after a few steps of float32."""

TWO = ("--quiet", "--trainer.devices", "2")
SHARDS = (*TWO, "--trainer.strategy", "fsdp")


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    one = Launcher(tmp_path_factory.mktemp("runs"))
    one.recipe("recipe", trainer=TRAINER, **SECTIONS)
    yield one
    one.close()


@pytest.fixture(autouse=True)
def _new_logs(launcher: Launcher) -> None:
    for file in launcher.folder.glob("*.txt"):
        file.unlink()


@pytest.fixture(scope="module")
def whole(launcher: Launcher) -> Path:
    """A run of one process."""
    return finished(launcher, "whole", "--quiet")


@pytest.fixture(scope="module")
def sharded(launcher: Launcher) -> Path:
    """A run of two processes with shards."""
    return finished(launcher, "sharded", *SHARDS)


def finished(launcher: Launcher, name: str, *words: str) -> Path:
    saved = f"--trainer.callbacks=[{{name: ModelCheckpoint, dirpath: {name}-lightning, every_n_train_steps: 6}}]"
    process = launcher.start("pretrain", "recipe.yaml", "--output", name, saved, *words)
    assert launcher.end(process, timeout=300) == 0, launcher.logs()
    return launcher.folder / name


def checkpoint(run: Path, name: str = "last.ckpt") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / name, weights_only=True)  # type: ignore[no-any-return]


def assert_same(run: Path, other: Path, tolerance: float) -> None:
    """The same losses, scores and checkpoint, of complete runs."""
    assert [RunFolder(one).record()["state"] for one in (run, other)] == ["complete"] * 2
    logged = [RunFolder(one).metrics() for one in (run, other)]
    for part in ("loss", "monitor"):
        found, expected = ([line[part] for line in one if part in line] for one in logged)
        assert len(found) == len(expected) > 0
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=1e-3 * (part == "monitor") * (tolerance > 0))
    for name in ("last.ckpt", "best.ckpt"):
        found, expected = (checkpoint(one, name) for one in (run, other))
        assert found["step"] == expected["step"]
        for part in ("backbone", "objective"):
            torch.testing.assert_close(found[part], expected[part], rtol=0, atol=tolerance)
        states = (one["optimizer"]["state"] for one in (found, expected))
        torch.testing.assert_close(*states, rtol=0, atol=10 * tolerance)


def test_a_run_with_shards_is_that_of_one_process(launcher: Launcher, sharded: Path, whole: Path) -> None:
    assert_same(sharded, whole, TOLERANCE)
    files = [next((launcher.folder / f"{one.name}-lightning").glob("*.ckpt")) for one in (sharded, whole)]
    found, expected = (torch.load(file, weights_only=True) for file in files)
    torch.testing.assert_close(found["state_dict"], expected["state_dict"], rtol=0, atol=TOLERANCE)
    states = (one["optimizer_states"][0]["state"] for one in (found, expected))
    torch.testing.assert_close(*states, rtol=0, atol=10 * TOLERANCE)


KILLED = """
import os
from ssl_inv.engine.module import Pretraining
once = Pretraining.training_step
def step(self, batch, index):
    if self.step == 3:
        os.kill(os.getpid(), 9)
    return once(self, batch, index)
Pretraining.training_step = step
"""


@pytest.fixture(scope="module")
def killed(launcher: Launcher) -> Path:
    """A run with shards whose processes were killed in the fourth step."""
    words = ["pretrain", "recipe.yaml", "--output", "killed", *SHARDS]
    codes = launcher.ends(launcher.torchrun(1, 2, *words, before={0: KILLED, 1: KILLED}))
    assert set(codes) <= {-signal.SIGKILL, 1}
    assert checkpoint(launcher.folder / "killed")["step"] == 2
    return launcher.folder / "killed"


@pytest.mark.parametrize(
    ("how", "words", "said"),
    [
        ("fsdp", SHARDS, ""),
        (
            "four",
            (*SHARDS, "--trainer.devices", "4"),
            "at step 2 with 4 processes with shards in place of 2 processes with shards",
        ),
        ("ddp", (*TWO, "--trainer.strategy", "ddp"), "at step 2 with 2 processes in place of 2 processes with shards"),
        (
            "alone",
            ("--quiet", "--trainer.devices", "1", "--trainer.strategy", "auto"),
            "at step 2 with 1 process in place of 2 processes with shards",
        ),
    ],
)
def test_a_killed_run_goes_on_with_shards_or_without(
    launcher: Launcher, killed: Path, sharded: Path, whole: Path, how: str, words: tuple[str, ...], said: str
) -> None:
    run = Path(shutil.copytree(killed, launcher.folder / how))
    assert launcher.end(launcher.start("pretrain", "--resume", str(run), *words), timeout=300) == 0, launcher.logs()
    assert said in launcher.logs()["log.txt"]
    if how == "fsdp":
        assert_same(run, sharded, 0.0)
    else:
        assert_same(run, whole, TOLERANCE)


def test_a_run_of_whole_networks_goes_on_with_shards(launcher: Launcher, whole: Path) -> None:
    run = launcher.folder / "begun-whole"
    process = launcher.start("pretrain", "recipe.yaml", "--output", str(run), "--quiet", before=KILLED)
    assert launcher.end(process) == -signal.SIGKILL
    assert launcher.end(launcher.start("pretrain", "--resume", str(run), *SHARDS), timeout=300) == 0, launcher.logs()
    assert_same(run, whole, TOLERANCE)


def test_one_process_cannot_go_on_with_shards(launcher: Launcher, killed: Path) -> None:
    words = ["pretrain", "--resume", str(killed), "--trainer.devices", "1"]
    assert launcher.end(launcher.start(*words)) == 2
    said = "error: trainer.strategy: fsdp needs at least two processes, by trainer.devices or trainer.nodes; use auto\n"
    assert launcher.logs()["log.txt"] == said


def test_a_signal_ends_a_run_with_shards_with_a_checkpoint(launcher: Launcher) -> None:
    run = launcher.folder / "signal"
    words = ["pretrain", "recipe.yaml", "--output", str(run), *SHARDS, "--trainer.steps", "100000"]
    started = launcher.srun(1, 2, *words)
    until_logged(run, 3)
    os.kill(started[1], signal.SIGTERM)
    assert launcher.ends(started, timeout=60) == [143, 143], launcher.logs()
    assert RunFolder(run).record()["state"] == "interrupted"
    steps = [line["step"] for line in RunFolder(run).metrics() if "loss" in line]
    assert checkpoint(run)["step"] == steps[-1], "the step under way is finished and saved"


BROKEN = """
import torch
from ssl_inv.engine.module import Pretraining
from ssl_inv.nn.sharding import local
once = Pretraining._step
def step(self):
    once(self)
    if self.step == 4:
        with torch.no_grad():
            local(self.backbone.model.blocks[1].mlp.fc1.weight)[-1].fill_(float("nan"))
Pretraining._step = step
"""


def test_a_weight_that_is_not_finite_in_the_shard_of_one_rank_is_named(launcher: Launcher) -> None:
    run = launcher.folder / "broken"
    words = ["pretrain", "recipe.yaml", "--output", str(run), "--monitor.every", "0", "--trainer.best", "null", *SHARDS]
    codes = launcher.ends(launcher.srun(1, 2, *words, before={1: BROKEN}))
    assert codes == [1, 1], launcher.logs()
    reason = "parameter 'model.blocks.1.mlp.fc1.weight' is not finite after step 4"
    assert reason in launcher.said(0)
    assert reason in RunFolder(run).record()["state"]
    assert checkpoint(run)["step"] == 2
