"""The spectrum of the features, measured without labels or transforms: RankMe, alpha-ReQ, standard deviation."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms.keyed_random import permutation

ALPHA_RANKS = (4, 100)
"""First and last rank of the eigenvalues that alpha-ReQ is fitted to, from 1 on. The range changes the number."""


@dataclass(frozen=True)
class Spectrum(Protocol):
    """RankMe, alpha-ReQ and the standard deviation of the training features; no labels are used.

    Source: RankMe (Garrido et al., ICML 2023); alpha-ReQ (Agrawal et al., NeurIPS 2022).

    What it orders wrongly: noise fills all directions, so that random features can have the highest rank. RankMe
    compares settings of one method, and not methods or widths: it is at most the number of dimensions.

    Attributes:
        samples: rows that are used at most; the default is that of RankMe's paper.
        seed: draws the rows where there are more.
    """

    samples: int = 25_600
    seed: int = 0

    headlines: ClassVar[tuple[str, ...]] = ("spectrum/rankme",)
    has_targets: ClassVar[bool] = False

    def run(self, encoded: Encoded) -> Iterator[Result]:
        for part in encoded.parts:
            yield from self.measure(encoded.train, part)

    def measure(self, table: FeatureTable, part: str) -> list[Result]:
        """The three numbers of one part."""
        features = table.ordered().part(part)
        rows = torch.from_numpy(permutation(self.seed, length=len(features))[: self.samples]).sort().values
        features = features[rows]
        dimensions = features.shape[1]
        try:
            alpha, detail = alpha_req(features), "ranks {} to {}, good near 1".format(*ALPHA_RANKS)
        except ValueError as error:
            alpha, detail = None, str(error)
        most = f"{len(rows)} rows, at most {min(len(rows), dimensions)}"
        isotropic = f"{1 / math.sqrt(dimensions):.3f} when isotropic"
        return [
            Result("spectrum/rankme", part, rankme(features), detail=most),
            Result("spectrum/alpha", part, alpha, detail=detail),
            Result("spectrum/deviation", part, normalised_deviation(features), detail=isotropic),
        ]


def singular_values(features: Tensor) -> Tensor:
    """Singular values of `(N, D)`, descending, `(min(N, D),)`, float64.

    They are the roots of the eigenvalues of the smaller Gram matrix. Their error is 1e-8 of the largest, an order below
    the 1e-7 that RankMe adds, and this is many times faster than a decomposition of all rows.
    """
    x = features.double()
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp_min(0).sqrt().flip(0)


def rankme(features: Tensor, epsilon: float = 1e-7) -> float:
    """Effective rank: the exponential of the entropy of the singular values, not centred (Garrido et al., ICML 2023,
    eq. 1 and 2).

    It lies between 1, a collapsed encoder, and min(N, D). It compares runs of one method, not methods.
    """
    values = singular_values(features)
    p = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + epsilon
    return float((-(p * p.log()).sum()).exp())


def alpha_req(features: Tensor) -> float:
    """The exponent alpha of lambda_j ~ j^-alpha, the eigenvalues of the covariance; good when close to 1.

    Source: Agrawal et al., NeurIPS 2022.

    A least-squares line through (ln j, ln lambda_j) over `ALPHA_RANKS`, weighted with 1 / j, as the authors' code fits
    it.

    Raises:
        ValueError: if there are fewer dimensions, or not more rows, than ranks in the fit, or the features have a lower
            rank.
    """
    first, last = ALPHA_RANKS
    if features.shape[1] < last or len(features) <= last:
        raise ValueError(
            f"alpha-ReQ needs {last} dimensions and more rows than that, got {features.shape[1]} and {len(features)}"
        )
    x = features.double()
    eigenvalues = singular_values(x - x.mean(dim=0)).square()[first - 1 : last]
    if eigenvalues[-1] <= 0:
        raise ValueError(f"alpha-ReQ needs features of rank {last}; these have a lower one")
    rank = torch.arange(first, last + 1, dtype=torch.float64)
    weight = (1 / rank) / (1 / rank).sum()
    log_rank, log_value = rank.log(), eigenvalues.log()
    centred = log_rank - (weight * log_rank).sum()
    return -float((weight * centred * log_value).sum() / (weight * centred.square()).sum())


def normalised_deviation(features: Tensor) -> float:
    """Standard deviation of L2-normalised features, mean over dimensions: 0 when collapsed, 1 / sqrt(D) when spread
    over the sphere.
    """
    return float(normalize(features, dim=1).std(dim=0).mean())
