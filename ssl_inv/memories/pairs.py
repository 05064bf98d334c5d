"""Pairs of training images that follow from a graph of neighbours."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_inv.data.source import Indices, Labels
from ssl_inv.transforms import keyed_random

KINDS = ("intra", "inter", "transitive")
"""The kinds of pairs, in the order of their numbers."""

_PAIRS = 0x9A1
"""The part of the key that makes these draws independent of others with the same seed."""

_SAMPLE = 4096
"""How many images get a partner for the statistics."""


@dataclass(frozen=True)
class Pairs:
    """Draws for every image a partner that should have the same features; implements `ssl_inv.views.Links`.

    Let A and B be neighbours that show different objects, A' another image of A's object, and B' one of B's. A pair is
    `intra`, <A, A'>, `inter`, <A, B>, or `transitive`: <A, B'>, <A', B> or <A', B'>. If an object has one image only,
    augmentation makes its views: <A, A'> is this image twice, and a transitive pair needs a second image at one end at
    least.

    Attributes:
        starts: as in `NeighbourGraph`.
        neighbours: as in `NeighbourGraph`.
        weights: of the kinds, in the order of `KINDS`, among the kinds that are possible for an image. If none with a
            weight is possible, the pair is `intra`.
        gap: the least difference between the view numbers of an `intra` pair. If an object has no such pair, the
            partner is the farthest view.
        seed: of the draws, with the epoch and the image.
    """

    starts: Indices
    neighbours: NDArray[np.int32]
    weights: tuple[float, float, float]
    gap: int
    seed: int

    def partners(self, objects: Indices, views: Indices, epoch: int) -> tuple[Indices, Indices]:
        """The object and the view number of every partner; see `Links`."""
        there, _ = self.draw(self.starts[objects] + views, epoch)
        found = self._objects(there)
        return found, there - self.starts[found]

    def draw(self, images: Indices, epoch: int) -> tuple[Indices, Indices]:
        """A partner for each of the images `(n,)`, and the kind of each pair, drawn by weight among the possible."""
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
        # Without neighbours the number is 0, and -1 stands there.
        number = (draw * (there >= 0).sum(axis=1)).astype(np.int64)
        partners: Indices = there[np.arange(len(images)), number].astype(np.int64)
        return partners

    def _transitive(self, images: Indices, edge: NDArray[np.float64], view: NDArray[np.float64]) -> Indices:
        """Draw one edge of the image's object, all with the same probability, then an image of the object it leads to;
        -1 if there is none.
        """
        objects = self._objects(images)
        here = self.starts[objects, np.newaxis] + np.arange(self._count(objects).max())
        there = self.neighbours[np.minimum(here, len(self.neighbours) - 1)].astype(np.int64)
        there[here >= self.starts[objects + 1, np.newaxis]] = -1
        # For an edge of the image itself, the image at its end would be a direct pair.
        ends = self._count(self._objects(there)) - (here == images[:, np.newaxis])[:, :, np.newaxis]
        there, ends = there.reshape(len(images), -1), np.where(there >= 0, ends, 0).reshape(len(images), -1)
        reach = (ends > 0).cumsum(axis=1)
        chosen = np.arange(len(images)), np.argmax(reach > edge[:, np.newaxis] * reach[:, -1:], axis=1)
        end, far = there[chosen], self._objects(there[chosen])
        partner = self.starts[far] + (view * ends[chosen]).astype(np.int64)
        partner += (ends[chosen] < self._count(far)) & (partner >= end)
        return np.where(reach[:, -1] > 0, partner, -1)

    def statistics(self, labels: Labels | None) -> dict[str, float]:
        """What the record of a run says about the graph and about pairs drawn from it.

        Returns:
            `edges`, their number; `linked_images`, the share of images with an edge; `degree_median`, `degree_90` (nine
            tenths of the images have at most this degree) and `degree_max`, and `images_of_degree_0`, `_1`, `_2_3`,
            `_4_7` and so on, how many images have such a degree; `components`, the number of connected components of
            the graph of objects, `largest_component`, the share of objects in the largest, and `components_of_1`,
            `_2_3` and so on, how many components have so many objects; `drawn_intra` and so on, the share of each kind
            among drawn pairs; and, where classes are known, `precision_inter` and `precision_transitive`, the share of
            drawn pairs of that kind whose objects have the same class.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        degrees = (self.neighbours >= 0).sum(axis=1)
        images, columns = np.nonzero(self.neighbours >= 0)
        ends = self._objects(images), self._objects(self.neighbours[images, columns].astype(np.int64))
        objects = len(self.starts) - 1
        parts, part = connected_components(coo_array((np.ones(len(images)), ends), shape=(objects, objects)))
        sizes = np.bincount(part)
        found = {"edges": degrees.sum() / 2, "linked_images": (degrees > 0).mean()}
        found |= {"degree_median": np.median(degrees), "degree_90": np.quantile(degrees, 0.9)}
        found |= {"degree_max": degrees.max()}
        found |= {f"images_of_degree_{size}": count for size, count in _by_size(degrees).items()}
        found |= {"components": parts, "largest_component": sizes.max() / objects}
        found |= {f"components_of_{size}": count for size, count in _by_size(sizes).items()}
        drawn = keyed_random.permutation(self.seed, length=len(self.neighbours))[:_SAMPLE]
        partners, kinds = self.draw(drawn, 0)
        found |= {f"drawn_{name}": (kinds == number).mean() for number, name in enumerate(KINDS)}
        if labels is not None:
            known, classes = labels.known.numpy(), labels.classes.numpy()
            here, there = self._objects(drawn), self._objects(partners)
            for number in (1, 2):
                judged = (kinds == number) & known[here] & known[there]
                if judged.any():
                    found[f"precision_{KINDS[number]}"] = (classes[here] == classes[there])[judged].mean()
        return {name: float(value) for name, value in found.items()}


def _by_size(sizes: Indices) -> dict[str, int]:
    """How many sizes are in each of the ranges 0, 1, 2 to 3, 4 to 7, ..., by the range's name; no empty ranges."""
    ranges, counts = np.unique(np.ceil(np.log2(sizes + 1)).astype(np.int64), return_counts=True)
    names = {0: "0", 1: "1"}
    return {
        names.get(one, f"{2 ** (one - 1)}_{2**one - 1}"): int(count)
        for one, count in zip(ranges.tolist(), counts, strict=True)
    }
