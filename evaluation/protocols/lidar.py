"""LiDAR: the effective rank of what tells objects apart."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import scipy.linalg
import torch
from torch import Tensor

from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.retrieval import RetrievalSet
from ssl_inv.evaluation.protocols.sampling import at_most
from ssl_inv.evaluation.results import Result

_OBJECTS = 1024


@dataclass(frozen=True)
class LiDAR(Protocol):
    """The number of directions in which objects differ by more than their views do; no labels are used.

    Every object is a class, and its views are the samples. With S_b the covariance of the class means and S_w that
    within classes plus delta I, it is exp(entropy) of the eigenvalues of S_w^-1/2 S_b S_w^-1/2, divided by their sum
    (Thilak et al., ICLR 2024, eq. 4 to 6). It lies between 1 and min(D, objects - 1). The paper gives no delta and no
    epsilon; 1e-4 and 1e-7 are used here.

    What it orders wrongly: few views of an object leave noise of size S_w / views in S_b, which raises the number; so
    compare equal numbers of views. delta is absolute, so features near 1e-2 and smaller are flattened by it.

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
    has_targets: ClassVar[bool] = False

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


def lidar(views: Tensor, delta: float = 1e-4, epsilon: float = 1e-7) -> float:
    """LiDAR of `(objects, views, D)`; see `LiDAR`. Covariances are unbiased.

    Raises:
        ValueError: if there are fewer than two objects or two views.
    """
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
    within = within / (objects * (each - 1)) + delta * torch.eye(width, dtype=torch.float64)
    found = scipy.linalg.eigh(between.numpy(), within.numpy(), eigvals_only=True)
    values = torch.from_numpy(found).clamp_min(0)
    p = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + epsilon
    return float((-(p * p.log()).sum()).exp())
