"""SEN: a contrastive model of where actions lead, without an invariance term."""

from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor, nn

from ssl_inv.catalogue import require_above, require_at_least, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import normalised_mlp
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.nn.predictors import EmbeddedActionPredictor
from ssl_inv.objectives.base import ActionPrediction, Losses, PairLoss, PairObjective, Term, action_dimensions
from ssl_inv.objectives.conditioning import (
    ActionForm,
    conditioned_predictor,
    held_predictor,
    require_held,
    require_random,
)
from ssl_inv.transforms import Convention, Group
from ssl_inv.views import Pair, Views


class SEN(PairObjective):
    """Symmetric embedding networks (Park et al., ICML 2022) in the form in which SIE and seq-JEPA compare with them.

    The predictor p reads the embedding of view x and the action a from x to view y. Its prediction must be nearer to
    the embedding of y than to anything else in the batch. There is no invariance term.

        L = NT-Xent(p(z_x, a), z_y; temperature)

    When:
        The plainest forward model: an action, a prediction, negatives, and no invariance. It is the comparison that
        shows what an invariance term or a split adds. Not where features must hold classes and pose separately. Not
        with small batches, since all negatives come from the batch. Not for short runs: after 800 steps on rendered
        solids the prediction does not use the action yet, and retrieval is at chance.

    Args:
        parameters: of the action between the views, given to the predictor.
        projector: widths of the projector's layers.
        temperature: divides the cosine similarities; seq-JEPA's comparison has 0.5, SIE's 0.1.
        predictor: `concatenation` is an MLP on action and embedding. `bilinear`, SIE's own, makes one matrix from the
            action, linearly; this is SIE's contrastive comparison without invariance. `hypernetwork` is a small MLP
            whose weights come from an MLP on the action. `embedded` is seq-JEPA's comparison: one linear map on the
            embedding and the action, which is first mapped to `action_embedding` dimensions and normalised; a
            normalisation without affine part follows projector and predictor.
        predictor_hidden: widths of the predictor's hidden layers, for all but `bilinear`; without any, `concatenation`
            is one affine map.
        action_embedding: for `embedded`: dimensions that the action is mapped to.
        predictor_initialisation: initial weights of the bilinear predictor: `uniform` is random matrices, `quaternion`
            multiplies every four dimensions by the rotation, `group` is the representation of every parameter's group;
            see SIE.
        predictor_held: optimiser steps, from the first on, in which a predictor that does not begin with random
            matrices stays as it is. Until then, only features can lower the prediction error.
        convention: form of the action vector. `seq-jepa` and `sie` follow these papers: quaternions with the sign of
            the product, and plain differences of hues.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        parameters: list[str] = ["rotation"],
        projector: list[int] = [2048, 2048, 2048],
        temperature: float = 0.5,
        predictor: Literal["bilinear", "hypernetwork", "concatenation", "embedded"] = "concatenation",
        predictor_hidden: list[int] = [],
        action_embedding: int = 128,
        predictor_initialisation: Literal["uniform", "quaternion", "group"] = "uniform",
        predictor_held: int = 0,
        convention: Literal["sie", "seq-jepa", "canonical"] = "canonical",
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require_above(0, temperature=temperature)
        self.parameters_used = parameters
        self.convention: Convention = convention
        self.temperature = temperature
        require_at_least(1, action_embedding=action_embedding)
        require_held(predictor_held, predictor_initialisation)
        self.predictor_held = predictor_held
        self.projector = (normalised_mlp if predictor == "embedded" else make_projector)(features, projector)
        self.action_predictor: nn.Module
        if predictor == "embedded":
            require_random(predictor_initialisation, predictor)
            self.form, action = ActionForm(parameters, convention), action_dimensions(groups, parameters, convention)
            network = normalised_mlp(projector[-1] + action_embedding, (*predictor_hidden, projector[-1]))
            self.action_predictor = EmbeddedActionPredictor(action, action_embedding, network)
        else:
            self.form, self.action_predictor = conditioned_predictor(
                groups, parameters, convention, predictor, projector[-1], predictor_hidden, predictor_initialisation
            )

    @property
    def plan(self) -> Pair:
        return Pair()

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        action = self.form(views[0].transform.relative(views[1].transform))
        x, y = (self.embed(view.pixels, backbone) for view in views.views)
        return PairLoss(self.embedding_loss(x.embeddings, y.embeddings, action), x, y)

    def embedding_loss(self, x: Tensor, y: Tensor, action: Tensor) -> Losses:
        """The term of the loss from the embeddings `(B, D)` of both views and the action `(B, K)` between them."""
        return {"equivariance": Term(losses.nt_xent(self.action_predictor(x, action), y, self.temperature))}

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        return held_predictor(self.action_predictor, self.predictor_held, step)

    def predictor(self, backbone: Backbone) -> ActionPrediction:
        def encode(pixels: Tensor) -> Tensor:
            return self.projector(backbone(pixels))  # type: ignore[no-any-return]

        return ActionPrediction(encode, self.action_predictor, self.parameters_used, self.convention, self.form)
