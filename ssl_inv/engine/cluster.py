"""Which process of a run this is, by the word of the environment: torchrun, srun, Lightning's launcher, or none.

torch is not imported, so that the command line knows at once which process writes and speaks.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ssl_inv.catalogue import SettingError, require

Launcher = Literal["none", "lightning", "torchrun", "srun"]

_SRUN = "srun or torchrun"
_INTERACTIVE_STEP = "4294967290"
"""`SLURM_STEP_ID` of the shell that salloc opens on a node of the job."""

_RANKS = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK"),
    *("MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID"),
)


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of its run.

    Attributes:
        launcher: who started it; `none` starts the other processes of this machine itself, by Lightning.
        rank: its number among all processes.
        local_rank: its number among those of its node.
        node: the number of its node.
        processes: how many the launcher has started; None if that is for the recipe to say.
        processes_here: how many of them on this node, as far as the launcher says.
        nodes: on how many nodes, as far as the launcher says.
    """

    launcher: Launcher = "none"
    rank: int = 0
    local_rank: int = 0
    node: int = 0
    processes: int | None = None
    processes_here: int | None = None
    nodes: int | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes the run and speaks for it."""
        return self.rank == 0

    @property
    def started_outside(self) -> bool:
        """Whether a program from outside has started all processes, so that they can meet before they train."""
        return self.launcher in ("torchrun", "srun")


ALONE = Place()
"""A process that nobody has started beside others."""


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Where this process stands.

    torchrun comes before SLURM, because srun can start one torchrun a node. A job of one task is no launch: it starts
    the processes of its node itself.

    Raises:
        SettingError: if a variable that a launcher sets is no number.
    """
    count = _Counts(environment)
    if "RANK" in environment and ("TORCHELASTIC_RUN_ID" in environment or count("WORLD_SIZE", 1) > 1):
        ranks = count("RANK"), count("LOCAL_RANK", 0), count("GROUP_RANK", count("NODE_RANK", 0))
        here, nodes = count.known("LOCAL_WORLD_SIZE"), count.known("GROUP_WORLD_SIZE")
        return Place("torchrun", *ranks, count("WORLD_SIZE"), here, nodes)
    if _is_task_of_srun(environment) and (tasks := count("SLURM_NTASKS", 1)) > 1:
        ranks = count("SLURM_PROCID"), count("SLURM_LOCALID", 0), count("SLURM_NODEID", 0)
        nodes = count.known("SLURM_STEP_NUM_NODES") or count.known("SLURM_NNODES")
        return Place("srun", *ranks, tasks, _tasks_per_node(environment), nodes)
    if "LOCAL_RANK" in environment:
        return Place("lightning", count("LOCAL_RANK"), count("LOCAL_RANK"), 0, count.known("WORLD_SIZE"))
    return ALONE


def _is_task_of_srun(environment: Mapping[str, str]) -> bool:
    step = environment.get("SLURM_STEP_ID")
    # A batch script has the variables of task 0, but no other task runs beside it. sbatch marks it so.
    in_script = step is None and environment.get("ENVIRONMENT") == "BATCH"
    return "SLURM_PROCID" in environment and not in_script and step != _INTERACTIVE_STEP


def _tasks_per_node(environment: Mapping[str, str]) -> int | None:
    """`2(x3)` or `2` if all nodes have as many; None if they differ or it is not said."""
    said = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_NTASKS_PER_NODE", "")
    found = re.fullmatch(r"(\d+)(\(x\d+\))?", said)
    return int(found[1]) if found else None


class _Counts:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment

    def __call__(self, name: str, otherwise: int | None = None) -> int:
        text = self.environment.get(name, "" if otherwise is None else str(otherwise))
        if not text.isdecimal():
            given = f"is {text!r}" if name in self.environment else "is missing"
            raise SettingError(name, f"the environment's variable {given}; {_SRUN} sets it to a number")
        return int(text)

    def known(self, name: str) -> int | None:
        return self(name) if name in self.environment else None


def require_fitting(here: Place, nodes: int, devices: int) -> None:
    """Raise a `SettingError` if the recipe asks for other processes than the launcher has started."""
    if here.launcher in ("none", "lightning"):
        needed = f"{nodes}, but every node needs its own processes: start them by {_SRUN}, see docs/scale.md"
        require(nodes == 1, "nodes", needed)
        return
    name, there = here.launcher, here.processes
    asked = f"trainer.nodes {nodes} with trainer.devices {devices}"
    per_node = here.processes_here or (there // here.nodes if there and here.nodes else None)
    on = f" on {here.nodes} nodes" if here.nodes and here.nodes > 1 else ""
    fits = there == nodes * devices and here.local_rank < devices
    fits = fits and here.processes_here in (None, devices) and here.nodes in (None, nodes)
    if fits:
        return
    advice = ""
    if there and per_node and there % per_node == 0:
        advice = f"; --trainer.nodes {there // per_node} --trainer.devices {per_node} fits"
    problem = f"{name} has started {there} process{'es' * (there != 1)}{on}, but the recipe asks for {asked}{advice}"
    raise SettingError("devices", problem)


@dataclass(frozen=True)
class Meeting:
    """Where the processes of a run meet.

    Attributes:
        address: of the machine that has the store.
        port: of the store; 0 lets the first process choose one.
        hosted: whether the first process has the store; else torchrun has it.
        name: tells apart the attempts that torchrun makes with one store.
    """

    address: str
    port: int
    hosted: bool
    name: str

    @property
    def private(self) -> bool:
        """Whether the store can listen on the loopback alone."""
        return self.hosted and self.address == _LOOPBACK


_LOOPBACK = "127.0.0.1"


def meeting(here: Place, nodes: int, environment: Mapping[str, str] = os.environ) -> Meeting:
    """Where the processes meet. On one node, that is the loopback, unless torchrun says otherwise.

    Raises:
        SettingError: if the launcher has not said where the first node is.
    """
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    agents = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address, port = environment.get("MASTER_ADDR"), _Counts(environment)("MASTER_PORT", 0)
    if here.launcher == "srun":
        # Steps of one job must not meet each other.
        step = int(environment.get("SLURM_STEP_ID", "0")) % 1000
        job = re.sub(r"\D", "", environment.get("SLURM_JOB_ID", "0")) or "0"
        port = port or 15_000 + (int(job) * 7 + step) % 30_000
        address = address or _first_host(environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST"))
    # A process that nobody has started beside others only checks what several nodes would train.
    if (nodes == 1 or here.launcher == "none") and not agents:
        address = _LOOPBACK
    if address is None or (port == 0 and here.launcher != "none"):
        name = "MASTER_PORT" if address else "MASTER_ADDR"
        raise SettingError(name, f"the environment's variable is missing; {_SRUN} says where the first node is")
    return Meeting(address, port, not agents, f"ssl-inv-{attempt}")


def _first_host(names: str | None) -> str | None:
    """`node3` of SLURM's `node[3-5,8],other`."""
    if not names:
        return None
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", names).split(",")[0].split(" ")[0]


def restarted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun or SLURM runs the same command again, after it has ended or was requeued."""
    counts = (environment.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(count.isdecimal() and int(count) > 0 for count in counts)


def without_launch(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that is started to work alone."""
    kept = (key for key in environment if key not in _RANKS and not key.startswith("TORCHELASTIC_"))
    return {key: environment[key] for key in kept}
