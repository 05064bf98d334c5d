"""Positives and negatives drawn from a bank, on its device.

A draw is a function of seed, step and sample. Nothing waits for the device.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ssl_inv.catalogue import require
from ssl_inv.memories.bank import Bank
from ssl_inv.transforms.keyed_random import below

Kind = Literal["semi-hard", "hard", "semi-easy", "random"]

_SIMILARITIES = 2**25
"""How many similarities of queries and bank exist at once."""


class Members(NamedTuple):
    """The objects sorted by cluster.

    Attributes:
        order: `(N,)`, the objects of cluster 0 in ascending order, then those of cluster 1, and so on.
        starts: `(K,)`, the place in `order` where each cluster begins.
        sizes: `(K,)`.
    """

    order: Tensor
    starts: Tensor
    sizes: Tensor


def spread(keys: Tensor, population: Tensor, count: int) -> Tensor:
    """Draw `count` numbers below `population[b]` for every key, as different as possible.

    If there are fewer numbers than `count`, each comes about equally often. The draw is stratified: the numbers are cut
    into `count` strata of nearly equal size from a random start, and each stratum gives one number. Every number is
    drawn with the same probability, count / population, as in a draw without replacement.

    Args:
        keys: `(B,)`.
        population: `(B,)`, int64; 0 gives zeros.
        count: M.

    Returns:
        `(B, M)`, int64.
    """
    population = population.clamp_min(1).unsqueeze(1)
    edges = torch.arange(count + 1, device=keys.device) * population // count
    widths = edges.diff(dim=1)
    drawn = below(keys, torch.cat((widths.clamp_min(1), population), dim=1))
    return (edges[:, :-1] + drawn[:, :-1] + drawn[:, -1:]) % population


def draw_positives(members: Members, labels: Tensor, index: Tensor, keys: Tensor, own_entry: bool = True) -> Tensor:
    """Draw an object of each query's cluster uniformly, `(B,)`.

    Args:
        members: of all clusters.
        labels: the cluster of each query, `(B,)`.
        index: the query's own object, `(B,)`.
        keys: `(B,)`.
        own_entry: whether the own object may be drawn. It always is if the cluster has no other.
    """
    starts, sizes = members.starts[labels], members.sizes[labels]
    bounds = sizes if own_entry else (sizes - 1).clamp_min(1)
    drawn = members.order[starts + below(keys, bounds.unsqueeze(1))[:, 0]]
    if own_entry:
        return drawn
    # The bound leaves out the last member. It replaces the own entry, so all others are equally probable.
    return torch.where(drawn == index, members.order[starts + sizes - 1], drawn)


class Drawn(NamedTuple):
    """Negatives of B queries.

    Attributes:
        objects: `(B, M)`.
        found: `(B, M)` or `(B, 1)`, whether an object is of another cluster; the others must be left out.
        similarities: with the query, `(B, M)`, if they are known.
    """

    objects: Tensor
    found: Tensor
    similarities: Tensor | None


class Others(NamedTuple):
    """The objects outside the cluster of each of B queries, numbered from 0.

    Attributes:
        order: `(N,)`, all objects sorted by cluster.
        start: `(B,)`, the place in `order` where the query's cluster begins.
        size: `(B,)`, of that cluster.
    """

    order: Tensor
    start: Tensor
    size: Tensor

    @classmethod
    def of(cls, labels: Tensor, members: Members) -> "Others":
        """The objects outside the clusters `labels`, `(B,)`."""
        return cls(members.order, members.starts[labels], members.sizes[labels])

    @property
    def number(self) -> Tensor:
        """How many they are, `(B,)`."""
        return len(self.order) - self.size

    def __call__(self, numbers: Tensor) -> Tensor:
        """The objects with these numbers, `(B, M)`."""
        start, size = self.start.unsqueeze(1), self.size.unsqueeze(1)
        return self.order[(numbers + torch.where(numbers >= start, size, 0)).clamp_max(len(self.order) - 1)]


@dataclass(frozen=True)
class Negatives:
    """How the negatives of a query are chosen among the objects of other clusters.

    Attributes:
        kind: `semi-hard` draws from the `pool` objects most similar to the query, `semi-easy` from the `pool` least
            similar ones, `random` from all; `hard` takes the most similar objects of other clusters.
        count: M, the number of negatives.
        pool: the size of the pool, over all clusters, with the query's own.
    """

    kind: Kind = "semi-hard"
    count: int = 16384
    pool: int = 128000

    def require_fit(self, objects: int) -> None:
        """Check that the data has enough objects.

        Raises:
            SettingError: if the pool or the data is too small.
        """
        pooled = self.kind in ("semi-hard", "semi-easy")
        size = f"must be at most the {objects} training objects, got {self.pool}; the paper uses a tenth of its data"
        require(not pooled or self.pool <= objects, "pool", size)
        most = self.pool if pooled else objects
        require(self.count <= most, "negative_count", f"{self.count}, but there are {most} objects to draw from")

    def draw(
        self, queries: Tensor, labels: Tensor, bank: Bank, all_labels: Tensor, members: Members, keys: Tensor
    ) -> Drawn:
        """Draw objects of other clusters than the query's.

        A query whose pool holds only its own cluster draws from all others. No object comes twice before all have come
        once.

        Args:
            queries: unit vectors `(B, D)`.
            labels: the cluster of each query, `(B,)`.
            bank: N vectors.
            all_labels: the cluster of each object, `(N,)`.
            members: of all clusters.
            keys: `(B,)`.
        """
        if self.kind == "random":
            others = Others.of(labels, members)
            return Drawn(others(spread(keys, others.number, self.count)), others.number.unsqueeze(1) > 0, None)
        pieces = []
        # A few queries at a time, because each needs its similarities with the whole bank.
        for some in torch.split(torch.arange(len(queries), device=queries.device), max(1, _SIMILARITIES // len(bank))):
            similarities, own = bank.similarities(queries[some]), labels[some]
            if self.kind == "hard":
                similarities = similarities.masked_fill_(all_labels == own.unsqueeze(1), float("-inf"))
                nearest = similarities.topk(min(self.count, len(bank)), dim=1)
                pieces.append((nearest.indices, nearest.values > float("-inf"), nearest.values))
            else:
                pieces.append(self._from_pool(similarities, all_labels, own, Others.of(own, members), keys[some]))
        return Drawn(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))

    def _from_pool(
        self, similarities: Tensor, all_labels: Tensor, own: Tensor, others: Others, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        pool = similarities.topk(self.pool, dim=1, largest=self.kind == "semi-hard", sorted=False).indices
        # Member r of the other clusters stands where their running count first reaches r + 1.
        running = (all_labels[pool] != own.unsqueeze(1)).cumsum(dim=1, dtype=torch.int32)
        found = running[:, -1].long()
        ranks = spread(keys, torch.where(found > 0, found, others.number), self.count)
        places = torch.searchsorted(running, (ranks + 1).int()).clamp_max(self.pool - 1)
        drawn = torch.where((found > 0).unsqueeze(1), pool.gather(1, places), others(ranks))
        return drawn, others.number.unsqueeze(1) > 0, similarities.gather(1, drawn)
