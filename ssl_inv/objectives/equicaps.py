"""EquiCaps: capsules whose poses turn as the object does."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.catalogue import require, require_at_least, suggest
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.capsules import CapsuleProjector, Capsules
from ssl_inv.nn.parts import leave_out_head
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Action, Group, Pose
from ssl_inv.transforms.quaternions import pose_to_matrix, quaternion_to_matrix
from ssl_inv.views import Pair, Views


class EquiCaps(Objective):
    """Pose-aware pretraining with capsules, without predictor (Konstantinou et al., 2025, arXiv 2506.09895), as the
    authors' code has it.

    Capsules of the backbone's feature map have activations a, a distribution over capsules that tells what is seen, and
    poses P, 3x3 matrices that must turn with the object. With R the rotation from view x to view y, n the division of
    every pose by its Frobenius norm, q^x = n(P^x R) and q^y = n(P^y),

        L = invariance mean_b sum_k - a_k^y log a_k^x + equivariance mean (q^x - q^y)^2
          + variance (V(z^x) / 2 + V(z^y) / 2) + covariance (C(z^x) + C(z^y)) + mean_entropy (G(a^x) + G(a^y)),

    with z = [a, q] side by side, V and C of VICReg, and G(a) = log K - H(mean_b a). The cross entropy has a gradient
    for both sides, and view x is regularised with its turned poses. Each view is a separate pass through backbone and
    capsules.

    Poses of 4x4 numbers move by rigid motions, as on the authors' 3DIEBench-T: with M = [R | c; 0 1] of each view, R in
    the equation is M_x^-1 M_y, and n divides by the norm of all 16 numbers.

    When:
        Rotations in space, known as matrices, should act on features by the same matrices: no predictor has to be
        learnt, and poses can be turned by hand. It has the best published pooled R2 on 3DIEBench; its classes are below
        seq-JEPA's and EquiMod's. Not for actions that are no rotations, such as hue or crops. Not where the cost of
        capsules on feature maps matters.

    Args:
        poses: `3x3` matrices turn by the recorded `rotation`; `4x4` ones move by the recorded `pose`, which data with
            shifted objects have by `data.pose: true`. `data.translation_frame` decides what c is.
        capsules: K, the number of capsules, at each place of the map and for the whole image.
        map_side: side of the backbone's last feature map; 8 for a ResNet and images of 256 pixels.
        invariance: weight of the cross entropy between the activations.
        equivariance: weight of the distance between turned and seen poses.
        variance: weight of the hinge on the standard deviations.
        covariance: weight of the squared covariances.
        mean_entropy: weight of the gap between the entropy of the mean activations and its maximum.

    Raises:
        ValueError: if no view of the data records its rotation or pose, or a number is out of its range.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        poses: Literal["3x3", "4x4"] = "3x3",
        capsules: int = 32,
        map_side: int = 8,
        invariance: float = 0.1,
        equivariance: float = 5.0,
        variance: float = 10.0,
        covariance: float = 1.0,
        mean_entropy: float = 1.0,
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
        if poses == "3x3":
            problem = (
                f"equicaps turns poses, but no view of this data records 'rotation'; {suggest('rotation', groups)}"
            )
            require("rotation" in groups, "name", problem)
        else:
            needed = "records 'pose'; data with shifted objects do with data.pose: true"
            require(isinstance(groups.get("pose"), Pose), "poses", f"'4x4', but no view of this data {needed}")
        self.side = int(poses[0])
        self.parameters_used = ["rotation" if self.side == 3 else "pose"]
        self.weights = (invariance, equivariance, variance, covariance, mean_entropy)
        self.projector = CapsuleProjector(features, capsules, self.side**2, map_side)

    @property
    def plan(self) -> Pair:
        return Pair()

    def adopt(self, backbone: Backbone) -> None:
        leave_out_head(backbone)

    def require_size(self, backbone: Backbone, size: int) -> None:
        self.projector.require_places(*backbone.places(size))

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        x, y = (self.projector(backbone.feature_map(view.pixels)) for view in views.views)
        action = views[0].transform.relative(views[1].transform)
        return self.capsule_loss(x, y, self.matrix(action))

    def matrix(self, action: Action) -> Tensor:
        """The rotations `(B, 3, 3)` or rigid motions `(B, 4, 4)` of an action."""
        return quaternion_to_matrix(action["rotation"]) if self.side == 3 else pose_to_matrix(action["pose"])

    def capsule_loss(self, x: Capsules, y: Capsules, matrix: Tensor) -> Losses:
        """The terms of the loss from the capsules of both views and the rotations `(B, 3, 3)` or rigid motions `(B, 4,
        4)` from x to y.
        """
        invariance, equivariance, variance, covariance, mean_entropy = self.weights
        turned, seen = F.normalize(turn(x.poses, matrix), dim=2).flatten(1), F.normalize(y.poses, dim=2).flatten(1)
        z_x, z_y = torch.cat((x.activations, turned), dim=1), torch.cat((y.activations, seen), dim=1)
        return {
            "invariance": Term(losses.distribution_cross_entropy(x.activations, y.activations), invariance),
            "equivariance": Term(losses.mean_squared_error(turned, seen), equivariance),
            "variance": Term(losses.variance(z_x) / 2 + losses.variance(z_y) / 2, variance),
            "covariance": Term(losses.covariance(z_x) + losses.covariance(z_y), covariance),
            "mean_entropy": Term(
                losses.mean_entropy_gap(x.activations) + losses.mean_entropy_gap(y.activations), mean_entropy
            ),
        }

    def predictor(self, backbone: Backbone) -> "EquiCapsPredictor":
        return EquiCapsPredictor(self, backbone)


class EquiCapsPredictor:
    """The prediction for retrieval: embeddings are the poses, each of norm one, and an action turns them."""

    def __init__(self, objective: EquiCaps, backbone: Backbone) -> None:
        self.objective = objective
        self.backbone = backbone

    def embed(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.objective.projector(self.backbone.feature_map(pixels)).poses, dim=2).flatten(1)

    def predict(self, embedding: Tensor, action: Action) -> Tensor:
        moved = turn(embedding.reshape(len(embedding), -1, self.objective.side**2), self.objective.matrix(action))
        # A rotation leaves a pose's norm; a motion does not, and retrieval compares poses of equal norms.
        return (moved if self.objective.side == 3 else F.normalize(moved, dim=2)).flatten(1)


def turn(poses: Tensor, matrix: Tensor) -> Tensor:
    """Poses `(B, K, N^2)`, NxN matrices row by row, multiplied from the right by the matrix `(B, N, N)` of their
    sample.
    """
    with torch.autocast(poses.device.type, enabled=False):
        matrices = poses.reshape(*poses.shape[:2], *matrix.shape[1:])
        return (matrices @ matrix.to(poses.dtype).unsqueeze(1)).flatten(2)
