"""Lightning's trainer, the number of loader processes, and warnings of rank 0."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as lightning
import torch
from joblib import cpu_count
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.trainer.connectors.checkpoint_connector import _CheckpointConnector
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector
from pytorch_lightning.utilities import rank_zero_only

from ssl_inv.catalogue import SettingError
from ssl_inv.data.source import Source
from ssl_inv.engine.cluster import ALONE, Place
from ssl_inv.engine.launched import Launched
from ssl_inv.engine.processes import Processes
from ssl_inv.engine.settings import TrainerSettings
from ssl_inv.engine.sharding import ShardedProcesses
from ssl_inv.plain import printable


@rank_zero_only
def say(what: str) -> None:
    """Warn the user, on rank 0 alone."""
    logging.getLogger("ssl_inv").warning("warning: " + printable(what).replace("\n", " "))


def make_trainer(
    settings: TrainerSettings, callbacks: Sequence[Callback] = (), here: Place = ALONE
) -> lightning.Trainer:
    """Lightning's trainer with the recipe's callbacks, without the parts that the engine replaces.

    Args:
        settings: of the recipe.
        callbacks: of the recipe.
        here: which process of the run this is.

    Raises:
        SettingError: if there are not enough GPUs, or the launcher has not said where processes meet.
    """
    available = torch.cuda.device_count()
    accelerator = ("gpu" if available else "cpu") if settings.accelerator == "auto" else settings.accelerator
    if accelerator == "gpu" and settings.devices > available:
        raise SettingError("devices", f"must be at most the {available} GPUs of this machine, got {settings.devices}")
    launched = Launched(here, settings.nodes, settings.devices)
    alone = launched.world_size() == 1
    processes = ShardedProcesses if settings.strategy == "fsdp" else Processes
    with quiet_lightning():
        trainer = lightning.Trainer(
            accelerator=accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy="auto" if alone else processes(launched),
            plugins=[launched] if alone else None,
            precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
            max_epochs=1,
            logger=False,
            callbacks=list(callbacks),
            enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
    _let_alone(trainer)
    return trainer


class _NoSignals(_SignalConnector):
    """Lightning's handler of SIGTERM sends to the other ranks from wherever it interrupts them."""

    def register_signal_handlers(self) -> None:
        """Nothing."""


class _NoOtherCheckpoint(_CheckpointConnector):
    """Under SLURM, Lightning loads a checkpoint of any program that lies in the current folder."""

    @property
    def _hpc_resume_path(self) -> None:
        return None


def _let_alone(trainer: lightning.Trainer) -> None:
    """Switch off what Lightning does at signals and under SLURM. The engine has its own signals and checkpoints."""
    own: Any = trainer
    own._signal_connector = _NoSignals(trainer)
    own._checkpoint_connector = _NoOtherCheckpoint(trainer)
    # Before every batch it asks rank 0 for such a signal, and a GPU waits for the answer.
    own.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def count_from(trainer: lightning.Trainer, step: int) -> None:
    """Let Lightning, and callbacks that ask it, count on from a step."""
    loop = trainer.fit_loop.epoch_loop
    loop.manual_optimization.optim_step_progress.total.ready = step
    loop.manual_optimization.optim_step_progress.total.completed = step
    loop._batches_that_stepped = step


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's advice and reports. Errors still raise."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
            # Lightning's own use of torch's trees is reported as ours.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def workers(settings: TrainerSettings, source: Source) -> int:
    """Loader processes per device: the recipe's number, limited by the cores; else the data's; else the spare cores."""
    cores: int = cpu_count()
    if settings.workers is not None:
        most = max(1, cores // settings.devices)
        if settings.workers > most:
            shortage = f"there are {cores} core(s) for {settings.devices} device(s)"
            say(f"trainer.workers is {settings.workers}, but {shortage}; using {most} loader process(es) per device")
        return min(settings.workers, most)
    if source.preferred_workers is not None:
        return source.preferred_workers
    return max(1, min(8, (cores - 1) // settings.devices))


@contextmanager
def beside(loaders: int) -> Iterator[None]:
    """Leave the loader processes their cores.

    They read the next batch while this one's views are made. Threads of torch wait for each other, so one that shares
    its core with a loader process holds up all.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - loaders))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
