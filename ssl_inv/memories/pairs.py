"""TODO."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_inv.data.source import Indices, Labels
from ssl_inv.memories.search import _ASKED
from ssl_inv.transforms import keyed_random

KINDS = ("intra", "inter", "transitive")
"""Kinds of pairs, in the order in which they are numbered."""


_PAIRS = 0x9A1
"""Part of the key of what is drawn here."""


def _by_size(sizes: Indices) -> dict[str, int]:
    """How many sizes are 0, 1, 2 to 3, 4 to 7, ...: by what a name can say of these ranges, without the empty ones."""
    ranges, counts = np.unique(np.ceil(np.log2(sizes + 1)).astype(np.int64), return_counts=True)
    names = {0: "0", 1: "1"}
    return {
        names.get(one, f"{2 ** (one - 1)}_{2**one - 1}"): int(count)
        for one, count in zip(ranges.tolist(), counts, strict=True)
    }


@dataclass(frozen=True)
class Pairs:
    """Draws for any image one that shall have the same features; implements `ssl_inv.views.Links`.

    With A, B neighbours of different objects, A' another image of A's object and B' one of B's, a pair is `intra`, <A,
    A'>, `inter`, <A, B>, or `transitive`: <A, B'>, <A', B> or <A', B'>. An object with one image is an object whose
    images are made by augmentation: <A, A'> is the image twice, and a transitive pair needs a second image at one end
    at least.

    Attributes:
        starts: as in `NeighbourGraph`.
        neighbours: as in `NeighbourGraph`.
        weights: of the kinds, in the order of `KINDS`. They hold among those that an image has; where it has none of
            those wanted, it gets an `intra` pair.
        gap: least difference of the numbers of the views of an `intra` pair; where an object has no such pair, the
        farthest view.
        seed: decides the draws, with the epoch and the image.
    """

    starts: Indices
    neighbours: NDArray[np.int32]
    weights: tuple[float, float, float]
    gap: int
    seed: int

    def partners(self, objects: Indices, views: Indices, epoch: int) -> tuple[Indices, Indices]:
        """The object and the view number of the image beside each; see `Links`."""
        there, _ = self.draw(self.starts[objects] + views, epoch)
        found = self._objects(there)
        return found, there - self.starts[found]

    def draw(self, images: Indices, epoch: int) -> tuple[Indices, Indices]:
        """A partner for each of the images `(n,)`, and the kind of the pair; every possible kind has its weight's
        share.
        """
        kind, *draws = keyed_random.uniform(self.seed, epoch, images, _PAIRS, count=5).T
        partners = np.stack(
            [
                self._intra(images, draws[0]),
                self._inter(images, draws[1]),
                self._transitive(images, draws[2], draws[3]),
            ],
            axis=1,
        )
        reach = np.where(partners >= 0, self.weights, 0.0).cumsum(axis=1)
        kinds = np.argmax(reach > kind[:, np.newaxis] * reach[:, -1:], axis=1)
        return partners[np.arange(len(images)), kinds], kinds

    def _objects(self, images: Indices) -> Indices:
        objects: Indices = np.searchsorted(self.starts, images, side="right") - 1
        return objects

    def _count(self, objects: Indices) -> Indices:
        """How many images there are of each of some objects."""
        count: Indices = self.starts[objects + 1] - self.starts[objects]
        return count

    def _intra(self, images: Indices, draw: NDArray[np.float64]) -> Indices:
        objects = self._objects(images)
        first, count = self.starts[objects], self._count(objects)
        own = images - first
        before, after = np.maximum(own - self.gap + 1, 0), np.maximum(count - own - self.gap, 0)
        number = (draw * (before + after)).astype(np.int64)
        view = np.where(number < before, number, own + self.gap + number - before)
        farthest = np.where(2 * own >= count - 1, 0, count - 1)
        partners: Indices = first + np.where(before + after > 0, view, farthest)
        return partners

    def _inter(self, images: Indices, draw: NDArray[np.float64]) -> Indices:
        there = self.neighbours[images]
        # Without neighbours the number is 0, where -1 stands.
        number = (draw * (there >= 0).sum(axis=1)).astype(np.int64)
        partners: Indices = there[np.arange(len(images)), number].astype(np.int64)
        return partners

    def _transitive(self, images: Indices, edge: NDArray[np.float64], view: NDArray[np.float64]) -> Indices:
        """One of the edges of the image's object, each with the same probability, and then one of the images at its
        other end.
        """
        objects = self._objects(images)
        here = self.starts[objects, np.newaxis] + np.arange(self._count(objects).max())
        there = self.neighbours[np.minimum(here, len(self.neighbours) - 1)].astype(np.int64)
        there[here >= self.starts[objects + 1, np.newaxis]] = -1
        # From the image itself, the end of the edge would be a direct pair.
        ends = self._count(self._objects(there)) - (here == images[:, np.newaxis])[:, :, np.newaxis]
        there, ends = there.reshape(len(images), -1), np.where(there >= 0, ends, 0).reshape(len(images), -1)
        reach = (ends > 0).cumsum(axis=1)
        chosen = np.arange(len(images)), np.argmax(reach > edge[:, np.newaxis] * reach[:, -1:], axis=1)
        end, far = there[chosen], self._objects(there[chosen])
        partner = self.starts[far] + (view * ends[chosen]).astype(np.int64)
        partner += (ends[chosen] < self._count(far)) & (partner >= end)
        return np.where(reach[:, -1] > 0, partner, -1)

    def statistics(self, labels: Labels | None) -> dict[str, float]:
        """What a run's record says of the graph and of the pairs that are drawn from it.

        Returns:
            `edges`, how many; `linked_images`, the share of images that have any; `degree_median`, `degree_90` (nine
            tenths have no more) and `degree_max`, neighbours of an image, and `images_of_degree_0`, `_1`, `_2_3`,
            `_4_7` and so on, how many have so many; `components`, how many parts the graph of the objects falls into,
            the share of objects in the `largest_component`, and `components_of_1`, `_2_3` and so on, how many parts
            have so many objects; `drawn_intra` and so on, the share of each kind among pairs drawn; and where classes
            are known, `precision_inter` and `precision_transitive`, the share of pairs of that kind drawn whose objects
            are of one class.
        """
        degrees = (self.neighbours >= 0).sum(axis=1)
        sizes = np.bincount(self._components())
        found = {"edges": degrees.sum() / 2, "linked_images": (degrees > 0).mean()}
        found |= {
            "degree_median": np.median(degrees),
            "degree_90": np.quantile(degrees, 0.9),
            "degree_max": degrees.max(),
        }
        found |= {f"images_of_degree_{size}": count for size, count in _by_size(degrees).items()}
        found |= {"components": (sizes > 0).sum(), "largest_component": sizes.max() / sizes.sum()}
        found |= {f"components_of_{size}": count for size, count in _by_size(sizes[sizes > 0]).items()}
        images = keyed_random.permutation(self.seed, length=len(self.neighbours))[:_ASKED]
        partners, kinds = self.draw(images, 0)
        found |= {f"drawn_{name}": (kinds == number).mean() for number, name in enumerate(KINDS)}
        if labels is not None:
            known, classes = labels.known.numpy(), labels.classes.numpy()
            here, there = self._objects(images), self._objects(partners)
            for number in (1, 2):
                judged = (kinds == number) & known[here] & known[there]
                if judged.any():
                    found[f"precision_{KINDS[number]}"] = (classes[here] == classes[there])[judged].mean()
        return {name: float(value) for name, value in found.items()}

    def _components(self) -> Indices:
        """The lowest object of the part of the graph in which each object is, `(objects,)`."""
        images, columns = np.nonzero(self.neighbours >= 0)
        here, there = self._objects(images), self._objects(self.neighbours[images, columns].astype(np.int64))
        lowest: Indices = np.arange(len(self.starts) - 1)
        while True:
            before = lowest.copy()
            np.minimum.at(lowest, here, lowest[there])
            lowest = lowest[lowest]
            if np.array_equal(lowest, before):
                return lowest
