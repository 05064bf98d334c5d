"""A graph over all training images: which of different objects are neighbours, and the pairs of images that follow from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_inv import keyed_random
from ssl_inv.cores import faiss_on_cores_of_all_processes
from ssl_inv.data.base import Indices, Labels
from ssl_inv.data.gallery import Gallery
from ssl_inv.distributed import all_sum, rank

KINDS = ("intra", "inter", "transitive")
"""Kinds of pairs, in the order in which they are numbered."""
_PAIRS = 0x9A1
"""Part of the key of what is drawn here."""
_QUERIES = 4096
"""Images whose neighbours are searched at a time."""
_ASKED = 4096
"""Images that are asked for a partner when pairs are judged."""
_POINTS = 256
"""Images for each cell that k-means sees, at most: what faiss takes of more."""


@dataclass(frozen=True)
class EdgeRules:
    """Which images are neighbours.

    Attributes:
        neighbours: k; two images are neighbours if each is among the k of other objects that are most similar to the other.
        max_degree: neighbours that an image keeps, the most similar ones; None is k.
        least_similarity: cosine below which images are no neighbours.
        cells: neighbours are in the same of so many k-means cells; 0 for any.
    """

    neighbours: int = 10
    max_degree: int | None = None
    least_similarity: float = -1.0
    cells: int = 0

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {self.neighbours}")
        if self.max_degree is not None and self.max_degree < 1:
            raise ValueError(f"max_degree must be at least 1, got {self.max_degree}")
        if not -1 <= self.least_similarity <= 1:
            raise ValueError(f"least_similarity must be a cosine, from -1 to 1, got {self.least_similarity}")
        if self.cells < 0 or self.cells == 1:
            raise ValueError(f"cells must be 0 for none, or at least 2, got {self.cells}")

    @property
    def width(self) -> int:
        """The most neighbours that an image can have."""
        return self.neighbours if self.max_degree is None else min(self.neighbours, self.max_degree)


def find_neighbours(
    features: NDArray[np.float32], groups: Indices, rules: EdgeRules, readable: NDArray[np.bool_] | None = None, seed: int = 0
) -> NDArray[np.int32]:
    """The neighbours of every image, `(N, rules.width)`, the most similar first; behind them -1. All edges have both directions.

    An image's own group is left out before the k nearest are taken, and only mutual neighbours are kept: an image that is among the nearest
    of very many has k of these at most. The search is exact, N^2 D products by faiss.

    Args:
        features: `(N, D)`; overwritten by their unit vectors.
        groups: the object that each image shows, `(N,)`, those of one object behind each other.
        rules: what makes an edge.
        readable: `(N,)`; the others have no edges. None is all.
        seed: decides the first centroids of the cells.

    Raises:
        ValueError: if there are more cells than images.
    """
    import faiss

    faiss.normalize_L2(features)
    rows = np.arange(len(features)) if readable is None else np.flatnonzero(readable)
    some = features if len(rows) == len(features) else features[rows]
    found = np.full((len(features), rules.neighbours), -1, dtype=np.int32)
    ids, similarities = _nearest(some, groups[rows], rules.neighbours)
    ids[similarities < rules.least_similarity] = -1
    if rules.cells:
        cells = _cells(some, rules.cells, seed)
        ids[cells[ids] != cells[:, np.newaxis]] = -1
    ids = _mutual(ids)
    ids[(ids >= 0).cumsum(axis=1) > rules.width] = -1
    ids = _mutual(ids)
    found[rows] = np.where(ids >= 0, rows[ids], -1)
    return np.take_along_axis(found, np.argsort(found < 0, axis=1, kind="stable"), axis=1)[:, : rules.width]


def _nearest(vectors: NDArray[np.float32], groups: Indices, count: int) -> tuple[Indices, NDArray[np.float32]]:
    """The rows of other groups with the largest inner products, `(N, count)`, and these; -1 where there are no more."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    ids, products = np.full((len(vectors), count), -1, dtype=np.int64), np.full((len(vectors), count), -2.0, dtype=np.float32)
    sizes = np.bincount(groups)[groups]
    for start in range(0, len(vectors), _QUERIES):
        # Of so many, `count` are of other groups, if there are as many.
        asked = min(len(vectors), count + int(sizes[start : start + _QUERIES].max()))
        values, there = index.search(vectors[start : start + _QUERIES], asked)
        is_own = groups[there] == groups[start : start + _QUERIES, np.newaxis]
        order = np.argsort(is_own, axis=1, kind="stable")[:, :count]
        others = np.take_along_axis(np.where(is_own, -1, there), order, axis=1)
        ids[start : start + _QUERIES, : others.shape[1]] = others
        products[start : start + _QUERIES, : others.shape[1]] = np.take_along_axis(values, order, axis=1)
    return ids, products


