"""EquiMod: SimCLR, and beside it embeddings that move as the augmentation says."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ssl_inv.catalogue import SettingError, require_at_least, require_filled
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import normalised_mlp
from ssl_inv.nn.predictors import EmbeddedActionPredictor
from ssl_inv.objectives.base import ActionPrediction, Losses, Objective, Term, action_dimensions
from ssl_inv.transforms import Convention, Group
from ssl_inv.views import Pair, Views


class EquiMod(Objective):
    """An equivariance module beside SimCLR (Devillers and Lefort, "EquiMod", ICLR 2023), with the losses of the
    authors' code.

    The views x_1 and x_2 of an image have invariant embeddings z and equivariant embeddings y, by projectors of their
    own. A third view x_0 has an equivariant embedding too, from which a linear predictor p makes those of the others,
    told the actions a_v from x_0 to x_v:

        L = NT-Xent(z_1, z_2; temperature)
          + equivariance NT-Xent([p(y_0, a_1), p(y_0, a_2)], [y_1, y_2]; equivariant_temperature)

    Each view is normalised as a batch of its own, and so is each action; in the authors' code all views are one, and
    both actions. All rows but the positive are negatives, the other view of the same image among them. Nothing forbids
    that y becomes invariant and p ignores its action. In the paper x_0 is the image without augmentation, as the
    augmentation `equimod` makes it, and a_v the parameters of the augmentation; here x_0 is whatever the third view is,
    and actions are relative to it.

    When:
        A contrastive objective is to lose as little of its classes as possible and gain some sensitivity to
        augmentation: both parts have projectors of their own and share all features. Nothing forbids that the second
        part becomes invariant: in seq-JEPA's table its R2 of the rotation is that of SimCLR, where the short runs here
        have it far above. Not where features are to come in parts, or where the R2 is to be the highest.

    Args:
        parameters: what the views differ in and the predictor is told. The default is what a view records of the
            paper's 15 numbers for CIFAR and 17 for ImageNet: these have the order of the jitter too and whether it and
            the blur were applied, and are standardised by constants.
        source: what predictions begin from. `view` is the paper's: a view of its own, three in all. `pair` predicts the
            second of two views from the first, as SIE's and seq-JEPA's comparisons do, and costs two views.
        projector: widths of each of the two projectors; a normalisation without affine part follows the last.
        action_embedding: dimensions that the action is mapped to before the predictor.
        temperature: divides cosine similarities of invariant embeddings; the paper has 0.5 for CIFAR and 0.2 for
        ImageNet.
        equivariant_temperature: divides cosine similarities of equivariant embeddings.
        equivariance: weight of the second term.
        convention: how the action is written as a vector; `seq-jepa` and `sie` are these papers' quaternions, which
            keep the sign that the product has, and plain differences of hues.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        parameters: list[str] = ["crop", "flip", "brightness", "contrast", "saturation", "hue", "grey", "blur"],  # noqa: B006
        source: Literal["view", "pair"] = "view",
        projector: list[int] = [2048, 2048, 128],  # noqa: B006
        action_embedding: int = 128,
        temperature: float = 0.2,
        equivariant_temperature: float = 0.2,
        equivariance: float = 1.0,
        convention: Literal["sie", "seq-jepa", "canonical"] = "canonical",
    ) -> None:
        super().__init__()
        require_at_least(0, equivariance=equivariance)
        require_filled(projector=projector)
        for name, value in (("temperature", temperature), ("equivariant_temperature", equivariant_temperature)):
            if value <= 0:
                raise SettingError(name, f"must be above 0, got {value}")
        self.parameters_used = parameters
        self.convention: Convention = convention
        self.source = source
        self.temperatures = (temperature, equivariant_temperature)
        self.equivariance = equivariance
        self.invariant_projector = normalised_mlp(features, projector)
        self.equivariant_projector = normalised_mlp(features, projector)
        action = action_dimensions(groups, parameters, convention)
        network = normalised_mlp(projector[-1] + action_embedding, projector[-1:])
        self.action_predictor = EmbeddedActionPredictor(action, action_embedding, network)

    @property
    def plan(self) -> Pair:
        return Pair(3 if self.source == "view" else 2)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        # The third view is the source of the first two; of a pair, the first is that of the second.
        source, *targets = views.views if self.source == "pair" else (views[2], views[0], views[1])
        actions = [
            source.transform.relative(view.transform).as_vector(self.parameters_used, self.convention)
            for view in targets
        ]
        return self.embedding_loss([backbone(view.pixels) for view in (source, *targets)], actions)

    def embedding_loss(self, features: list[Tensor], actions: list[Tensor]) -> Losses:
        """The terms of the loss from the features `(B, D)` of all views, the source first, and actions `(B, K)` from it
        to the others.
        """
        z = [self.invariant_projector(one) for one in features[-2:]]
        y_0, *y = (self.equivariant_projector(one) for one in features)
        predicted = torch.cat([self.action_predictor(y_0, action) for action in actions])
        temperature, equivariant_temperature = self.temperatures
        return {
            "invariance": Term(losses.nt_xent(z[0], z[1], temperature)),
            "equivariance": Term(losses.nt_xent(predicted, torch.cat(y), equivariant_temperature), self.equivariance),
        }

    def predictor(self, backbone: Backbone) -> ActionPrediction:
        def encode(pixels: Tensor) -> Tensor:
            return self.equivariant_projector(backbone(pixels))  # type: ignore[no-any-return]

        return ActionPrediction(encode, self.action_predictor, self.parameters_used, self.convention)
