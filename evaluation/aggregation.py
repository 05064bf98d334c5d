"""Several views of an object as one row: the mean of their features, or the output of the encoder's own network.

The network gets the actions between the views too. Several views tell more than one. Whether an encoder's own network
is worth anything shows beside the mean over the same views, which every encoder has.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.transforms import Action

Aggregate = Callable[[Tensor, Sequence[Action]], Tensor]
"""Maps features `(B, M, D)` of M views of an object and the M - 1 actions from each to the next to one vector,
`(B, D')`; on the CPU.
"""


_CHUNK = 1024


def mean_of(views: int) -> str:
    """The name of the part that is the mean of so many views."""
    return f"mean of {views} views"


def aggregate_of(views: int) -> str:
    """The name of the part that an encoder's own network computes from so many views."""
    return f"aggregate of {views} views"


def aggregated(table: FeatureTable, views: int, aggregate: Aggregate | None = None) -> FeatureTable | None:
    """A table with one row for each group of views: the first views of an object, the next ones, and so on.

    Views that are left over belong to no group.

    Args:
        table: its part "all" is read, and the transforms if there is an `aggregate`.
        views: M, the views of a group, in the order of their numbers.
        aggregate: the encoder's own network, if it has one.

    Returns:
        A table with the part `mean_of(views)` and, with an `aggregate`, `aggregate_of(views)`; each row has the numbers
        and the label of the first view of its group. None if no object has so many views.
    """
    table = table.ordered()
    counts = torch.unique_consecutive(table.objects, return_counts=True)[1]
    position = torch.arange(len(table)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    whole = position < (counts // views * views).repeat_interleave(counts)
    rows = torch.arange(len(table))[whole].view(-1, views)
    if not len(rows):
        return None
    parts = {mean_of(views): table.part("all")[rows].mean(dim=1)}
    if aggregate is not None:
        parts[aggregate_of(views)] = aggregates(table, rows, aggregate)
    kept = table.select(rows[:, 0])
    return FeatureTable(parts, kept.objects, kept.views, kept.labels, kept.labelled, kept.class_names)


def aggregates(
    table: FeatureTable, rows: Tensor, aggregate: Aggregate, images: bool = True, actions: bool = True
) -> Tensor:
    """The output of the encoder's own network for groups of views, `(G, D')`.

    Args:
        table: the part "all" of its features, and its transforms.
        rows: of the table, `(G, M)`.
        aggregate: the network.
        images: whether the network is given the features, or zeros.
        actions: whether it is given the actions, or neutral ones.
    """
    vectors = []
    for some in torch.split(rows, _CHUNK):
        features = table.part("all")[some]
        transforms = [table.transform.select(view) for view in some.T]
        steps = [here.relative(there if actions else here) for here, there in pairwise(transforms)]
        vectors.append(aggregate(features if images else torch.zeros_like(features), steps))
    return torch.cat(vectors)
