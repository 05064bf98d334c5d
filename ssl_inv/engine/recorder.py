"""What happens beside the training step: log lines, monitor, checkpoints, progress."""

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
    """Where a run is written down: a run folder, or whatever stands for one."""

    def record(self) -> dict[str, Any]:
        """The facts so far."""

    def update(self, **facts: Any) -> None:
        """Add facts."""

    def warn(self, what: str) -> None:
        """Keep a warning."""

    def log(self, **values: Any) -> None:
        """Add a line to the log: numbers by name, at a step."""


class Recorder(lightning.Callback):
    """Logs, scores and saves at the steps that the recipe names, and tells the progress display.

    Args:
        run: where to write; None on all processes but the first.
        write: writes a checkpoint's content; None on all processes but the first.
        settings: say when.
        monitor: scores the encoder; None without one.
        show: where the state of the run is shown in words.
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
            if self.monitor is not None and self.monitor.due(
                module.step, time.perf_counter() - self._resumed - self.monitor.seconds
            ):
                self._score(module)
            if module.step % self.settings.checkpoint_every == 0 or last:
                self.save(module)
            self.show.update(self._line(module))

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        if module.diagnostics and self.run is not None:
            self.run.log(
                step=module.step + 1, memory={name: round(value, 4) for name, value in module.diagnostics.items()}
            )
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
            self.run.update(
                state="interrupted"
                if isinstance(exception, KeyboardInterrupt)
                else f"failed: {' '.join(str(exception).split())}"
            )

    def save(self, module: Pretraining) -> None:
        """Write the checkpoint of the step that was done last, if it is one that a run can continue from.

        Raises:
            NonFiniteLossError: if a loss term or a weight is not finite; nothing is written.
        """
        module.check_finite()
        module.check_weights()
        # Processes meet other images; what one of them has met is known to all from the next checkpoint on.
        self._note_broken(module, all_names(self.broken))
        if self.write is not None:
            self.write(module.training_state())

    def _log(self, module: Pretraining) -> None:
        self._rates = module.meter.read()
        if self.run is not None:
            speed, waiting = self._rates
            rate = module.optimization.optimizer.param_groups[0]["lr"]
            self.run.log(
                step=module.step,
                loss=module.meter.terms,
                lr=rate,
                images_per_second=round(speed, 1),
                waiting=round(waiting, 4),
            )

    def _score(self, module: Pretraining) -> None:
        assert self.monitor is not None
        scores = self.monitor.scores()
        if self.run is not None:
            self.run.log(step=module.step, monitor={name: round(value, 4) for name, value in scores.items()})
        self.show.keep(
            f"step {module.step}: "
            + ", ".join(f"{name} {value:.3f}" for name, value in scores.items() if ", " not in name)
        )
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
        for name in new:
            self.broken[name] = None
            if rank() == 0:
                self.show.warn(f"{name} cannot be read and is skipped")
        if self.run is not None:
            self.run.update(broken_images=list(self.broken))
        # Each loader process refuses what is too much for it alone; only here is it known what all of them have met.
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
        return f"step {module.step}/{total}  {speed:.0f} img/s  {waiting:.0%} waiting for data  {clock(remaining)} left  {terms}"

    def _seconds_a_step(self, done: int) -> float:
        """With monitors and checkpoints, and without what comes once: memory that is found, a bank that is filled."""
        now = time.perf_counter()
        if done <= 1:
            self._first_done = now
            return now - self._resumed
        return (now - self._first_done) / (done - 1)
