"""The processes of a run as Lightning's strategy: they meet, watch each other, and know where they stand."""

import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from ssl_inv.engine.cluster import Meeting, Place, meeting
from ssl_inv.engine.peers import PeerError, Peers

_TIMEOUT = timedelta(minutes=10)
"""Of a collective. Where ranks wait longer for rank 0, they wait in `wait_for_first`."""

_ARRIVAL = timedelta(minutes=5)
"""How long processes that a launcher starts wait for each other to begin."""

_READY = 30 * 60
"""Seconds that processes wait for each other before they have met: each reads its data first."""

_SET_BY_LAUNCH = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


class Launched(ClusterEnvironment):
    """Answers Lightning's questions about the launch, by the word of the environment.

    Lightning's own answer for SLURM saves checkpoints, loads them and requeues jobs by itself.

    Args:
        here: which process this is.
        nodes: machines of the run.
        devices: processes on each.
    """

    def __init__(self, here: Place, nodes: int, devices: int) -> None:
        super().__init__()
        self.here, self.nodes, self.devices = here, nodes, devices
        self.where: Meeting = meeting(here, nodes)
        self.listener: socket.socket | None = None
        """Where the first process will listen; it has the port before it has told anybody."""

    @property
    def creates_processes_externally(self) -> bool:
        return self.here.launcher != "none"

    @property
    def main_address(self) -> str:
        return self.where.address

    @property
    def main_port(self) -> int:
        if self.where.private and self.here.first and self.listener is None:
            self.listener = socket.create_server((self.where.address, self.where.port))
            port = self.listener.getsockname()[1]
            self.where = Meeting(self.where.address, port, self.where.hosted, self.where.name)
        return self.where.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.nodes * self.devices

    def set_world_size(self, size: int) -> None:
        """Nothing: the recipe says it."""

    def global_rank(self) -> int:
        return self.here.rank

    def set_global_rank(self, rank: int) -> None:
        """Nothing: the launcher says it."""

    def local_rank(self) -> int:
        return self.here.local_rank

    def node_rank(self) -> int:
        return self.here.node


class Processes(DDPStrategy):
    """Data-parallel training over the processes of a launch.

    Args:
        launched: where this process stands.
    """

    def __init__(self, launched: Launched) -> None:
        # Buffers are equal on all ranks by construction, and sending a queue or a bank costs more than a step.
        super().__init__(cluster_environment=launched, broadcast_buffers=False, timeout=_TIMEOUT)
        self.launched = launched
        self.peers: Peers | None = None
        self.last_words: Callable[[str], None] | None = None
        """What a process that hangs still does when another has failed."""
        self._before: dict[str, str | None] = {name: os.environ.get(name) for name in _SET_BY_LAUNCH}
        self._made_group = False
        self._opened: Store | None = None
        if launched.here.launcher in ("torchrun", "srun"):
            # From here on, the others see it when the first process fails, as when it reads its data.
            self._opened = self._store()
            self._meet(self._opened, "arrived", _ARRIVAL.total_seconds())
            self.peers = Peers(launched.where, launched.here.rank, last_words=self._speak)
            self.peers.start()
            self.peers.connect(private=launched.nodes == 1)

    def setup_distributed(self) -> None:
        """Meet the other processes, and form the group."""
        self.set_world_ranks()
        os.environ["LOCAL_WORLD_SIZE"] = str(self.launched.devices)
        self._process_group_backend = self._get_process_group_backend()
        if dist.is_initialized():
            return
        store = self._opened or self._store()
        connected = self.peers is not None
        if self.peers is None:
            children = getattr(self._launcher, "procs", [])
            self.peers = Peers(self.launched.where, self.global_rank, children, self._speak)
            # Lightning's own watch kills this process without a word.
            children[:] = []
            self.peers.start()
        self._meet(store, "ready", _READY)
        dist.init_process_group(
            self._process_group_backend,
            store=store,
            rank=self.global_rank,
            world_size=self.world_size,
            timeout=_TIMEOUT,
            device_id=None if self.root_device.type == "cpu" else self.root_device,
        )
        self._made_group = True
        if not connected:
            self.peers.connect(private=True)

    def _speak(self, reason: str) -> None:
        if self.last_words is not None:
            self.last_words(reason)
        elif self.launched.here.first:
            sys.stderr.write(f"error: {reason}\n")

    def _store(self) -> Store:
        launched, address, port = self.launched, self.launched.main_address, self.launched.main_port
        hosts = launched.where.hosted and launched.here.first
        given: dict[str, Any] = {}
        if launched.listener is not None:
            given["master_listen_fd"] = launched.listener.detach()
        try:
            store = TCPStore(address, port, None, hosts, _ARRIVAL, wait_for_workers=False, **given)
        except dist.DistError as error:
            reason = str(error).strip().splitlines()[0]
            raise MeetingError(f"no way to the first process at {address}, port {port}: {reason}") from None
        return PrefixStore(launched.where.name, store)

    def _meet(self, store: Store, occasion: str, seconds: float) -> None:
        """Wait for all processes.

        Raises:
            NothingToTrain: if the first process has left in peace.
            PeerError: if a process has failed.
            MeetingError: if one does not come.
        """
        keys = [f"{occasion}-{rank}" for rank in range(self.launched.world_size())]
        end = time.monotonic() + seconds
        try:
            store.set(keys[self.launched.here.rank], "yes")
            # A wait in the store would hear neither of a rank that has failed nor of a signal.
            while missing := [rank for rank, key in enumerate(keys) if not store.check([key])]:
                if self.peers is not None and self.peers.reason:
                    raise PeerError(self.peers.reason)
                if self.peers is not None and self.peers.first_has_left:
                    raise NothingToTrain
                if time.monotonic() > end:
                    late = ", ".join(map(str, missing))
                    raise MeetingError(f"rank(s) {late} did not come in {seconds / 60:.0f} minutes")
                time.sleep(0.05)
        except dist.DistError:
            if self.peers is not None and self.peers.first_has_left:
                raise NothingToTrain from None
            raise MeetingError("the first process has ended before all had met") from None

    def why(self, error: BaseException) -> str:
        """The failure of another process that is the cause of an error here; empty if there is none."""
        return "" if self.peers is None else self.peers.why(error)

    def leave(self, reason: str = "") -> None:
        """Leave the other processes, in peace or with a reason that ends them too."""
        if self.peers is not None:
            self.peers.leave(reason)
        if self._made_group and not reason:
            dist.destroy_process_group()
        self._made_group = False
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class NothingToTrain(Exception):  # noqa: N818
    """The first process trains no more, as on a run that lacks only its evaluation, and needs no others."""


class MeetingError(RuntimeError):
    """The processes of a run did not meet."""
