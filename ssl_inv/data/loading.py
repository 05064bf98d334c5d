"""Batches of raw views, each a function of the step number alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssl_inv import keyed_random
from ssl_inv.data.base import Images, Indices, Source

_ATTEMPTS = 10


@dataclass(frozen=True)
class Batch:
    """What one process gets for one step.

    Attributes:
        images: the data's own views, one `Images` a view; a single one when all views are to be made from one image.
        index: numbers of the objects, `(B,)`, int64.
        epoch: passes over the data before this one.
        broken: views that could not be read and were replaced, by their name.
    """

    images: tuple[Images, ...]
    index: Tensor
    epoch: int
    broken: tuple[str, ...]

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on `device`."""
        images = tuple(Images(one.pixels.to(device, non_blocking=True), one.transform.to(device), one.readable) for one in self.images)
        return Batch(images, self.index, self.epoch, self.broken)

    def pin_memory(self) -> "Batch":
        return Batch(
            tuple(Images(one.pixels.pin_memory(), one.transform.map(Tensor.pin_memory), one.readable) for one in self.images),
            self.index,
            self.epoch,
            self.broken,
        )


class UnreadableBatchError(RuntimeError):
    """So many views of one batch could not be read that no replacement was found."""


class StepBatches(Dataset[Batch]):
    """The batches of a run, by step number.

    The order of the objects in an epoch and the views drawn of each depend on the seed, the epoch and the object; neither on the number of
    workers or processes nor on what was loaded before. So a run continues at step s by asking for batch s.

    Args:
        source: where the views come from.
        batch_size: samples per step over all processes.
        views: different views of each object to load.
        seed: decides the order and the views.
        rank: number of this process.
        processes: how many processes share a batch.

    Raises:
        ValueError: if the batch is larger than the data, cannot be shared evenly, or an object has too few views.
    """

    def __init__(self, source: Source, batch_size: int, views: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        counts = source.view_counts
        if batch_size > len(source):
            raise ValueError(f"batch_size {batch_size} is larger than the {len(source)} objects of the training data")
        if batch_size % processes:
            raise ValueError(f"batch_size {batch_size} cannot be shared evenly by {processes} processes")
        if counts.min() < views:
            raise ValueError(f"an object of the training data has {counts.min()} view(s), {views} are needed")
        self.source = source
        self.batch_size, self.views, self.seed = batch_size, views, seed
        self.rank, self.processes = rank, processes
        self.steps_per_epoch = len(source) // batch_size
        self._order: tuple[int, Indices] = (-1, np.empty(0, dtype=np.int64))

    def __getitem__(self, step: int) -> Batch:
        epoch, position = divmod(step, self.steps_per_epoch)
        share = self.batch_size // self.processes
        start = position * self.batch_size + self.rank * share
        objects = self._epoch_order(epoch)[start : start + share].copy()
        images, broken = self._load(objects, epoch, 0)
        attempt = 0
        while len(failed := np.flatnonzero(~torch.stack([one.readable for one in images]).all(0).cpu().numpy())):
            if (attempt := attempt + 1) > _ATTEMPTS:
                raise UnreadableBatchError(f"{broken[-1]} and its replacements cannot be read; {len(broken)} views of one batch are broken")
            # A sample that cannot be read gives its place to another, drawn by the same rule on every machine.
            objects[failed] = keyed_random.bits(self.seed, epoch, objects[failed], attempt, count=1)[:, 0] % np.uint64(len(self.source))
            replacement, more = self._load(objects[failed], epoch, attempt)
            _overwrite(images, torch.from_numpy(failed), replacement)
            broken += more
        return Batch(images, torch.from_numpy(objects), epoch, tuple(broken))

    def _load(self, objects: Indices, epoch: int, attempt: int) -> tuple[tuple[Images, ...], list[str]]:
        counts = self.source.view_counts[objects]
        chosen = keyed_random.distinct(self.seed, epoch, objects, 0x5EED + attempt, population=counts, count=self.views)
        objects, views = np.repeat(objects, self.views), chosen.reshape(-1)
        both = self.source.load(objects, views)
        broken = [self.source.describe(int(objects[row]), int(views[row])) for row in np.flatnonzero(~both.readable.cpu().numpy())]
        rows = [torch.arange(view, len(both.pixels), self.views) for view in range(self.views)]
        return tuple(Images(both.pixels[r], both.transform.select(r), both.readable[r]) for r in rows), broken

    def _epoch_order(self, epoch: int) -> Indices:
        if self._order[0] != epoch:
            self._order = (epoch, keyed_random.permutation(self.seed, epoch, 0x0D3, length=len(self.source)))
        return self._order[1]


def _overwrite(images: tuple[Images, ...], rows: Tensor, others: tuple[Images, ...]) -> None:
    for one, other in zip(images, others, strict=True):
        one.pixels[rows], one.readable[rows] = other.pixels, other.readable
        for name, value in one.transform.values.items():
            value[rows] = other.transform[name]


class _Messenger(Dataset[Batch | Exception]):
    """Hands over what goes wrong in a loader process as a value: raised there, it would arrive as the text of a traceback."""

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self.batches[step]
        except (ValueError, OSError, UnreadableBatchError) as error:
            return error


class StepLoader:
    """Iterates over the batches from one step to another; an epoch's end is no event.

    Args:
        batches: where they come from.
        first: number of the first step to give.
        last: number of the step before which to stop.
        workers: processes that read ahead; 0 reads in this one.
        pin: whether to place batches in page-locked memory.
    """

    def __init__(self, batches: StepBatches, first: int, last: int, workers: int = 0, pin: bool = False) -> None:
        extra: dict[str, Any] = {"prefetch_factor": 2, "persistent_workers": False} if workers else {}
        self.length = last - first
        steps = range(first, last)
        self._loader = DataLoader(_Messenger(batches), sampler=steps, batch_size=None, num_workers=workers, pin_memory=pin, **extra)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch
