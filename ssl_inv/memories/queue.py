"""A queue of the last embeddings."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.catalogue import require_at_least
from ssl_inv.memories.base import Memory
from ssl_inv.nn.distributed import gather

Precision = Literal["fp32", "fp16"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class Queue(Memory):
    """The last K vectors, first in, first out.

    Args:
        size: K.
        dimensions: D.
        precision: of the stored vectors; `fp16` halves the memory.

    Attributes:
        vectors: `(K, D)`. Row i holds the last of the vectors number i, i + K, i + 2 K, ...; a row that has none yet
            holds a random unit vector.

    Raises:
        SettingError: if `size` is below 1.
    """

    vectors: Tensor

    def __init__(self, size: int, dimensions: int, precision: Precision = "fp32") -> None:
        super().__init__()
        require_at_least(1, queue=size)
        self.size = size
        self.register_buffer("vectors", F.normalize(torch.randn(size, dimensions), dim=1).to(DTYPES[precision]))
        self._added = 0

    def get_extra_state(self) -> int:
        """How many vectors were ever added: on the host, because reading it from a device would wait for the device."""
        return self._added

    def set_extra_state(self, state: int) -> None:
        """Continue after so many vectors."""
        self._added = state

    @property
    def filled(self) -> int:
        """How many of the vectors were added, and are not random."""
        return min(self._added, self.size)

    def entries(self) -> Tensor:
        """The vectors that were added, `(filled, D)`, in no particular order: a view of `vectors`, no copy."""
        return self.vectors[: self.filled]

    @torch.no_grad()
    def put(self, rows: Tensor) -> None:
        """Add the vectors `(B, D)` of all processes, in rank order, at the next `flush`."""
        self._wait(gather(rows.detach().to(self.vectors.dtype)))

    def _take_in(self, waiting: list[tuple[Tensor, ...]]) -> None:
        for (rows,) in waiting:
            # Of more rows than places, the last ones stay.
            self._added += max(0, len(rows) - self.size)
            rows = rows[-self.size :]
            start = self._added % self.size
            first = min(len(rows), self.size - start)
            self.vectors[start : start + first] = rows[:first]
            self.vectors[: len(rows) - first] = rows[first:]
            self._added += len(rows)