def _cells(vectors: NDArray[np.float32], count: int, seed: int) -> Indices:
    """The cell of each unit vector, `(N,)`, by spherical k-means."""
    import faiss

    if count > len(vectors):
        raise ValueError(f"cells is {count}, but there are {len(vectors)} images")
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": _POINTS}
    machine = faiss.Kmeans(vectors.shape[1], count, niter=20, seed=seed % 2**31, spherical=True, **limits)
    machine.train(vectors)
    cells: Indices = machine.index.search(vectors, 1)[1][:, 0]
    return cells


def _mutual(ids: Indices) -> Indices:
    """The neighbours that have each other, and -1 in the places of the rest."""
    own, kept = np.arange(len(ids))[:, np.newaxis], np.full_like(ids, -1)
    for column, there in enumerate(ids.T):
        both = (there >= 0) & (ids[there] == own).any(axis=1)
        kept[both, column] = there[both]
    return kept


class NeighbourGraph(nn.Module):
    """Neighbours among all training images, the same on all processes, and saved with the objective.

    Images are numbered object after object, view after view.

    Args:
        objects: of the training data.
        images: of all objects together.
        width: the most neighbours that an image can have.

    Attributes:
        starts: `(objects + 1,)`, int64, the number of each object's first image, and behind them the number of images; 0 until `lay_out`.
        neighbours: `(images, width)`, int32, the most similar first; behind them -1.
    """

    starts: Tensor
    neighbours: Tensor

    def __init__(self, objects: int, images: int, width: int) -> None:
        super().__init__()
        self.register_buffer("starts", torch.zeros(objects + 1, dtype=torch.int64))
        self.register_buffer("neighbours", torch.full((images, width), -1, dtype=torch.int32))
        self._most_views: int | None = None
        self.register_load_state_dict_post_hook(_forget_most_views)  # type: ignore[no-untyped-call]

    @property
    def most_views(self) -> int:
        """Of any object; 0 before `lay_out`."""
        if self._most_views is None:
            self._most_views = int(self.starts.diff().max())
        return self._most_views

    def lay_out(self, view_counts: Indices) -> None:
        """Say how many images there are of each object, `(objects,)`."""
        self.starts[1:] = torch.from_numpy(np.cumsum(view_counts))
        self._most_views = None

    @torch.no_grad()
    def build(self, gallery: Gallery, encoder: nn.Module, rules: EdgeRules, seed: int = 0) -> None:
        """Find the neighbours of all images by the features of an encoder.

        The first process does so and hands them to the others; it holds all features, N D numbers of 4 bytes, meanwhile.

        Args:
            gallery: the training images.
            encoder: from what the gallery gives to features `(b, D)`.
            rules: what makes an edge.
            seed: see `find_neighbours`.
        """
        kept = []
        for piece in gallery.features(encoder, every_view=True):
            if rank() == 0:
                kept.append((piece.objects.numpy(), piece.features.float().cpu().numpy(), piece.readable.numpy()))
        found = torch.zeros_like(self.neighbours)
        if rank() == 0:
            groups, features, readable = (np.concatenate(parts) for parts in zip(*kept, strict=True))
            kept.clear()
            with faiss_on_cores_of_all_processes():
                found = torch.from_numpy(find_neighbours(features, groups, rules, readable, seed)).to(found)
        self.neighbours.copy_(all_sum(found))

    def related(self, first: Tensor, second: Tensor) -> Tensor:
        """Whether two objects are the same, or any image of one is a neighbour of one of the other.

        Args:
            first: objects `(n,)`.
            second: objects `(m,)`.

        Returns:
            `(n, m)`, bool.
        """
        same = first.unsqueeze(1) == second
        if not self.most_views:
            return same
        rows = self.starts[first].unsqueeze(1) + torch.arange(self.most_views, device=first.device)
        there = self.neighbours[rows.clamp_max(len(self.neighbours) - 1)].long()
        there = there.masked_fill((rows >= self.starts[first + 1].unsqueeze(1)).unsqueeze(2), -1).flatten(1)
        objects = torch.searchsorted(self.starts, there, right=True) - 1
        # An object's place is the first at which it stands among the sorted ones; those that are not among them come into a further column.
        ordered = second.sort().values
        places = torch.searchsorted(ordered, objects).clamp_max(len(second) - 1)
        places = torch.where(ordered[places] == objects, places, len(second))
        marked = torch.zeros(len(first), len(second) + 1, dtype=torch.bool, device=first.device).scatter_(1, places, True)
        return same | marked[:, torch.searchsorted(ordered, second)]

    def pairs(self, weights: tuple[float, float, float], gap: int, seed: int) -> "Pairs":
        """What draws pairs from the graph as it is now."""
        return Pairs(self.starts.cpu().numpy().copy(), self.neighbours.cpu().numpy().copy(), weights, gap, seed)


