"""The nearest rows of a bank by cosine similarity: exact, in little memory, at the speed of reduced precision.

Every tile of the bank is compared with all queries in a rough product, which leaves a few candidates of each tile. The
candidates of a query are then compared exactly. A bound on the rough error tells whether a row that was
left out could be among the nearest; such queries are searched again, in single precision and at last in double.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

_TILE, _QUERIES, _GROUP = 8192, 256, 16
"""Rows of the bank in a tile, queries in a rough product, and rows of which the best alone is looked at first."""

_PIECE, _FLOATS = 512, 1 << 19
"""Rows that are normalised at a time, and numbers of rows that are compared exactly at a time."""

_KEPT, _AT_ONCE = 64, 2048
"""Candidates of a query, at least, and queries whose candidates are kept."""


def nearest_cosine(bank: Tensor, queries: Tensor, k: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """The k rows of a bank with the largest cosine similarity to each query.

    Similarities are computed in double precision; of those that are equal in single precision the lower row comes
    first. So neither the size of pieces nor the precision of the search shows in the result. Besides its result it
    needs some ten megabytes, whatever the sizes are.

    Args:
        bank: `(N, D)`.
        queries: `(M, D)`.
        k: neighbours, at most N.
        device: where the rough products are computed.

    Returns:
        Similarities `(M, k)`, descending, of the bank's type, and row numbers `(M, k)`, on the CPU.

    Raises:
        ValueError: if the bank has fewer than k rows.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"{k} neighbours need a bank of as many rows; it has {len(bank)}")
    middle = _mean_direction(bank)
    rows = torch.empty(len(queries), k, dtype=torch.int64)
    for numbers in torch.split(torch.arange(len(queries)), _AT_ONCE):
        for precision in rough_precisions(device):
            rows[numbers], certain = _searched(bank, queries[numbers], middle, k, precision, device)
            numbers = numbers[~certain]
            if not len(numbers):
                break
        for number in numbers:
            rows[number] = _searched_in_full(bank, queries[number], k)
    size = max(1, _FLOATS // (k * queries.shape[1]))
    pairs = zip(torch.split(rows, size), torch.split(queries, size), strict=True)
    return torch.cat([_similar(bank[near], some) for near, some in pairs]).to(bank.dtype), rows


def rough_precisions(device: str) -> tuple[torch.dtype, ...]:
    """Types for rough products: bfloat16 first where the processor itself computes products of it."""
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    fast = torch.cuda.is_bf16_supported() if device.startswith("cuda") else native()
    return (torch.bfloat16, torch.float32) if fast else (torch.float32,)


def _mean_direction(bank: Tensor) -> Tensor:
    """The mean of the rows of length one, `(D,)`, float32."""
    total = torch.zeros(bank.shape[1], dtype=torch.float64)
    for rows in torch.split(bank, _TILE):
        total += normalize(rows.float(), dim=1).sum(dim=0).double()
    return (total / len(bank)).float()


def _searched(
    bank: Tensor, queries: Tensor, middle: Tensor, k: int, precision: torch.dtype, device: str
) -> tuple[Tensor, Tensor]:
    """The nearest k of each query, as far as a rough product finds them, and whether it is certain that it did."""
    exact = normalize(queries.float(), dim=1)
    rough = exact.to(precision)
    query_error = torch.linalg.vector_norm(exact - rough, dim=1).double() + 1e-7
    on_device, unit = rough.to(device), torch.finfo(precision).eps
    scores, rows = torch.empty(0, len(queries)), torch.empty(0, len(queries), dtype=torch.int64)
    beyond = torch.full((len(queries),), -torch.inf, dtype=torch.float64)
    error = torch.zeros(len(queries), dtype=torch.float64)
    kept = max(_KEPT, 2 * k)
    for first in range(0, len(bank), _TILE):
        tile, longest, lost = _remains(bank[first : first + _TILE], middle, precision)
        error = torch.maximum(error, query_error * longest + 1.01 * lost + 4e-7 * longest)
        best, places, most = _best_of_tile(tile.to(device), on_device, k + 4)
        beyond = torch.maximum(beyond, most)
        scores, rows = torch.cat((scores, best)), torch.cat((rows, places + first))
        if len(scores) > kept:
            scores, places = scores.topk(kept, dim=0)
            rows, beyond = rows.gather(0, places), torch.maximum(beyond, scores[-1].double())
    # The product itself is rounded too.
    doubt = error + 2 * unit * scores.abs().amax(dim=0)
    needed = scores.double() >= scores.double().topk(k, dim=0).values[-1] - 2 * doubt
    similarities, found = _compared(bank, exact, rows.T, needed.T, k)
    rounding = beyond.abs().nan_to_num(posinf=0.0) * unit
    limit = beyond + rounding + error + (exact @ middle)
    return found, similarities[:, -1].double() > limit + 1e-6


def _remains(rows: Tensor, middle: Tensor, precision: torch.dtype) -> tuple[Tensor, float, float]:
    """What rows of length one have beside the middle: rough, the longest length, and the longest error.

    The similarity to what all rows have in common is the same for all: the rest ranks them. The smaller the factors of
    a product, the smaller its error.
    """
    rough, longest, lost = torch.empty(rows.shape, dtype=precision), 0.0, 0.0
    for some, into in zip(torch.split(rows, _PIECE), torch.split(rough, _PIECE), strict=True):
        rest = normalize(some.float(), dim=1).sub_(middle)
        into.copy_(rest)
        longest = max(longest, float(torch.linalg.vector_norm(rest, dim=1).max()))
        lost = max(lost, float(torch.linalg.vector_norm(rest.sub_(into), dim=1).max()))
    return rough, longest, lost


def _best_of_tile(tile: Tensor, queries: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best rough scores `(count, M)` of a tile, their rows `(count, M)`, and a bound on the others `(M,)`."""
    found = [_best_of_product(tile @ some.T, count) for some in torch.split(queries, _QUERIES)]
    scores, rows, most = (torch.cat(parts, dim=-1) for parts in zip(*found, strict=True))
    return scores.float().cpu(), rows.cpu(), most.double().cpu()


def _best_of_product(product: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    size, queries = product.shape
    if size <= count:
        rows = torch.arange(size, device=product.device)[:, None].expand(-1, queries)
        return product, rows, product.new_full((queries,), -torch.inf)
    groups = size // _GROUP
    if groups <= count:
        scores, rows = product.topk(count, dim=0)
        return scores, rows, scores[-1]
    # A row among the best is in one of the groups whose best rows are the best.
    maxima = product[: groups * _GROUP].view(_GROUP, groups, queries).amax(dim=0)
    # topk along the last dimension is many times faster.
    chosen = maxima.T.topk(count, dim=1, sorted=False).indices.T
    members = (torch.arange(_GROUP, device=product.device) * groups)[:, None, None] + chosen
    rows = members.flatten(0, 1)
    if over := size - groups * _GROUP:
        last = torch.arange(size - over, size, device=product.device)[:, None].expand(-1, queries)
        rows = torch.cat((rows, last))
    scores, places = product.gather(0, rows).T.topk(count, dim=1)
    return scores.T, rows.gather(0, places.T), scores[:, -1]


def _compared(bank: Tensor, queries: Tensor, candidates: Tensor, needed: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best k of those candidates `(M, T)` of each query that are needed.

    They are compared in single precision; where that leaves the order open, in double.
    """
    # In the order of rows, so that a stable sort leaves equal ones in it.
    candidates, order = candidates.sort(dim=1)
    needed = needed.gather(1, order)
    query, place = needed.nonzero(as_tuple=True)
    near = torch.full(candidates.shape, -torch.inf)
    size = max(1, _FLOATS // bank.shape[1])
    for some, places in zip(torch.split(query, size), torch.split(place, size), strict=True):
        rows = normalize(bank[candidates[some, places]].float(), dim=1)
        near[some, places] = rows.mul_(queries[some]).sum(dim=1)
    ordered = near.sort(dim=1, descending=True).values
    gaps = (ordered[:, :-1] - ordered[:, 1:])[:, :k]
    close = (gaps.nan_to_num(torch.inf) < 4e-6).any(dim=1).nonzero()[:, 0]
    for some in torch.split(close, max(1, size // candidates.shape[1])):
        # Rounded, so that ties are ties.
        exact = _similar(bank[candidates[some]], queries[some]).float()
        near[some] = torch.where(needed[some], exact, -torch.inf)
    near, order = near.sort(dim=1, descending=True, stable=True)
    return near[:, :k], candidates.gather(1, order[:, :k])


def _similar(rows: Tensor, queries: Tensor) -> Tensor:
    """Cosine similarities of `(B, T, D)` and `(B, D)`, in double precision."""
    exact, wanted = rows.double(), normalize(queries.double(), dim=1)
    products: Tensor = torch.bmm(exact, wanted[:, :, None])[:, :, 0]
    lengths: Tensor = torch.linalg.vector_norm(exact, dim=2)
    return products / lengths.clamp_min(1e-12)


def _searched_in_full(bank: Tensor, query: Tensor, k: int) -> Tensor:
    """The nearest k rows of one query, from all rows in double precision."""
    near = torch.cat([_similar(rows[None], query[None])[0].float() for rows in torch.split(bank, _PIECE)])
    return near.sort(descending=True, stable=True).indices[:k]
