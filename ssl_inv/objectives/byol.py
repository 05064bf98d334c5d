"""BYOL: predict the other view's projection by a moving average of the network."""

from collections.abc import Mapping

from torch import nn

from ssl_inv.catalogue import require_between, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.nn.teacher import Teacher, cosine_momentum
from ssl_inv.objectives.base import PairLoss, PairObjective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Pair, Views


class BYOL(PairObjective):
    """Bootstrap your own latent (Grill et al., NeurIPS 2020, eq. 2).

    With q the prediction from the projection of one view, and z' the teacher's projection of the other view, without
    gradient,

        L = 2 - 2 cos(q(z^x), z'^y) + 2 - 2 cos(q(z^y), z'^x).

    The teacher is a moving average of backbone and projector. The two views go through the networks one after the
    other, so batch normalisation sees one view at a time, as in the paper. `augmentation: {name: byol}` has the paper's
    two policies.

    When:
        An invariant baseline without negatives, so batches may be smaller than SimCLR's. It is the reference for
        conditional BYOL and seq-JEPA, which add an action to the same scheme. Not where features must tell how an image
        was seen: of seq-JEPA's baselines on 3DIEBench it keeps least of the rotation. The teacher costs one more
        network in memory and two more forward passes a step.

    Args:
        projector: widths of the projector's layers; the last is the dimension of the predictions.
        predictor: widths of the predictor's hidden layers.
        momentum: of the teacher in the first step; it rises to 1 along half a cosine.
    """

    has_teacher = True

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [4096, 256],
        predictor: list[int] = [4096],
        momentum: float = 0.996,
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require_between(0, 1, momentum=momentum)
        self.momentum = momentum
        self.projector = make_projector(features, projector)
        self.prediction = make_projector(projector[-1], [*predictor, projector[-1]])

    @property
    def plan(self) -> Pair:
        return Pair()

    def adopt(self, backbone: Backbone) -> None:
        self.teacher = Teacher(self._encoder(backbone))

    def _encoder(self, backbone: Backbone) -> nn.Module:
        return nn.Sequential(backbone, self.projector)

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        x, y = (self.embed_by_teacher(view.pixels) for view in views.views)
        queries, others = (self.embed(view.pixels, backbone) for view in views.views)
        predicted_y, predicted_x = (self.prediction(one.embeddings) for one in (queries, others))
        errors = losses.cosine_error(predicted_y, y.embeddings) + losses.cosine_error(predicted_x, x.embeddings)
        return PairLoss({"prediction": Term(errors)}, queries, y, predicted_y)

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.teacher.follow(self._encoder(backbone), cosine_momentum(self.momentum, step, steps))
