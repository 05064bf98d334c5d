"""VICReg: invariance, with variance and covariance terms against collapse."""

from collections.abc import Mapping

from torch import Tensor

from ssl_inv.catalogue import require, require_at_least, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.objectives.base import Losses, PairLoss, PairObjective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Pair, Views


class VICReg(PairObjective):
    """Variance-invariance-covariance regularisation (Bardes, Ponce, LeCun, ICLR 2022).

        L = invariance mean (z^x - z^y)^2 + variance (V(z^x) / 2 + V(z^y) / 2) + covariance (C(z^x) + C(z^y))

    V is the mean over dimensions of max(0, 1 - standard deviation). C is the mean over dimensions of the squared
    covariances with all others.

    When:
        The invariant baseline beside SIE, which has the same terms and a prediction: any pair of views, no record of
        how they were made, no negatives, no teacher. Not where features must tell how an image was seen: nothing in the
        loss asks for it, and what features still hold of it they have only not yet learnt to ignore.

    Args:
        projector: widths of the projector's layers.
        invariance: weight of the invariance term.
        variance: weight of the hinge on the standard deviations.
        covariance: weight of the squared covariances.
        invariant_share: share of the embedding dimensions, the first ones, in the invariance term. 1 is VICReg; less is
            the partially invariant baseline of the SIE paper.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [2048, 2048, 2048],
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        invariant_share: float = 1.0,
    ) -> None:
        super().__init__()
        require_at_least(0, invariance=invariance, variance=variance, covariance=covariance)
        require_widths(projector=projector)
        problem = f"must be above 0 and at most 1, got {invariant_share}"
        require(0 < invariant_share <= 1, "invariant_share", problem)
        self.weights = (invariance, variance, covariance)
        self.invariant_dimensions = round(projector[-1] * invariant_share)
        self.projector = make_projector(features, projector)

    @property
    def plan(self) -> Pair:
        return Pair()

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        x, y = (self.embed(view.pixels, backbone) for view in views.views)
        return PairLoss(self.embedding_loss(x.embeddings, y.embeddings), x, y)

    def embedding_loss(self, x: Tensor, y: Tensor) -> Losses:
        """The terms of the loss from the embeddings `(B, D)` of both views."""
        invariance, variance, covariance = self.weights
        kept = self.invariant_dimensions
        return {
            "invariance": Term(losses.mean_squared_error(x[:, :kept], y[:, :kept]), invariance),
            "variance": Term(losses.variance(x) / 2 + losses.variance(y) / 2, variance),
            "covariance": Term(losses.covariance(x) + losses.covariance(y), covariance),
        }
