"""Features of constructed encoders, for which the answer of a protocol is known."""

import torch
from torch import Tensor

from ssl_inv.evaluation import Encoded, FeatureTable


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(seed: int, width: int) -> Tensor:
    return torch.linalg.qr(normal(seed, width, width))[0]


def views_of(features: Tensor, labels: Tensor | None = None) -> FeatureTable:
    """A table of features `(objects, views, D)`, with the label of each object."""
    objects, views, _ = features.shape
    rows = torch.arange(objects * views)
    of_row = None if labels is None else labels.repeat_interleave(views)
    return FeatureTable({"all": features.flatten(0, 1).float()}, rows // views, rows % views, of_row)


def same_on_both(table: FeatureTable, second: FeatureTable | None = None) -> Encoded:
    """An encoder that is judged on its training objects."""
    return Encoded(table, table, second=None if second is None else Encoded(second, second))


def values(protocol, encoded: Encoded) -> dict[str, float | None]:
    return {result.name: result.value for result in protocol.run(encoded)}
