"""The processes of a run as Lightning's strategy."""

import os
from datetime import timedelta

import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy

from ssl_inv.engine.launched import Launched
from ssl_inv.engine.team import Team

_TIMEOUT = timedelta(minutes=10)
"""Of a collective. Where ranks wait longer for rank 0, they wait in `wait_for_first`."""

_READY = 30 * 60
"""Seconds that processes wait for each other before they have met: each reads its data first."""

_SET_BY_LAUNCH = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


class Processes(DDPStrategy):
    """Data-parallel training over the processes of a launch.

    Args:
        launched: where this process stands.

    Attributes:
        team: the processes, which stay together after training until they `leave`.
        have_trained: whether all of them have trained to the end, and have the same weights.
    """

    def __init__(self, launched: Launched) -> None:
        # Buffers are equal on all ranks by construction, and sending a queue or a bank costs more than a step.
        super().__init__(cluster_environment=launched, broadcast_buffers=False, timeout=_TIMEOUT)
        self.launched = launched
        self.team = Team(launched)
        self.have_trained = False
        self._before: dict[str, str | None] = {name: os.environ.get(name) for name in _SET_BY_LAUNCH}
        self._made_group = False
        if launched.here.started_outside:
            # From here on, the others see it when the first process fails, as when it reads its data.
            self.team.open()

    def setup_distributed(self) -> None:
        """Meet the other processes, and form the group."""
        self.set_world_ranks()
        os.environ["LOCAL_WORLD_SIZE"] = str(self.launched.devices)
        self._process_group_backend = self._get_process_group_backend()
        if dist.is_initialized():
            return
        store = self.team.store
        connected = self.team.peers is not None
        if not connected:
            children = getattr(self._launcher, "procs", [])
            self.team.watch(list(children))
            # Lightning's own watch kills this process without a word.
            children[:] = []
        self.team.meet("ready", _READY)
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
            self.team.connect()

    def end_training(self) -> None:
        """Dissolve the group of the gradients. The processes stay together."""
        if self._made_group:
            dist.destroy_process_group()
        self.have_trained = True
        self._forget_group()

    def leave(self, reason: str = "") -> None:
        """Leave the other processes, in peace or with a reason that ends them too."""
        self.team.leave(reason)
        if self._made_group and not reason:
            dist.destroy_process_group()
        self._forget_group()

    def _forget_group(self) -> None:
        self._made_group = False
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
