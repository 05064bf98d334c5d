"""EquiMod: SimCLR or VICReg, with further embeddings that move as the augmentation says."""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import require_above, require_at_least, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import normalised_mlp
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.nn.predictors import EmbeddedActionPredictor
from ssl_inv.objectives.base import ActionPrediction, Losses, Objective, Term, action_dimensions
from ssl_inv.objectives.conditioning import (
    ActionForm,
    conditioned_predictor,
    held_predictor,
    require_held,
    require_random,
)
from ssl_inv.transforms import Convention, Group
from ssl_inv.views import Pair, Views


class EquiMod(Objective):
    """An equivariance module beside SimCLR (Devillers and Lefort, "EquiMod", ICLR 2023), with the losses of the
    authors' code.

    The views x_1 and x_2 of an image have invariant embeddings z and equivariant embeddings y, each from its own
    projector. A third view x_0 has an equivariant embedding too. From it and the actions a_v from x_0 to x_v, a linear
    predictor p makes the equivariant embeddings of the other two:

        L = NT-Xent(z_1, z_2; temperature)
          + equivariance NT-Xent([p(y_0, a_1), p(y_0, a_2)], [y_1, y_2]; equivariant_temperature)

    Each view is normalised as a separate batch, and so is each action; in the authors' code all views are one batch,
    and both actions one. All rows except the positive are negatives, also the other view of the same image. Nothing
    prevents y from becoming invariant and p from ignoring its action. In the paper x_0 is the image without
    augmentation, as the augmentation `equimod` makes it, and a_v is the parameters of the augmentation. Here x_0 is any
    third view, and actions are relative to it.

    With `base: vicreg`, the module stands beside VICReg, as in SIE's comparisons (Garrido et al., ICML 2023). With D
    the mean squared error, V and C as in `vicreg`, summed over views and V halved,

        L = invariance D(z_1, z_2) + variance V(z) + covariance C(z)
          + equivariance (invariance D(p(y_0, a), y) + variance V(y) + covariance C(y)),

    where in a pair y_0 = y_1, and y_2 is predicted. The prediction itself has no variance term, which SIE has. With
    three views, D is the mean over both predictions, and sums over three views are scaled to two.

    When:
        A contrastive objective should keep its classes and become somewhat sensitive to augmentation: both parts have
        their own projectors and share all features. Nothing prevents the second part from becoming invariant: in
        seq-JEPA's table its R2 of the rotation equals SimCLR's, while the short runs here have it far above. Not where
        features must come in parts, or where the R2 must be the highest.

    Args:
        base: the objective beside which the module stands. `vicreg` has projectors without a last normalisation.
        parameters: of the action between the views, given to the predictor. The default is what a view records of the
            paper's 15 numbers for CIFAR and 17 for ImageNet; these also hold the order of the jitter and whether jitter
            and blur were applied, and are standardised by constants.
        source: where predictions begin. `view` is the paper's third view. `pair` predicts the second of two views from
            the first, as in SIE's and seq-JEPA's comparisons, and costs two views.
        projector: widths of each of the two projectors; for `simclr`, a normalisation without affine part follows the
            last.
        action_embedding: dimensions that the action is mapped to before the predictor; for `embedded`.
        predictor: `embedded` is the paper's: one linear map, with normalisation, on the embedding and the embedded
            action. `bilinear` is SIE's, a matrix that is linear in the action, as in SIE's comparisons.
        predictor_initialisation: initial weights of the bilinear predictor: `uniform` is random matrices, `quaternion`
            multiplies every four dimensions by the rotation, `group` is the representation of every parameter's group;
            see SIE.
        predictor_held: optimiser steps, from the first on, in which a predictor that does not begin with random
            matrices stays as it is. Until then, only features can lower the prediction error.
        temperature: divides cosine similarities of invariant embeddings; the paper has 0.5 for CIFAR and 0.2 for
            ImageNet.
        equivariant_temperature: divides cosine similarities of equivariant embeddings.
        equivariance: weight of the second term, or of all terms of the second part.
        invariance: for `vicreg`: weight of the squared errors.
        variance: for `vicreg`: weight of the hinges on the standard deviations.
        covariance: for `vicreg`: weight of the squared covariances.
        convention: form of the action vector. `seq-jepa` and `sie` follow these papers: quaternions with the sign of
            the product, and plain differences of hues.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        base: Literal["simclr", "vicreg"] = "simclr",
        parameters: list[str] = ["crop", "flip", "brightness", "contrast", "saturation", "hue", "grey", "blur"],
        source: Literal["view", "pair"] = "view",
        projector: list[int] = [2048, 2048, 128],
        action_embedding: int = 128,
        predictor: Literal["embedded", "bilinear"] = "embedded",
        predictor_initialisation: Literal["uniform", "quaternion", "group"] = "uniform",
        predictor_held: int = 0,
        temperature: float = 0.2,
        equivariant_temperature: float = 0.2,
        equivariance: float = 1.0,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        convention: Literal["sie", "seq-jepa", "canonical"] = "canonical",
    ) -> None:
        super().__init__()
        require_at_least(0, equivariance=equivariance, invariance=invariance, variance=variance, covariance=covariance)
        require_at_least(1, action_embedding=action_embedding)
        require_widths(projector=projector)
        require_above(0, temperature=temperature, equivariant_temperature=equivariant_temperature)
        self.parameters_used = parameters
        self.convention: Convention = convention
        self.source = source
        self.temperatures = (temperature, equivariant_temperature)
        self.equivariance, self.weights, self.base = equivariance, (invariance, variance, covariance), base
        # Behind a last normalisation, the hinge of VICReg would always be 0.
        make = normalised_mlp if base == "simclr" else make_projector
        self.invariant_projector = make(features, projector)
        self.equivariant_projector = make(features, projector)
        require_held(predictor_held, predictor_initialisation)
        self.predictor_held = predictor_held
        self.form = ActionForm(parameters, convention)
        self.action_predictor: nn.Module
        if predictor == "embedded":
            require_random(predictor_initialisation, predictor)
            action = action_dimensions(groups, parameters, convention)
            network = normalised_mlp(projector[-1] + action_embedding, projector[-1:])
            self.action_predictor = EmbeddedActionPredictor(action, action_embedding, network)
        else:
            self.form, self.action_predictor = conditioned_predictor(
                groups, parameters, convention, predictor, projector[-1], (), predictor_initialisation
            )

    @property
    def plan(self) -> Pair:
        return Pair(3 if self.source == "view" else 2)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        # The third view is the source of the first two. In a pair, the first view is the source of the second.
        source, *targets = views.views if self.source == "pair" else (views[2], views[0], views[1])
        actions = [self.form(source.transform.relative(view.transform)) for view in targets]
        return self.embedding_loss([backbone(view.pixels) for view in (source, *targets)], actions)

    def embedding_loss(self, features: list[Tensor], actions: list[Tensor]) -> Losses:
        """The terms of the loss from the features `(B, D)` of all views, the source first, and the actions `(B, K)`
        from it to the other views.
        """
        z = [self.invariant_projector(one) for one in features[-2:]]
        y_0, *y = (self.equivariant_projector(one) for one in features)
        predicted = torch.cat([self.action_predictor(y_0, action) for action in actions])
        if self.base == "vicreg":
            return self._vicreg_terms(z, [y_0, *y], predicted)
        temperature, equivariant_temperature = self.temperatures
        return {
            "invariance": Term(losses.nt_xent(z[0], z[1], temperature)),
            "equivariance": Term(losses.nt_xent(predicted, torch.cat(y), equivariant_temperature), self.equivariance),
        }

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        return held_predictor(self.action_predictor, self.predictor_held, step)

    def _vicreg_terms(self, z: list[Tensor], y: list[Tensor], predicted: Tensor) -> Losses:
        invariance, variance, covariance = self.weights
        terms = {
            "invariance": Term(losses.mean_squared_error(*z), invariance),
            "variance": Term(torch.stack([losses.variance(one) for one in z]).mean(), variance),
            "covariance": Term(2 * torch.stack([losses.covariance(one) for one in z]).mean(), covariance),
        }
        beside = {
            "equivariance": Term(losses.mean_squared_error(predicted, torch.cat(y[1:])), invariance),
            "equivariant_variance": Term(torch.stack([losses.variance(one) for one in y]).mean(), variance),
            "equivariant_covariance": Term(2 * torch.stack([losses.covariance(one) for one in y]).mean(), covariance),
        }
        return {**terms, **{name: Term(one.value, self.equivariance * one.weight) for name, one in beside.items()}}

    def predictor(self, backbone: Backbone) -> ActionPrediction:
        def encode(pixels: Tensor) -> Tensor:
            return self.equivariant_projector(backbone(pixels))  # type: ignore[no-any-return]

        return ActionPrediction(encode, self.action_predictor, self.parameters_used, self.convention, self.form)
