"""Draws of positives and negatives from a bank, made on its device: a function of seed, step and sample, with nothing
to wait for.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ssl_inv.catalogue import SettingError
from ssl_inv.memories.bank import Bank
from ssl_inv.transforms.keyed_random import below

Kind = Literal["semi-hard", "hard", "semi-easy", "random"]


_SIMILARITIES = 2**25
"""Similarities of queries and bank that exist at once."""


class Members(NamedTuple):
    """The objects sorted by cluster.

    Attributes:
        order: `(N,)`, the objects of cluster 0 in ascending order, then those of cluster 1, ...
        starts: `(K,)`, where each cluster begins in it.
        sizes: `(K,)`.
    """

    order: Tensor
    starts: Tensor
    sizes: Tensor


def spread(keys: Tensor, population: Tensor, count: int) -> Tensor:
    """`count` numbers below `population[b]` for every key: different ones if there are as many, else each about equally
    often.

    A stratified draw: the numbers are cut into `count` strata as equal as they can be, beginning at a random one, and
    one is drawn of each. Every number has the same probability, count / population, to be among them, as in a draw
    without replacement.

    Args:
        keys: `(B,)`.
        population: `(B,)`, int64; where it is 0, zeros are given.
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
    """An object of each query's cluster, `(B,)`, uniformly.

    Args:
        members: of all clusters.
        labels: the cluster of each query, `(B,)`.
        index: the query's own object, `(B,)`.
        keys: `(B,)`.
        own_entry: whether it may be the own object; it is anyway where the cluster has no other.
    """
    starts, sizes = members.starts[labels], members.sizes[labels]
    bounds = sizes if own_entry else (sizes - 1).clamp_min(1)
    drawn = members.order[starts + below(keys, bounds.unsqueeze(1))[:, 0]]
    if own_entry:
        return drawn
    # The last member was not drawn among; in the place of the own entry it makes all others equally probable.
    return torch.where(drawn == index, members.order[starts + sizes - 1], drawn)


class Drawn(NamedTuple):
    """Negatives of B queries.

    Attributes:
        objects: `(B, M)`.
        found: which of them are of another cluster, `(B, M)` or `(B, 1)`; those that are not are to be left out.
        similarities: with the query, `(B, M)`, where they are known.
    """

    objects: Tensor
    found: Tensor
    similarities: Tensor | None


class Others(NamedTuple):
    """The objects that are not in the cluster of a query, numbered from 0, for B queries.

    Attributes:
        order: `(N,)`, all objects sorted by cluster.
        start: `(B,)`, where the query's cluster begins in it.
        size: `(B,)`, of that cluster.
    """

    order: Tensor
    start: Tensor
    size: Tensor

    @classmethod
    def of(cls, labels: Tensor, members: Members) -> "Others":
        """Those of queries in clusters `labels`, `(B,)`."""
        return cls(members.order, members.starts[labels], members.sizes[labels])

    @property
    def number(self) -> Tensor:
        """How many there are, `(B,)`."""
        return len(self.order) - self.size

    def __call__(self, numbers: Tensor) -> Tensor:
        """The objects with these numbers, `(B, M)`."""
        start, size = self.start.unsqueeze(1), self.size.unsqueeze(1)
        return self.order[(numbers + torch.where(numbers >= start, size, 0)).clamp_max(len(self.order) - 1)]


@dataclass(frozen=True)
class Negatives:
    """Which objects of other clusters a query is told from.

    Attributes:
        kind: `semi-hard` draws from the `pool` objects most similar to the query, `semi-easy` from the least similar
            ones, `random` from all; `hard` takes the most similar ones of other clusters.
        count: M, how many.
        pool: how many objects of all clusters, the query's own among them, are drawn from.
    """

    kind: Kind = "semi-hard"
    count: int = 16384
    pool: int = 128000

    def require_fit(self, objects: int) -> None:
        """Check that there can be as many.

        Raises:
            ValueError: if the pool or the data is too small.
        """
        pooled = self.kind in ("semi-hard", "semi-easy")
        if pooled and self.pool > objects:
            raise SettingError(
                "pool", f"{self.pool}, but the training data has {objects} objects; the paper's is a tenth of its data"
            )
        if self.count > (self.pool if pooled else objects):
            raise SettingError(
                "negative_count", f"{self.count}, but there are {self.pool if pooled else objects} objects to draw from"
            )

    def draw(
        self, queries: Tensor, labels: Tensor, bank: Bank, all_labels: Tensor, members: Members, keys: Tensor
    ) -> Drawn:
        """Objects of other clusters than the query's.

        A query whose pool has nothing but its own cluster draws from all others. No object comes twice before all have
        come once.

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
        # Some queries at a time, as their similarities with all of the bank are wanted.
        for some in torch.split(torch.arange(len(queries), device=queries.device), max(1, _SIMILARITIES // len(bank))):
            similarities, own = bank.similarities(queries[some]), labels[some]
            if self.kind == "hard":
                nearest = similarities.masked_fill_(all_labels == own.unsqueeze(1), float("-inf")).topk(
                    min(self.count, len(bank)), dim=1
                )
                pieces.append((nearest.indices, nearest.values > float("-inf"), nearest.values))
            else:
                pieces.append(self._from_pool(similarities, all_labels, own, Others.of(own, members), keys[some]))
        return Drawn(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))

    def _from_pool(
        self, similarities: Tensor, all_labels: Tensor, own: Tensor, others: "Others", keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        pool = similarities.topk(self.pool, dim=1, largest=self.kind == "semi-hard", sorted=False).indices
        # The r-th of another cluster is the first at which their running count reaches r + 1.
        running = (all_labels[pool] != own.unsqueeze(1)).cumsum(dim=1, dtype=torch.int32)
        found = running[:, -1].long()
        ranks = spread(keys, torch.where(found > 0, found, others.number), self.count)
        places = torch.searchsorted(running, (ranks + 1).int()).clamp_max(self.pool - 1)
        drawn = torch.where((found > 0).unsqueeze(1), pool.gather(1, places), others(ranks))
        return drawn, others.number.unsqueeze(1) > 0, similarities.gather(1, drawn)
