"""A Lightning callback that logs, scores, saves checkpoints and shows progress."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import pytorch_lightning as lightning

from ssl_inv.data.batches import Batch
from ssl_inv.data.images import BrokenImagesError, StoredImages
from ssl_inv.data.source import Source, Subset
from ssl_inv.data.sources.meshes.source import RenderedMeshes
from ssl_inv.engine.action_use import InvarianceWatch
from ssl_inv.engine.loggers import Loggers
from ssl_inv.engine.meter import Rates
from ssl_inv.engine.module import NonFiniteLossError, Pretraining
from ssl_inv.engine.monitor import OnlineMonitor, collapse
from ssl_inv.engine.progress import Progress, clock
from ssl_inv.engine.settings import TrainerSettings
from ssl_inv.engine.watch import Stop, Value
from ssl_inv.evaluation.features import NonFiniteFeaturesError
from ssl_inv.nn.distributed import Agreement, all_names, rank, wait_for_first


class Record(Protocol):
    """Where a run is recorded, such as a run folder."""

    def record(self) -> dict[str, Any]:
        """All facts."""

    def update(self, **facts: Any) -> None:
        """Add facts."""

    def warn(self, what: str) -> None:
        """Keep a warning."""

    def log(self, **values: Any) -> None:
        """Add a line to the log: numbers by name."""


class Recorder(lightning.Callback):
    """Logs, scores and saves at the steps that the recipe names, and ends training early if the recipe says when.

    Args:
        run: the record; None on all ranks but 0.
        write: writes the content of a checkpoint, and as the best one if told so; None on all ranks but 0.
        settings: how often to log and save, and what is watched.
        monitor: scores the encoder, if given.
        show: the progress display.
        loggers: are told what the record is; None on all ranks but 0.
        history: the entries of the log so far that count for the early end.
        score_every: steps between scores, which all ranks must know.
        asked: gives the number of a signal that asks this process to end, 0 for none.
    """

    def __init__(
        self,
        run: Record | None,
        write: Callable[[Mapping[str, Any], bool], None] | None,
        settings: TrainerSettings,
        monitor: OnlineMonitor | None,
        show: Progress,
        loggers: Loggers | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        score_every: int = 0,
        asked: Callable[[], int] = lambda: 0,
    ) -> None:
        self.loggers, self._score_every = loggers, score_every
        watched, stop = settings.watched_for_best(), settings.early_stop()
        self._value = None if watched is None else Value(watched, "trainer.best", score_every > 0)
        before = None if run is None else run.record().get("best")
        if before and watched is not None and before["name"] == watched.name:
            self._best = before["value"] if before["mode"] == "max" else -before["value"]
        else:
            self._best = -math.inf
        self._stop, self._reason = None if stop is None else Stop(stop, score_every > 0), ""
        self._invariance = InvarianceWatch()
        for entry in history:
            self._see(entry)
            self._invariance.see(entry["step"], entry.get("monitor", {}))
        self.run, self.write, self.settings, self.monitor, self.show = run, write, settings, monitor, show
        self.broken: dict[str, None] = dict.fromkeys([] if run is None else run.record().get("broken_images", []))
        self._rates: Rates | None = None
        self._collapsed = self._ended = False
        self._asked, self._agreement = asked, Agreement()
        self.signal = 0
        """The signal that has ended training on all ranks; 0 if none has."""

    @property
    def reason(self) -> str:
        """Why training ends by what has been logged; empty if it does not."""
        return self._reason

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, Pretraining)
        self._resumed = self._first_done = time.perf_counter()
        # What the source met before training it has named itself, with the reason: it is not said again.
        source: Source = module.batches.source
        while isinstance(source, Subset):
            source = source.source
        known = source.broken if isinstance(source, StoredImages | RenderedMeshes) else {}
        self.broken.update(dict.fromkeys(known))
        if known and self.run is not None:
            self.run.update(broken_images=list(self.broken))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        self._note_broken(module, batch.broken)
        if (batch_idx + 1) % self.settings.accumulate:
            return
        last = module.step == module.steps
        if module.step % self.settings.log_every == 0 or last:
            module.check_finite()
            better = self._log(module)
            with module.meter.paused():
                self._keep_if_best(trainer, module, better)
        with module.meter.paused():
            if self._is_due(trainer, module):
                self._keep_if_best(trainer, module, self._score(module))
            stops = self._ends(trainer, module.step)
            number = self._agreement.exchange(self._asked())
            saves = module.step % self.settings.checkpoint_every == 0 or last or stops or number > 0
            if saves:
                self.save(module)
            if saves or (self._score_every and module.step % self._score_every == 0):
                wait_for_first()
            if stops:
                self._end(trainer, module)
            elif number and not last:
                self.signal = number
                trainer.should_stop = self._ended = True
            self.show.update(self._line(module))

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        if module.diagnostics and self.run is not None:
            numbers = {name: round(value, 4) for name, value in module.diagnostics.items()}
            self._note(step=module.step + 1, memory=numbers)
        module.diagnostics = {}

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, Pretraining)
        self._agreement.last()
        if module.step < module.steps and not self._ended:
            self._reason = "a callback ended training"
            self.save(module)
            self._end(trainer, module)
        speed, waiting = module.meter.whole
        self.show.keep(f"trained at {speed:.0f} img/s, {waiting:.1%} of the time waiting for data")
        if self.run is not None:
            self.run.update(images_per_second=round(speed, 1), waiting=round(waiting, 4))

    def on_exception(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.show.close()
        if self.run is not None:
            reason = f"failed: {' '.join(str(exception).split())}"
            with suppress(OSError):  # on a full disk the exception itself says more
                self.run.update(state="interrupted" if isinstance(exception, KeyboardInterrupt) else reason)

    def save(self, module: Pretraining) -> None:
        """Write the checkpoint of the last step.

        Raises:
            NonFiniteLossError: if a loss term or a weight is not finite. Nothing is written, as no run can continue so.
        """
        module.check_finite()
        module.check_weights()
        # Every rank meets other images. The ranks exchange the names of broken ones at checkpoints.
        self._note_broken(module, all_names(self.broken))
        self._write(module)

    def _write(self, module: Pretraining, best: bool = False) -> None:
        if self.write is None and module.shards is None:
            return
        state = module.training_state()  # to which all processes have to give their shards
        if self.write is not None:
            self.write(state, best)

    def _note(self, further: Mapping[str, float] | None = None, **entry: Any) -> bool:
        """Add an entry to the log, and tell it to the loggers, with further numbers that the log has not.

        Returns:
            Whether the entry has a better value than all before.
        """
        assert self.run is not None
        self.run.log(**entry)
        if self.loggers is not None:
            self.loggers.log({**entry, **(further or {})})
        self._see(entry)
        return self._is_best(entry)

    def _see(self, entry: Mapping[str, Any]) -> None:
        if self._stop is not None:
            self._reason = self._stop.see(entry) or self._reason

    def _is_best(self, entry: Mapping[str, Any]) -> bool:
        value = None if self._value is None else self._value.read(entry)
        if value is None or not value > self._best:
            return False
        self._best = value
        return True

    def _is_due(self, trainer: lightning.Trainer, module: Pretraining) -> bool:
        """Whether to score now: the first process knows, and tells the others if they hold a part of the network."""
        if self.monitor is None:
            return False
        trained = time.perf_counter() - self._resumed
        due = self.monitor.due(module.step, trained - self.monitor.seconds)
        every = self.monitor.settings.every
        if module.shards is None or not every or module.step % every:
            return due
        return trainer.strategy.reduce_boolean_decision(due and self.run is not None, all=False)

    def _keep_if_best(self, trainer: lightning.Trainer, module: Pretraining, better: bool) -> None:
        """Save the checkpoint of this step if it is the best one. It is then also the last one, from which a run goes
        on.
        """
        if self._value is None:
            return
        if module.shards is not None:
            better = trainer.strategy.reduce_boolean_decision(better, all=False)
        if not better:
            return
        module.check_weights()
        self._write(module, best=True)
        if self.run is None:
            return
        value = self._value
        named = {"name": value.watched.name, "mode": value.mode, "value": value.shown(self._best)}
        self.run.update(best={**named, "step": module.step})

    def _ends(self, trainer: lightning.Trainer, step: int) -> bool:
        """Whether training ends here: rank 0 knows, and tells the others at steps that may have an entry of the log."""
        every = (self.settings.log_every, self._score_every)
        if self._stop is None or not any(one and step % one == 0 for one in every):
            return False
        return trainer.strategy.reduce_boolean_decision(bool(self._reason), all=False)

    def _end(self, trainer: lightning.Trainer, module: Pretraining) -> None:
        trainer.should_stop = self._ended = True
        if self.run is not None and module.step < module.steps:
            self.run.update(stopped={"step": module.step, "why": self._reason})
            self.show.keep(f"stopped at step {module.step} of {module.steps}: {self._reason}")

    def _log(self, module: Pretraining) -> bool:
        """Add the losses to the log. Returns whether they are better than all before."""
        self._rates = module.meter.read()
        if self.run is None:
            return False
        speed, waiting = self._rates
        rate = module.optimization.optimizer.param_groups[0]["lr"]
        speeds = {"images_per_second": round(speed, 1), "waiting": round(waiting, 4)}
        total = {"loss/total": module.meter.total}
        with module.meter.paused():
            return self._note(total, step=module.step, loss=module.meter.terms, lr=rate, **speeds)

    def _score(self, module: Pretraining) -> bool:
        """Score the encoder, and add the scores to the log. Returns whether they are better than all before.

        Raises:
            NonFiniteLossError: if a weight or a feature is not finite.
        """
        assert self.monitor is not None
        try:
            scores, better = self.monitor.scores(), False
        except NonFiniteFeaturesError as error:
            module.check_weights()
            raise NonFiniteLossError(f"{error}, after step {module.step}") from None
        if module.shards is not None and rank() > 0:
            return False  # it has only taken part
        if self.run is not None:
            rounded = {name: round(value, 4) for name, value in scores.items()}
            better = self._note(step=module.step, monitor=rounded)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items() if ", " not in name)
        self.show.keep(f"step {module.step}: {shown}")
        sentence = collapse(scores)
        if sentence is not None:
            warning = f"collapse at step {module.step}: {sentence}"
            self.show.warn(warning)
            if self.run is not None and not self._collapsed:
                self.run.warn(warning)
        self._collapsed = sentence is not None
        if (invariant := self._invariance.see(module.step, scores)) is not None:
            self.show.warn(invariant)
            if self.run is not None:
                self.run.warn(invariant)
        return better

    def _note_broken(self, module: Pretraining, names: Iterable[str]) -> None:
        new = [name for name in dict.fromkeys(names) if name not in self.broken]
        if not new:
            return
        self.broken.update(dict.fromkeys(new))
        if rank() == 0:
            for name in new:
                self.show.warn(f"{name} cannot be read and is skipped")
        if self.run is not None:
            self.run.update(broken_images=list(self.broken))
        # Every loader process checks the limit for itself. Only here the broken images of all of them are known.
        allowed = module.batches.source.tolerated_images
        if allowed is not None and len(self.broken) > allowed:
            first = next(iter(self.broken))
            raise BrokenImagesError(
                f"more than {allowed} images cannot be read (raise data.max_broken to go on without them), as {first}"
            )

    def _line(self, module: Pretraining) -> str:
        speed, waiting = self._rates or module.meter.recent
        total = module.steps
        terms = "  ".join(f"{name} {value:.3g}" for name, value in module.meter.terms.items())
        remaining = self._seconds_a_step(module.step - self.show.first_step) * (total - module.step)
        speeds = f"{speed:.0f} img/s  {waiting:.0%} waiting for data  {clock(remaining)} left"
        return f"step {module.step}/{total}  {speeds}  {terms}"

    def _seconds_a_step(self, done: int) -> float:
        """With monitors and checkpoints, without the first step, which allocates memory and fills banks."""
        now = time.perf_counter()
        if done <= 1:
            self._first_done = now
            return now - self._resumed
        return (now - self._first_done) / (done - 1)
