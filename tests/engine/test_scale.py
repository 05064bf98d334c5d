"""Runs on several processes: one run, equal to one process, whatever starts, stops or kills them, and however many."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import Launcher, free_port, until_logged

from ssl_inv.run.folder import RunFolder
from ssl_inv.run.side_by_side.runs import read_saved

# Batch normalisation and rectifiers on a few small images make much of a rounding error; this network does not.
SMOOTH: dict[str, Any] = {
    "backbone": {"name": "test_vit", "arguments": {"img_size": 32, "patch_size": 8}},
    "objective": {"name": "simclr", "projector": [16, 16]},
}
TOLERANCE = 1e-5
"""Relative, of losses, and absolute, of weights, after a few steps of float32."""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    one = Launcher(tmp_path_factory.mktemp("runs"))
    yield one
    one.close()


@pytest.fixture(autouse=True)
def _new_logs(launcher: Launcher) -> None:
    for file in launcher.folder.glob("*.txt"):
        file.unlink()


@pytest.fixture(scope="module")
def whole(launcher: Launcher) -> Path:
    """A run of one process."""
    recipe = launcher.recipe("whole", trainer={"steps": 5, "checkpoint_every": 2}, **SMOOTH)
    assert launcher.end(launcher.start("pretrain", recipe, "--output", "whole", "--quiet")) == 0, launcher.logs()
    return launcher.folder / "whole"


def state(run: Path) -> str:
    return str(RunFolder(run).record()["state"])


def losses(run: Path) -> list[list[float]]:
    return [list(line["loss"].values()) for line in RunFolder(run).metrics()]


def assert_equal_but_for_rounding(run: Path, other: Path) -> None:
    assert state(run) == state(other) == "complete"
    torch.testing.assert_close(losses(run), losses(other), rtol=TOLERANCE, atol=0)
    one, two = (torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (run, other))
    assert one["step"] == two["step"]
    for part in ("backbone", "objective"):
        torch.testing.assert_close(one[part], two[part], rtol=0, atol=TOLERANCE)


def test_tasks_of_srun_make_one_run_in_one_folder(launcher: Launcher, whole: Path) -> None:
    where = {"environment": {"PWD": str(launcher.folder)}}
    words = ["pretrain", str(launcher.folder / "whole.yaml"), "--quiet", "--trainer.nodes", "2"]
    assert launcher.ends(launcher.srun(2, 1, *words, **where)) == [0, 0], launcher.logs()
    (made,) = (launcher.folder / "runs").iterdir()
    assert_equal_but_for_rounding(made, whole)
    assert launcher.said(1) == "", "the first process speaks"


def test_what_has_nothing_left_to_train_needs_no_other_process(launcher: Launcher, whole: Path) -> None:
    run = Path(shutil.copytree(whole, launcher.folder / "evaluated-again"))
    RunFolder(run).update(state="interrupted")
    words = ["pretrain", "--resume", str(run), "--quiet", "--trainer.devices", "2"]
    assert launcher.ends(launcher.srun(1, 2, *words), timeout=60) == [0, 0], launcher.logs()
    assert_equal_but_for_rounding(run, whole)


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_what_all_processes_meet_is_said_once(launcher: Launcher, whole: Path, path: str) -> None:
    (launcher.folder / "empty").mkdir(exist_ok=True)
    recipe = launcher.recipe("photographs", data={"name": "folder", "path": path}, trainer={"devices": 2})
    assert launcher.ends(launcher.srun(1, 2, "pretrain", recipe), timeout=60) == [2, 2], launcher.logs()
    assert [launcher.said(rank).count("\n") for rank in (0, 1)] == [1, 0], launcher.logs()
    assert launcher.said(0).startswith("error: data")


def test_what_one_process_alone_meets_is_said_by_the_first(launcher: Launcher, whole: Path) -> None:
    words = ["pretrain", str(launcher.folder / "whole.yaml"), "--quiet", "--trainer.devices", "2", "--output", "odd"]
    assert launcher.ends(launcher.srun(1, 2, *words, before={1: REFUSES}), timeout=60) == [1, 2], launcher.logs()
    assert re.fullmatch(r"error: rank 1 on .*: data: not here; there is no checkpoint yet\n", launcher.said(0))
    assert launcher.said(1) == ""


def test_a_run_killed_on_two_processes_goes_on_on_one_and_on_four(launcher: Launcher, whole: Path) -> None:
    run, recipe = launcher.folder / "elastic", str(launcher.folder / "whole.yaml")
    words = ["--quiet", "--trainer.devices"]
    before = {rank: KILLED_AFTER.format(step=3) for rank in (0, 1)}
    two = launcher.torchrun(1, 2, "pretrain", recipe, "--output", str(run), *words, "2", before=before)
    assert set(launcher.ends(two)) <= {-signal.SIGKILL, 1}
    goes_on = ["pretrain", "--resume", str(run), *words]
    assert launcher.end(launcher.start(*goes_on, "1", before=KILLED_AFTER.format(step=4))) == -signal.SIGKILL
    assert "at step 2 with 1 process in place of 2 processes" in (launcher.folder / "log.txt").read_text()
    four = launcher.torchrun(2, 2, *goes_on, "2", "--trainer.nodes", "2")
    assert launcher.ends(four) == [0] * 4, launcher.logs()
    assert_equal_but_for_rounding(run, whole)


KILLED_AFTER = """
import os
from ssl_inv.engine.module import Pretraining
once = Pretraining.training_step
def step(self, batch, index):
    if self.step == {step}:
        os.kill(os.getpid(), 9)
    return once(self, batch, index)
