"""Where a process stands in its launch, as Lightning asks for it."""

import socket

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

from ssl_inv.engine.cluster import Meeting, Place, meeting


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
        # srun may put other numbers of tasks on other nodes.
        of_launcher = self.here.processes if self.here.started_outside else None
        return of_launcher or self.nodes * self.devices

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
