"""The commands of docs/scale.md work in their CPU form: two processes in place of eight, on small data."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launching import SMALL, free_port

from ssl_inv.run.cli import parse
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.plain_yaml import dump_value

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
ONE, EIGHT, TWO_MACHINES, SLURM, SHARDS, SHARED = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
SRUN = """\
#!{python}
import os, subprocess, sys
words, tasks = sys.argv[2:], []
assert sys.argv[1] == "--kill-on-bad-exit=1"
for rank in range(4):
    own = {{"SLURM_PROCID": rank, "SLURM_LOCALID": rank % 2, "SLURM_NODEID": rank // 2, "SLURM_STEP_ID": 0}}
    common = {{"SLURM_JOB_ID": {job}, "SLURM_NTASKS": 4, "SLURM_NNODES": 2, "SLURM_NODELIST": "127.0.0.1"}}
    environment = {{**os.environ, **{{key: str(value) for key, value in (own | common).items()}}}}
    tasks.append(subprocess.Popen(words, env=environment))
sys.exit(max(task.wait(timeout=500) for task in tasks))
"""


def small(command: str) -> str:
    """The command with two processes in place of eight, on small data."""
    settings = {f"{part}.{name}": value for part, section in SMALL.items() for name, value in section.items()}
    settings |= {"trainer.steps": 2, "objective.name": "simclr", "data.size": 16}
    words = [f"--{key}={shlex.quote(dump_value(value))}" for key, value in settings.items()]
    fewer = command.replace("devices 8", "devices 2").replace("nproc-per-node=8", "nproc-per-node=2").rstrip()
    return f"{fewer} --quiet {' '.join(words)}"


def run(script: str, folder: Path) -> None:
    path = f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
    words = [shutil.which("bash") or "bash", "-c", script]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_are_well_formed_and_name_the_exit_codes() -> None:
    for command in (ONE, EIGHT, SHARDS, TWO_MACHINES.partition("-m ")[2], SLURM.partition("-m ")[2]):
        assert parse(shlex.split(command)[1:]).command == "pretrain"
    commands = [parse(shlex.split(line.partition("-m ")[2])[1:]).command for line in SHARED.splitlines()]
    assert commands == ["evaluate", "embed", "render"]
    assert all(f"{128 + number}" in PAGE for number in (1, 2, 10, 12, 15))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "command"), [("one", ONE), ("eight", EIGHT), ("large", SHARDS)])
def test_one_machine(name: str, command: str, tmp_path: Path) -> None:
    run(small(command), tmp_path)
    assert RunFolder(tmp_path / "runs" / name).record()["state"] == "complete"


@pytest.mark.slow
def test_two_machines(tmp_path: Path) -> None:
    here = TWO_MACHINES.replace("master-addr=node0", "master-addr=127.0.0.1").replace("29500", str(free_port()))
    second = small(here.replace("--node-rank=0", "--node-rank=1"))
    run(f"{second} & {small(here)} && wait $!", tmp_path)
    assert RunFolder(tmp_path / "runs" / "two").record()["state"] == "complete"


@pytest.mark.slow
def test_the_script_for_slurm(tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    srun.write_text(SRUN.format(python=sys.executable, job=free_port()))
    srun.chmod(0o755)
    run(small(SLURM), tmp_path)
    assert RunFolder(tmp_path / "runs" / "slurm").record()["state"] == "complete"


@pytest.mark.slow
def test_what_is_shared_besides_training(tmp_path: Path) -> None:
    run(small(ONE), tmp_path)
    fewer = SHARED.replace("nproc-per-node=8", "nproc-per-node=2").replace("5500", "6 --data.classes 2 --data.size 16")
    run(f"set -e\n{fewer.replace('evaluated', 'evaluated --evaluation.protocol quick')}", tmp_path)
    assert (tmp_path / "evaluated" / "results.json").is_file()
    assert json.loads((tmp_path / "embeddings" / "_manifest.json").read_text())["complete"]
    assert (tmp_path / "solids" / "all_objects.npy").is_file()
