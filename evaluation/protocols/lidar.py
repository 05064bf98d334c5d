"""LiDAR: the effective rank of what tells objects apart."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import scipy.linalg
import torch
from torch import Tensor

from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.retrieval import RetrievalSet
from ssl_inv.evaluation.protocols.sampling import at_most
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms.keyed_random import permutation

_OBJECTS = 1024


@dataclass(frozen=True)
class LiDAR(Protocol):
    """The number of directions in which objects differ by more than their views do; no labels are used.

    Every object is a class, and its views are the samples. With S_b the covariance of the class means and S_w that
    within classes plus delta I, it is exp(entropy) of the eigenvalues of S_w^-1/2 S_b S_w^-1/2, divided by their sum
    (Thilak et al., ICLR 2024, eq. 4 to 6). It lies between 1 and min(D, objects - 1). The paper gives no delta and no
    epsilon; 1e-4 and 1e-7 are used here.

    `lidar/above_noise` is not the paper's. The mean of q views of an object has noise of size S_w / q, which alone
    makes S_b look full. So views are exchanged between objects, which leaves noise only; the largest eigenvalue of
    these is subtracted from all, what is then below 0 counts as 0, and the number is exp(entropy) of the rest. delta is
    1e-4 of the mean of S_w's diagonal here, so that the scale of features does not matter.

    End points: the level with shuffled targets is that of exchanged views. 128 dimensions of which 10 tell 500 objects
    of 4 views apart have a LiDAR of 12, 50 and 91 where the noise is 0.1, 0.5 and 1 of what they tell, and features of
    pure noise have 108. `lidar/above_noise` has 9.9, 9.8 and 9.6, and a reason in place of a number.

    What it orders wrongly: features that do not tell objects apart have the highest LiDAR of all, near the level with
    shuffled targets: random weights can be above a trained network. So read the level beside, or
    `lidar/above_noise`. Fewer views raise it; compare equal numbers. delta is absolute, so that features near 1e-2 and
    smaller are flattened by it. `lidar/above_noise` overlooks directions that are fainter than the noise.

    Attributes:
        samples: objects that are used at most.
        delta: what is added to the diagonal of S_w.
        epsilon: what is added to each probability.
        seed: draws the objects where there are more.
    """

    samples: int = 10_000
    delta: float = 1e-4
    epsilon: float = 1e-7
    seed: int = 0

    headlines: ClassVar[tuple[str, ...]] = ("lidar",)
    revision: ClassVar[int] = 1

    def shuffled(self, encoded: Encoded, seed: int) -> Iterator[Result]:
        # Views change their objects, so that nothing tells objects apart.
        train = encoded.train.ordered()
        order = torch.from_numpy(permutation(seed, length=len(train)))
        exchanged = replace(train, features={part: value[order] for part, value in train.features.items()})
        yield from self.run(replace(encoded, train=exchanged))

    def run(self, encoded: Encoded) -> Iterator[Result]:
        for part in encoded.parts:
            views = RetrievalSet.of(encoded.train, part).embeddings
            views = views[at_most(torch.arange(len(views)), self.samples, self.seed)]
            objects, each, width = views.shape
            if objects < 2 or each < 2:
                yield Result("lidar", part, None, detail="needs two objects with two views")
                continue
            most = min(width, objects - 1)
            few = "" if objects > width else ", fewer objects than dimensions"
            detail = f"{objects} objects of {each} views, at most {most}{few}"
            yield Result("lidar", part, lidar(views, self.delta, self.epsilon), detail=detail)
            above = lidar_above_noise(views, self.seed)
            reason = detail if above else "no direction tells objects apart by more than the noise"
            yield Result("lidar/above_noise", part, above, detail=reason)


def lidar(views: Tensor, delta: float = 1e-4, epsilon: float = 1e-7) -> float:
    """LiDAR of `(objects, views, D)`; see `LiDAR`. Covariances are unbiased.

    Raises:
        ValueError: if there are fewer than two objects or two views.
    """
    values = _ratios(views, delta)
    p = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + epsilon
    return float((-(p * p.log()).sum()).exp())


def lidar_above_noise(views: Tensor, seed: int = 0) -> float | None:
    """The effective rank of what is above the noise; None if nothing is. See `LiDAR`.

    Args:
        views: `(objects, views, D)`.
        seed: exchanges views.
    """
    exchanged = views.flatten(0, 1)[torch.from_numpy(permutation(seed, 1, length=views.shape[0] * views.shape[1]))]
    noise = _ratios(exchanged.view_as(views), None).max()
    above = (_ratios(views, None) - noise).clamp_min(0)
    if not float(above.sum()) > 0:
        return None
    p = above[above > 0] / above.sum()
    return float((-(p * p.log()).sum()).exp())


def _ratios(views: Tensor, delta: float | None) -> Tensor:
    """Eigenvalues of S_b in units of S_w, ascending; without delta, it is a share of S_w."""
    objects, each, width = views.shape
    if objects < 2 or each < 2:
        raise ValueError(f"LiDAR needs two objects with two views, got {objects} objects of {each} views")
    means = views.mean(dim=1, dtype=torch.float64)
    centred, within = means - means.mean(dim=0), torch.zeros(width, width, dtype=torch.float64)
    # In blocks, because all views in double precision need twice their memory.
    for some, mean in zip(torch.split(views, _OBJECTS), torch.split(means, _OBJECTS), strict=True):
        apart = (some.double() - mean[:, None]).flatten(0, 1)
        within.addmm_(apart.T, apart)
    between = centred.T @ centred / (objects - 1)
    within = within / (objects * (each - 1))
    # Features without any noise are in units of a delta that is there all the same.
    least = max(1e-4 * float(within.diagonal().mean()), torch.finfo(within.dtype).tiny) if delta is None else delta
    within.diagonal().add_(least)
    return torch.from_numpy(scipy.linalg.eigh(between.numpy(), within.numpy(), eigvals_only=True)).clamp_min(0)
