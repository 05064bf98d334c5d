"""Operations whose random parameters several samples of a batch have in common."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ssl_inv.augment.operation import Draws, Operation, operations_of
from ssl_inv.catalogue import SettingError, require_at_least
from ssl_inv.transforms import Code, Group
from ssl_inv.transforms.keyed_random import Key


class Shared(Operation):
    """Operations with the same parameters for all samples of a chunk; their views differ still. CARE's augmentations.

    A chunk is `samples` consecutive samples of a batch, and what is drawn for the first of them holds for all. Records
    `chunk`, the number of the chunk's first sample in the data set. Over several processes `samples` has to divide the
    share of each, so that chunks are those of one process.

    A view here depends on its batch, which it does with no other operation.

    Args:
        samples: how many consecutive samples of a batch are augmented alike.
        operations: what happens to them, each a mapping with its name and settings.
    """

    def __init__(self, *, samples: int, operations: list[dict[str, Any]]) -> None:
        require_at_least(2, samples=samples)
        if not operations:
            raise SettingError("operations", "is empty, at least one is needed")
        self.samples = samples
        self.operations = operations_of(operations)
        names = [name for operation in self.operations for name in operation.groups]
        if len(twice := sorted({name for name in names if names.count(name) > 1})):
            raise ValueError(f"two operations draw {twice[0]!r}; a view has one value of it")

    @property
    def groups(self) -> Mapping[str, Group]:
        return {
            **{name: group for operation in self.operations for name, group in operation.groups.items()},
            "chunk": Code(),
        }

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        first = np.arange(len(key)) // self.samples * self.samples
        of_chunk = replace(
            key, index=key.index[first], epoch=key.epoch if isinstance(key.epoch, int) else key.epoch[first]
        )
        drawn = {
            name: value
            for operation in self.operations
            for name, value in operation.draw(of_chunk, height, width).items()
        }
        return {**drawn, "chunk": of_chunk.index}
