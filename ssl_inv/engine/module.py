"""The training step as a LightningModule: images -> views -> loss terms -> optimiser step -> `objective.after_step`."""

import math
import time
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Literal

import pytorch_lightning as lightning
import torch
from torch import Tensor

from ssl_inv.catalogue import SettingError, require, within
from ssl_inv.data.batches import Batch, StepBatches, StepLoader
from ssl_inv.data.source import Source
from ssl_inv.engine import preflight
from ssl_inv.engine.launch import beside, count_from, say
from ssl_inv.engine.meter import Meter
from ssl_inv.engine.optimizers import Optimization
from ssl_inv.engine.settings import TrainerSettings
from ssl_inv.engine.watch import clean
from ssl_inv.memories.gallery import Gallery
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import from_first, is_distributed, rank, smallest, wait_for_first
from ssl_inv.nn.sharding import Shards, clip_gradients, local, whole
from ssl_inv.nn.sync_batch_norm import synchronise_batch_norm
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group, keyed_random
from ssl_inv.views import Views
from ssl_inv.views.maker import ViewMaker

_CHECKED_AT_LEAST = 64
"""Batches after which the loss terms are looked at, if nobody has asked for them before."""

_IN_CHECKPOINT = "ssl-inv"
"""The key of a Lightning checkpoint that holds what Lightning does not save itself."""

_TRAINING, _BETWEEN_EPOCHS, _AFTER_STEP = range(3)
"""Where torch's random state is set. Each place has its own random numbers."""


_OTHER_SECTIONS = ("backbone", "trainer", "data", "augmentation")
"""Sections whose settings an objective names in full."""


class NonFiniteLossError(RuntimeError):
    """A loss term or a weight became infinite or not a number."""


def weighted_sum(losses: Losses) -> Tensor:
    """The loss: the sum of weight times value of all terms.

    Raises:
        SettingError: if an objective returns something other than scalar terms by name, or terms that teach nothing.
    """
    form = "an objective's loss must be a mapping of at least one name to a Term with a scalar value, got"
    require(isinstance(losses, Mapping) and len(losses) > 0, "objective", f"{form} {_brief(losses)}")
    for name, term in losses.items():
        fits = isinstance(term, Term) and isinstance(term.value, Tensor) and term.value.dim() == 0
        require(fits, "objective", f"{form} {name!r}: {_brief(term)}")
        weight: Any = term.weight
        heavy = isinstance(weight, Real) or (isinstance(weight, Tensor) and weight.dim() == 0)
        require(heavy, "objective", f"the weight of the loss term {name!r} must be a number, got {_brief(weight)}")
    total = torch.stack([term.weight * term.value for term in losses.values()]).sum()
    taught = total.requires_grad or not torch.is_grad_enabled()
    named = ", ".join(map(str, losses))
    require(taught, "objective", f"no loss term has a gradient ({named}): they are detached, or made without one")
    return total


def losses_of(objective: Objective, views: Views, backbone: Backbone) -> Losses:
    """The terms of an objective's loss.

    Raises:
        SettingError: if the objective finds only now that a setting cannot be used, with the section of the setting.
    """
    try:
        return objective.loss(views, backbone)
    except SettingError as error:
        section, _, rest = error.setting.partition(".")
        if rest and section in _OTHER_SECTIONS:
            raise
        owner = "trainer" if error.setting == "batch_size" else "objective"
        raise SettingError(f"{owner}.{error.setting}", error.problem) from error


def _brief(value: object) -> str:
    value = value.value if isinstance(value, Term) else value
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.80}"


