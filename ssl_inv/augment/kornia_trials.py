"""How an augmentation of kornia draws, found out by trying it on two batches of different sizes."""

from typing import Any

import torch
from torch import Tensor

from ssl_inv.augment.keyed_draws import VARIABLE, Draw, UnknownDrawError
from ssl_inv.transforms.keyed_random import random_bits

TRIED = (11, 13)
"""Sizes of the batches that are tried. No length within an augmentation is a multiple of both."""

LENGTHS = tuple(torch.Size((size,)) for size in TRIED)
"""Their shapes."""


def some_seeds(count: int, number: int) -> Tensor:
    """Some seeds, others for each number."""
    return random_bits(torch.tensor([number]), count)[0] >> 2 & (2**62 - 1)


def agreed(one: Draw, other: Draw) -> Draw:
    """What a draw is for, from how it was made for two batches of different sizes."""
    if one.kind == "rows" and other.kind == "rows" and one.arguments != ("permutation",):
        return one if one.count == other.count else Draw("rows", VARIABLE, one.arguments)
    if one.kind == "batch" and (one.arguments, one.count) == (other.arguments, other.count):
        return one
    if one.kind == "batch" and one.count == other.count and one.arguments != ("permutation",):
        return Draw("position", one.count, one.arguments)
    raise UnknownDrawError("it draws an order of the samples, so a view would depend on its batch")


def same_where_both_are(one: Tensor, other: Tensor) -> bool:
    """Whether two batches are equal as far as both reach: some have as many numbers as their largest sample needs."""
    common = tuple(slice(0, min(pair)) for pair in zip(one.shape, other.shape, strict=True))
    return torch.equal(one[common], other[common])


def differ(one: Any, other: Any) -> bool:
    """Whether two values are tensors that differ."""
    return isinstance(one, Tensor) and not torch.equal(one, other)


def all_equal(values: Tensor) -> bool:
    """Whether all rows are equal."""
    return torch.equal(values, values[:1].expand_as(values))
