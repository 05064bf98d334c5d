"""What the exam tells of encoders that linear accuracy and R2 do not: sentences made from docs/exam."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import spearmanr
from scipy.stats import t as student
from tables import table

from ssl_inv.run.side_by_side.over_seeds import deviation, mean

Numbers = Mapping[str, tuple[float, float | None]]
"""The number of each encoder, and its standard error."""

ALIKE, APART = 2.0, 5.0
"""Standard errors of a difference, below and above which two encoders are alike and apart. The second is far above the
usual two, because all pairs are compared in all columns.
"""

LEAST = 5
"""Encoders of a rank correlation."""

EQUAL = 9
"""Digits to which two numbers are compared, so that rounding gives equal ones no order."""


def over_seeds(numbers: Sequence[tuple[float, float | None]]) -> tuple[float, float | None]:
    """The mean over seeds and its standard error, that of seeds and that of objects together.

    All seeds are judged on the same validation objects, so more seeds do not lessen what these add. Where their error
    is not known there is none: three seeds alone say little of it.
    """
    values, spreads = [value for value, _ in numbers], [spread for _, spread in numbers if spread is not None]
    centre = mean(values)
    assert centre is not None
    if not spreads:
        return centre, None
    between = deviation(values) or 0.0
    return centre, math.hypot(sum(spreads) / len(spreads), between / math.sqrt(len(values)))


def distance(numbers: Numbers, one: str, other: str) -> float | None:
    """How many standard errors two encoders are apart; None where that is unknown."""
    if one not in numbers or other not in numbers:
        return None
    (here, spread), (there, other_spread) = numbers[one], numbers[other]
    if spread is None or other_spread is None or not (error := math.hypot(spread, other_spread)) > 0:
        return None
    return abs(here - there) / error


def told_apart(
    columns: Mapping[str, Numbers], known: Sequence[str], most: int = 8
) -> list[tuple[str, str, str, float]]:
    """Pairs of encoders that no `known` column tells apart, and the column that tells them apart best.

    Args:
        columns: numbers by heading.
        known: headings.
        most: pairs.

    Returns:
        Two encoders, the heading, and how many standard errors they are apart; the largest first.
    """
    encoders = list(dict.fromkeys(name for numbers in columns.values() for name in numbers))
    found = []
    for one, other in itertools.combinations(encoders, 2):
        apart = [distance(columns[heading], one, other) for heading in known if heading in columns]
        if not apart or any(far is None or far > ALIKE for far in apart):
            continue
        others = [
            (far, heading)
            for heading, numbers in columns.items()
            if heading not in known and (far := distance(numbers, one, other)) is not None and far > APART
        ]
        if others:
            far, heading = max(others)
            found.append((one, other, heading, far))
    return sorted(found, key=lambda row: -row[3])[:most]


def rank_correlations(columns: Mapping[str, Numbers], known: Sequence[str]) -> list[list[str]]:
    """Rows of heading, number of encoders, what chance gives, and Spearman's correlation with each known column."""
    rows = []
    for heading, numbers in columns.items():
        if heading in known:
            continue
        cells = [_correlation(numbers, columns.get(one, {})) for one in known]
        if any(cells):
            rows.append([heading, str(len(numbers)), f"±{by_chance(len(numbers)):.2f}", *cells])
    return rows


def _correlation(numbers: Numbers, others: Numbers) -> str:
    both = [name for name in numbers if name in others]
    pairs = [[round(column[name][0], EQUAL) for name in both] for column in (numbers, others)]
    if len(both) < LEAST or any(len(set(one)) == 1 for one in pairs):
        return ""
    return f"{float(spearmanr(*pairs).statistic):+.2f}"