class Pretraining(lightning.LightningModule):
    """One run of one objective.

    The batch, the views, the learning rate and the random numbers of a step depend on the seed and the number of the
    step, and on nothing else. A checkpoint therefore needs only the weights, the optimiser's state and that number.

    It trains in any Lightning trainer. There it logs `loss/total`, every loss term as `loss/NAME`, and `lr`, ends after
    the last step, and is saved and restored by Lightning's checkpoints. It optimises by hand, so accumulation and
    clipping are those of `settings`, and Lightning refuses its own.

    Args:
        backbone: the network to pretrain.
        objective: what it learns.
        view_maker: makes views of raw images.
        optimization: the optimiser over the parameters of both.
        batches: raw images by step.
        settings: accumulation, clipping, and the seed of random numbers without a key of their own: dropout.
        steps: optimiser steps of the whole run.
        workers: loader processes.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        view_maker: ViewMaker,
        optimization: Optimization,
        batches: StepBatches,
        settings: TrainerSettings,
        steps: int,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.backbone, self.objective, self.view_maker = backbone, objective, view_maker
        self.optimization, self.batches, self.workers = optimization, batches, workers
        self.settings, self.steps = settings, steps
        self.step = 0
        """Optimiser steps done."""
        self._stamp: str | None = None
        self.meter = Meter()
        self.diagnostics: dict[str, float] = {}
        """The objective's numbers about its memory before this epoch, until they are logged."""
        self.telling: Literal["loggers", "callbacks", "nobody"] = "loggers"
        """Who gets the loss terms of every step by Lightning's `log`; a run with a `Recorder` needs none of it."""
        self._unchecked: list[tuple[int, list[str], Tensor]] = []
        self.shards: Shards | None = None
        """The blocks of the networks while they are in shards."""

    def setup(self, stage: str) -> None:
        """Join the processes of the trainer, and give every rank the state of rank 0, which alone may have read a
        checkpoint.

        Raises:
            SettingError: if the batch cannot be shared by the processes.
        """
        self._join(self.trainer.global_rank, self.trainer.world_size)
        half, wanted = "bf16" in str(self.trainer.precision), self.settings.precision == "bf16"
        if half != wanted:
            say(f"the recipe asks for precision {self.settings.precision}, the trainer has {self.trainer.precision}")
        if is_distributed():
            first = self.trainer.is_global_zero
            state = self.training_state() if first else {}
            wait_for_first()  # which may look at millions of files
            state = from_first(state)
            if not first:
                self.load_training_state(state)
                # Callbacks that save at some steps have to do so on all processes.
                count_from(self.trainer, self.step)

    def _join(self, rank: int, processes: int) -> None:
        if (rank, processes) == (self.batches.rank, self.batches.processes):
            return
        with within("trainer"):
            preflight.require_batch(self.batches.batch_size, self.objective, self.view_maker.augmentation, processes)
            self.batches.share_with(rank, processes)
        for network in (self.backbone, self.objective):
            synchronise_batch_norm(network, self.trainer.strategy.root_device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimization.optimizer

    def train_dataloader(self) -> StepLoader:
        per_step = self.settings.accumulate
        self._ask_for_links(required=not self.objective.looks_between_epochs)
        return StepLoader(
            self.batches, self.step * per_step, self.steps * per_step, self.workers, self._between_epochs()
        )

    def _ask_for_links(self, required: bool) -> None:
        """Let the objective name the pairs of images. Before the first epoch it may have none."""
        self.batches.links = self.objective.links(self.settings.seed)
        if required and self.view_maker.plan.linked and self.batches.links is None:
            raise RuntimeError("the plan is Linked, but the objective's `links` gives nothing")

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        # The batch is here: time from now on is no waiting for data, even if the host waits for the device.
        self.meter.data_arrived()
        return batch.to(device)

    def on_train_start(self) -> None:
        self.meter.start()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        micro = self.step * self.settings.accumulate + batch_idx % self.settings.accumulate
        # Dropout differs between ranks. All other random numbers must not.
        self._set_random_state(_TRAINING, micro, self.batches.rank)
        self.meter.count(len(batch.index) * self.view_maker.plan.count * self.batches.processes)
        with beside(self.workers):
            views = self.view_maker(batch)
        losses = self._losses(views) if self.shards is None else self.shards.during(lambda: self._losses(views))
        loss = weighted_sum(losses)
        values = torch.stack([*(term.value.detach().float() for term in losses.values()), loss.detach().float()])
        self._unchecked.append((self.step + 1, list(losses), values))
        # On a GPU the look at the values would wait for the step.
        if values.device.type == "cpu" or len(self._unchecked) >= _CHECKED_AT_LEAST:
            self.check_finite()
        self.manual_backward(loss / self.settings.accumulate)
        if (batch_idx + 1) % self.settings.accumulate == 0:
            self._step()

    def _losses(self, views: Views) -> Losses:
        return losses_of(self.objective, views, self.backbone)

    def _step(self) -> None:
        optimizer = self.optimization.optimizer
        if self.telling != "nobody":
            self._tell()
        self.optimization.set_rate(self.step, self.steps)
        for parameter in self.objective.held(self.step + 1, self.steps):
            parameter.grad = None
        self.optimization.take_gradients()
        if self.settings.clip is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            clip_gradients(parameters, self.settings.clip, self.settings.clip_each)
        wrapped = self.optimizers()
        assert not isinstance(wrapped, list)
        wrapped.step()
        self.optimization.forget_gradients()
        self.step += 1
        self._set_random_state(_AFTER_STEP, self.step)
        # Autocast would round the products of a bank or of clusters to bfloat16.
        with torch.autocast(self.device.type, enabled=False):
            self.objective.after_step(self.backbone, self.step, self.steps)

        if self.step >= self.steps:
            self.trainer.should_stop = True

    def _tell(self) -> None:
        """Log the terms of this step by Lightning's `log`, whose callbacks can watch them."""
        done = self.step + 1
        every = [values for step, _, values in self._unchecked if step == done]
        names = [f"loss/{clean(name)}" for name in (*self._unchecked[-1][1], "total")]
        numbers: dict[str, Any] = dict(zip(names, torch.stack(every).mean(0), strict=True))
        # Under this name Lightning's loggers take the number of the step, which they else count from 0.
        numbers |= {"lr": self.optimization.rate(self.step, self.steps), "step": float(done)}
        self.log_dict(numbers, on_step=True, on_epoch=False, logger=self.telling == "loggers")

    def _set_random_state(self, occasion: int, *number: int) -> None:
        torch.manual_seed(int(keyed_random.bits(self.settings.seed, occasion, *number, count=1)[0, 0] >> 1))

    def check_finite(self) -> None:
        """Check the loss terms of all steps since the last check.

        Raises:
            NonFiniteLossError: naming the first step and term that is not finite.
        """
        if not self._unchecked:
            return
        for step, names, values in self._unchecked:
            for name, value in zip([*names, "total"], values.tolist(), strict=True):
                if not math.isfinite(value):
                    raise NonFiniteLossError(f"loss term '{name}' became {value} at step {step}")
        # A step of several batches reports their mean. Batches of an unfinished step are kept for the next check.
        step, names, _ = self._unchecked[-1]
        last = [one for one in self._unchecked if one[:2] == (step, names)]
        *means, self.meter.total = torch.stack([values for _, _, values in last]).mean(0).tolist()
        self.meter.terms = dict(zip(names, means, strict=True))
        self._unchecked = last if step > self.step else []

    def check_weights(self) -> None:
        """Check every weight: a finite loss can have a gradient that is not finite.

        Raises:
            NonFiniteLossError: naming the first parameter that is not finite.
        """
        named = [(name, one) for network in (self.backbone, self.objective) for name, one in network.named_parameters()]
        finite = torch.stack([local(one.detach()).isfinite().all() for _, one in named])
        if self.shards is not None:
            finite = smallest(finite)
        if not finite.all():
            name = named[int(finite.logical_not().nonzero()[0])][0]
            raise NonFiniteLossError(f"parameter '{name}' is not finite after step {self.step}, though the loss was")

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.meter.batch_done()

    def _between_epochs(self) -> Callable[[int], None] | None:
        """What the objective does before each epoch, or None."""
        if not self.objective.looks_between_epochs:
            return None
        gallery = Gallery(self.batches.source, self.view_maker.whole, self.device, workers=self.workers)

        def look(epoch: int) -> None:
            begun = time.perf_counter()
            with self.meter.paused(), torch.no_grad():
                self._set_random_state(_BETWEEN_EPOCHS, epoch)
                self.objective.between_epochs(self.backbone, epoch, gallery)
                self._ask_for_links(required=True)
                found = self.objective.diagnostics(self.batches.source.labels)
            self.diagnostics = {**found, "seconds": time.perf_counter() - begun}

        return look

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[_IN_CHECKPOINT] = self._facts()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the step.

        Raises:
            ValueError: if the checkpoint is of another module, or of a run with another number of images.
        """
        own = checkpoint.get(_IN_CHECKPOINT)
        if own is None:
            raise ValueError("this checkpoint is none of a pretraining by ssl-inv")
        if (before := tuple(own["extent"])) != (here := extent(self.batches.source)):
            counts = "{} objects in {} images".format
            raise ValueError(f"the run began with {counts(*before)}, and there are {counts(*here)} now")
        self.step, self._stamp = int(own["step"]), own["stamp"]

    def training_state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, and what its networks need without its data. Plain values.

        While blocks are in shards, all processes must ask for it; it is complete on the first alone.
        """
        networks = {"backbone": self.backbone.state_dict(), "objective": self.objective.state_dict()}
        state = {**networks, "optimizer": self.optimization.optimizer.state_dict()}
        return {**self._facts(), **(state if self.shards is None else whole(state, kept=rank() == 0))}

    def _facts(self) -> dict[str, Any]:
        if self._stamp is None:
            # Once per run, because it looks at every file. It stands for the files before the first checkpoint.
            self._stamp = self.batches.source.stamp
        return {
            "groups": _group_records(self.view_maker.groups),
            "image_size": self.batches.source.image_size,
            "extent": extent(self.batches.source),
            "stamp": self._stamp,
            "step": self.step,
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Continue from `training_state()`. A missing or unknown name is an error."""
        self.step, self._stamp = int(state["step"]), state["stamp"]
        self.backbone.load_state_dict(state["backbone"])
        self.objective.load_state_dict(state["objective"])
        self.optimization.load(state["optimizer"])


def extent(source: Source) -> tuple[int, int]:
    """The numbers of objects and of images, by which objectives allocate their memories."""
    return len(source), int(source.view_counts.sum())


def _group_records(groups: Mapping[str, Group]) -> dict[str, tuple[str, dict[str, object]]] | None:
    try:
        return {name: group.record() for name, group in groups.items()}
    except ValueError:
        # A group of somebody else has no record. Such a run can be evaluated only with its own data.
        return None
