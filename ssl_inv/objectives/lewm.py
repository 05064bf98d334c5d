"""LeWM: past views and actions predict the next embedding; SIGReg or an inverse model keeps embeddings apart."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ssl_inv.catalogue import require, require_above, require_at_least, require_widths
from ssl_inv.memories.directions import RandomDirections
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.dynamics import WorldModel
from ssl_inv.nn.heads import mlp
from ssl_inv.nn.sigreg import sigreg as sigreg_loss
from ssl_inv.objectives.base import ActionPrediction, Losses, Objective, Term, action_dimensions
from ssl_inv.objectives.sequences import embedded_sequence, one_step_prediction
from ssl_inv.transforms import Group
from ssl_inv.views import Views, ViewSequence


class LeWM(Objective):
    """Latent world model from pixels (Maes et al., "LeWM", 2026, arXiv 2603.19312), as stable-worldmodel computes it,
    and its form with an inverse model ("SMWM", 2026, arXiv 2606.20104).

    For views x_1 .. x_T with the action a_t from view t to the next, the backbone f, the projector h and the causal
    predictor p,

        e_t = h(f(x_t)),
        L = mean over t < T of (p(e_1 .. e_t, a_1 .. a_t) - e_{t+1})^2
            + sigreg_weight mean_t SIGReg(e_t)
            + inverse_weight mean over t < T of (g(e_t, e_{t+1}) - a_t)^2.

    `anti_collapse` says which of the last two terms there are; LeWM has the first, SMWM the second. Nothing is
    detached: the target of the prediction learns too, as in the authors' code. Each number of an action is standardised
    over the global batch. So a collapsed encoder, which tells g nothing, has an inverse term of 1, which is an alarm.
    SIGReg is of the global batch, one statistic for each t; in the authors' code it is of one GPU. Views of a sample
    come in the order of the data, as frames of a video; their distance in time is random. The features f are judged,
    not e.

    When:
        Views of an object come in a sequence, actions between them are recorded (video, robot, turntable), and a
        network that predicts an action's effect should come with the features. No teacher and no stop-gradient. With an
        inverse model alone, features keep what actions change and have no reason to keep the rest, such as an object's
        class. Not for views without recorded parameters. Not where classes count most.

    Args:
        parameters: of the actions between views.
        observed: views before the last one, the predictor's history.
        anti_collapse: keeps embeddings apart: `sigreg`, the `inverse` model, or `both`.
        sigreg_weight: of SIGReg; 0.09 in the authors' code, 0.1 in the paper.
        inverse_weight: of the inverse model; the authors have 0.1 to 30 for four tasks.
        inverse_hidden: widths of the inverse model's hidden layers.
        target_gradient: whether the target of the prediction learns too. lightly's loss stops its gradient.
        projector: widths of the projector's layers; predictions pass a second network with the same hidden widths.
        layers: of the predictor, a transformer.
        heads: of its attention.
        head_width: dimensions of a head.
        hidden: width of its MLPs.
        dropout: in the predictor.
        directions: number of random directions of SIGReg.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        parameters: list[str] = ["rotation"],
        observed: int = 3,
        anti_collapse: Literal["sigreg", "inverse", "both"] = "sigreg",
        sigreg_weight: float = 0.09,
        inverse_weight: float = 1.0,
        inverse_hidden: list[int] = [256, 256],
        target_gradient: bool = True,
        projector: list[int] = [2048, 192],
        layers: int = 6,
        heads: int = 16,
        head_width: int = 64,
        hidden: int = 2048,
        dropout: float = 0.1,
        directions: int = 1024,
    ) -> None:
        super().__init__()
        require_above(0, sigreg_weight=sigreg_weight, inverse_weight=inverse_weight)
        require_at_least(1, observed=observed)
        require_widths(inverse_hidden=inverse_hidden)
        self._plan = ViewSequence(observed)
        action = action_dimensions(groups, parameters, "canonical")
        idle: dict[str, tuple[object, object]] = {}
        if anti_collapse == "sigreg":
            idle = {"inverse_weight": (inverse_weight, 1.0), "inverse_hidden": (inverse_hidden, [256, 256])}
        elif anti_collapse == "inverse":
            idle = {"sigreg_weight": (sigreg_weight, 0.09), "directions": (directions, 1024)}
        for name, (value, usual) in idle.items():
            require(value == usual, name, f"{value}, but anti_collapse is {anti_collapse!r}, which does not read it")
        self.parameters_used = parameters
        self.target_gradient = target_gradient
        self.sigreg_weight, self.inverse_weight = sigreg_weight, inverse_weight
        self.world = WorldModel(
            features,
            action,
            observed,
            projector=projector,
            layers=layers,
            heads=heads,
            head_width=head_width,
            hidden=hidden,
            dropout=dropout,
        )
        self.directions = None if anti_collapse == "inverse" else RandomDirections(directions)
        inverse = (2 * projector[-1], *inverse_hidden, action)
        self.inverse_model = None if anti_collapse == "sigreg" else mlp(inverse)

    @property
    def plan(self) -> ViewSequence:
        return self._plan

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        embeddings, actions = embedded_sequence(views, backbone, self.world, self.parameters_used)
        return self.embedding_loss(embeddings, self.world.predict(embeddings[:, :-1], actions), actions)

    def embedding_loss(self, embeddings: Tensor, predicted: Tensor, actions: Tensor) -> Losses:
        """The terms of the loss.

        Args:
            embeddings: of the T views, `(B, T, D)`.
            predicted: embeddings of the views after the first, `(B, T - 1, D)`.
            actions: standardised, from each view to the next, `(B, T - 1, K)`.
        """
        target = embeddings[:, 1:] if self.target_gradient else embeddings[:, 1:].detach()
        terms = {"prediction": Term(losses.token_error(predicted, target, "squared"))}
        if self.directions is not None:
            sigreg = sigreg_loss(embeddings.transpose(0, 1), self.directions(embeddings))
            terms["sigreg"] = Term(sigreg, self.sigreg_weight)
        if self.inverse_model is not None:
            told = self.inverse_model(torch.cat((embeddings[:, :-1], embeddings[:, 1:]), dim=-1))
            terms["inverse"] = Term(losses.token_error(told, actions, "squared"), self.inverse_weight)
        return terms

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        if self.directions is not None:
            self.directions.advance(step)

    def predictor(self, backbone: Backbone) -> ActionPrediction:
        """The prediction from one view; embeddings are the projector's."""
        return one_step_prediction(self.world, backbone, self.parameters_used)
