"""From the record of random fields to what they do to the views of a batch."""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment import random_field
from ssl_inv.augment.geometric import pixel_centres
from ssl_inv.augment.operations.random_field import COLOURS, GEOMETRIC

Record = Mapping[str, NDArray[Any]]
"""The parameters of some views as arrays on the host, by name."""


def strengths(record: Record, names: tuple[str, ...], count: int) -> NDArray[np.float32]:
    """The strengths of those of the named local transforms that are recorded, `(B, N)`."""
    found = [record[f"field_{name}"] for name in names if f"field_{name}" in record]
    return np.stack(found, axis=1) if found else np.empty((count, 0), dtype=np.float32)


def moved_centres(record: Record, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where every pixel of a view is taken from in the view without fields: x and y, `(B, size, size)` each, from -1 to 1.

    Args:
        record: of views to which at least one local geometric transform is applied.
        size: side of the views in pixels.
        device: where the result shall be.
    """
    names = [name for name in GEOMETRIC if f"field_{name}" in record]
    alphas = torch.from_numpy(strengths(record, GEOMETRIC, 0)).to(device, non_blocking=True)
    fields = _fields(record, random_field.field_count(names), size, device, 0)
    x, y = pixel_centres(size, device)
    if names == ["translate"]:
        alpha = alphas.view(-1, 1, 1)
        return fields[:, 0].mul_(alpha).add_(x), fields[:, 1].mul_(alpha).add_(y)
    order = torch.tensor(list(permutations(range(len(names)))))[torch.from_numpy(record["field_order"])]
    still = torch.stack((x.expand(1, size, size), y.expand(1, size, size)), dim=-1).expand(len(order), size, size, 2)
    moved_x, moved_y = random_field.warp(still, names, alphas, fields, order).unbind(-1)
    return moved_x, moved_y


def recolour(views: Tensor, record: Record) -> Tensor:
    """Add the recorded fields to hue, saturation and value, in place.

    Args:
        views: `(B, 3, S, S)`, float in [0, 1].
        record: of views to which at least one local change of colour is applied.
    """
    zero = np.zeros(len(views), dtype=np.float32)
    alphas = np.stack([record.get(f"field_{name}", zero) for name in COLOURS], axis=1)
    fields = _fields(record, len(COLOURS), views.shape[-1], views.device, 1)
    return views.copy_(random_field.local_colour(views, torch.from_numpy(alphas).to(views.device, non_blocking=True), fields))


def _fields(record: Record, count: int, size: int, device: torch.device, purpose: int) -> Tensor:
    """Fields `(B, count, size, size)`; of other purposes, others."""
    fields = torch.empty(len(record["field_seed"]), count, size, size, device=device)
    for periodic in np.unique(record["field_periodic"]):
        rows = torch.from_numpy(np.flatnonzero(record["field_periodic"] == periodic))
        seed, gamma = (torch.from_numpy(record[name])[rows] for name in ("field_seed", "field_gamma"))
        amplitudes = random_field.coefficients(seed + purpose, gamma, count, size, periodic=bool(periodic), device=device)
        some = random_field.synthesise(amplitudes, size, periodic=bool(periodic))
        if len(rows) == len(fields):
            return some
        fields[rows.to(device)] = some
    return fields
