"""Several views of an object as one row: their mean, or what the encoder's own network makes of them and of the steps
between them.

Who sees several views knows more than who sees one. Whether an encoder's own network is worth anything shows beside the
mean over as many views, which every encoder can have.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.transforms import Action

Aggregate = Callable[[Tensor, Sequence[Action]], Tensor]
"""Maps features `(B, M, D)` of M views of an object and the M - 1 actions from each to the next to one vector, `(B,
D')`; on the CPU.
"""


_CHUNK = 1024


def mean_of(views: int) -> str:
    """What the part of the features is called that is the mean of so many views."""
    return f"mean of {views} views"


def aggregate_of(views: int) -> str:
    """What the part of the features is called that an encoder's own network makes of so many views."""
    return f"aggregate of {views} views"


def consecutive_views(table: FeatureTable, views: int) -> Tensor:
    """Rows of an ordered table that belong together, `(G, views)`: of every object its first views, the next, and so
    on.

    What is left of an object, fewer than `views`, belongs to no group.
    """
    counts = torch.unique_consecutive(table.objects, return_counts=True)[1]
    position = torch.arange(len(table)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    whole = position < (counts // views * views).repeat_interleave(counts)
    return torch.arange(len(table))[whole].view(-1, views)


def aggregated(table: FeatureTable, views: int, aggregate: Aggregate | None = None) -> FeatureTable | None:
    """The table of groups of views, numbered by their first one, with the parts `mean_of(views)` and, if it can be,
    `aggregate_of(views)`.

    Args:
        table: its part "all" is read, and the transforms where there is an `aggregate`.
        views: M, the views of a group, in the order of their numbers; no view stands in two groups.
        aggregate: the encoder's own network, if it has one.

    Returns:
        None if no object has so many views.
    """
    table = table.ordered()
    rows = consecutive_views(table, views)
    if not len(rows):
        return None
    features = table.part("all")
    parts = {mean_of(views): features[rows].mean(dim=1)}
    if aggregate is not None:
        parts[aggregate_of(views)] = aggregates(table, rows, aggregate)
    kept = table.select(rows[:, 0])
    return FeatureTable(parts, kept.objects, kept.views, kept.labels, kept.labelled, kept.class_names)


def aggregates(
    table: FeatureTable, rows: Tensor, aggregate: Aggregate, images: bool = True, actions: bool = True
) -> Tensor:
    """What the encoder's own network makes of the part "all" of some views and the actions between them, `(G, D')`.

    Args:
        table: where the views stand.
        rows: of the table, `(G, M)`.
        aggregate: the network.
        images: whether it is shown the views, or features of zero.
        actions: whether it is told the actions, or that there were none.
    """
    vectors = []
    for some in torch.split(rows, _CHUNK):
        features = table.part("all")[some]
        transforms = [table.transform.select(view) for view in some.T]
        steps = [here.relative(there if actions else here) for here, there in pairwise(transforms)]
        vectors.append(aggregate(features if images else torch.zeros_like(features), steps))
    return torch.cat(vectors)
