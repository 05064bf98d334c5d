"""Whether two encoders differ: paired bootstrap and exchange of encoders over the same objects, Holm's correction.

The unit is the object, because its views depend on each other. Scores that are no means of rows, such as R2, are
computed again from sums over objects. The randomness of training is another source: several seeds are needed as well,
and no test here replaces them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_inv.evaluation.results import Bootstrap, object_sums
from ssl_inv.transforms.keyed_random import bits

Statistic = Callable[[Tensor], Tensor]
"""Maps totals of additive quantities `(resamples, S)` to one number for each resample, NaN where it is undefined."""

MANY = Bootstrap(resamples=2000)
"""Resamples for the ends of an interval; a standard error needs fewer."""

_EXACT = 14
_PATTERNS = 1 << 22
"""Most objects for which all 2^objects exchanges are computed, and the exchanges of objects computed at a time."""


@dataclass(frozen=True)
class Paired:
    """The difference of two encoders on the same objects, the first minus the second.

    Attributes:
        difference: of the two scores.
        error: its standard error over objects.
        interval: its percentile interval.
        p: two-sided, that no less a difference arises when the encoders are exchanged at random in each object.
        objects: number of objects.
    """

    difference: float
    error: float | None
    interval: tuple[float, float] | None
    p: float
    objects: int


def mean_of_rows(totals: Tensor) -> Tensor:
    """The statistic of a mean: the sum, in the first column of the totals, by the number of rows, in the second."""
    return totals[:, 0] / totals[:, 1]


def paired(
    first: Tensor, second: Tensor, statistic: Statistic = mean_of_rows, bootstrap: Bootstrap = MANY, level: float = 0.95
) -> Paired:
    """The difference of a score of two encoders, from the same resamples of objects for both.

    Args:
        first: `(objects, S)`, the additive quantities of each object that the score is made from; see `object_sums`.
        second: those of the other encoder, the same objects in the same order.
        statistic: the score.
        bootstrap: the resamples.
        level: of the interval.

    Raises:
        ValueError: if the shapes differ or there is no object.
    """
    if first.shape != second.shape or not len(first):
        raise ValueError(f"paired scores need the same objects, got sums of shapes {first.shape} and {second.shape}")
    width, both = first.shape[1], torch.cat((first.double(), second.double()), dim=1)

    def difference(totals: Tensor) -> Tensor:
        return statistic(totals[:, :width]) - statistic(totals[:, width:])

    found = float(difference(both.sum(dim=0, keepdim=True)))
    error, interval = bootstrap.standard_error(both, difference), bootstrap.interval(both, difference, level)
    p = exchange_p(first, second, statistic, seed=bootstrap.seed)
    return Paired(found, error, interval, p, len(first))


def paired_means(
    first: Tensor, first_objects: Tensor, second: Tensor, second_objects: Tensor, bootstrap: Bootstrap = MANY
) -> Paired:
    """`paired` for the means of values of rows, such as whether a row was classified correctly.

    Args:
        first: `(M,)`.
        first_objects: `(M,)`, the object of each value.
        second: `(M',)`, of the other encoder; rows may come in any order.
        second_objects: `(M',)`.
        bootstrap: the resamples.

    Raises:
        ValueError: if the encoders have values of different objects.
    """
    ids, other = torch.unique(first_objects), torch.unique(second_objects)
    if not torch.equal(ids, other):
        raise ValueError(
            f"the encoders have values of different objects: {len(ids)} and {len(other)}, "
            f"{int(torch.isin(ids, other).sum())} of them in both"
        )
    sums = [
        object_sums(torch.stack((values.double(), torch.ones(len(values), dtype=torch.float64)), dim=1), objects)
        for values, objects in ((first, first_objects), (second, second_objects))
    ]
    return paired(sums[0], sums[1], bootstrap=bootstrap)


def exchange_p(
    first: Tensor, second: Tensor, statistic: Statistic = mean_of_rows, draws: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p of a difference, by exchanging the encoders in random objects. For a mean over objects with equal
    numbers of rows this is the sign-flip test.

    With up to 14 objects all exchanges are counted, which is exact; else p = (1 + count) / (1 + draws).

    Args:
        first: `(objects, S)`, additive quantities of each object.
        second: those of the other encoder.
        statistic: the score.
        draws: random exchanges.
        seed: decides them.

    Returns:
        p; NaN if the score of one encoder is undefined.
    """
    count, change = len(first), (second - first).double()
    exact = count <= _EXACT
    number = 1 << count if exact else draws
    total = [sums.double().sum(dim=0) for sums in (first, second)]

    def differences(exchanged: Tensor) -> Tensor:
        moved = exchanged @ change
        return (statistic(total[0] + moved) - statistic(total[1] - moved)).abs()

    observed = differences(torch.zeros(1, count, dtype=torch.float64))
    if not bool(observed.isfinite()):
        return math.nan
    # Equal differences must count as equal whatever the order of summation.
    bound, reached = observed - 1e-9 * observed.clamp_min(1e-6), 0
    for some in np.array_split(np.arange(number), -(-number * count // _PATTERNS)):
        drawn = some[:, None] >> np.arange(count) & 1 if exact else bits(seed, some, count=count) >> np.uint64(63)
        reached += int((differences(torch.from_numpy(drawn.astype(np.float64))) >= bound).sum())
    return reached / number if exact else (1 + reached) / (1 + number)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p of a family of tests that are claimed together (Holm, 1979): the k-th smallest of m, times m - k + 1,
    and no smaller than those before it. A test is significant where it is below the level.
    """
    adjusted, before = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        before = max(before, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = before
    return adjusted


def object_error(values: Tensor, objects: Tensor) -> float:
    """Standard error of the mean of rows `(M,)` that belong to objects `(M,)`, without resampling: the root of the sum
    of squares of each object's summed residuals, by M (cluster-robust).
    """
    residuals = object_sums((values.double() - values.double().mean())[:, None], objects)
    return float(residuals.square().sum().sqrt() / len(values))


def design_effect(values: Tensor, objects: Tensor) -> float:
    """How many times the variance of a mean is what it would be if all rows were independent.

    It is the number of views if all views of an object are equal, and near 1 if they are independent.
    """
    count = len(torch.unique(objects))
    naive = float(values.double().var()) / len(values)
    # The residuals of C objects have C - 1 degrees of freedom.
    return object_error(values, objects) ** 2 * count / (count - 1) / naive