Pretraining.training_step = step
"""
REFUSES = """
from ssl_inv.catalogue import RecipeError
from ssl_inv.run import build
def refuses(recipe):
    raise RecipeError("data: not here")
build.build_data = refuses
"""
FAILS = """
from ssl_inv.engine.module import NonFiniteLossError, Pretraining
once = Pretraining.training_step
def step(self, batch, index):
    if self.step == 2:
        raise NonFiniteLossError("the third step of this rank is bad")
    return once(self, batch, index)
Pretraining.training_step = step
"""


@pytest.mark.parametrize("how", ["raises", pytest.param("is killed", marks=pytest.mark.slow)])
def test_a_rank_that_fails_ends_the_run_with_its_reason(launcher: Launcher, whole: Path, how: str) -> None:
    run = launcher.folder / how.replace(" ", "-")
    code = FAILS if how == "raises" else KILLED_AFTER.format(step=2)
    words = ["pretrain", str(launcher.folder / "whole.yaml"), "--quiet", "--trainer.devices", "2", "--output", str(run)]
    codes = launcher.ends(launcher.srun(1, 2, *words, before={1: code}), timeout=60)
    assert codes == [1, 1 if how == "raises" else -signal.SIGKILL], launcher.logs()
    reason = "the third step of this rank is bad" if how == "raises" else "has ended without a word: it was killed"
    assert state(run).startswith("failed: rank 1 on ")
    assert reason in state(run)
    assert "the last good checkpoint is" in state(run)
    (line,) = launcher.said(0).splitlines()
    assert line.removeprefix("error: ") in state(run)
    assert launcher.said(1) == ""


@pytest.mark.slow
def test_the_end_of_the_first_process_ends_the_others(launcher: Launcher, whole: Path) -> None:
    run = launcher.folder / "first"
    words = ["pretrain", str(launcher.folder / "whole.yaml"), "--quiet", "--trainer.devices", "2", "--output", str(run)]
    codes = launcher.ends(launcher.srun(1, 2, *words, before={0: KILLED_AFTER.format(step=2)}), timeout=60)
    assert codes == [-signal.SIGKILL, 1]
    assert "rank 0 has ended without a word" in launcher.said(1)
    assert (state(run), read_saved(run).state) == ("training", "stopped")


@pytest.mark.slow
def test_a_folder_that_is_taken_ends_all_processes(launcher: Launcher, whole: Path) -> None:
    words = ["pretrain", str(launcher.folder / "whole.yaml"), "--quiet", "--output", str(whole)]
    assert launcher.ends(launcher.srun(1, 2, *words, "--trainer.devices", "2"), timeout=60) == [2, 1]
    assert "exists already" in launcher.said(0)


SIGNALS = [(name, count) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") for count in (2, 1)]


@pytest.mark.parametrize(
    ("name", "processes"), [SIGNALS[0], *(pytest.param(*one, marks=pytest.mark.slow) for one in SIGNALS[1:])]
)
def test_a_signal_to_any_rank_ends_the_run_with_a_checkpoint(launcher: Launcher, name: str, processes: int) -> None:
    number = getattr(signal, name)
    recipe = launcher.recipe("long", trainer={"steps": 100_000}, **SMOOTH)
    run = launcher.folder / f"{name}-{processes}"
    words = ["pretrain", recipe, "--quiet", "--output", str(run), "--trainer.devices", str(processes)]
    started = [launcher.start(*words, log="rank0.txt")] if processes == 1 else launcher.srun(1, 2, *words)
    until_logged(run, 2)
    os.kill(started[-1], number)
    assert launcher.ends(started, timeout=60) == [128 + number] * processes, launcher.logs()
    assert state(run) == "interrupted"
    step = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["step"]
    assert step == len(losses(run)), "the step under way is finished and saved"
    (line,) = launcher.said(0).splitlines()
    assert line == f"error: interrupted{f' by {name}' * (name != 'SIGINT')}; ssl-inv pretrain --resume {run} continues"


STUCK = """
import time
from ssl_inv.engine import signals
from ssl_inv.engine.module import Pretraining
signals.PATIENCE = 3.0
once = Pretraining.training_step
def step(self, batch, index):
    while self.step == 2:
        time.sleep(0.1)
    return once(self, batch, index)
