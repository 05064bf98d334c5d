"""A Lightning callback that logs, scores, saves checkpoints and shows progress."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import pytorch_lightning as lightning

from ssl_inv.data.batches import Batch
from ssl_inv.data.images import BrokenImagesError
from ssl_inv.engine.meter import Rates
from ssl_inv.engine.module import Pretraining
from ssl_inv.engine.monitor import OnlineMonitor, collapse
from ssl_inv.engine.progress import Progress, clock
from ssl_inv.engine.settings import TrainerSettings
from ssl_inv.nn.distributed import all_names, rank


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
    """Logs, scores and saves at the steps that the recipe names.

    Args:
        run: the record; None on all ranks but 0.
        write: writes the content of a checkpoint; None on all ranks but 0.
        settings: how often to log and save.
        monitor: scores the encoder, if given.
        show: the progress display.
    """

    def __init__(
        self,
        run: Record | None,
        write: Callable[[Mapping[str, Any]], None] | None,
        settings: TrainerSettings,
        monitor: OnlineMonitor | None,
        show: Progress,
    ) -> None:
        self.run, self.write, self.settings, self.monitor, self.show = run, write, settings, monitor, show
        self.broken: dict[str, None] = dict.fromkeys([] if run is None else run.record().get("broken_images", []))
        self._rates: Rates | None = None
        self._collapsed = False

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._resumed = self._first_done = time.perf_counter()

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
            self._log(module)
        with module.meter.paused():
            trained = time.perf_counter() - self._resumed
            if self.monitor is not None and self.monitor.due(module.step, trained - self.monitor.seconds):
                self._score(module)
            if module.step % self.settings.checkpoint_every == 0 or last:
                self.save(module)
            self.show.update(self._line(module))

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        if module.diagnostics and self.run is not None:
            numbers = {name: round(value, 4) for name, value in module.diagnostics.items()}
            self.run.log(step=module.step + 1, memory=numbers)
        module.diagnostics = {}

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, Pretraining)
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
        if self.write is not None:
            self.write(module.training_state())

    def _log(self, module: Pretraining) -> None:
        self._rates = module.meter.read()
        if self.run is not None:
            speed, waiting = self._rates
            rate = module.optimization.optimizer.param_groups[0]["lr"]
            speeds = {"images_per_second": round(speed, 1), "waiting": round(waiting, 4)}
            self.run.log(step=module.step, loss=module.meter.terms, lr=rate, **speeds)

    def _score(self, module: Pretraining) -> None:
        assert self.monitor is not None
        scores = self.monitor.scores()
        if self.run is not None:
            self.run.log(step=module.step, monitor={name: round(value, 4) for name, value in scores.items()})
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items() if ", " not in name)
        self.show.keep(f"step {module.step}: {shown}")
        sentence = collapse(scores)
        if sentence is not None:
            warning = f"collapse at step {module.step}: {sentence}"
            self.show.warn(warning)
            if self.run is not None and not self._collapsed:
                self.run.warn(warning)
        self._collapsed = sentence is not None

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
