"""Training in Lightning's trainer, and how it ends: for every process, with one reason."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ssl_inv.catalogue import RecipeError
from ssl_inv.data.source import Data
from ssl_inv.engine.action_use import action_use
from ssl_inv.engine.cluster import Place, meeting
from ssl_inv.engine.launch import quiet_lightning, say
from ssl_inv.engine.module import NonFiniteLossError, Pretraining
from ssl_inv.engine.monitor import OnlineMonitor
from ssl_inv.engine.peers import PeerError, leave_word, word
from ssl_inv.engine.processes import Processes
from ssl_inv.engine.settings import MonitorSettings
from ssl_inv.engine.signals import Interrupted, Signals, said
from ssl_inv.engine.team import Team
from ssl_inv.run.build import Run
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.recipe import Recipe


def fit(run: Run, signals: Signals, folder: RunFolder | None) -> None:
    """Train with all processes of the run.

    Raises:
        NonFiniteLossError: if a loss term or a weight is not finite on this rank.
        PeerError: if another process has failed, with its reason.
        SystemExit: on further processes, if the first one says the reason.
        KeyboardInterrupt: if this process was interrupted, and not asked to end after a step.
    """
    strategy = run.trainer.strategy
    others = strategy if isinstance(strategy, Processes) else None
    if others is not None and folder is not None:
        others.team.last_words = last_words(folder, "failed")
    with quiet_lightning(), own_account_of_broken_images(), signals.awaited():
        try:
            run.trainer.fit(run.module)
        except SystemExit:
            signals.disregard()
            if others is not None:
                others.leave("interrupted")
            if not run.trainer.interrupted:
                raise
            # On Ctrl-C, Lightning ends the program and ignores further ones.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None
        except Exception as error:
            signals.disregard()
            if others is not None:
                reason = others.team.why(error)
                others.leave(reason or reason_of(error))
                if reason and folder is None and not reason.startswith("rank 0 "):
                    raise SystemExit(1) from None  # the first process says it
                if reason:
                    raise PeerError(f"{reason}; {_last_good(folder)}") from None
            if isinstance(error, NonFiniteLossError):
                raise NonFiniteLossError(f"{error}; {_last_good(folder)}") from None
            raise
    if others is not None:
        others.end_training()


class UntrainedError(RuntimeError):
    """A run has not reached the last step of its recipe."""


def require_trained(run: Run, folder: RunFolder) -> None:
    """Raise an `UntrainedError` unless a run is at its last step, or its record says why it has ended before."""
    step, steps = run.module.step, run.module.steps
    stopped = folder.record().get("stopped") or {}
    if step < steps and stopped.get("step") != step:
        continues = f"ssl-inv pretrain --resume {folder.path} continues"
        raise UntrainedError(
            f"training has ended at step {step:,} of {steps:,}, so the run is not complete; {continues}"
        )


def reason_of(error: Exception) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def last_words(folder: RunFolder, state: str, continues: bool = False) -> Callable[[str], None]:
    """What a process that hangs still does: it writes into the record of the run how it ended, and says so."""

    def speak(what: str) -> None:
        folder.update(state=state if continues else f"{state}: {what}")
        advice = f"; ssl-inv pretrain --resume {folder.path} continues from the last checkpoint" if continues else ""
        sys.stderr.write(f"error: {what}{advice}\n")

    return speak


@contextmanager
def speaks_up(here: Place, recipe: Recipe) -> Iterator[None]:
    """Let the first process say why another one fails, also before they have met.

    Raises:
        SystemExit: on further processes, if the first one says the reason.
        PeerError: on the first one, if a launcher ends it because another has failed.
    """
    try:
        yield
    except Exception as error:
        told = not here.first and not isinstance(error, PeerError) and _leave_word(here, recipe, reason_of(error))
        if told and type(error).__module__.startswith("ssl_inv."):
            raise SystemExit(2 if isinstance(error, RecipeError) else 1) from None
        raise
    except Interrupted as error:
        # The others hear of it from each other once they train.
        if not here.first and not error.agreed:
            _leave_word(here, recipe, str(error))
        if here.first and (reason := ended_by(here, recipe, error)):
            raise reason from None
        raise


def _leave_word(here: Place, recipe: Recipe, reason: str) -> bool:
    return leave_word(meeting(here, recipe.trainer.nodes), here.rank, reason)


def ended_by(here: Place, recipe: Recipe, error: KeyboardInterrupt) -> PeerError | None:
    """The failure of another process because of which a launcher ends the first one, if that is why."""
    if here.launcher == "none" or not isinstance(error, Interrupted) or error.number != signal.SIGTERM:
        return None
    reason = word(meeting(here, recipe.trainer.nodes))
    return None if reason is None or said(error.number) in reason else PeerError(reason)


def failed_before(team: Team, error: Interrupted) -> str | None:
    """The failure of another process because of which a launcher ends this one; None if a user does."""
    if team.where is None or error.number != signal.SIGTERM:
        return None
    reason = word(team.where)
    return None if reason is None or said(error.number) in reason else reason


def requeue() -> None:
    """Put the job of SLURM that this process is part of back into the queue."""
    job, program = os.environ.get("SLURM_JOB_ID"), shutil.which("scontrol")
    if job is None or program is None:
        say("trainer.requeue: there is no job of SLURM to put back into the queue")
        return
    done = subprocess.run([program, "requeue", job], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        say(f"trainer.requeue: scontrol requeue {job}: {' '.join(done.stderr.split())}")


@contextmanager
def own_account_of_broken_images() -> Iterator[None]:
    """Silence the log of the data while training. The recorder names broken images once for all loader processes."""
    logger = logging.getLogger("ssl_inv.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _last_good(folder: RunFolder | None) -> str:
    if folder is None or not folder.checkpoint_file.is_file():
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {folder.checkpoint_file}"


def make_monitor(
    module: Pretraining, data: Data, settings: MonitorSettings, seed: int, device: torch.device
) -> OnlineMonitor | None:
    """The online monitor of a run, or None if the recipe switches it off."""
    if not settings.every:
        return None
    objective, maker, network = module.objective, module.view_maker, module.backbone
    use = action_use(objective, maker, network, data.train, device, seed)
    return OnlineMonitor(data, objective.representations(network), network, maker.whole, settings, device, seed, use)
