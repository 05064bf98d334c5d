"""Encoders together with the images that their features are of."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ssl_inv.evaluation.features import EvaluationBatch, FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded


def encoded_by(encode: Callable, maps: Callable | None, pixels: Tensor, views: int = 2, **fields: object) -> Encoded:
    objects = torch.arange(len(pixels)) // views
    numbers = torch.arange(len(pixels)) % views
    parts = encode(pixels)
    table = FeatureTable({name: value.float() for name, value in parts.items()}, objects, numbers, objects % 3)

    def images(split: str) -> Iterator[EvaluationBatch]:
        for rows in torch.arange(len(pixels)).flip(0).split(5):
            yield EvaluationBatch(pixels[rows], objects[rows], numbers[rows])

    return Encoded(table, table, encode=encode, images=images, maps=maps, **fields)
