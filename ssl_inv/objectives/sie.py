"""SIE: features split into an invariant and an equivariant part."""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import require, require_at_least, require_widths
from ssl_inv.memories.directions import RandomDirections
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.nn.sigreg import sigreg as sigreg_loss
from ssl_inv.objectives.base import ActionPrediction, Encoder, Losses, Objective, Term
from ssl_inv.objectives.conditioning import conditioned_predictor, held_predictor, require_held
from ssl_inv.transforms import Action, Convention, Group
from ssl_inv.views import Pair, Views


class SIE(Objective):
    """Split invariant-equivariant features (Garrido, Najman, LeCun, ICML 2023), as the authors' code computes them.

    The pooled features are h = [h_inv, h_equi]. h_inv should not change from view x to view y; h_equi should change as
    the action a from x to y says. Each part has a projector. With z the projected parts side by side and p(z, a) the
    predictor,

        L = invariance mean (z_inv^x - z_inv^y)^2 + equivariance mean (p(z_equi^x, a) - z_equi^y)^2
          + variance (V(z^x) / 2 + V(z^y) / 2) + variance V(p(z_equi^x, a)) / 2 + covariance (C(z^x) + C(z^y)),

    where V and C are VICReg's hinge on the standard deviation and its squared covariances. Only y is predicted from x.

    When:
        One encoder must know both what is seen and how, in separate parts of its features, and the data record how
        views differ: renderings, turntables, simulators, robots. The predictor finds the view to which an action leads.
        Not where only classes matter: on the same budget VICReg is better. Not where actions are so small that the
        identity predicts well: the equivariant part learns the pose only once the predictor uses the action. For short
        runs on rotations use `predictor_initialisation: quaternion`, which uses the action from the first step on.

    Args:
        parameters: of the action between the views, given to the predictor: `rotation` for the paper's main model, with
            `floor_hue` and `light_hue` for its rotation and colour variant.
        equivariant_share: share of the feature and projector dimensions that is equivariant, above 0 and up to 1. At 1,
            the paper's purely equivariant comparison, there is no invariance term; `equivariance` is then what the
            authors' code calls the invariance weight.
        projector: widths of both projectors together; each part has its share of every width.
        invariance: weight of the invariance term.
        equivariance: weight of the prediction error. The paper's command line gives it as the product of two options,
            10 and 0.45.
        variance: weight of the variance terms.
        covariance: weight of the covariance terms.
        predicted_variance: whether there is a variance term for the predictions; False is the authors' variant without
            it.
        predictor: `bilinear`, the paper's, makes one matrix from the action, linearly. `hypernetwork` is a small MLP
            whose weights come from an MLP on the action. `magnitude-invariant` is the same with weights that do not
            grow with the action (Ortiz, Guttag, Dalca, ICLR 2024): the action is encoded on circles, and corrects
            weights that are learnt without it, so the predictor can ignore it. `concatenation` is an MLP on action and
            embedding.
        predictor_hidden: widths of the predictor's hidden layers, for all but `bilinear`.
        predictor_initialisation: initial weights of the bilinear predictor. `uniform` is random matrices, as in the
            authors' code. `quaternion` multiplies every four dimensions of an embedding by the quaternion of the
            rotation, and is then trained freely. Random matrices must leave a plateau first: while features do not hold
            the pose, the best prediction ignores the rotation, and while the prediction ignores it, nothing asks
            features for the pose. `group` is the linear representation of every parameter's group: a rotation
            multiplies quaternions, a circle turns pairs of dimensions, a number shifts dimensions by multiples of
            others, a crop shifts and scales, a projective map and a pose multiply by their matrix. Each parameter has
            an equal share of the dimensions.
        predictor_held: optimiser steps, from the first on, in which a predictor that does not begin with random
            matrices stays as it is. Until then, only features can lower the prediction error.
        convention: form of the action vector. `sie` is the authors': the quaternion has the sign of the product, so 4.5
            % of their pairs ask for the opposite of what the same rotation asks for elsewhere; hues are plain
            differences. `canonical` corrects both and is another objective.
        anti_collapse: `variance-covariance` is the paper's. `sigreg` replaces all variance and covariance terms by
            sigreg (R(z^x) + R(z^y) + R(p(z_equi^x, a))) / 2, with R of `ssl_inv.nn.sigreg.sigreg`, and the last R only
            with `predicted_variance`.
        sigreg: weight of SIGReg. The default relates to the invariance as LeJEPA's does; SIGReg counts more in larger
            batches.
        directions: number of random directions along which SIGReg compares embeddings with a normal distribution.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        parameters: list[str] = ["rotation"],
        equivariant_share: float = 0.5,
        projector: list[int] = [2048, 2048, 2048],
        invariance: float = 10.0,
        equivariance: float = 4.5,
        variance: float = 10.0,
        covariance: float = 1.0,
        predicted_variance: bool = True,
        predictor: Literal["bilinear", "hypernetwork", "magnitude-invariant", "concatenation"] = "bilinear",
        predictor_hidden: list[int] = [],
        predictor_initialisation: Literal["uniform", "quaternion", "group"] = "uniform",
        predictor_held: int = 0,
        convention: Literal["sie", "seq-jepa", "canonical"] = "sie",
        anti_collapse: Literal["variance-covariance", "sigreg"] = "variance-covariance",
        sigreg: float = 0.2,
        directions: int = 1024,
    ) -> None:
        super().__init__()
        require_at_least(
            0, invariance=invariance, equivariance=equivariance, variance=variance, covariance=covariance, sigreg=sigreg
        )
        problem = f"must be above 0 and at most 1, got {equivariant_share}"
        require(0 < equivariant_share <= 1, "equivariant_share", problem)
        require_widths(projector=projector)
        self.parameters_used = parameters
        self.convention: Convention = convention
        self.weights = (invariance, equivariance, variance, covariance)
        self.predicted_variance = predicted_variance
        self.sigreg = sigreg
        self.directions = RandomDirections(directions) if anti_collapse == "sigreg" else None
        totals = (features, *projector)
        equivariant_features, *widths = (round(total * equivariant_share) for total in totals)
        full = [width == total for width, total in zip((equivariant_features, *widths), totals, strict=True)]
        problem = f"{equivariant_share} of {features} features and projector {projector} leaves a part empty"
        no_part_empty = min(equivariant_features, *widths) >= 1 and not (equivariant_share < 1 and any(full))
        require(no_part_empty, "equivariant_share", problem)
        self.invariant_features = features - equivariant_features
        if self.invariant_features:
            self.invariant_projector = make_projector(
                self.invariant_features, [total - width for total, width in zip(projector, widths, strict=True)]
            )
        self.equivariant_projector = make_projector(equivariant_features, widths)
        require_held(predictor_held, predictor_initialisation)
        self.predictor_held = predictor_held
        self.form, self.action_predictor = conditioned_predictor(
            groups, parameters, convention, predictor, widths[-1], predictor_hidden, predictor_initialisation
        )

    @property
    def plan(self) -> Pair:
        return Pair()

    def action_vector(self, action: Action) -> Tensor:
        """The action as the predictor reads it, `(B, K)`."""
        return self.form(action)

    def split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The invariant and the equivariant part of features `(B, D)`: the first and the last dimensions."""
        return features[:, : self.invariant_features], features[:, self.invariant_features :]

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        action = self.action_vector(views[0].transform.relative(views[1].transform))
        return self.embedding_loss(backbone(views[0].pixels), backbone(views[1].pixels), action)

    def embedding_loss(self, x: Tensor, y: Tensor, action: Tensor) -> Losses:
        """The terms of the loss from the features `(B, D)` of both views and the action `(B, K)` between them."""
        (x_inv, x_equi), (y_inv, y_equi) = self.split(x), self.split(y)
        x = x_equi = self.equivariant_projector(x_equi)
        y = y_equi = self.equivariant_projector(y_equi)
        predicted = self.action_predictor(x_equi, action)
        invariance, equivariance = self.weights[:2]
        terms = {}
        if self.invariant_features:
            x_inv, y_inv = self.invariant_projector(x_inv), self.invariant_projector(y_inv)
            x, y = torch.cat((x_inv, x_equi), dim=1), torch.cat((y_inv, y_equi), dim=1)
            terms["invariance"] = Term(losses.mean_squared_error(x_inv, y_inv), invariance)
        terms["equivariance"] = Term(losses.mean_squared_error(predicted, y_equi), equivariance)
        return {**terms, **self._anti_collapse(x, y, predicted)}

    def _anti_collapse(self, x: Tensor, y: Tensor, predicted: Tensor) -> Losses:
        if self.directions is not None:
            terms = {"sigreg": Term(sigreg_loss(torch.stack((x, y)), self.directions(x)), self.sigreg)}
            if self.predicted_variance:
                terms["predicted_sigreg"] = Term(sigreg_loss(predicted, self.directions(predicted)) / 2, self.sigreg)
            return terms
        variance, covariance = self.weights[2:]
        terms = {
            "variance": Term(losses.variance(x) / 2 + losses.variance(y) / 2, variance),
            "covariance": Term(losses.covariance(x) + losses.covariance(y), covariance),
        }
        if self.predicted_variance:
            terms["predicted_variance"] = Term(losses.variance(predicted) / 2, variance)
        return terms

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        return held_predictor(self.action_predictor, self.predictor_held, step)

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        if self.directions is not None:
            self.directions.advance(step)

    def representations(self, backbone: Backbone) -> Encoder:
        def encode(pixels: Tensor) -> dict[str, Tensor]:
            features = backbone(pixels)
            if not self.invariant_features:
                return {"all": features}
            invariant, equivariant = self.split(features)
            return {"all": features, "invariant": invariant, "equivariant": equivariant}

        return encode

    def predictor(self, backbone: Backbone) -> ActionPrediction:
        """Retrieval compares projected equivariant parts."""

        def encode(pixels: Tensor) -> Tensor:
            return self.equivariant_projector(self.split(backbone(pixels))[1])  # type: ignore[no-any-return]

        return ActionPrediction(encode, self.action_predictor, self.parameters_used, self.convention, self.form)
