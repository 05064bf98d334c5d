"""What views want of the data beside the images of an object: images on the way, pieces of photographs, partners."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ssl_inv.data.source import Indices
from ssl_inv.transforms import Transform
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
