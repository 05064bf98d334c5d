"""Operations that several samples of a batch share."""

from dataclasses import replace
from typing import Any

import numpy as np

from ssl_inv.augment.operation import Draws, Operation, Side, groups_of, operations_of
from ssl_inv.catalogue import require, require_at_least
from ssl_inv.transforms import Code
from ssl_inv.transforms.keyed_random import Key


class Shared(Operation):
    """CARE's augmentations: operations with the same parameters for all samples of a chunk.

    A chunk is `samples` consecutive samples of a batch. Parameters are drawn for the first of them and hold for all;
    views of one sample still differ. Records `chunk`, the number of the chunk's first sample in the data set. Over
    several processes, `samples` must divide the share of each, so that no chunk stands on two processes.

    With this operation alone, a view depends on its batch. Boxes of photographs of different shapes are drawn for the
    first of a chunk, in fractions of its sides.

    Args:
        samples: how many consecutive samples of a batch are augmented alike.
        operations: the operations, each a mapping with its name and settings.
    """

    marks = ("chunk",)

    def __init__(self, *, samples: int, operations: list[dict[str, Any]]) -> None:
        require_at_least(2, samples=samples)
        require(len(operations) > 0, "operations", "is empty, at least one is needed")
        self.samples, self.operations = samples, operations_of(operations)
        self.groups = {**groups_of(self.operations), "chunk": Code()}

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        return self.draw_for_view(key, height, width, int(np.minimum(height, width).min()))

    def draw_for_view(self, key: Key, height: Side, width: Side, size: int) -> dict[str, Draws]:
        first = np.arange(len(key)) // self.samples * self.samples
        epoch = key.epoch if isinstance(key.epoch, int) else key.epoch[first]
        of_chunk = replace(key, index=key.index[first], epoch=epoch)
        height, width = (side if isinstance(side, int) else side[first] for side in (height, width))
        drawn: dict[str, Draws] = {"chunk": of_chunk.index}
        for operation in self.operations:
            drawn.update(operation.draw_for_view(of_chunk, height, width, size))
        return drawn
