"""Starts the processes of a run as torchrun and srun do, without importing torch anew for each of them."""

import atexit
import errno
import functools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

PORTS = range(25_000, 32_768)
"""Below what Linux gives to connections, 32768 to 60999, and above the ports that Lightning makes of Slurm's jobs."""

SERVER = """
import json, os, signal, sys, time
from ssl_inv.run import cli, commands, pretrain
codes = {}
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        end, child = time.monotonic() + asked["timeout"], asked["wait"]
        while child not in codes:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= end:
                break
            else:
                time.sleep(0.01)
        print(json.dumps(codes.get(child)), flush=True)
        continue
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(asked["folder"])
        # A test suite in the background inherits a signal handler that ignores Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(asked["environment"])
        sys.argv = [sys.argv[1], *asked["arguments"]]
        for stream in (1, 2):
            os.dup2(os.open(asked["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY), stream)
        code = 1
        try:
            exec(asked["before"], {})
            code = cli.main(asked["arguments"])
        except SystemExit as error:
            code = error.code or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(child, flush=True)
"""

SMALL: dict[str, dict[str, Any]] = {
    "objective": {"name": "vicreg", "projector": [16, 16]},
    "backbone": {"name": "test_resnet"},
    "data": {"name": "rendered", "classes": 4, "objects": 24, "views": 3, "size": 32},
    "trainer": {
        "steps": 6,
        "batch_size": 8,
        "checkpoint_every": 100,
        "log_every": 1,
        "accelerator": "cpu",
        "workers": 0,
    },
    "optimizer": {"name": "sgd", "lr": 0.01, "warmup": 0.0},
    "monitor": {"every": 0},
    "evaluation": {"protocol": "none"},
}


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to connections.

    Until a process listens on it, seconds pass, in which the system could give one of its own to another test.
    """
    while True:
        port = PORTS.start + int.from_bytes(os.urandom(4)) % len(PORTS)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The process that has imported everything: one for all tests that ask for it."""
    program = str(Path(sys.executable).parent / "ssl-inv")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "TORCHELASTIC_"))}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, program],
        env={**clean, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


class Launcher:
    """Runs commands in processes that are forked from one that has imported everything.

    Args:
        folder: where they run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[int] = []

    def recipe(self, name: str, **sections: dict[str, Any]) -> str:
        """Writes SMALL with other settings; returns the path."""
        path = self.folder / f"{name}.yaml"
        changed = {key: {**SMALL.get(key, {}), **sections.get(key, {})} for key in {**SMALL, **sections}}
        path.write_text(yaml.safe_dump(changed))
        return str(path)

    def start(
        self, *arguments: str, environment: Mapping[str, str] | None = None, log: str = "log.txt", before: str = ""
    ) -> int:
        """Starts a command after some code; returns the number of the process."""
        asked = {"arguments": arguments, "environment": dict(environment or {}), "before": before}
        where = {"folder": str(self.folder), "log": str(self.folder / log)}
        pid = int(self._ask({**asked, **where}))
        self._started.append(pid)
        return pid

    def end(self, process: int, timeout: float = 90.0) -> int:
        """The exit code; negative for a signal."""
        code = self._ask({"wait": process, "timeout": timeout})
        assert code is not None, f"process {process} does not end: {self.logs()}"
        self._started.remove(process)
        return int(code)

    def has_ended(self, process: int) -> bool:
        """Whether a process that was started has ended."""
        return self._ask({"wait": process, "timeout": 0.0}) is not None

    def ends(self, processes: Sequence[int], timeout: float = 90.0) -> list[int]:
        """The exit codes of processes."""
        return [self.end(one, timeout) for one in processes]

    def torchrun(self, nodes: int, devices: int, *arguments: str, **how: Any) -> list[int]:
        """Starts all processes of a run with the variables of torchrun, which has its own store."""
        port, count = free_port(), nodes * devices
        started = []
        for rank in range(count):
            node, local = divmod(rank, devices)
            variables = {
                "RANK": rank,
                "LOCAL_RANK": local,
                "WORLD_SIZE": count,
                "LOCAL_WORLD_SIZE": devices,
                "GROUP_RANK": node,
                "GROUP_WORLD_SIZE": nodes,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            started.append(self._rank(rank, variables, arguments, how))
        return started

    def srun(self, nodes: int, devices: int, *arguments: str, **how: Any) -> list[int]:
        """Starts all processes of a run with the variables of srun."""
        count, job = nodes * devices, free_port()
        common = {"SLURM_JOB_ID": job, "SLURM_STEP_ID": 0, "SLURM_NTASKS": count, "SLURM_NNODES": nodes}
        common |= {"SLURM_NODELIST": "127.0.0.1", "SLURM_STEP_TASKS_PER_NODE": f"{devices}(x{nodes})"}
        started = []
        for rank in range(count):
            node, local = divmod(rank, devices)
            own = {"SLURM_PROCID": rank, "SLURM_LOCALID": local, "SLURM_NODEID": node}
            started.append(self._rank(rank, common | own, arguments, how))
        return started

    def _rank(self, rank: int, variables: Mapping[str, Any], arguments: Sequence[str], how: Mapping[str, Any]) -> int:
        environment = {**{key: str(value) for key, value in variables.items()}, **how.get("environment", {})}
        befores = how.get("before", {})
        return self.start(*arguments, environment=environment, log=f"rank{rank}.txt", before=befores.get(rank, ""))

    def logs(self) -> dict[str, str]:
        """What all processes have printed, by file."""
        return {one.name: one.read_text() for one in sorted(self.folder.glob("*.txt"))}

    def said(self, rank: int) -> str:
        """What a rank has printed."""
        return (self.folder / f"rank{rank}.txt").read_text()

    def close(self) -> None:
        """End everything that was started."""
        for process in self._started:
            try:
                os.killpg(process, 9)
            except ProcessLookupError:
                continue

    def _ask(self, asked: Any) -> Any:
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())


def until_logged(run: Path, step: int, timeout: float = 90.0) -> None:
    """Waits until a run has logged a step."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        file = run / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        if any(json.loads(line)["step"] >= step for line in lines if line.endswith("\n")):
            return
        time.sleep(0.01)
    raise AssertionError(f"{run} has not logged step {step} in {timeout} seconds")
