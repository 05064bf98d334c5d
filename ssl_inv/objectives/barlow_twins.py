"""Barlow Twins: each dimension of an embedding correlates with itself in the other view and with no other."""

from collections.abc import Mapping

from torch import Tensor

from ssl_inv.catalogue import require_at_least, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.objectives.base import Losses, PairLoss, PairObjective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Pair, Views


class BarlowTwins(PairObjective):
    """Redundancy reduction (Zbontar, Jing, Misra, LeCun, Deny, ICML 2021, eq. 1).

    With C_ij the correlation over the global batch of dimension i of one view's embedding with dimension j of the
    other's,

        L = scale (sum_i (1 - C_ii)^2 + redundancy sum_{i != j} C_ij^2).

    When:
        An invariant baseline without negatives or teacher, with one weight to set. The paper gains by wide projectors.
        Not with batches so small that correlations between dimensions are noise. Not where features must tell how an
        image was seen.

    Args:
        projector: widths of the projector's layers.
        redundancy: weight of the correlations between different dimensions.
        scale: weight of both terms. It changes little with LARS; other optimisers or narrower projectors may want
            another.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [8192, 8192, 8192],
        redundancy: float = 0.0051,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        require_at_least(0, redundancy=redundancy, scale=scale)
        require_widths(projector=projector)
        self.weights = (scale, scale * redundancy)
        self.projector = make_projector(features, projector)

    @property
    def plan(self) -> Pair:
        return Pair()

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        x, y = (self.embed(view.pixels, backbone) for view in views.views)
        return PairLoss(self.embedding_loss(x.embeddings, y.embeddings), x, y)

    def embedding_loss(self, x: Tensor, y: Tensor) -> Losses:
        """The terms of the loss from the embeddings `(B, D)` of both views."""
        terms = zip(("invariance", "redundancy"), losses.cross_correlation(x, y), self.weights, strict=True)
        return {name: Term(value, weight) for name, value, weight in terms}
