"""Batches of raw views, each a function of the step number alone."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssl_inv.catalogue import SettingError
from ssl_inv.data.source import Images, Indices, Links, Source, Way
from ssl_inv.transforms import Transform, keyed_random

_ATTEMPTS = 10


_ALIGNMENT = 256
"""Bytes; what torch's own allocator for GPUs aligns tensors to, at least."""


@dataclass(frozen=True)
class Batch:
    """What one process gets for one step.

    Attributes:
        images: the data's own views, one `Images` a view; a single one when all views are to be made from one image.
            Behind them come those that were rendered on the way from the first to the second.
        index: numbers of the objects, `(B,)`, int64.
        epoch: passes over the data before this one.
        broken: views that could not be read and were replaced, by their name.
        shown: `(V, B, 2)`, int64, the object and which of its views each of the V images is, without those rendered
            between others; None where they are of no data.
    """

    images: tuple[Images, ...]
    index: Tensor
    epoch: int
    broken: tuple[str, ...]
    shown: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on `device`."""
        images = tuple(
            Images(one.pixels.to(device, non_blocking=True), one.transform.to(device), one.readable)
            for one in self.images
        )
        return replace(self, images=images)


class UnreadableBatchError(RuntimeError):
    """So many views of one batch could not be read that no replacement was found."""


class StepBatches(Dataset[Batch]):
    """The batches of a run, by step number.

    The order of the objects in an epoch and the views drawn of each depend on the seed, the epoch and the object;
    neither on the number of workers or processes nor on what was loaded before. So a run continues at step s by asking
    for batch s.

    Args:
        source: where the views come from.
        batch_size: samples per step over all processes.
        views: different views of each object to load.
        seed: decides the order and the views.
        rank: number of this process.
        processes: how many processes share a batch.
        way: where images lie that are rendered between the first two views; None for no such images.
        linked: whether one view of an object is drawn and the second image is the one that `links` gives.

    Raises:
        ValueError: if the batch is larger than the data, cannot be shared evenly, or an object has too few views.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        views: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        way: Way | None = None,
        linked: bool = False,
    ) -> None:
        counts = source.view_counts
        if batch_size > len(source):
            raise SettingError(
                "batch_size", f"{batch_size} is larger than the {len(source)} objects of the training data"
            )
        if batch_size % processes:
            raise SettingError("batch_size", f"{batch_size} cannot be shared evenly by {processes} processes")
        if counts.min() < (1 if linked else views):
            raise ValueError(f"an object of the training data has {counts.min()} view(s), {views} are needed")
        self.source, self._view_counts = source, counts
        self.batch_size, self.views, self.seed = batch_size, views, seed
        self.rank, self.processes, self.way = rank, processes, way
        self.linked = linked
        self.links: Links | None = None
        """What stands beside what in the epochs to come; None, as before the first one: the next view of the same
        object.
        """
        self.steps_per_epoch = len(source) // batch_size
        self._order: tuple[int, Indices] = (-1, np.empty(0, dtype=np.int64))

    def __getitem__(self, step: int) -> Batch:
        epoch, position = divmod(step, self.steps_per_epoch)
        share = self.batch_size // self.processes
        start = position * self.batch_size + self.rank * share
        objects = self._epoch_order(epoch)[start : start + share].copy()
        images, shown, broken = self._load(objects, epoch, 0)
        attempt = 0
        while len(failed := np.flatnonzero(~torch.stack([one.readable for one in images]).all(0).cpu().numpy())):
            if (attempt := attempt + 1) > _ATTEMPTS:
                raise UnreadableBatchError(
                    f"{broken[-1]} and its replacements cannot be read; {len(broken)} views of one batch are broken"
                )
            # A sample that cannot be read gives its place to another, drawn by the same rule on every machine.
            objects[failed] = keyed_random.bits(self.seed, epoch, objects[failed], attempt, count=1)[:, 0] % np.uint64(
                len(self.source)
            )
            replacement, shown[:, failed], more = self._load(objects[failed], epoch, attempt)
            images = _with_rows(images, torch.from_numpy(failed), replacement)
            broken += more
        return Batch(images, torch.from_numpy(objects), epoch, tuple(broken), torch.from_numpy(shown))

    def _load(self, objects: Indices, epoch: int, attempt: int) -> tuple[tuple[Images, ...], Indices, list[str]]:
        shown = self._choose(objects, epoch, attempt)
        # View after view, so that each is one piece of the memory that the source gives and need not be copied out of
        # it.
        count, (which, views) = len(objects), shown.reshape(-1, 2).T
        loaded = self.source.load(which, views)
        broken = [
            self.source.describe(int(which[row]), int(views[row]))
            for row in np.flatnonzero(~loaded.readable.cpu().numpy())
        ]
        images = tuple(_part(loaded, slice(view * count, (view + 1) * count)) for view in range(self.views))
        return images + self._between(objects, images), shown, broken

    def _choose(self, objects: Indices, epoch: int, attempt: int) -> Indices:
        """The object and the view number of each image, `(V, B, 2)`."""
        counts = self._view_counts[objects]
        own = 1 if self.linked else self.views
        chosen = keyed_random.distinct(self.seed, epoch, objects, 0x5EED + attempt, population=counts, count=own)
        shown = np.stack([np.stack((objects, views), axis=1) for views in chosen.T])
        if not self.linked:
            return shown
        view = chosen[:, 0]
        partners = (objects, (view + 1) % counts) if self.links is None else self.links.partners(objects, view, epoch)
        return np.concatenate((shown, np.stack(partners, axis=1)[np.newaxis]))

    def _between(self, objects: Indices, images: tuple[Images, ...]) -> tuple[Images, ...]:
        if self.way is None:
            return ()
        return tuple(
            self.source.render(objects, one) for one in self.way.between(images[0].transform, images[1].transform)
        )

    def _epoch_order(self, epoch: int) -> Indices:
        if self._order[0] != epoch:
            self._order = (epoch, keyed_random.permutation(self.seed, epoch, 0x0D3, length=len(self.source)))
        return self._order[1]


