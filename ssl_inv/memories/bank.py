"""One vector for every object of the training data."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError
from ssl_inv.memories.gallery import Gallery
from ssl_inv.memories.queue import DTYPES, Precision
from ssl_inv.nn.distributed import gather
from ssl_inv.nn.precision import full_precision

Place = Literal["device", "host"]


_BLOCK = 2**24
"""Numbers of the bank that are brought to another device or precision at a time."""


class Bank(nn.Module):
    """The last unit vector of every object, the same on all processes, and saved with the objective.

    Processes keep their copies alike by taking in the gathered batch and doing the same to it; the bank itself is never
    sent. Vectors put in wait until `flush`, which belongs into `after_step`: the gradient of a loss on the bank's rows
    needs these as they were.

    Args:
        objects: N, of the training data.
        dimensions: D.
        renewal: m, how much a new vector counts: (1 - m) old + m new is stored, at length one. With 1 it takes the old
        one's place.
        precision: of the stored vectors; `fp16` halves the memory.
        place: `host` keeps the vectors in page-locked memory of the host, wherever the module goes; what is asked of
            them is computed on the asker's device, block by block.

    Attributes:
        vectors: `(N, D)`; random directions until something else is put in.

    Raises:
        ValueError: if `renewal` is not above 0 and up to 1.
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
        if not 0 < renewal <= 1:
            raise SettingError("bank_renewal", f"must be above 0 and up to 1, got {renewal}")
        self.renewal, self.place = renewal, place
        vectors = torch.empty(objects, dimensions, dtype=DTYPES[precision], pin_memory=self._page_locked)
        for rows in torch.split(vectors, max(1, _BLOCK // dimensions)):
            rows.copy_(F.normalize(torch.randn(rows.shape), dim=1))
        self.register_buffer("vectors", vectors)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self.register_load_state_dict_post_hook(_forget_waiting)  # type: ignore[no-untyped-call]

    @property
    def _page_locked(self) -> bool:
        return self.place == "host" and torch.cuda.is_available()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Bank":
        kept = self.vectors
        if self.place == "host":
            # What moves modules moves all their buffers; of this one it may change the precision.
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
        """Let vectors `(B, D)` of the objects `index`, `(B,)`, wait to come in: those of all processes, in rank order,
        at length one.
        """
        rows = _unit_rows(rows)
        self._waiting.append((gather(index.to(rows.device, non_blocking=True)), gather(rows)))

    @torch.no_grad()
    def flush(self) -> list[tuple[Tensor, Tensor]]:
        """Take in what waits; gives the objects `(W B,)` and their new vectors `(W B, D)`, once for every `put`."""
        taken = [self._take_in(index, rows) for index, rows in self._waiting]
        self._waiting.clear()
        return taken

    def _take_in(self, index: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        # An object may be there twice, in place of one that cannot be read. Written twice, the same has to be written.
        rows = rows[_last_of_the_same(index)]
        stored = F.normalize(torch.lerp(self.rows(index, rows), rows, self.renewal), dim=1)
        self.vectors[index.to(self.vectors.device)] = stored.to(self.vectors)
        return index, stored

    @torch.no_grad()
    def fill(self, gallery: Gallery, encoder: nn.Module) -> None:
        """Store what an encoder makes of every object's first image; objects whose image cannot be read keep what they
        have.
        """
        for piece in gallery.features(encoder):
            readable = piece.objects[piece.readable].to(self.vectors.device)
            rows = piece.features[piece.readable.to(piece.features.device)]
            self.vectors[readable] = _unit_rows(rows).to(self.vectors)

    def rows(self, index: Tensor, like: Tensor) -> Tensor:
        """The vectors of the objects `index`, `(...)`: `(..., D)`, with the device and the precision of another tensor."""
        return _brought(self.vectors[index.to(self.vectors.device)], like)

    def blocks(self, like: Tensor, numbers: int = _BLOCK) -> Iterator[tuple[slice, Tensor]]:
        """All vectors in pieces: where they stand, and they, with the device and the precision of another tensor.

        Args:
            like: the other tensor.
            numbers: at most so many of a piece, or one row.
        """
        rows = max(1, numbers // self.vectors.shape[1])
        for start in range(0, len(self), rows):
            where = slice(start, min(start + rows, len(self)))
            yield where, _brought(self.vectors[where], like)

    @torch.no_grad()
    def similarities(self, queries: Tensor) -> Tensor:
        """Inner products `(B, N)` of queries `(B, D)` with all vectors, without gradient."""
        found = queries.new_empty(len(queries), len(self))
        for where, vectors in self.blocks(queries):
            torch.mm(queries, vectors.T, out=found[:, where])
        return found

    def similarity(self, queries: Tensor, index: Tensor, known: Tensor | None = None) -> Tensor:
        """Inner products `(B, M)` of each query with the vectors of M objects of its own, with a gradient for the
        queries.

        Vectors are fetched some queries at a time, and again for the gradient: `B M D` numbers never exist at once.

        Args:
            queries: `(B, D)`.
            index: the objects, `(B, M)`.
            known: the inner products, if they have been computed; then no vector is fetched for them.
        """
        return _Similarity.apply(queries, self.vectors, index, known)  # type: ignore[no-any-return]


class _Similarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, vectors: Tensor, index: Tensor, known: Tensor | None) -> Tensor:
        ctx.save_for_backward(vectors, index)
        ctx.like = queries.new_empty(0)
        if known is not None:
            return known.clone()
        pieces = zip(
            torch.split(queries, _queries_at_once(vectors, index)), _fetched(vectors, index, queries), strict=True
        )
        return torch.cat([torch.bmm(rows, some.unsqueeze(2)).squeeze(2) for some, rows in pieces])

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator,unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        vectors, index = ctx.saved_tensors
        if (vectors.device, vectors.dtype) == (ctx.like.device, ctx.like.dtype):
            # Weighted sums of rows, which are read where they stand: on a CPU ten times as fast.
            return F.embedding_bag(index, vectors, per_sample_weights=gradient, mode="sum"), None, None, None
        pieces = zip(
            torch.split(gradient, _queries_at_once(vectors, index)), _fetched(vectors, index, ctx.like), strict=True
        )
        return torch.cat([torch.bmm(some.unsqueeze(1), rows).squeeze(1) for some, rows in pieces]), None, None, None


def _queries_at_once(vectors: Tensor, index: Tensor) -> int:
    return max(1, _BLOCK // max(1, index.shape[1] * vectors.shape[1]))


def _fetched(vectors: Tensor, index: Tensor, like: Tensor) -> Iterator[Tensor]:
    for some in torch.split(index, _queries_at_once(vectors, index)):
        yield _brought(vectors[some.to(vectors.device)], like)


def _brought(vectors: Tensor, like: Tensor) -> Tensor:
    # What comes to the host may be read at once, so it has to be there.
    return vectors.to(like, non_blocking=like.device.type != "cpu")


def _unit_rows(rows: Tensor) -> Tensor:
    return F.normalize(full_precision(rows), dim=1)


def _last_of_the_same(index: Tensor) -> Tensor:
    """For every entry the place of the last one that is equal to it."""
    ordered = index.sort(stable=True)
    return ordered.indices[torch.searchsorted(ordered.values, index, right=True) - 1]


def _forget_waiting(bank: nn.Module, _: Any) -> None:
    assert isinstance(bank, Bank)
    bank._waiting.clear()
