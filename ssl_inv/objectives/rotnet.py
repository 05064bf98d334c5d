"""RotNet: which way up is the image?"""

from collections.abc import Mapping

import torch

from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import mlp
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import QuarterTurns, Views


class RotNet(Objective):
    """Prediction of image rotations (Gidaris, Singh, Komodakis, ICLR 2018).

    Every image is shown upright and turned by 90, 180 and 270 degrees counter-clockwise; all four are in one batch of
    the backbone:

        L = mean over turns r of CE(classifier(f(x turned by r)), r).

    The best features for other tasks are the ones before the last stage.

    When:
        The cheapest pretext task: one view, no pairs, no projector, and a loss whose accuracy shows whether it learns.
        A baseline for images that have a way up. Not for the best features, which joint-embedding objectives usually
        have. Not for images without a way up. Not where something else than the object reveals the turn: on rendered
        solids the floor does within some tens of steps, and little more is learnt.

    Args:
        hidden: widths of the classifier's hidden layers; the paper's classifier is linear.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        hidden: list[int] = [],
    ) -> None:
        super().__init__()
        self.classifier = mlp((features, *hidden, 4))

    @property
    def plan(self) -> QuarterTurns:
        return QuarterTurns()

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        logits = self.classifier(backbone(torch.cat([view.pixels for view in views.views])))
        turns = torch.arange(4, device=logits.device).repeat_interleave(len(logits) // 4)
        return {"rotation": Term(losses.classification(logits, turns))}