def _part(images: Images, rows: slice) -> Images:
    return Images(images.pixels[rows], images.transform.map(lambda value: value[rows]), images.readable[rows])


def _with_rows(images: tuple[Images, ...], rows: Tensor, others: tuple[Images, ...]) -> tuple[Images, ...]:
    """Copies of `images` with `others` in some rows."""

    def put(values: Tensor, new: Tensor) -> Tensor:
        return values.index_copy(0, rows.to(values.device), new)

    return tuple(
        Images(
            put(one.pixels, other.pixels),
            Transform(
                {name: put(value, other.transform[name]) for name, value in one.transform.values.items()},
                one.transform.groups,
            ),
            put(one.readable, other.readable),
        )
        for one, other in zip(images, others, strict=True)
    )


class _Messenger(Dataset[Batch | Exception]):
    """Hands over what goes wrong in a loader process as a value: raised there, it would arrive as the text of a
    traceback.
    """

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self.batches[step]
        except (ValueError, OSError, UnreadableBatchError) as error:
            return error


class StepLoader:
    """Iterates over the batches from one step to another.

    An epoch's end is no event, unless something is to be done there: then nothing of an epoch is read before it is
    done.

    Args:
        batches: where they come from.
        first: number of the first step to give.
        last: number of the step before which to stop.
        workers: processes that read ahead; 0 reads in this one.
        before_epoch: called with the number of an epoch before its first batch is read.
    """

    def __init__(
        self,
        batches: StepBatches,
        first: int,
        last: int,
        workers: int = 0,
        before_epoch: Callable[[int], None] | None = None,
    ) -> None:
        self.batches, self.first, self.last, self.workers, self.before_epoch = (
            batches,
            first,
            last,
            workers,
            before_epoch,
        )

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[Batch]:
        if self.before_epoch is None:
            yield from self._read(self.first, self.last)
            return
        per_epoch, step = self.batches.steps_per_epoch, self.first
        while step < self.last:
            if step % per_epoch == 0:
                self.before_epoch(step // per_epoch)
            end = min((step // per_epoch + 1) * per_epoch, self.last)
            yield from self._read(step, end)
            step = end

    def _read(self, first: int, last: int) -> Iterator[Batch]:
        extra: dict[str, Any] = {"prefetch_factor": 2, "persistent_workers": False} if self.workers else {}
        messenger = _Messenger(self.batches)
        for batch in DataLoader(
            messenger, sampler=range(first, last), batch_size=None, num_workers=self.workers, **extra
        ):
            if isinstance(batch, Exception):
                raise batch
            yield batch


class Event(Protocol):
    """A mark in the queue of a device, such as `torch.cuda.Event`."""

    def record(self) -> None:
        """Put the mark behind all that is queued."""

    def synchronize(self) -> None:
        """Wait until the device has come to the mark."""


class Staging:
    """Brings batches to a GPU through two page-locked buffers that take turns.

    Only from page-locked memory does a GPU copy while the processor goes on, and such memory is slow to come by. All
    tensors of a batch travel in one copy. A buffer is filled again when the copy out of it is done, which also keeps
    the processor from running more than some steps ahead of the GPU.

    Args:
        device: where batches go.
        pin: whether the buffers are page-locked; without, the copy is no faster than any other.
        event: makes an event of the device.
    """

    def __init__(self, device: torch.device, pin: bool = True, event: Callable[[], Event] = torch.cuda.Event) -> None:
        self.device, self.pin = device, pin
        self._buffers = [torch.empty(0, dtype=torch.uint8) for _ in range(2)]
        self._copied = [event() for _ in self._buffers]
        self._turn = 0

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its tensors on the device; what is on a device already goes by itself."""
        if batch.images[0].pixels.device.type != "cpu":
            return batch.to(self.device)
        moved = iter(
            self._send([tensor for one in batch.images for tensor in (one.pixels, *one.transform.values.values())])
        )
        # Written out in the order in which they were listed.
        images = tuple(
            Images(next(moved), one.transform.map(lambda _: next(moved)), one.readable) for one in batch.images
        )
        return replace(batch, images=images)

    def _send(self, tensors: list[Tensor]) -> list[Tensor]:
        *starts, total = accumulate(
            (math.ceil(tensor.nbytes / _ALIGNMENT) * _ALIGNMENT for tensor in tensors), initial=0
        )
        self._turn = 1 - self._turn
        self._copied[self._turn].synchronize()
        if len(self._buffers[self._turn]) < total:
            self._buffers[self._turn] = torch.empty(total, dtype=torch.uint8, pin_memory=self.pin)
        staged = self._buffers[self._turn][:total]
        for start, tensor in zip(starts, tensors, strict=True):
            _carve(staged, start, tensor).copy_(tensor)
        arrived = staged.to(self.device, non_blocking=True, copy=True)
        self._copied[self._turn].record()
        return [_carve(arrived, start, tensor) for start, tensor in zip(starts, tensors, strict=True)]


def _carve(memory: Tensor, start: int, like: Tensor) -> Tensor:
    """The bytes from `start` on, as a tensor of the shape, type and order of dimensions of another."""
    dense = torch.empty_like(like, device="meta")
    return memory[start : start + like.nbytes].view(like.dtype).as_strided(like.shape, dense.stride())
