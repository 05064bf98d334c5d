"""A graph of neighbours among all training images."""

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.data.source import Indices
from ssl_inv.memories.base import Memory
from ssl_inv.memories.gallery import Gallery
from ssl_inv.memories.pairs import Pairs
from ssl_inv.memories.search import EdgeRules, find_neighbours
from ssl_inv.nn.distributed import all_sum, rank, wait_for_first


class NeighbourGraph(Memory):
    """The neighbours of every training image.

    Images are numbered object by object, view by view.

    Args:
        objects: the number of objects in the training data.
        images: of all objects together.
        width: the largest number of neighbours of an image.

    Attributes:
        starts: `(objects + 1,)`, int64: the number of every object's first image, then the number of images; 0 until
            `lay_out`.
        neighbours: `(images, width)`, int32: the most similar first, then -1.
    """

    starts: Tensor
    neighbours: Tensor

    def __init__(self, objects: int, images: int, width: int) -> None:
        super().__init__()
        self.register_buffer("starts", torch.zeros(objects + 1, dtype=torch.int64))
        self.register_buffer("neighbours", torch.full((images, width), -1, dtype=torch.int32))
        self._most_views: int | None = None

    def forget(self) -> None:
        super().forget()
        self._most_views = None

    @property
    def most_views(self) -> int:
        """The largest number of images of an object; 0 before `lay_out`."""
        if self._most_views is None:
            self._most_views = int(self.starts.diff().max())
        return self._most_views

    def lay_out(self, view_counts: Indices) -> None:
        """Set how many images every object has, `(objects,)`."""
        self.starts[1:] = torch.from_numpy(np.cumsum(view_counts))
        self._most_views = None

    @torch.no_grad()
    def build(self, gallery: Gallery, encoder: nn.Module, rules: EdgeRules, seed: int = 0) -> None:
        """Find the neighbours of all images by their features.

        The first process finds them and sends them to the others; meanwhile it holds all features, N D numbers of 4
        bytes.

        Args:
            gallery: the training images.
            encoder: from the gallery's pixels to features `(b, D)`.
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
            found = torch.from_numpy(find_neighbours(features, groups, rules, readable, seed)).to(found)
        wait_for_first()
        self.neighbours.copy_(all_sum(found))

    def related(self, first: Tensor, second: Tensor) -> Tensor:
        """Whether two objects are the same, or an image of one is a neighbour of an image of the other.

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
        # A linked object is marked at its first place in the sorted `second`; one that is not in it, in a spare column.
        ordered = second.sort().values
        places = torch.searchsorted(ordered, objects).clamp_max(len(second) - 1)
        places = torch.where(ordered[places] == objects, places, len(second))
        marked = torch.zeros(len(first), len(second) + 1, dtype=torch.bool, device=first.device)
        marked.scatter_(1, places, True)
        return same | marked[:, torch.searchsorted(ordered, second)]

    def pairs(self, weights: tuple[float, float, float], gap: int, seed: int) -> Pairs:
        """Draws pairs from the graph as it is now."""
        return Pairs(self.starts.cpu().numpy().copy(), self.neighbours.cpu().numpy().copy(), weights, gap, seed)
