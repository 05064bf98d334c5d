"""Conditional BYOL: BYOL with a predictor that reads the action from its view to the teacher's."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from ssl_inv.catalogue import require_between, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.nn.predictors import EmbeddedActionPredictor
from ssl_inv.nn.teacher import Teacher, cosine_momentum
from ssl_inv.objectives.base import ActionPrediction, Embedded, PairLoss, PairObjective, Term, action_dimensions
from ssl_inv.transforms import Convention, Group
from ssl_inv.views import Pair, View, Views


class ConditionalBYOL(PairObjective):
    """BYOL (Grill et al., NeurIPS 2020) with a predictor that is told the action, seq-JEPA's comparison (Ghaemi et al.,
    2025).

    With z the embedding of the trained network, z' the embedding of its moving average, p the predictor and a the
    action from view x to view y,

        L = |p(z_x, a) - z'_y|^2 + |p(z_y, a^-1) - z'_x|^2.

    Predictions and embeddings are normalised, and the teacher has no gradient.

    When:
        The comparison for seq-JEPA and SIE: it shows what the action alone adds to BYOL. Two views, no negatives. Not
        as a first choice for rotations: in seq-JEPA's table its R2 of the rotation is a little more than half of SIE's,
        though its classes are better.

    Args:
        parameters: of the action between the views, given to the predictor.
        projector: widths of the projector's layers.
        predictor_hidden: widths of the predictor's hidden layers.
        action_embedding: dimensions that the action is mapped to before the predictor.
        momentum: of the teacher in the first step; it rises to 1 along half a cosine.
        symmetric: whether both directions are learnt, as in BYOL. seq-JEPA's code predicts only y from x, which halves
            the passes through the networks and the loss.
        convention: form of the action vector. `seq-jepa` and `sie` follow these papers: quaternions with the sign of
            the product, and plain differences of hues.
    """

    has_teacher = True

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        parameters: list[str] = ["rotation"],
        projector: list[int] = [2048, 2048, 2048],
        predictor_hidden: list[int] = [512],
        action_embedding: int = 128,
        momentum: float = 0.996,
        symmetric: bool = True,
        convention: Literal["sie", "seq-jepa", "canonical"] = "canonical",
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require_between(0, 1, momentum=momentum)
        self.parameters_used = parameters
        self.convention: Convention = convention
        self.momentum, self.symmetric = momentum, symmetric
        self.projector = make_projector(features, projector)
        network = make_projector(projector[-1] + action_embedding, [*predictor_hidden, projector[-1]])
        action = action_dimensions(groups, parameters, convention)
        self.action_predictor = EmbeddedActionPredictor(action, action_embedding, network)

    @property
    def plan(self) -> Pair:
        return Pair()

    def adopt(self, backbone: Backbone) -> None:
        self.teacher = Teacher(nn.Sequential(backbone, self.projector))

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.teacher.follow(nn.Sequential(backbone, self.projector), cosine_momentum(self.momentum, step, steps))

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        x, y = views.views
        error, queries, keys = self._prediction_error(x, y, backbone)
        terms = {"forward": Term(error)}
        if self.symmetric:
            terms["backward"] = Term(self._prediction_error(y, x, backbone)[0])
        return PairLoss(terms, queries, keys)

    def _prediction_error(self, source: View, target: View, backbone: Backbone) -> tuple[Tensor, Embedded, Embedded]:
        action = source.transform.relative(target.transform).as_vector(self.parameters_used, self.convention)
        queries = self.embed(source.pixels, backbone)
        predicted = self.action_predictor(queries.embeddings, action)
        keys = self.embed_by_teacher(target.pixels)
        return losses.cosine_error(predicted, keys.embeddings), queries, keys

    def predictor(self, backbone: Backbone) -> ActionPrediction:
        def encode(pixels: Tensor) -> Tensor:
            return self.projector(backbone(pixels))  # type: ignore[no-any-return]

        return ActionPrediction(encode, self.action_predictor, self.parameters_used, self.convention)