def below_untrained(columns: Mapping[str, Numbers], untrained: Numbers) -> dict[str, list[str]]:
    """The encoders that know less of a parameter than random weights do, by the heading of its R2.

    Args:
        columns: numbers by heading.
        untrained: its numbers by heading.
    """
    found = {}
    for heading, numbers in columns.items():
        if heading.startswith("R2 ") and heading in untrained:
            every = {**numbers, "untrained": untrained[heading]}
            lower = [name for name, (value, _) in numbers.items() if value < untrained[heading][0]]
            found[heading] = [name for name in lower if (distance(every, name, "untrained") or 0) > ALIKE]
    return {heading: names for heading, names in found.items() if names}


def tell_none_apart(columns: Mapping[str, Numbers]) -> list[str]:
    """The headings whose numbers, of three encoders or more, are alike for all, but not equal."""
    found = []
    for heading, numbers in columns.items():
        apart = [distance(numbers, *pair) for pair in itertools.combinations(numbers, 2)]
        known = len(numbers) >= 3 and all(far is not None and far <= ALIKE for far in apart)
        if known and not is_constant(numbers):
            found.append(heading)
    return found


def is_constant(numbers: Numbers) -> bool:
    """Whether several encoders all have the same number."""
    return len(numbers) > 1 and len({round(value, EQUAL) for value, _ in numbers.values()}) == 1


def findings(columns: Mapping[str, Numbers], untrained: Numbers, known: Sequence[str], shown: Any) -> str:
    """What one data set shows, in Markdown.

    Args:
        columns: numbers of trained encoders by heading.
        untrained: those of random weights by heading.
        known: the headings of what is usually reported.
        shown: makes text of a heading and a number.
    """
    present = [one for one in known if one in columns]
    lines = []
    for one, other, heading, far in told_apart(columns, present):
        here, there = (shown(heading, columns[heading][name]) for name in (one, other))
        alike = f"`{one}` and `{other}` are alike in {' and '.join(present)}"
        lines.append(f"- {alike}, but have {here} and {there} in *{heading}* ({far:.0f} standard errors apart).")
    for heading, names in below_untrained(columns, untrained).items():
        values = ", ".join(f"`{name}` {shown(heading, columns[heading][name])}" for name in names)
        lines.append(f"- Random weights have {shown(heading, untrained[heading])} in *{heading}*, more than {values}.")
    if alike := tell_none_apart(columns):
        lines.append(f"- These columns have no two trained encoders that are not alike: *{'*; *'.join(alike)}*.")
    for heading, numbers in columns.items():
        if is_constant({**numbers, **({"untrained": untrained[heading]} if heading in untrained else {})}):
            value = shown(heading, next(iter(numbers.values())))
            lines.append(f"- *{heading}* is {value} for every encoder, random weights too: it says nothing here.")
    pairs = "\n".join(lines) or f"No pair of encoders is alike in {' and '.join(present)} and apart in another column."
    rows = rank_correlations(columns, present)
    if not rows:
        return pairs
    made = table(["column", "encoders", "by chance", *present], rows, range(1, 3 + len(present)))
    return f"{_MEANS}\n\n{pairs}\n\n{_RANKS}\n\n{made}"


_MEANS = (
    f"Two encoders are called alike if they are at most {ALIKE:.0f}, and apart if they are more than {APART:.0f} "
    "standard errors of a difference apart: of seeds and of validation objects together, unpaired, although all are "
    "judged on the same objects. That the first are equal is not shown. Random weights are said to have more where it "
    f"is more than {ALIKE:.0f}. Encoders with one seed are left out of all this."
)
_RANKS = (
    "Spearman's rank correlation over encoders, without `untrained`. *By chance* is what 5 % of as many unrelated "
    "encoders exceed: inside it, nothing is known of whether two columns order encoders alike."
)


def by_chance(count: int) -> float:
    """The size that a rank correlation of so many unrelated encoders exceeds in 5 % of cases, about."""
    quantile = float(student.ppf(0.975, count - 2))
    return quantile / math.sqrt(count - 2 + quantile**2)
