"""Linear centred kernel alignment between parts of an encoder, and with another encoder."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.sampling import jackknife_error, object_groups, one_view_each
from ssl_inv.evaluation.results import Result


@dataclass(frozen=True)
class CKA(Protocol):
    """How similar two sets of features are, up to a rotation and one scale: 0 when independent, 1 when equal.

    Between the parts of one encoder and, where there is a second encoder, such as the untrained network, between every
    part and every part of the second: `cka/parts/X` and `cka/second/X` compare the part of the row with X.
    One random view of each object, because views of one object are not independent. The estimate is the debiased one:
    HSIC_1 of Song et al. (JMLR 2012) in the CKA of Kornblith et al. (ICML 2019). The biased one stands in
    `cka_biased/...`, with the level that independent features reach: sqrt(p q / ((n + p) (n + q))).

    What it orders wrongly: few directions of large variance decide it. It isn't invariant to invertible linear maps, so
    two encoders that know the same may have a low value. Two untrained networks are similar to each other.

    Attributes:
        samples: objects that are used at most.
        seed: draws a view of each object, and the objects.
    """

    samples: int = 10_000
    seed: int = 0

    headlines: ClassVar[tuple[str, ...]] = ()
    has_targets: ClassVar[bool] = False

    def run(self, encoded: Encoded) -> Iterator[Result]:
        table = one_view_each(encoded.train, self.samples, self.seed)
        if encoded.second is None and len(encoded.parts) < 2:
            detail = "needs two parts of the features, or a second encoder"
            yield Result("cka", encoded.parts[0], None, detail=detail)
            return
        for part, other in combinations(encoded.parts, 2):
            yield from self._pair(table, part, table, other, "parts")
        if encoded.second is None:
            return
        second = one_view_each(encoded.second.train, self.samples, self.seed)
        same_views(table, second)
        for part in encoded.parts:
            for other in encoded.second.parts:
                yield from self._pair(table, part, second, other, "second")

    def _pair(self, first: FeatureTable, part: str, second: FeatureTable, other: str, kind: str) -> Iterator[Result]:
        x, y = first.part(part), second.part(other)
        n, p, q = len(x), x.shape[1], y.shape[1]
        names = f"cka/{kind}/{other}", f"cka_biased/{kind}/{other}"
        if n < 5:
            yield Result(names[0], part, None, detail=f"needs five objects, got {n}")
            return
        debiased, biased = linear_cka(x, y), linear_cka(x, y, debiased=False)
        if not math.isfinite(debiased) or not math.isfinite(biased):
            yield Result(names[0], part, None, detail="not defined: features do not vary, or not beyond noise")
            return
        group = object_groups(first.objects, min(10, n))
        error = jackknife_error([linear_cka(x[group != one], y[group != one]) for one in range(min(10, n))])
        level = math.sqrt(p * q / ((n + p) * (n + q)))
        yield Result(names[0], part, debiased, error, f"{n} objects, 0 when independent")
        few = "" if n >= 10 * max(p, q) else f", needs {10 * max(p, q)} objects"
        yield Result(names[1], part, biased, detail=f"{n} objects, {level:.3f} when independent{few}")


def same_views(first: FeatureTable, second: FeatureTable) -> None:
    """Check that two ordered tables have the same views in their rows.

    Raises:
        ValueError: if they have not.
    """
    same = len(first) == len(second) and torch.equal(first.objects, second.objects)
    if not same or not torch.equal(first.views, second.views):
        raise ValueError(
            f"the second encoder has features of other views: {len(second)} rows of "
            f"{len(torch.unique(second.objects))} objects, not {len(first)} of {len(torch.unique(first.objects))}"
        )


def linear_cka(first: Tensor, second: Tensor, debiased: bool = True) -> float:
    """Linear CKA of features `(N, P)` and `(N, Q)` of the same N inputs; NaN where it is not defined.

    It never forms the N x N Gram matrices: cost N P Q, memory P Q.

    Raises:
        ValueError: if the numbers of rows differ, or there are fewer than four.
    """
    if len(first) != len(second) or len(first) < 4:
        raise ValueError(f"CKA needs four rows of the same inputs, got {len(first)} and {len(second)}")
    x, y = (rows.double() - rows.double().mean(dim=0) for rows in (first, second))
    product = _hsic if debiased else _squared
    own = product(x, x) * product(y, y)
    return float(product(x, y)) / math.sqrt(own) if own > 0 else math.nan


def _squared(x: Tensor, y: Tensor) -> Tensor:
    return (x.T @ y).square().sum()


def _hsic(x: Tensor, y: Tensor) -> Tensor:
    """HSIC_1 (Song et al., eq. 5) of linear kernels K = x x^T and L = y y^T whose diagonals are set to 0.

    Its three terms are sums over rows: tr KL, 1^T K 1 1^T L 1 and 1^T K L 1.
    """
    n, k, m = len(x), x.square().sum(dim=1), y.square().sum(dim=1)
    ones_k, ones_l = x @ x.sum(dim=0) - k, y @ y.sum(dim=0) - m
    trace = _squared(x, y) - (k * m).sum()
    return (trace + ones_k.sum() * ones_l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (ones_k @ ones_l)) / (n * (n - 3))