Pretraining.training_step = step
"""


@pytest.mark.parametrize(
    ("signs", "code"), [([signal.SIGINT] * 2, 130), pytest.param([signal.SIGTERM], 143, marks=pytest.mark.slow)]
)
def test_a_step_without_end_is_left_after_a_time_or_at_once(launcher: Launcher, signs: list[int], code: int) -> None:
    recipe = launcher.recipe("long", trainer={"steps": 100_000}, **SMOOTH)
    run = launcher.folder / f"stuck-{code}"
    process = launcher.start("pretrain", recipe, "--quiet", "--output", str(run), before=STUCK)
    until_logged(run, 2)
    for sign in signs:
        os.kill(process, sign)
    assert launcher.end(process, timeout=30) == code
    assert state(run) == "interrupted"


def test_slurm_requeues_if_asked_and_nothing_of_lightning_acts(launcher: Launcher, tmp_path: Path) -> None:
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\necho "$@" > "$0.said"\n')
    program.chmod(0o755)
    (launcher.folder / "hpc_ckpt_1.ckpt").write_bytes(b"of another program")
    recipe = launcher.recipe("long", trainer={"steps": 100_000, "requeue": True}, **SMOOTH)
    run = launcher.folder / "requeued"
    slurm = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    environment = {**slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["pretrain", recipe, "--quiet", "--output", str(run)]
    process = launcher.start(*words, environment=environment)
    until_logged(run, 1)
    os.kill(process, signal.SIGUSR1)
    assert launcher.end(process) == 128 + signal.SIGUSR1, launcher.logs()
    assert (tmp_path / "scontrol.said").read_text() == "requeue 77\n"
    assert [one.name for one in launcher.folder.glob("hpc*")] == ["hpc_ckpt_1.ckpt"]
    (launcher.folder / "hpc_ckpt_1.ckpt").unlink()
    # SLURM starts the same command again, which goes on.
    step = len(losses(run))
    process = launcher.start(*words, environment={**environment, "SLURM_RESTART_COUNT": "1"})
    until_logged(run, step + 1)
    os.kill(process, signal.SIGTERM)
    assert launcher.end(process) == 143, launcher.logs()
    assert RunFolder(run).record()["resumed"][0]["step"] == step


# The programs themselves.


def run_program(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_torchrun_restarts_a_run_where_it_was(launcher: Launcher, whole: Path, tmp_path: Path) -> None:
    killed = tmp_path / "dies_once.py"
    killed.write_text(
        "import os, sys\n"
        f"{KILLED_AFTER.format(step=3)}"
        "from ssl_inv.run.cli import main\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] != '0' or os.environ['RANK'] == '0':\n"
        "    Pretraining.training_step = once\n"
        "sys.exit(main())\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--max-restarts=1"]
    recipe = str(launcher.folder / "whole.yaml")
    words = [f"--master-port={free_port()}", str(killed), "pretrain", recipe, "--output", "run", "--quiet"]
    done = run_program(tmp_path, *torchrun, *words, "--trainer.devices", "2")
    assert done.returncode == 0, done.stderr
    assert_equal_but_for_rounding(tmp_path / "run", whole)
    assert [one["step"] for one in RunFolder(tmp_path / "run").record()["resumed"]] == [2]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_torchrun_on_two_hosts_trains_the_weights_of_one(
    launcher: Launcher, whole: Path, tmp_path: Path, devices: int
) -> None:
    port, recipe = free_port(), str(launcher.folder / "whole.yaml")
    started = []
    for node, address in enumerate(("127.0.0.1", "127.0.0.2")):
        words = ["--nnodes=2", f"--node-rank={node}", f"--nproc-per-node={devices}", f"--local-addr={address}"]
        words += ["--master-addr=127.0.0.1", f"--master-port={port}", "-m", "ssl_inv", "pretrain", recipe, "--quiet"]
        words += ["--trainer.nodes", "2", "--trainer.devices", str(devices)]
        command = [sys.executable, "-m", "torch.distributed.run", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        for one in started:
            _, errors = one.communicate(timeout=600)
            assert one.returncode == 0, errors
    finally:
        for one in started:
            one.kill()
    (made,) = (tmp_path / "runs").iterdir()
    assert_equal_but_for_rounding(made, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("sign", "code"), [(signal.SIGKILL, 1), (signal.SIGTERM, 143)])
def test_processes_that_the_first_one_has_started_end_with_it(
    launcher: Launcher, tmp_path: Path, sign: signal.Signals, code: int
) -> None:
    recipe = launcher.recipe("long", trainer={"steps": 100_000, "devices": 2}, **SMOOTH)
    run = tmp_path / "run"
    words = [sys.executable, "-m", "ssl_inv", "pretrain", recipe, "--quiet", "--output", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        until_logged(run, 2, timeout=240)
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        os.kill(int(children[0]), sign)
        _, errors = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == code, errors
    ended = "rank 1 on .* was killed by SIGKILL" if sign == signal.SIGKILL else "^interrupted$"
    assert re.search(ended, state(run)), state(run)
