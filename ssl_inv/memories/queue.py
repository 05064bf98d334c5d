"""What an objective remembers of batches that are gone."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import require_at_least
from ssl_inv.nn.distributed import gather

Precision = Literal["fp32", "fp16"]


DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class Queue(nn.Module):
    """The vectors that were put in last, first in, first out; the same on all processes, and saved with the objective.

    Vectors put in wait until `flush`, which belongs into `after_step`: the gradient of a loss on the queue's entries
    needs these as they were, and so no loss has to copy them. The micro-batches of one step see the same entries and
    come in together.

    Args:
        size: K, how many vectors it holds.
        dimensions: D.
        precision: of the stored vectors; `fp16` halves the memory.

    Attributes:
        vectors: `(K, D)`: the entries, and where none has been put in yet, random vectors of length one.

    Raises:
        ValueError: if `size` is below 1.
    """

    vectors: Tensor

    def __init__(self, size: int, dimensions: int, precision: Precision = "fp32") -> None:
        super().__init__()
        require_at_least(1, queue=size)
        self.size = size
        self.register_buffer("vectors", F.normalize(torch.randn(size, dimensions), dim=1).to(DTYPES[precision]))
        self._added = 0
        self._waiting: list[Tensor] = []

    def get_extra_state(self) -> int:
        """How many vectors were ever put in: on the host, as reading it from a device would wait for the device."""
        return self._added

    def set_extra_state(self, state: int) -> None:
        """Continue after so many vectors."""
        self._added = state
        self._waiting.clear()

    @property
    def filled(self) -> int:
        """How many of the vectors were put in and not drawn at random."""
        return min(self._added, self.size)

    def entries(self) -> Tensor:
        """The vectors that were put in, `(filled, D)`, in no order: a view of `vectors`, and all of it once the queue
        is full.
        """
        return self.vectors[: self.filled]

    @torch.no_grad()
    def put(self, rows: Tensor) -> None:
        """Let `(B, D)` wait to come in: those of all processes, in rank order."""
        self._waiting.append(gather(rows.detach().to(self.vectors.dtype)))

    @torch.no_grad()
    def flush(self) -> None:
        """Take in what waits, in place of the oldest vectors."""
        for rows in self._waiting:
            # Of more rows than there are places, the last ones would stay.
            self._added += max(0, len(rows) - self.size)
            rows = rows[-self.size :]
            start = self._added % self.size
            first = min(len(rows), self.size - start)
            self.vectors[start : start + first] = rows[:first]
            self.vectors[: len(rows) - first] = rows[first:]
            self._added += len(rows)
        self._waiting.clear()
