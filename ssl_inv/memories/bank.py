"""A bank: the last embedding of every object of the training data."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import require
from ssl_inv.memories.base import Memory
from ssl_inv.memories.gallery import Gallery
from ssl_inv.memories.queue import DTYPES, Precision
from ssl_inv.nn.distributed import gather
from ssl_inv.nn.losses import full_precision

Place = Literal["device", "host"]

_BLOCK = 2**24
"""How many numbers of the bank are copied to another device or precision at a time."""


class Bank(Memory):
    """The last unit vector of every object.

    Every process has a copy and applies the gathered batch to it; the bank itself is never sent.

    Args:
        objects: N, the number of objects in the training data.
        dimensions: D.
        renewal: m, the weight of a new vector: the bank stores (1 - m) old + m new, normalised. 1 replaces the old one.
        precision: of the stored vectors; `fp16` halves the memory.
        place: `host` keeps the vectors in page-locked host memory, wherever the module moves. Queries are then
            answered on their own device, block by block.

    Attributes:
        vectors: `(N, D)`; random directions until a vector is added.

    Raises:
        SettingError: if `renewal` is not above 0 and at most 1.
    """

    vectors: Tensor

    def __init__(
        self,
        objects: int,
        dimensions: int,
        renewal: float = 1.0,
        precision: Precision = "fp32",
        place: Place = "device",
    ) -> None:
        super().__init__()
        require(0 < renewal <= 1, "bank_renewal", f"must be above 0 and at most 1, got {renewal}")
        self.renewal, self.place = renewal, place
        vectors = torch.empty(objects, dimensions, dtype=DTYPES[precision], pin_memory=self._page_locked)
        for rows in torch.split(vectors, max(1, _BLOCK // dimensions)):
            rows.copy_(F.normalize(torch.randn(rows.shape), dim=1))
        self.register_buffer("vectors", vectors)

    @property
    def _page_locked(self) -> bool:
        return self.place == "host" and torch.cuda.is_available()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Bank":
        kept = self.vectors
        if self.place == "host":
            # `fn` moves the buffers of a module. It may change the precision of these vectors, but not their device.
            self.vectors = kept[:0]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.place == "host":
            changed = kept.to(self.vectors.dtype)
            self.vectors = changed.pin_memory() if self._page_locked else changed
        return self

    def __len__(self) -> int:
        return len(self.vectors)

    @torch.no_grad()
    def put(self, index: Tensor, rows: Tensor) -> None:
        """Add the vectors `(B, D)` of the objects `index`, `(B,)`, of all processes at the next `flush`."""
        rows = _unit_rows(rows)
        self._wait(gather(index.to(rows.device, non_blocking=True)), gather(rows))

    def flush(self) -> list[tuple[Tensor, Tensor]]:
        """Take in what waits. Returns the objects `(W B,)` and their new vectors `(W B, D)`, once for every `put`."""
        return list(super().flush())

    def _take_in(self, waiting: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, Tensor]]:
        return [self._store(index, rows) for index, rows in waiting]

    def _store(self, index: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        # An object comes twice where it replaces one that cannot be read. Both rows must then be the same, because the
        # order of two writes to one place is not defined.
        rows = rows[_last_of_the_same(index)]
        stored = F.normalize(torch.lerp(self.rows(index, rows), rows, self.renewal), dim=1)
        self.vectors[index.to(self.vectors.device)] = stored.to(self.vectors)
        return index, stored

    @torch.no_grad()
    def fill(self, gallery: Gallery, encoder: nn.Module) -> None:
        """Store the embedding of every object's first image; an object whose image cannot be read keeps its vector."""
        for piece in gallery.features(encoder):
            readable = piece.objects[piece.readable].to(self.vectors.device)
            rows = piece.features[piece.readable.to(piece.features.device)]
            self.vectors[readable] = _unit_rows(rows).to(self.vectors)

    def rows(self, index: Tensor, like: Tensor) -> Tensor:
        """The vectors `(..., D)` of the objects `index`, `(...)`, with the device and precision of `like`."""
        return _copied(self.vectors[index.to(self.vectors.device)], like)

    def blocks(self, like: Tensor, numbers: int = _BLOCK) -> Iterator[tuple[slice, Tensor]]:
        """All vectors, block by block: their places, and the vectors with the device and precision of `like`.

        Args:
            like: any tensor.
            numbers: at most this many in a block, but always one row.
        """
        rows = max(1, numbers // self.vectors.shape[1])
        for start in range(0, len(self), rows):
            where = slice(start, min(start + rows, len(self)))
            yield where, _copied(self.vectors[where], like)

    @torch.no_grad()
    def similarities(self, queries: Tensor) -> Tensor:
        """Inner products `(B, N)` of queries `(B, D)` with all vectors, without gradient."""
        found = queries.new_empty(len(queries), len(self))
        for where, vectors in self.blocks(queries):
            torch.mm(queries, vectors.T, out=found[:, where])
        return found

    def similarity(self, queries: Tensor, index: Tensor, known: Tensor | None = None) -> Tensor:
        """Inner products `(B, M)` of every query with the vectors of its own M objects, with gradient for the queries.

        The vectors are fetched for a few queries at a time, and again in the backward pass: `B M D` numbers never exist
        at once.

        Args:
            queries: `(B, D)`.
            index: the objects, `(B, M)`.
            known: the inner products, if they are known already; the forward pass then fetches no vector.
        """
        return _Similarity.apply(queries, self.vectors, index, known)  # type: ignore[no-any-return]


class _Similarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, vectors: Tensor, index: Tensor, known: Tensor | None) -> Tensor:
        ctx.save_for_backward(vectors, index)
        ctx.like = queries.new_empty(0)
        if known is not None:
            return known.clone()
        pieces = _pieces(queries, vectors, index, queries)
        return torch.cat([torch.bmm(rows, some.unsqueeze(2)).squeeze(2) for some, rows in pieces])

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator,unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        vectors, index = ctx.saved_tensors
        if (vectors.device, vectors.dtype) == (ctx.like.device, ctx.like.dtype):
            # Weighted sums of rows, without a copy of the rows: ten times as fast on a CPU.
            return F.embedding_bag(index, vectors, per_sample_weights=gradient, mode="sum"), None, None, None
        pieces = _pieces(gradient, vectors, index, ctx.like)
        return torch.cat([torch.bmm(some.unsqueeze(1), rows).squeeze(1) for some, rows in pieces]), None, None, None


def _pieces(rows: Tensor, vectors: Tensor, index: Tensor, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A few of the rows `(B, ...)` at a time, and the vectors `(b, M, D)` of their objects."""
    at_once = max(1, _BLOCK // max(1, index.shape[1] * vectors.shape[1]))
    for some, objects in zip(torch.split(rows, at_once), torch.split(index, at_once), strict=True):
        yield some, _copied(vectors[objects.to(vectors.device)], like)


def _copied(vectors: Tensor, like: Tensor) -> Tensor:
    # A copy to the host must be complete, because the host may read it at once.
    return vectors.to(like, non_blocking=like.device.type != "cpu")


def _unit_rows(rows: Tensor) -> Tensor:
    return F.normalize(full_precision(rows), dim=1)


def _last_of_the_same(index: Tensor) -> Tensor:
    """For every entry, the place of the last equal entry."""
    ordered = index.sort(stable=True)
    return ordered.indices[torch.searchsorted(ordered.values, index, right=True) - 1]
