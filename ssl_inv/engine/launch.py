"""Lightning's trainer, loader processes, and what is said once for all processes."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytorch_lightning as lightning
import torch
from joblib import cpu_count
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only

from ssl_inv.catalogue import SettingError
from ssl_inv.data.source import Source
from ssl_inv.engine.settings import TrainerSettings


@rank_zero_only
def say(what: str) -> None:
    """Warn the user, on the first process alone."""
    logging.getLogger("ssl_inv").warning(f"warning: {what}")


def make_trainer(settings: TrainerSettings) -> lightning.Trainer:
    """Lightning's trainer with everything off that the engine does itself.

    Raises:
        ValueError: if the accelerator or the number of devices is not there.
    """
    available = torch.cuda.device_count()
    accelerator = ("gpu" if available else "cpu") if settings.accelerator == "auto" else settings.accelerator
    if accelerator == "gpu" and settings.devices > available:
        raise SettingError("devices", f"{settings.devices}, but this machine has {available} GPU(s)")
    with quiet_lightning():
        return lightning.Trainer(
            accelerator=accelerator,
            devices=settings.devices,
            # Buffers agree on all processes by construction; sending a queue or a bank around every step would cost
            # more than the step. Clusters and neighbours of millions of images take the first process hours, in which
            # the others wait.
            strategy=DDPStrategy(broadcast_buffers=False, timeout=timedelta(days=1))
            if settings.devices > 1
            else "auto",
            precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice (loggers, unused GPUs, numbers of workers) and its account of what it does to itself;
    errors still raise.
    """
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
            # Lightning's own use of torch's trees, reported as if it were ours.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def workers(settings: TrainerSettings, source: Source) -> int:
    """Loader processes per device: what the recipe says, as far as there are cores; what suits the data; or the spare
    cores.
    """
    cores: int = cpu_count()
    if settings.workers is not None:
        most = max(1, cores // settings.devices)
        if settings.workers > most:
            reason = (
                f"trainer.workers is {settings.workers}, but there are {cores} core(s) for {settings.devices} device(s)"
            )
            say(f"{reason}; {most} loader process(es) a device are started")
        return min(settings.workers, most)
    if source.preferred_workers is not None:
        return source.preferred_workers
    return max(1, min(8, (cores - 1) // settings.devices))