def _forget_most_views(graph: nn.Module, _: Any) -> None:
    assert isinstance(graph, NeighbourGraph)
    graph._most_views = None


def _by_size(sizes: Indices) -> dict[str, int]:
    """How many sizes are 0, 1, 2 to 3, 4 to 7, ...: by what a name can say of these ranges, without the empty ones."""
    ranges, counts = np.unique(np.ceil(np.log2(sizes + 1)).astype(np.int64), return_counts=True)
    names = {0: "0", 1: "1"}
    return {names.get(one, f"{2 ** (one - 1)}_{2**one - 1}"): int(count) for one, count in zip(ranges.tolist(), counts, strict=True)}


@dataclass(frozen=True)
class Pairs:
    """Draws for any image one that shall have the same features; implements `ssl_inv.views.Links`.

    With A, B neighbours of different objects, A' another image of A's object and B' one of B's, a pair is `intra`, <A, A'>, `inter`,
    <A, B>, or `transitive`: <A, B'>, <A', B> or <A', B'>. An object with one image is an object whose images are made by augmentation:
    <A, A'> is the image twice, and a transitive pair needs a second image at one end at least.

    Attributes:
        starts: as in `NeighbourGraph`.
        neighbours: as in `NeighbourGraph`.
        weights: of the kinds, in the order of `KINDS`. They hold among those that an image has; where it has none of those wanted, it gets
            an `intra` pair.
        gap: least difference of the numbers of the views of an `intra` pair; where an object has no such pair, the farthest view.
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
        """A partner for each of the images `(n,)`, and the kind of the pair; every possible kind has its weight's share."""
        kind, *draws = keyed_random.uniform(self.seed, epoch, images, _PAIRS, count=5).T
        partners = np.stack(
            [self._intra(images, draws[0]), self._inter(images, draws[1]), self._transitive(images, draws[2], draws[3])], axis=1
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
        """One of the edges of the image's object, each with the same probability, and then one of the images at its other end."""
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
            `edges`, how many; `linked_images`, the share of images that have any; `degree_median`, `degree_90` (nine tenths have no more)
            and `degree_max`, neighbours of an image, and `images_of_degree_0`, `_1`, `_2_3`, `_4_7` and so on, how many have so many;
            `components`, how many parts the graph of the objects falls into, the share of objects in the `largest_component`, and
            `components_of_1`, `_2_3` and so on, how many parts have so many objects; `drawn_intra` and so on, the share of each kind among
            pairs drawn; and where classes are known, `precision_inter` and `precision_transitive`, the share of pairs of that kind drawn
            whose objects are of one class.
        """
        degrees = (self.neighbours >= 0).sum(axis=1)
        sizes = np.bincount(self._components())
        found = {"edges": degrees.sum() / 2, "linked_images": (degrees > 0).mean()}
        found |= {"degree_median": np.median(degrees), "degree_90": np.quantile(degrees, 0.9), "degree_max": degrees.max()}
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
