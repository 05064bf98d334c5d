"""Alignment and uniformity of features on the unit sphere."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.special import hyp0f1
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.sampling import at_most, one_view_each
from ssl_inv.evaluation.results import Result, object_sums


@dataclass(frozen=True)
class AlignmentUniformity(Protocol):
    """How close the views of an object are, and how evenly objects fill the sphere; no labels are used.

    With features of length 1, alignment is the mean squared distance of two views of one object: 0 when invariant, 2
    for independent views. Uniformity is ln E exp(-2 |u - v|^2) over two objects, one random view each: 0 when
    collapsed, near -4 when spread evenly (Wang and Isola, ICML 2020, section 4.2).

    What it orders wrongly: an encoder that knows the pose has a worse alignment than one that does not, and is not
    worse. Uniformity depends on the width of the features, so compare it with the level in the remark, not between
    widths. Random features are uniform.

    Attributes:
        temperature: t of exp(-t |u - v|^2).
        samples: objects that are used at most.
        seed: draws a view of each object, and the objects.
        chunk: rows compared with all others at a time; changes memory alone.
    """

    temperature: float = 2.0
    samples: int = 10_000
    seed: int = 0
    chunk: int = 512

    headlines: ClassVar[tuple[str, ...]] = ("alignment", "uniformity")
    has_targets: ClassVar[bool] = False

    def run(self, encoded: Encoded) -> Iterator[Result]:
        for part in encoded.parts:
            yield self._alignment(encoded.train, part)
            yield self._uniformity(encoded.train, part)

    def _alignment(self, table: FeatureTable, part: str) -> Result:
        used = at_most(torch.unique(table.objects), self.samples, self.seed)
        table = table.ordered()
        kept = torch.isin(table.objects, used)
        values = object_alignment(table.part(part)[kept], table.objects[kept])
        several = values[~values.isnan()]
        if not len(several):
            return Result("alignment", part, None, detail="no object has two views")
        error = self.bootstrap.mean_error(several, torch.arange(len(several)))
        detail = f"{len(several)} objects, 2 for independent views"
        return Result("alignment", part, float(several.mean()), error, detail)

    def _uniformity(self, table: FeatureTable, part: str) -> Result:
        features = one_view_each(table, self.samples, self.seed).part(part)
        if len(features) < 2:
            return Result("uniformity", part, None, detail="needs two objects")
        value, error = _uniformity(features, self.temperature, self.chunk)
        level = uniform_level(features.shape[1], self.temperature)
        return Result("uniformity", part, value, error, f"{len(features)} objects, {level:.3f} when uniform")


def alignment(first: Tensor, second: Tensor, power: float = 2.0) -> float:
    """The mean of |u - v|^power over pairs of rows, `(N, D)` each, on the unit sphere (Wang and Isola, eq. 4)."""
    u, v = (normalize(rows.double(), dim=1) for rows in (first, second))
    return float((u - v).norm(dim=1).pow(power).mean())


def object_alignment(features: Tensor, objects: Tensor) -> Tensor:
    """The mean squared distance of two different views on the unit sphere, for each object, `(objects,)`.

    It covers all pairs of views. It is NaN for an object of one view.
    """
    unit = normalize(features.double(), dim=1)
    sums = object_sums(torch.cat((unit, unit.new_ones(len(unit), 1)), dim=1), objects)
    total, n = sums[:, :-1], sums[:, -1]
    squares = object_sums(unit.square().sum(dim=1, keepdim=True), objects)[:, 0]
    # Rounding must not make the distance of equal views negative.
    pairs = (2 * (n * squares - total.square().sum(dim=1))).clamp_min(0)
    return torch.where(n > 1, pairs / (n * (n - 1)).clamp_min(1), torch.nan)


def uniformity(features: Tensor, temperature: float = 2.0, chunk: int = 512) -> float:
    """The logarithm of the mean of exp(-t |u - v|^2) over pairs of different rows `(N, D)`, on the unit
    sphere (Wang and Isola, eq. 5).

    Raises:
        ValueError: if there is one row only.
    """
    if len(features) < 2:
        raise ValueError("uniformity needs two rows")
    return _uniformity(features, temperature, chunk)[0]


def _uniformity(features: Tensor, temperature: float, chunk: int) -> tuple[float, float | None]:
    """Uniformity and its standard error, that of a U-statistic with a logarithm: 2 sd(h) / (sqrt(N) mean(h)), where h
    is the mean over the partners of each row.
    """
    unit, count = normalize(features.double(), dim=1), len(features)
    of_row = []
    for rows in torch.split(torch.arange(count), chunk):
        kernel = (2 * temperature * (unit[rows] @ unit.T - 1)).exp_()
        kernel[torch.arange(len(rows)), rows] = 0
        of_row.append(kernel.sum(dim=1) / (count - 1))
    means = torch.cat(of_row)
    error = 2 * float(means.std() / means.mean()) / math.sqrt(count) if count > 2 else None
    return float(means.mean().log()), error


def uniform_level(width: int, temperature: float = 2.0) -> float:
    """Uniformity of the uniform distribution on the unit sphere in `width` dimensions: -2t + ln 0F1(; d/2; t^2).

    For t = 2 it is -1.575 on a circle and tends to -4. A lower value is noise of sampling.
    """
    return float(-2 * temperature + math.log(hyp0f1(width / 2, temperature**2)))
