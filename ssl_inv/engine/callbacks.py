"""Callbacks: Lightning's by their names in recipes, and our scores for a trainer of one's own."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    ModelCheckpoint,
    ModelSummary,
    Timer,
)

from ssl_inv.catalogue import CALLBACKS, require
from ssl_inv.engine.action_use import InvarianceWatch
from ssl_inv.engine.launch import say
from ssl_inv.engine.loggers import constructed, named
from ssl_inv.engine.monitor import OnlineMonitor, collapse
from ssl_inv.engine.watch import clean

__all__ = ["DeviceStatsMonitor", "ModelCheckpoint", "ModelSummary", "Timer"]
"""Lightning's, by their names in recipes. `trainer.stop` stands for its `EarlyStopping`, and goes on when resumed."""


def make_callbacks(given: Sequence[Any]) -> list[lightning.Callback]:
    """The callbacks of a recipe.

    Raises:
        SettingError: if one cannot be imported, is no Lightning callback, or refuses its settings.
    """
    made = []
    for number, one in enumerate(given):
        name, settings = named(one)
        callback = constructed(CALLBACKS, f"callbacks[{number}]", name, settings)
        is_one = isinstance(callback, lightning.Callback)
        require(is_one, f"callbacks[{number}].name", f"{name!r} is no Lightning callback")
        late = "would look once, for a run is one epoch of Lightning's trainer; trainer.stop ends training early"
        require(not isinstance(callback, EarlyStopping), f"callbacks[{number}].name", f"{name!r} {late}")
        made.append(callback)
    return made


class OnlineScores(lightning.Callback):
    """Scores the encoder during training, in any Lightning trainer, and warns when its features collapse.

    The scores are logged as `monitor/knn`, `monitor/rankme` and so on, so other callbacks can watch them.

    Args:
        monitor: scores the encoder; it runs on rank 0.
    """

    def __init__(self, monitor: OnlineMonitor) -> None:
        self.monitor = monitor
        self._invariance = InvarianceWatch()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every, step = self.monitor.settings.every, trainer.global_step
        # A step of several batches is counted with its last one.
        if not every or step % every or step == getattr(self, "_scored", 0):
            return
        self._scored = step
        self.monitor.device = module.device
        scores = self.monitor.scores() if trainer.is_global_zero else {}
        scores = trainer.strategy.broadcast(scores)
        numbers = {f"monitor/{clean(name)}": value for name, value in scores.items()}
        module.log_dict(numbers, logger=False, on_step=True, on_epoch=False)
        # Lightning would show them only at the steps of `log_every_n_steps`.
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step)
        if trainer.is_global_zero and (sentence := collapse(scores)) is not None:
            say(f"collapse at step {step}: {sentence}")
        if trainer.is_global_zero and (warning := self._invariance.see(step, scores)) is not None:
            say(warning)
