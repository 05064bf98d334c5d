"""Batches of raw views: every batch is a function of the step number alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssl_inv.catalogue import require
from ssl_inv.data.orders import epoch_order
from ssl_inv.data.source import Images, Indices, Piece, Source
from ssl_inv.data.wanted import Framing, Growth, Links, Way
from ssl_inv.transforms import Transform, keyed_random
from ssl_inv.transforms.regions import Regions

_ATTEMPTS = 10


@dataclass(frozen=True)
class Batch:
    """The data of one process for one step.

    Attributes:
        images: the views of the data, one `Images` for each; a single one if all views are made from one image. Behind
            them, the images rendered on the way from the first to the second.
        index: numbers of the objects, `(B,)`, int64.
        epoch: passes over the data before this one.
        broken: names of the views that could not be read and were replaced.
        shown: `(V, B, 2)`, int64, the object and the view number of each of the V images, without the images rendered
            on the way; None if the images come from no data.
        labels: `(B,)`, int64, the class of every object, -1 where it is unknown; None unless they were asked for.
    """

    images: tuple[Images, ...]
    index: Tensor
    epoch: int
    broken: tuple[str, ...]
    shown: Tensor | None = None
    labels: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch with its images on `device`; `index`, `shown` and `readable` stay on the host.

        A GPU copies from page-locked memory while the processor goes on. torch keeps such memory and reuses it when the
        copy is done, so that a step allocates none.
        """
        to_gpu = device.type == "cuda"

        def moved(pixels: Tensor) -> Tensor:
            pinned = pixels.pin_memory() if to_gpu and pixels.device.type == "cpu" and pixels.numel() else pixels
            return pinned.to(device, non_blocking=to_gpu)

        images = tuple(replace(one.map(moved), transform=one.transform.to(device)) for one in self.images)
        labels = None if self.labels is None else self.labels.to(device, non_blocking=to_gpu)
        return replace(self, images=images, labels=labels)


class UnreadableBatchError(RuntimeError):
    """Too many views of one batch cannot be read, so no replacement was found."""


