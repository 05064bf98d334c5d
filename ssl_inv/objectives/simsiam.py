"""SimSiam: predict the other view's projection, without a gradient through it."""

from collections.abc import Mapping

from torch import nn

from ssl_inv.catalogue import require_at_least, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import normalised_mlp
from ssl_inv.objectives.base import PairLoss, PairObjective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Pair, Views


class SimSiam(PairObjective):
    """Simple Siamese representation learning (Chen, He, CVPR 2021, eq. 2 and 4).

    With z the projection of a view and p the prediction from it,

        L = - cos(p^x, stop-gradient(z^y)) / 2 - cos(p^y, stop-gradient(z^x)) / 2,

    between -1 and 1. The two views go through the networks one after the other, so batch normalisation sees one view at
    a time, as in the paper. The paper's ImageNet runs keep the predictor's learning rate at its highest value while all
    other rates fall (table 1 (c): 68.1 against 67.7 with one rate for all): `constant_lr: [prediction]` in the
    optimizer section.

    When:
        The smallest objective without negatives: no teacher, no queue, no clusters. A baseline for modest batches. Not
        where features must tell how an image was seen. Watch the standard deviation of the embeddings, since only the
        stopped gradient keeps them from collapsing.

    Args:
        projector: widths of the projector's layers, all with normalisation, the last without scale and shift.
        predictor: width of the predictor's hidden layer.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [2048, 2048, 2048],
        predictor: int = 512,
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require_at_least(1, predictor=predictor)
        self.projector = normalised_mlp(features, projector)
        hidden = (nn.Linear(projector[-1], predictor, bias=False), nn.BatchNorm1d(predictor), nn.ReLU(inplace=True))
        self.prediction = nn.Sequential(*hidden, nn.Linear(predictor, projector[-1]))

    @property
    def plan(self) -> Pair:
        return Pair()

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        queries, keys = (self.embed(view.pixels, backbone) for view in views.views)
        x, y = queries.embeddings, keys.embeddings
        predicted = self.prediction(x)
        distances = losses.cosine_distance(predicted, y.detach()) + losses.cosine_distance(
            self.prediction(y), x.detach()
        )
        return PairLoss({"prediction": Term(distances / 2 - 1)}, queries, keys, predicted)
