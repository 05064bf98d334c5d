"""The processes of a run whose backbones are in shards, as Lightning's strategy."""

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from ssl_inv.engine.processes import Processes
from ssl_inv.nn.sharding import Shards, in_shards, whole


class ShardedProcesses(Processes):
    """Processes that keep the blocks of backbones and teachers in shards by FSDP2, and the rest whole by DDP.

    Blocks are whole outside of training: a checkpoint is loaded into them before, and they are whole again after the
    last step, on the host of every process.
    """

    def model_to_device(self) -> None:
        module: Any = self.lightning_module
        shards = Shards((module.backbone, module.objective), self.root_device)
        super().model_to_device()
        # The optimiser shares the memory of what is whole, so it is told of it when it has come to the device.
        module.optimization.shard(shards)
        module.shards = shards

    def _setup_model(self, model: torch.nn.Module) -> DistributedDataParallel:
        names = [name for name, one in model.named_parameters() if in_shards(one)]
        ignored: Any = DistributedDataParallel
        ignored._set_params_and_buffers_to_ignore_for_model(model, names)
        return super()._setup_model(model)

    def on_train_end(self) -> None:
        """Put whole blocks in place, while the group is still there. After an error, there is no such end."""
        module: Any = self.lightning_module
        module.shards.restore()
        module.shards = None
        super().on_train_end()

    # What the checkpoints of Lightning's callbacks hold. All processes ask for it.

    def lightning_module_state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = whole(super().lightning_module_state_dict(), self.is_global_zero)
        return state

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        state: dict[str, Any] = whole(super().optimizer_state(optimizer), self.is_global_zero)
        return state