class StepBatches(Dataset[Batch]):
    """The batches of a run, by step number.

    The order of the objects in an epoch (see `epoch_order`) and the views drawn for each depend on the seed, the epoch
    and the object. They do not depend on the number of workers or processes, or on earlier batches. So a run continues
    at step s with batch s.

    Args:
        source: where the views come from.
        batch_size: samples per step over all processes.
        views: different views of each object to load.
        seed: decides the order and the views.
        rank: number of this process.
        processes: how many processes share a batch.
        way: which images to render between the first two views; None for no such images.
        linked: whether one view of an object is drawn, and `links` gives the second image.
        framing: which regions of photographs to cut; None loads images of one size.
        labelled: whether batches carry the classes of their objects.
        growth: which views of an object are drawn in the first batches; None draws any.

    Attributes:
        links: the pairs of the epochs to come. None, as before the first epoch: the second image is the next view of
            the same object.
        steps_per_epoch: objects that do not fill a batch are left out of an epoch.

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
        framing: Framing | None = None,
        labelled: bool = False,
        growth: Growth | None = None,
    ) -> None:
        counts = source.view_counts
        too_large = f"{batch_size} is larger than the {len(counts)} objects of the training data"
        require(batch_size <= len(counts), "batch_size", too_large)
        if counts.min() < (1 if linked else views):
            raise ValueError(f"an object of the training data has {counts.min()} view(s), {views} are needed")
        self.source, self._view_counts, self._blocks = source, counts, source.blocks
        self.batch_size, self.views, self.seed = batch_size, views, seed
        self.way, self.linked = way, linked
        self.share_with(rank, processes)
        self.framing, self.links = framing, cast(Links | None, None)
        self._classes = _known_classes(source) if labelled else None
        self._growth = growth if views > 1 and not linked else None
        self.steps_per_epoch = len(counts) // batch_size
        self._order: tuple[int, Indices] = (-1, np.empty(0, dtype=np.int64))

    def __getstate__(self) -> dict[str, object]:
        # Of millions of objects, arrays that a copy can make itself take longer to send.
        return {**vars(self), "_view_counts": None, "_order": (-1, np.empty(0, dtype=np.int64))}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._view_counts = self.source.view_counts

    def share_with(self, rank: int, processes: int) -> None:
        """Give process `rank` its share of every batch.

        Raises:
            SettingError: if the batch cannot be shared evenly.
        """
        uneven = f"{self.batch_size} cannot be shared evenly by {processes} processes"
        require(self.batch_size % processes == 0, "batch_size", uneven)
        self.rank, self.processes = rank, processes

    def __getitem__(self, step: int) -> Batch:
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = epoch, epoch_order(self._blocks, len(self._view_counts), self.seed, epoch)
        share = self.batch_size // self.processes
        start = position * self.batch_size + self.rank * share
        objects = self._order[1][start : start + share].copy()
        if self.framing is not None:
            return self._cut(objects, epoch, self.framing, step)
        images, shown, broken = self._load(objects, epoch, 0, step)
        attempt = 0
        while len(failed := np.flatnonzero(~torch.stack([one.readable for one in images]).all(0).cpu().numpy())):
            attempt += 1
            self._replace(objects, failed, epoch, attempt, broken)
            replacement, shown[:, failed], more = self._load(objects[failed], epoch, attempt, step)
            images = _with_rows(images, torch.from_numpy(failed), replacement)
            broken += more
        return self._batch(images, objects, epoch, broken, shown)

    def _batch(
        self, images: tuple[Images, ...], objects: Indices, epoch: int, broken: list[str], shown: Indices
    ) -> Batch:
        index = torch.from_numpy(objects)
        labels = None if self._classes is None else self._classes[index]
        return Batch(images, index, epoch, tuple(broken), torch.from_numpy(shown), labels)

    def _replace(self, objects: Indices, failed: Indices, epoch: int, attempt: int, broken: list[str]) -> None:
        """Put other objects in the place of those that cannot be read."""
        if attempt > _ATTEMPTS:
            count = f"{len(broken)} views of one batch are broken"
            raise UnreadableBatchError(f"{broken[-1]} and its replacements cannot be read; {count}")
        # Another object replaces a sample that cannot be read, drawn by the same rule on every machine.
        drawn = keyed_random.bits(self.seed, epoch, objects[failed], attempt, count=1)[:, 0]
        objects[failed] = drawn % np.uint64(len(self._view_counts))

    def _shown(self, objects: Indices, epoch: int, attempt: int, step: int) -> Indices:
        """The object and the view number of the images of every sample, `(V, B, 2)`."""
        counts, own = self._view_counts[objects], 1 if self.linked else self.views
        if self._growth is not None and self._growth.share(step) < 1:
            chosen = self._growth.draw(self.source, objects, counts, own, (self.seed, epoch, attempt), step)
        else:
            chosen = keyed_random.distinct(self.seed, epoch, objects, 0x5EED + attempt, population=counts, count=own)
        pairs = [(objects, views) for views in chosen.T]
        if self.linked:
            view = chosen[:, 0]
            following = objects, (view + 1) % counts
            pairs.append(following if self.links is None else self.links.partners(objects, view, epoch))
        return np.stack([np.stack(pair, axis=1) for pair in pairs])

    def _cut(self, objects: Indices, epoch: int, framing: Framing, step: int) -> Batch:
        """A batch of pieces of photographs."""
        rows, attempt, broken = np.arange(len(objects)), 0, list[str]()
        shown = self._shown(objects, epoch, attempt, step)
        sides = np.ones_like(shown)
        images: tuple[Images, ...] = ()
        while len(rows):
            loaded, regions, names = self._pieces(objects, shown, sides, rows, epoch, framing)
            broken += names
            images = _with_rows(images, torch.from_numpy(rows), loaded) if images else loaded
            failed = np.flatnonzero(~torch.stack([one.readable for one in images]).all(0).numpy())
            if len(failed):
                attempt += 1
                self._replace(objects, failed, epoch, attempt, broken)
                shown[:, failed] = self._shown(objects[failed], epoch, attempt, step)
            # Where samples share a draw, a replaced one changes the regions of others.
            pairs = [
                (piece.regions.corners, wanted.corners)
                for one, all_wanted in zip(images, regions, strict=True)
                for piece, wanted in zip(one.pieces, all_wanted, strict=True)
            ]
            stale = [np.flatnonzero((had != wanted).any(axis=1)) for had, wanted in pairs]
            rows = np.unique(np.concatenate((failed, *stale)))
        return self._batch(images, objects, epoch, broken, shown)

    def _pieces(
        self, objects: Indices, shown: Indices, sides: Indices, rows: Indices, epoch: int, framing: Framing
    ) -> tuple[tuple[Images, ...], list[list[Regions]], list[str]]:
        """The pieces of some samples of a batch, the regions of all, and the names of broken views.

        Args:
            objects: of all samples, `(B,)`.
            shown: of all samples, `(V, B, 2)`.
            sides: height and width of all photographs, `(V, B, 2)`; those of the samples that are loaded are written.
            rows: the samples to load, `(n,)`.
            epoch: passes over the data before this one.
            framing: decides the regions.
        """
        which, views = shown[:, rows].reshape(-1, 2).T
        regions: list[list[Regions]] = []
        chosen: list[list[Regions]] = []

        def cuts(found: Indices) -> list[tuple[Indices, Regions]]:
            sides[:, rows] = found.reshape(len(shown), -1, 2)
            regions.extend(framing.regions(objects, epoch, list(sides)))
            for every in regions:
                own = {id(one): one.rows(rows) for one in every}
                chosen.append([own[id(one)] for one in every])
            places = np.arange(len(which)).reshape(len(shown), -1)
            return [(places[view], one) for view, every in enumerate(chosen) for one in every]

        loaded, pixels = self.source.load_pieces(which, views, cuts)
        broken = [self.source.describe(int(which[row]), int(views[row])) for row in np.flatnonzero(~loaded.readable)]
        images, following = [], iter(pixels)
        for view, every in enumerate(chosen):
            part = slice(view * len(rows), (view + 1) * len(rows))
            values = {name: value[part] for name, value in loaded.transform.values.items()}
            transform = Transform(values, loaded.transform.groups)
            pieces = tuple(Piece(next(following), one) for one in every)
            images.append(Images(loaded.pixels[part], transform, loaded.readable[part], pieces, sides[view, rows]))
        return tuple(images), regions, broken

    def _load(
        self, objects: Indices, epoch: int, attempt: int, step: int
    ) -> tuple[tuple[Images, ...], Indices, list[str]]:
        """The images, the object and the view number of each, `(V, B, 2)`, and the names of broken views."""
        shown = self._shown(objects, epoch, attempt, step)
        # View after view: each is then one piece of the memory that the source gives, and need not be copied.
        which, views = shown.reshape(-1, 2).T
        loaded = self.source.load(which, views)
        unreadable = np.flatnonzero(~loaded.readable.cpu().numpy())
        broken = [self.source.describe(int(which[row]), int(views[row])) for row in unreadable]
        images = []
        for start in range(0, len(which), len(objects)):
            rows = slice(start, start + len(objects))
            values = {name: value[rows] for name, value in loaded.transform.values.items()}
            transform = Transform(values, loaded.transform.groups)
            images.append(Images(loaded.pixels[rows], transform, loaded.readable[rows]))
        if self.way is not None:
            between = self.way.between(images[0].transform, images[1].transform)
            images += [self.source.render(objects, one) for one in between]
        return tuple(images), shown, broken


def _known_classes(source: Source) -> Tensor:
    """The class of every object, `(N,)`, -1 where it is unknown.

    Raises:
        ValueError: if no class is known.
    """
    labels = source.labels
    if labels is None or not bool(labels.known.any()):
        raise ValueError("the objective reads the classes of the training objects, but these data have none")
    return torch.where(labels.known, labels.classes, -1)


def _with_rows(images: tuple[Images, ...], rows: Tensor, others: tuple[Images, ...]) -> tuple[Images, ...]:
    """Copies of `images` with `others` in some rows."""

    def put(values: Tensor, new: Tensor) -> Tensor:
        return values.index_copy(0, rows.to(values.device), new)

    replaced = []
    for one, other in zip(images, others, strict=True):
        values = {name: put(value, other.transform[name]) for name, value in one.transform.values.items()}
        transform = Transform(values, one.transform.groups)
        made: dict[tuple[int, int], Tensor] = {}
        pieces = []
        for mine, theirs in zip(one.pieces, other.pieces, strict=True):
            both = id(mine.pixels), id(theirs.pixels)
            if both not in made:
                made[both] = put(mine.pixels, theirs.pixels)
            pieces.append(Piece(made[both], mine.regions.with_rows(rows.numpy(), theirs.regions)))
        sides = one.sides
        if sides is not None and other.sides is not None:
            sides = sides.copy()
            sides[rows.numpy()] = other.sides
        pixels, readable = put(one.pixels, other.pixels), put(one.readable, other.readable)
        replaced.append(Images(pixels, transform, readable, tuple(pieces), sides))
    return tuple(replaced)


class _Messenger(Dataset[Batch | Exception]):
    """Gives an error as a value. If a loader process raised it, the text of a traceback would arrive instead."""

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self.batches[step]
        except (ValueError, OSError, UnreadableBatchError) as error:
            return error


class StepLoader:
    """Iterates over the batches from one step to another.

    It reads on over the end of an epoch, unless there is a `before_epoch`: then it reads nothing of an epoch before
    that has been called.

    Args:
        batches: where they come from.
        first: number of the first step.
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
        self.batches, self.first, self.last = batches, first, last
        self.workers, self.before_epoch = workers, before_epoch

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[Batch]:
        extra: dict[str, Any] = {"prefetch_factor": 2, "persistent_workers": False} if self.workers else {}
        per_epoch, step = self.batches.steps_per_epoch, self.first
        while step < self.last:
            end = self.last
            if self.before_epoch is not None:
                if step % per_epoch == 0:
                    self.before_epoch(step // per_epoch)
                end = min((step // per_epoch + 1) * per_epoch, end)
            steps = range(step, end)
            messenger = _Messenger(self.batches)
            for batch in DataLoader(messenger, sampler=steps, batch_size=None, num_workers=self.workers, **extra):
                if isinstance(batch, Exception):
                    raise batch
                yield batch
            step = end
