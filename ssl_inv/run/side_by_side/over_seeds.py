"""Numbers of several seeds: mean, deviation, and the difference of pairs with its interval."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl_inv.run.side_by_side.runs import Measured

_LEVEL = 0.975  # of the quantiles that bound a 95 % interval


def mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None if any run lacks the number."""
    known = [one for one in values if one is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def deviation(values: Sequence[float | None]) -> float | None:
    """The standard deviation over runs, with n - 1; None for a single run or if any run lacks the number."""
    known = [one for one in values if one is not None]
    return statistics.stdev(known) if len(known) > 1 and len(known) == len(values) else None


@dataclass(frozen=True)
class Difference:
    """How much more one group has of a measurement than another, on average over the seeds that both have.

    Attributes:
        value: the mean of the differences.
        low: lower end of its 95 % interval; None if there is none.
        high: upper end.
        pairs: seeds that both groups have.
        how: what the interval is from.
    """

    value: float
    low: float | None
    high: float | None
    pairs: int
    how: str


def paired_difference(first: Mapping[Any, Measured], second: Mapping[Any, Measured]) -> Difference | None:
    """`second` minus `first`, both by seed.

    With several seeds, the interval is Student's: mean ± t(0.975, n - 1) s / √n, with the standard deviation s of the
    n differences. It says how far other seeds may lie. With one seed, nothing tells how far other seeds lie, and the
    interval is that of other validation objects: ± 1.96 times the root of both squared standard errors, as if the two
    were measured on different objects.

    Returns:
        The difference, or None without a common seed.
    """
    pairs = [(first[seed], second[seed]) for seed in first if seed in second]
    differences = [b.value - a.value for a, b in pairs if a.value is not None and b.value is not None]
    if not differences:
        return None
    centre, count = statistics.fmean(differences), len(differences)
    if count > 1:
        from scipy.special import stdtrit

        half = float(stdtrit(count - 1, _LEVEL)) * statistics.stdev(differences) / math.sqrt(count)
        return Difference(centre, centre - half, centre + half, count, f"t over {count} seeds")
    spreads = [one.spread for pair in pairs for one in pair if None not in (pair[0].value, pair[1].value)]
    known = [one for one in spreads if one is not None]
    if len(known) < 2:
        return Difference(centre, None, None, 1, "one seed: no interval")
    half = 1.959964 * math.hypot(*known)
    return Difference(centre, centre - half, centre + half, 1, "one seed: over validation objects, not over seeds")
