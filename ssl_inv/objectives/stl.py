"""STL: a vector of what was done is read from two views, and predicts what the same does to another image."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_inv.catalogue import require, require_above, require_at_least, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import normalised_mlp
from ssl_inv.nn.predictors import BilinearPredictor
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Alike, Views
from ssl_inv.views.plans import require_alike


class STL(Objective):
    """Self-supervised transformation learning (arXiv 2501.08712, NeurIPS 2024).

    Two images in a row are a couple: the step from view x to view y is the same for both. From the features y_x, y_y of
    a sample's views, a network t makes vectors of the steps, t_xy = t(y_x, y_y) and t_yx = t(y_y, y_x). A linear map M
    turns a vector into a matrix. With s the other sample of a couple, and NCE the NT-Xent loss of projections,

        L = invariance NCE(p(y_x), p(y_y))
            + equivariance NCE([q(y_x), q(y_y)], [q(M(t_yx^s) y_y), q(M(t_xy^s) y_x)])
            + transformation NCE([r(t_xy), r(t_yx)] of first samples, the same of second samples).

    Nothing is told of the step: it is read from one image and tried on another. In the second term, the two views of an
    image are negatives of each other. M(t) y is computed as the sum over k of t_k W_k y, which is the same as one
    matrix for each sample.

    When:
        Views of two images can be made alike, but how cannot be told, or cannot be written as numbers: composed or
        learnt augmentations, a robot's unknown move. Not where the parameters are recorded, since objectives that are
        told them need no couples; nor where features must keep their classes at any price: in SER's comparison, STL
        added to MoCo v3 loses three points. Weights of the matrices grow with the square of the features.

    Args:
        alike: parameters of rendered data that change alike within a couple; empty leaves the step to the augmentation,
            whose operation `shared` then has `samples: 2`. What `shared` does not contain differs within a couple.
        projector: widths of the projectors p and q.
        transformation_widths: widths of t; the last is the length of its vectors.
        transformation_projector: widths of r.
        temperature: divides the cosine similarities of all three terms.
        invariance: weight of the first term.
        equivariance: weight of the second term.
        transformation: weight of the third term.
    """

    least_batch = 4

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        alike: list[str] = [],
        projector: list[int] = [512, 128],
        transformation_widths: list[int] = [128, 128],
        transformation_projector: list[int] = [128, 128],
        temperature: float = 0.2,
        invariance: float = 1.0,
        equivariance: float = 1.0,
        transformation: float = 0.1,
    ) -> None:
        super().__init__()
        require_alike(alike, groups)
        require_widths(
            projector=projector,
            transformation_widths=transformation_widths,
            transformation_projector=transformation_projector,
        )
        require_above(0, temperature=temperature)
        require_at_least(0, invariance=invariance, equivariance=equivariance, transformation=transformation)
        self.alike, self.temperature = tuple(alike), temperature
        self.weights = (invariance, equivariance, transformation)
        steps = transformation_widths[-1]
        self.transformation = normalised_mlp(2 * features, transformation_widths, last_norm=False)
        self.action_matrices = BilinearPredictor(features, steps)
        self.invariant_projector = normalised_mlp(features, projector, last_norm=False)
        self.equivariant_projector = normalised_mlp(features, projector, last_norm=False)
        self.transformation_projector = normalised_mlp(steps, transformation_projector, last_norm=False)

    @property
    def plan(self) -> Alike:
        return Alike(2, self.alike)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        odd = f"{len(views.index)} on a process, but two samples in a row are a couple; choose an even number"
        require(len(views.index) % 2 == 0, "batch_size", odd)
        return self.embedding_loss(*(backbone(view.pixels) for view in views.views))

    def embedding_loss(self, x: Tensor, y: Tensor) -> Losses:
        """The terms of the loss from the features `(B, D)` of both views; couples are rows 2i and 2i + 1."""
        there, back = (self.transformation(torch.cat(pair, dim=1)) for pair in ((x, y), (y, x)))
        predicted = [self.action_matrices(features, _of_partner(step)) for features, step in ((y, back), (x, there))]
        invariant = [self.invariant_projector(one) for one in (x, y)]
        seen, made = (torch.cat([self.equivariant_projector(one) for one in pair]) for pair in ((x, y), predicted))
        first, second = (
            self.transformation_projector(torch.cat((there[number::2], back[number::2]))) for number in (0, 1)
        )
        invariance, equivariance, transformation = self.weights
        return {
            "invariance": Term(losses.nt_xent(invariant[0], invariant[1], self.temperature), invariance),
            "equivariance": Term(losses.nt_xent(seen, made, self.temperature), equivariance),
            "transformation": Term(losses.nt_xent(first, second, self.temperature), transformation),
        }


def _of_partner(rows: Tensor) -> Tensor:
    """Rows 2i and 2i + 1 exchanged."""
    return rows.view(-1, 2, rows.shape[1]).flip(1).flatten(0, 1)
