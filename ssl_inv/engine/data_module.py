"""The batches of a pretraining for a Lightning trainer of one's own."""

import math
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as lightning

from ssl_inv.data.batches import Batch, StepLoader
from ssl_inv.data.source import Data
from ssl_inv.engine.module import Pretraining
from ssl_inv.engine.settings import MonitorSettings


class EpochLoader:
    """The batches from the step of a module to the end of its epoch.

    The epoch of the trainer is one pass over the objects, rounded up to whole steps. Where it goes on depends on the
    step of the module alone, so a checkpoint in the middle of an epoch continues with the batch that comes next.

    Args:
        module: whose batches.
    """

    def __init__(self, module: Pretraining) -> None:
        self.module, self._whole = module, module.train_dataloader()
        self.steps = math.ceil(module.batches.steps_per_epoch / module.settings.accumulate)
        """Optimiser steps of an epoch."""

    def __len__(self) -> int:
        return self.steps * self.module.settings.accumulate

    def __iter__(self) -> Iterator[Batch]:
        module, per_step = self.module, self.module.settings.accumulate
        last = min((module.step // self.steps + 1) * self.steps, module.steps)
        whole = self._whole
        yield from StepLoader(whole.batches, module.step * per_step, last * per_step, whole.workers, whole.before_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The step. Lightning resumes a loader in the middle of an epoch only if it has a state."""
        return {"step": self.module.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: the module has the step, by its own part of the checkpoint."""


class PretrainingData(lightning.LightningDataModule):
    """The training batches of a module, an epoch at a time, for any Lightning trainer.

    Args:
        module: what is trained on them.
        data: all training and validation objects, which the batches are drawn from.
        monitor: how often and on how many objects to score the encoder.
    """

    def __init__(self, module: Pretraining, data: Data, monitor: MonitorSettings) -> None:
        super().__init__()
        self.module, self.data, self.monitor = module, data, monitor

    def train_dataloader(self) -> EpochLoader:
        return EpochLoader(self.module)
