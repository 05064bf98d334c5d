"""What views want of the data beside the images of an object: images on the way, pieces of photographs, partners."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ssl_inv.data.source import Indices, Source
from ssl_inv.transforms import Transform
from ssl_inv.transforms.keyed_random import distinct
from ssl_inv.transforms.regions import Regions


@dataclass(frozen=True)
class Way:
    """Images that the data renders on the way from view 0 to view 1 of an object.

    Attributes:
        parameters: the parameters that change on the way; all others are as in view 1.
        fractions: the places of the images on the way, from 0 to 1.
    """

    parameters: tuple[str, ...]
    fractions: tuple[float, ...]

    def between(self, start: Transform, end: Transform) -> list[Transform]:
        """The transforms of the images on the way from the views of `start` to the views of `end`."""
        names = list(self.parameters)
        steps = [start.only(names).path(end.only(names), fraction) for fraction in self.fractions]
        return [Transform({**end.values, **step.values}, end.groups) for step in steps]


@dataclass(frozen=True)
class SharedStep(Way):
    """One image that the data renders of each object, a step from its view 0 that consecutive samples share.

    The step of a group of samples is the one from view 0 to view 1 of its first sample.

    Attributes:
        samples: how many samples are a group.
    """

    samples: int = 2

    def between(self, start: Transform, end: Transform) -> list[Transform]:
        first = torch.arange(len(start)) // self.samples * self.samples
        moved = dict(end.values)
        for name in self.parameters:
            group, values = start.groups[name], start[name]
            step = group.relative(values, end[name])
            moved[name] = group.compose(values, step[first.to(step.device)])
        return [Transform(moved, end.groups)]


@dataclass(frozen=True)
class Growth:
    """Views of an object that differ little at first, and as they come in the end.

    The first view is any. The others are drawn among those nearest to it, a share of them that grows from step to step.

    Attributes:
        parameters: by which views are near.
        steps: batches until the share is 1.
        smallest: the share of the other views in the first batch, above 0; at least as many as are needed.
    """

    parameters: tuple[str, ...]
    steps: int
    smallest: float

    def share(self, step: int) -> float:
        """The share of the other views to draw from in a batch, from `smallest` to 1."""
        return min(1.0, self.smallest + (1 - self.smallest) * step / self.steps)

    def draw(
        self, source: Source, objects: Indices, counts: Indices, views: int, key: Sequence[int], step: int
    ) -> Indices:
        """The numbers of `views` different views of every object, `(B, views)`.

        A function of its arguments alone.

        Args:
            source: what records the views.
            objects: numbers of the objects, `(B,)`.
            counts: how many views each has, `(B,)`.
            views: how many to draw of each, at least two.
            key: of the random numbers, beside the object.
            step: the number of the batch.
        """
        chosen = distinct(*key, objects, _NEAR, population=counts, count=1)[:, 0]
        ends = np.cumsum(counts)
        every = np.arange(int(ends[-1])) - np.repeat(ends - counts, counts)
        ours = np.repeat(np.arange(len(objects)), counts)
        there = source.record(objects[ours], every)
        here = source.record(objects, chosen).select(torch.from_numpy(ours))
        apart = sum(
            (there.groups[name].distance(here[name], there[name]).double().cpu() for name in self.parameters),
            torch.zeros(len(ours), dtype=torch.float64),
        ).numpy()
        apart[every == chosen[ours]] = np.inf  # never drawn twice
        nearest = [np.argsort(one, kind="stable") for one in np.split(apart, ends[:-1])]
        near = np.clip(np.round(self.share(step) * (counts - 1)), views - 1, counts - 1).astype(np.int64)
        among = distinct(*key, objects, _NEAR + 1, population=near, count=views - 1)
        others = np.stack([order[row] for order, row in zip(nearest, among, strict=True)])
        return np.concatenate((chosen[:, None], others), axis=1)


_NEAR = 0x6E0E
"""The purpose of the random numbers of `Growth`."""


class Framing(Protocol):
    """Which regions of photographs the views of a plan need. Sent to loader processes, so it can be pickled."""

    def regions(self, objects: Indices, epoch: int, sides: Sequence[Indices]) -> list[list[Regions]]:
        """The regions of each image of the samples, one for each piece.

        A function of its arguments alone. Pieces that are equal in all rows may be the same object.

        Args:
            objects: numbers of the objects, `(B,)`.
            epoch: passes over the data before this one.
            sides: height and width in pixels of each of the images, `(B, 2)`.
        """
        ...


class Links(Protocol):
    """Pairs of images. Sent to loader processes, so it can be pickled."""

    def partners(self, objects: Indices, views: Indices, epoch: int) -> tuple[Indices, Indices]:
        """The object and the view number of the partner of view `views[b]` of object `objects[b]`, for every b.

        A function of its arguments and of the state of the objective when the epoch began.
        """
        ...
