"""Whether two encoders differ: the difference of every number, on the same resamples of objects for both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ssl_inv.evaluation.results import Comparison, Result, StandardError
from ssl_inv.evaluation.significance import holm

Tables = Mapping[str, Sequence[Comparison]]
"""Results by the name of the encoder."""


@dataclass(frozen=True)
class Difference:
    """A number of one encoder minus that of another.

    Attributes:
        name: what was measured.
        part: the part of the features.
        encoder: the first.
        other: the one that is subtracted.
        difference: of the two numbers.
        low: the lower end of the 95 % percentile interval over resamples of validation objects.
        high: its upper end.
        p: two-sided: twice the share of resamples on the other side of zero.
        adjusted: p after Holm's correction over all differences of one call.
    """

    name: str
    part: str
    encoder: str
    other: str
    difference: float
    low: float
    high: float
    p: float
    adjusted: float


def differences(tables: Tables, other: str, names: Sequence[str]) -> list[Difference]:
    """Every encoder against one of them.

    Only numbers with a standard error over the same objects are compared. Other training runs of the same method are
    another source of differences, which this does not know.

    Args:
        tables: results by encoder.
        other: the encoder that the others are compared with.
        names: the measurements that are compared. Holm's correction grows with their number.
    """
    known = {(row.trained.name, row.trained.part): row.trained for row in tables[other]}
    found: list[tuple[Result, str, float, tuple[float, float], float]] = []
    for encoder, table in tables.items():
        if encoder == other:
            continue
        for row in table:
            here, there = row.trained, known.get((row.trained.name, row.trained.part))
            if here.name in names and there is not None and (resampled := _resampled(here, there)) is not None:
                found.append((here, encoder, *resampled))
    adjusted = holm([p for *_, p in found])
    return [
        Difference(here.name, here.part, encoder, other, difference, *interval, p, after)
        for (here, encoder, difference, interval, p), after in zip(found, adjusted, strict=True)
    ]


def _resampled(here: Result, there: Result) -> tuple[float, tuple[float, float], float] | None:
    """The difference, its interval and p; None if the two were not measured on the same objects."""
    one, other = here.spread, there.spread
    if not isinstance(one, StandardError) or not isinstance(other, StandardError):
        return None
    if here.value is None or there.value is None or one.objects != other.objects or len(one.draws) != len(other.draws):
        return None
    draws = one.draws - other.draws
    draws = draws[draws.isfinite()]
    if not len(draws):
        return None
    low, high = (float(draws.quantile(share)) for share in (0.025, 0.975))
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return here.value - there.value, (low, high), min(1.0, 2 * (1 + beyond) / (1 + len(draws)))
