"""CapsIE: SIE with capsules for its two parts."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ssl_inv.catalogue import require_at_least
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.capsules import CapsuleProjector, Capsules
from ssl_inv.nn.parts import leave_out_head
from ssl_inv.nn.predictors import BilinearPredictor
from ssl_inv.objectives.base import (
    ActionPrediction,
    Losses,
    Objective,
    Term,
    action_dimensions,
    rotation_position,
)
from ssl_inv.transforms import Action, Convention, Group
from ssl_inv.views import Pair, Views


class CapsIE(Objective):
    """Capsule network projectors for invariant and equivariant features (Everett and others, 2024, arXiv 2405.14386).

    One layer of self-routing capsules on the backbone's feature map replaces SIE's two projectors. The activations a, a
    distribution over capsules, are the invariant embedding. The poses p, side by side, are the equivariant embedding;
    SIE's bilinear predictor m moves it by the action u from view x to view y. With z = [a, p],

        L = invariance (mean_b sum_k - a_k^y log a_k^x + mean_entropy (G(a^x) + G(a^y)))
          + equivariance mean (m(p^x, u) - p^y)^2
          + variance (V(z^x) / 2 + V(z^y) / 2) + variance V(m(p^x, u)) / 2 + covariance (C(z^x) + C(z^y)),

    with V and C of VICReg and G(a) = log K - H(mean_b a).

    The published code lacks the module with its invariance term, which sharpens the activations by temperatures before
    the cross entropy. Here the term has the form of EquiCaps, from the same group, without sharpening and in SIE's
    weighting, so do not expect the paper's exact numbers. Each view is a separate pass through backbone and capsules.

    When:
        As SIE, where the invariant part should be a distribution over a few capsules and the equivariant part a pose
        for each. Not where the cost of capsules on feature maps matters. Not where features must come from a plain
        pooled backbone alone. Not for the paper's exact numbers. Not on short runs, perhaps because routing begins by
        treating all capsules alike: after 800 steps on rendered solids, fewer classes are right than VICReg's, and the
        R2 of the rotation is above VICReg's in one seed of three, or in two with `predictor_initialisation:
        quaternion`. EquiCaps, whose poses turn by a known matrix, ends far above both.

    Args:
        parameters: of the action between the views, given to the predictor; `rotation` in the paper.
        capsules: K, the number of capsules, at each place of the map and for the whole image.
        pose: numbers in a pose.
        map_side: side of the backbone's last feature map; 8 for a ResNet and images of 256 pixels.
        invariance: weight of the cross entropy between the activations, and of their mean entropy.
        equivariance: weight of the prediction error. The paper's command line gives it as the product of two options,
            10 and 0.45.
        variance: weight of the hinge on the standard deviations.
        covariance: weight of the squared covariances.
        mean_entropy: weight, relative to the cross entropy, of the gap between the entropy of the mean activations and
            its maximum.
        predictor_initialisation: initial weights of the predictor; see SIE.
        convention: form of the action vector; see SIE.

    Raises:
        ValueError: if no view of the data records one of the parameters, or a number is out of its range.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        parameters: list[str] = ["rotation"],
        capsules: int = 16,
        pose: int = 16,
        map_side: int = 8,
        invariance: float = 10.0,
        equivariance: float = 4.5,
        variance: float = 10.0,
        covariance: float = 1.0,
        mean_entropy: float = 1.0,
        predictor_initialisation: Literal["uniform", "quaternion"] = "uniform",
        convention: Literal["sie", "seq-jepa", "canonical"] = "sie",
    ) -> None:
        super().__init__()
        require_at_least(
            0,
            invariance=invariance,
            equivariance=equivariance,
            variance=variance,
            covariance=covariance,
            mean_entropy=mean_entropy,
        )
        require_at_least(1, pose=pose)
        self.parameters_used = parameters
        self.convention: Convention = convention
        self.weights = (invariance, equivariance, variance, covariance, invariance * mean_entropy)
        self.projector = CapsuleProjector(features, capsules, pose, map_side)
        quaternion = (
            rotation_position(groups, parameters, convention) if predictor_initialisation == "quaternion" else None
        )
        self.action_predictor = BilinearPredictor(
            capsules * pose, action_dimensions(groups, parameters, convention), quaternion
        )

    @property
    def plan(self) -> Pair:
        return Pair()

    def adopt(self, backbone: Backbone) -> None:
        leave_out_head(backbone)

    def action_vector(self, action: Action) -> Tensor:
        """The action as the predictor reads it, `(B, A)`."""
        return action.as_vector(self.parameters_used, self.convention)

    def require_size(self, backbone: Backbone, size: int) -> None:
        self.projector.require_places(*backbone.places(size))

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        x, y = (self.projector(backbone.feature_map(view.pixels)) for view in views.views)
        return self.capsule_loss(x, y, self.action_vector(views[0].transform.relative(views[1].transform)))

    def capsule_loss(self, x: Capsules, y: Capsules, action: Tensor) -> Losses:
        """The terms of the loss from the capsules of both views and the action `(B, A)` between them."""
        invariance, equivariance, variance, covariance, mean_entropy = self.weights
        poses_x, poses_y = x.poses.flatten(1), y.poses.flatten(1)
        predicted = self.action_predictor(poses_x, action)
        z_x, z_y = torch.cat((x.activations, poses_x), dim=1), torch.cat((y.activations, poses_y), dim=1)
        return {
            "invariance": Term(losses.distribution_cross_entropy(x.activations, y.activations), invariance),
            "equivariance": Term(losses.mean_squared_error(predicted, poses_y), equivariance),
            "variance": Term(losses.variance(z_x) / 2 + losses.variance(z_y) / 2, variance),
            "predicted_variance": Term(losses.variance(predicted) / 2, variance),
            "covariance": Term(losses.covariance(z_x) + losses.covariance(z_y), covariance),
            "mean_entropy": Term(
                losses.mean_entropy_gap(x.activations) + losses.mean_entropy_gap(y.activations), mean_entropy
            ),
        }

    def predictor(self, backbone: Backbone) -> ActionPrediction:
        """Retrieval compares all poses side by side."""

        def encode(pixels: Tensor) -> Tensor:
            return self.projector(backbone.feature_map(pixels)).poses.flatten(1)  # type: ignore[no-any-return]

        return ActionPrediction(encode, self.action_predictor, self.parameters_used, self.convention)
