"""FINO's centroids: a slowly moving mean direction for each kind of a metadata column."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.catalogue import require_above, require_between
from ssl_inv.memories.base import Memory
from ssl_inv.nn.distributed import all_sum, gather
from ssl_inv.nn.losses import full_precision

_LEAST = 0.01
"""The smallest concentration that divides similarities."""


class Centroids(Memory):
    """Prototypical classification with K centroids that have no gradient (FINO, 2026, arXiv 2606.05107).

        CE of softmax_k(cos(x, c_k) / max(phi_k, 0.01)) for the kind of x.

    Once a step, for one view after the other, with the normalised features of the global batch: a kind's centroid
    becomes m c_k + (1 - m) b_k, with b_k the mean of the kind's rows, and simply b_k when the kind is seen first. The
    concentration becomes m phi_k + (1 - m) sqrt(mean |x - c_k|^2), with the normalised centroid before this
    view, for kinds that were seen before and have two rows or more.

    Args:
        kinds: K.
        dimensions: of the features.
        momentum: m.
        concentration: phi at the start.

    Raises:
        SettingError: if a number is out of its range.
    """

    centroids: Tensor
    concentration: Tensor
    counts: Tensor

    def __init__(self, kinds: int, dimensions: int, momentum: float, concentration: float) -> None:
        super().__init__()
        require_between(0, 1, centroid_momentum=momentum)
        require_above(0, concentration=concentration)
        self.momentum = momentum
        self.register_buffer("centroids", F.normalize(torch.randn(kinds, dimensions), dim=1))
        self.register_buffer("concentration", torch.full((kinds,), concentration))
        self.register_buffer("counts", torch.zeros(kinds, dtype=torch.int64))

    def forward(self, features: Tensor, kinds: Tensor) -> Tensor:
        """Mean cross entropy of features `(B, D)` for their kinds `(B,)`; rows of kind -1 do not count."""
        with torch.autocast(features.device.type, enabled=False):
            x = F.normalize(full_precision(features), dim=1)
            similarities = x @ F.normalize(self.centroids, dim=1).to(x.dtype).T
            return known_cross_entropy(similarities / self.concentration.clamp_min(_LEAST).to(x.dtype), kinds)

    @torch.no_grad()
    def put(self, *views: tuple[Tensor, Tensor]) -> None:
        """Add the features `(B, D)` and the kinds `(B,)` of every view of a batch, of all processes, at the next
        `flush`.
        """
        dtype = self.centroids.dtype
        self._wait(*(gather(one) for features, kinds in views for one in (features.detach().to(dtype), kinds)))

    def _take_in(self, waiting: list[tuple[Tensor, ...]]) -> None:
        # A view is whole only with the rows of all micro-batches.
        whole = [torch.cat(parts) for parts in zip(*waiting, strict=True)]
        for features, kinds in zip(whole[::2], whole[1::2], strict=True):
            x = F.normalize(features, dim=1)
            # Rows of unknown kind go to a row of their own, which is dropped.
            place = torch.where(kinds < 0, len(self.counts), kinds)
            member = F.one_hot(place, len(self.counts) + 1)[:, :-1].to(x.dtype)
            number = member.sum(dim=0)
            means = member.T @ x / number.clamp_min(1)[:, None]
            before = F.normalize(self.centroids, dim=1)[place.clamp_max(len(self.counts) - 1)]
            spread = (x - before).square().sum(dim=1)
            distance = (member.T @ spread / number.clamp_min(1)).sqrt()
            seen, here = self.counts > 0, number > 0
            moved = torch.where(seen[:, None], torch.lerp(means, self.centroids, self.momentum), means)
            self.centroids.copy_(torch.where(here[:, None], moved, self.centroids))
            wider = torch.lerp(distance, self.concentration, self.momentum)
            self.concentration.copy_(torch.where(seen & (number > 1), wider, self.concentration))
            self.counts.add_(number.long())


def known_cross_entropy(logits: Tensor, kinds: Tensor) -> Tensor:
    """Cross entropy of logits `(B, K)` for kinds `(B,)`, mean over the rows of all processes whose kind is not -1."""
    errors = F.cross_entropy(full_precision(logits), kinds, ignore_index=-1, reduction="sum")
    return all_sum(errors) / all_sum((kinds >= 0).sum()).clamp_min(1)
