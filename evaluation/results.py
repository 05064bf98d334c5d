"""The results of protocols: named numbers with a standard error, and the table with their baselines."""

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ssl_inv.transforms.keyed_random import uniform

_DRAWS = 1 << 24
"""Objects that a bootstrap draws at a time; a bound on its memory."""


class StandardError(float):
    """A standard error over validation objects that keeps the resamples it is from.

    Two encoders that are measured on the same objects are measured on the same resamples, so that the difference of
    their `draws` is a resampled difference.

    It is made from the standard error itself and the two attributes.

    Attributes:
        draws: `(resamples,)`, float64, the number on each resample; NaN where it is undefined.
        objects: how many objects were drawn from.
    """

    draws: Tensor
    objects: int

    def __new__(cls, value: float, draws: Tensor, objects: int) -> "StandardError":
        one = super().__new__(cls, value)
        one.draws, one.objects = draws, objects
        return one

    def __reduce__(self) -> tuple[type["StandardError"], tuple[float, Tensor, int]]:
        return StandardError, (float(self), self.draws, self.objects)


@dataclass(frozen=True)
class Result:
    """One measured number.

    Attributes:
        name: what was measured, from the general to the particular: `linear/top1`, `r2/relative/rotation`.
        part: the part of the features that it was measured on.
        value: the number; None if it could not be measured, and then `detail` says why.
        spread: standard error of `value` over validation objects; None if it was not estimated.
        detail: a remark for the reader.
        errors: of a predicted angle, the median error in degrees by the true angle: `("30-60", 12.5)`.
        pairs: of a predicted number, a sample of (true, predicted), for a scatter plot; angles are in degrees.
    """

    name: str
    part: str
    value: float | None
    spread: float | None = None
    detail: str = ""
    errors: tuple[tuple[str, float], ...] = ()
    pairs: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A result and its baselines; a baseline is None if it has no meaning or was not measured.

    Attributes:
        trained: the encoder under test.
        untrained: the same measurement on the same architecture with random weights.
        shuffled: the same measurement with shuffled training targets, which is the chance level.
        reference: the published number.
    """

    trained: Result
    untrained: Result | None = None
    shuffled: Result | None = None
    reference: float | None = None


def _pieces(length: int, count: int) -> list[tuple[int, int]]:
    ends = [length * piece // count for piece in range(count + 1)]
    return list(pairwise(ends))


@functools.lru_cache(maxsize=2)
def _weights(seed: int, first: int, last: int, count: int) -> Tensor:
    """How often each object is in each of some resamples, `(last - first, count)`; measurements share them."""
    drawn = (uniform(seed, np.arange(first, last), count=count) * count).astype(np.int64)
    return torch.from_numpy(np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.uint16))


@dataclass(frozen=True)
class Bootstrap:
    """Standard errors by drawing validation objects with replacement.

    Whole objects are drawn, because the views of one object depend on each other.

    Attributes:
        resamples: number of draws.
        seed: decides the draws.
    """

    resamples: int = 200
    seed: int = 0

    def resampled(self, sums: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
        """The statistic of every resample, `(resamples,)`, float64, NaN where it is undefined.

        The same objects are drawn whatever `sums` holds, so the sums of two encoders can stand side by side.

        Args:
            sums: `(objects, S)`, additive quantities of each object.
            statistic: maps their totals `(resamples, S)` to one number for each resample.
        """
        count = len(sums)
        pieces = -(-self.resamples * count // _DRAWS)
        weights = (_weights(self.seed, first, last, count) for first, last in _pieces(self.resamples, pieces))
        return statistic(torch.cat([some.double() @ sums.double() for some in weights]))

    def standard_error(self, sums: Tensor, statistic: Callable[[Tensor], Tensor]) -> StandardError | None:
        """Standard deviation of a statistic over the resamples; arguments as of `resampled`.

        Returns:
            The standard error, or None with fewer than two objects.
        """
        if len(sums) < 2 or self.resamples < 2:
            return None
        draws = self.resampled(sums, statistic).double()
        values = draws[draws.isfinite()]
        return StandardError(float(values.std()), draws, len(sums)) if len(values) > 1 else None

    def interval(
        self, sums: Tensor, statistic: Callable[[Tensor], Tensor], level: float = 0.95
    ) -> tuple[float, float] | None:
        """The percentile interval of a statistic; arguments as of `resampled`. Some thousand resamples are needed.

        Returns:
            Both ends, or None with fewer than two objects.
        """
        if len(sums) < 2 or self.resamples < 2:
            return None
        values = self.resampled(sums, statistic)
        values = values[values.isfinite()]
        if len(values) < 2:
            return None
        low, high = np.quantile(values.numpy(), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def mean_error(self, values: Tensor, objects: Tensor) -> StandardError | None:
        """Standard error of the mean of `values`, `(M,)`; `objects`, `(M,)`, are the objects that they belong to."""
        columns = torch.stack((values.double(), torch.ones(len(values), dtype=torch.float64)), dim=1)
        return self.standard_error(object_sums(columns, objects), lambda totals: totals[:, 0] / totals[:, 1])


DEFAULT_BOOTSTRAP = Bootstrap()


def object_sums(values: Tensor, objects: Tensor) -> Tensor:
    """Sums of the rows of `values`, `(M, S)`, by object: `(objects, S)`, float64, in ascending order of the objects."""
    ids, position = torch.unique(objects, return_inverse=True)
    return torch.zeros(len(ids), values.shape[1], dtype=torch.float64).index_add_(0, position, values.double())


def compare(
    trained: Sequence[Result],
    untrained: Sequence[Result] = (),
    shuffled: Sequence[Result] = (),
    references: dict[tuple[str, str], float] | None = None,
) -> list[Comparison]:
    """Every trained result with the baselines of the same name and part, in the order of `trained`.

    Args:
        trained: the results of the encoder under test.
        untrained: results of the untrained encoder.
        shuffled: results with shuffled training targets.
        references: published numbers by (name, part).

    Raises:
        ValueError: if a reference belongs to no result.
    """
    by_key = [{(result.name, result.part): result for result in results} for results in (trained, untrained, shuffled)]
    for key in references or {}:
        if key not in by_key[0]:
            raise ValueError(
                f"a reference is given for {key}, which was not measured; measured were {sorted(by_key[0])}"
            )
    return [
        Comparison(result, by_key[1].get(key), by_key[2].get(key), (references or {}).get(key))
        for key, result in by_key[0].items()
    ]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def _cell(result: Result | None) -> str:
    if result is None:
        return ""
    return _number(result.value) + (f" ± {_number(result.spread)}" if result.spread is not None else "")


def format_table(rows: Sequence[Comparison | Result]) -> str:
    """Aligned plain text: a head line, then one line for each row. A baseline that no row has gets no column."""
    comparisons = [Comparison(row) if isinstance(row, Result) else row for row in rows]
    columns = {
        "measure": [row.trained.name for row in comparisons],
        "part": [row.trained.part for row in comparisons],
        "trained": [_cell(row.trained) for row in comparisons],
        "untrained": [_cell(row.untrained) for row in comparisons],
        "shuffled": [_cell(row.shuffled) for row in comparisons],
        "reference": ["" if row.reference is None else _number(row.reference) for row in comparisons],
        "": [row.trained.detail for row in comparisons],
    }
    kept = {head: cells for head, cells in columns.items() if any(cells)}
    widths = [max(len(head), *map(len, cells)) for head, cells in kept.items()]
    lines = [kept.keys(), *zip(*kept.values(), strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def to_json(rows: Sequence[Comparison | Result]) -> str:
    """The rows as a JSON list. Numbers that are not finite become null."""

    def clean(value: object) -> object:
        if isinstance(value, dict):
            return {key: clean(inner) for key, inner in value.items() if key not in ("errors", "pairs") or inner}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps([clean(asdict(row)) for row in rows], indent=1, allow_nan=False)
