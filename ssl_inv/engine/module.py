"""The training step, as a LightningModule: raw images -> views -> losses -> step -> objective.after_step."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from ssl_inv.data.batches import Batch, Staging, StepBatches, StepLoader
from ssl_inv.data.source import Source
from ssl_inv.engine.meter import Meter
from ssl_inv.engine.optimizers import Optimization
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import is_distributed
from ssl_inv.objectives.base import Losses, Objective
from ssl_inv.transforms import Group, keyed_random
from ssl_inv.views.maker import ViewMaker

_TRAINING, _BETWEEN_EPOCHS, _AFTER_STEP = range(3)
"""Occasions on which torch's random numbers are set anew."""


class NonFiniteLossError(RuntimeError):
    """A loss term or a weight became infinite or not a number."""


@dataclass(frozen=True)
class Schedule:
    """How long and how to train.

    Attributes:
        steps: optimiser steps of the whole run.
        accumulate: batches whose gradients are averaged into one step.
        clip: largest norm of the gradient, or None.
        clip_each: whether that is the norm of each parameter's gradient, and not of all together.
        seed: decides everything random that has no key of its own, such as dropout.
    """

    steps: int
    accumulate: int = 1
    clip: float | None = None
    clip_each: bool = False
    seed: int = 0


class Pretraining(lightning.LightningModule):
    """One run of one objective.

    Nothing that it does depends on hidden state: the batch, the views, the learning rate and the random numbers of a
    step follow from the seed and the number of the step. A checkpoint therefore is the weights, the optimiser's state
    and that number.

    Args:
        backbone: what is pretrained.
        objective: what it learns.
        view_maker: makes views of raw images.
        optimization: optimiser over the parameters of both.
        batches: raw images by step.
        schedule: how long and how.
        workers: loader processes.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        view_maker: ViewMaker,
        optimization: Optimization,
        batches: StepBatches,
        schedule: Schedule,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.backbone, self.objective, self.view_maker = backbone, objective, view_maker
        self.optimization, self.batches, self.schedule, self.workers = optimization, batches, schedule, workers
        self.step = 0
        """Optimiser steps done."""
        self._stamp: str | None = None
        self.meter = Meter()
        self.diagnostics: dict[str, float] = {}
        """What the objective said about its memory before this epoch, until it is written down."""
        self._staging: Staging | None = None
        self._unchecked: list[tuple[int, list[str], Tensor]] = []

    def setup(self, stage: str) -> None:
        """Make every process begin with the first one's state, which may come from a checkpoint that no other process
        has read.
        """
        if is_distributed():
            first = self.trainer.is_global_zero
            state = self.trainer.strategy.broadcast(self.training_state() if first else {})
            if not first:
                self.load_training_state(state)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimization.optimizer

    def train_dataloader(self) -> StepLoader:
        per_step = self.schedule.accumulate
        self._ask_for_links(now=not self.objective.looks_between_epochs)
        return StepLoader(
            self.batches, self.step * per_step, self.schedule.steps * per_step, self.workers, self._between_epochs()
        )

    def _ask_for_links(self, now: bool) -> None:
        """Let the objective say which images stand side by side; `now` if it must know, as it may not before the first
        epoch.
        """
        self.batches.links = self.objective.links(self.schedule.seed)
        if now and self.view_maker.plan.linked and self.batches.links is None:
            raise RuntimeError("the plan is Linked, but the objective's `links` gives nothing")

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        # Called as soon as a batch is there. What follows may wait for the device, which is not waiting for data.
        self.meter.data_arrived()
        if device.type != "cuda":
            return batch.to(device)
        if self._staging is None:
            self._staging = Staging(device)
        return self._staging(batch)

    def on_train_start(self) -> None:
        self.meter.start()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        micro = self.step * self.schedule.accumulate + batch_idx % self.schedule.accumulate
        # Dropout differs between processes; whatever else is random must not.
        self._set_random_state(_TRAINING, micro, self.batches.rank)
        self.meter.count(len(batch.index) * self.view_maker.plan.count * self.batches.processes)
        losses = self.objective.loss(self.view_maker(batch), self.backbone)
        loss = torch.stack([term.weight * term.value for term in losses.values()]).sum()
        self._record(losses)
        self.manual_backward(loss / self.schedule.accumulate)
        if (batch_idx + 1) % self.schedule.accumulate == 0:
            self._step()

    def _step(self) -> None:
        optimizer = self.optimization.optimizer
        self.optimization.set_rate(self.step, self.schedule.steps)
        for parameter in self.objective.held(self.step + 1, self.schedule.steps):
            parameter.grad = None
        if self.schedule.clip is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for some in [[p] for p in parameters] if self.schedule.clip_each else [parameters]:
                nn.utils.clip_grad_norm_(some, self.schedule.clip)
        self._optimizer_step()
        optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._set_random_state(_AFTER_STEP, self.step)
        with torch.autocast(
            self.device.type, enabled=False
        ):  # a bank's or a cluster's products would be rounded to eight bits
            self.objective.after_step(self.backbone, self.step, self.schedule.steps)

    def _set_random_state(self, occasion: int, *number: int) -> None:
        torch.manual_seed(int(keyed_random.bits(self.schedule.seed, occasion, *number, count=1)[0, 0] >> 1))

    def _optimizer_step(self) -> None:
        wrapped = self.optimizers()
        assert not isinstance(wrapped, list)
        wrapped.step()

    def _record(self, losses: Losses) -> None:
        """Keep the terms on the device; on the CPU, where looking costs nothing, look at once."""
        values = torch.stack([term.value.detach().float() for term in losses.values()])
        self._unchecked.append((self.step + 1, list(losses), values))
        if values.device.type == "cpu":
            self.check_finite()

    def check_finite(self) -> None:
        """Look at the loss terms of the steps since the last look.

        Raises:
            NonFiniteLossError: naming the first step and term that is not finite.
        """
        if not self._unchecked:
            return
        for step, names, values in self._unchecked:
            for name, value in zip(names, values.tolist(), strict=True):
                if not math.isfinite(value):
                    raise NonFiniteLossError(f"loss term '{name}' became {value} at step {step}")
        # A step of several batches has the means of theirs; those of one that is not complete are looked at again.
        step, names, _ = self._unchecked[-1]
        last = [one for one in self._unchecked if one[:2] == (step, names)]
        means = torch.stack([values for _, _, values in last]).mean(0).tolist()
        self.meter.terms = dict(zip(names, means, strict=True))
        self._unchecked = last if step > self.step else []

    def check_weights(self) -> None:
        """Look at every weight, as a finite loss may have a gradient that is not.

        Raises:
            NonFiniteLossError: naming the first parameter that is not finite.
        """
        named = [(name, one) for network in (self.backbone, self.objective) for name, one in network.named_parameters()]
        finite = torch.stack([one.detach().isfinite().all() for _, one in named])
        if not finite.all():
            name = named[int(finite.logical_not().nonzero()[0])][0]
            raise NonFiniteLossError(f"parameter '{name}' is not finite after step {self.step}, though the loss was")

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.meter.batch_done()

    def _between_epochs(self) -> Callable[[int], None] | None:
        """What the objective does before each epoch, or None if it does nothing."""
        if not self.objective.looks_between_epochs:
            return None
        gallery = Gallery(self.batches.source, self.view_maker.whole, self.device, workers=self.workers)

        def look(epoch: int) -> None:
            begun = time.perf_counter()
            with self.meter.paused(), torch.no_grad():
                self._set_random_state(_BETWEEN_EPOCHS, epoch)
                self.objective.between_epochs(self.backbone, epoch, gallery)
                self._ask_for_links(now=True)
                found = self.objective.diagnostics(self.batches.source.labels)
            self.diagnostics = {**found, "seconds": time.perf_counter() - begun}

        return look

    def training_state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, and what is needed to use its networks without its data;
        plain values only.
        """
        return {
            "groups": _group_records(self.view_maker.groups),
            "image_size": self.batches.source.image_size,
            "extent": extent(self.batches.source),
            "stamp": self._stamp_of_data(),
            "step": self.step,
            "backbone": self.backbone.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimization.optimizer.state_dict(),
        }

    def _stamp_of_data(self) -> str:
        # Once for the whole run: it looks at every file, and what is to be noticed are changes since the first
        # checkpoint.
        if self._stamp is None:
            self._stamp = self.batches.source.stamp
        return self._stamp

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Continue from `training_state()`; missing or unknown names are errors."""
        self.step, self._stamp = int(state["step"]), state["stamp"]
        self.backbone.load_state_dict(state["backbone"])
        self.objective.load_state_dict(state["objective"])
        self.optimization.optimizer.load_state_dict(state["optimizer"])


def extent(source: Source) -> tuple[int, int]:
    """How many objects and how many images there are: what objectives allocate their memories by."""
    return len(source), int(source.view_counts.sum())


def _group_records(groups: Mapping[str, Group]) -> dict[str, tuple[str, dict[str, object]]] | None:
    try:
        return {name: group.record() for name, group in groups.items()}
    except ValueError:
        # Somebody else's group has no record; such a run is judged where its data is.
        return None
