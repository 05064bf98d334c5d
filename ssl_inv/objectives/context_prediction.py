"""Context prediction: on which side of a patch does another one lie?"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_inv.catalogue import require, require_at_least, require_between
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import mlp
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.objectives.multi_crop import area_range
from ssl_inv.transforms import Group
from ssl_inv.views import Patches, Views

_SIDES = 8


class ContextPrediction(Objective):
    """Prediction of where one patch lies beside another (Doersch, Gupta, Efros, ICCV 2015).

    A patch and some of its eight neighbours go through the backbone. Gaps between them and small random shifts ensure
    that no edge leads from one patch to the other. A classifier reads both features:

        L = mean over neighbours n of CE(classifier([f(middle), f(n)]), which of the eight n is).

    All patches of a batch go through the backbone together. The paper has pairs; with several neighbours, the middle
    patch is encoded once for all of them.

    When:
        The teacher that finds neighbours among photographs for transitive invariance, as in its paper; and a baseline
        that needs one view and no negatives. Parts of objects must be large beside the gaps: not for images of much
        less than 96 pixels. Not where layout alone tells the place (cropped faces, medical scans). Colour fringes of
        lenses also solve the task, since they show how far from the axis a patch lies; the augmentation's operations
        `colour_dropping` and `grey` hide them. Unlike in the paper, all patches of a photograph keep the same channel,
        and no patch has its resolution reduced.

    Args:
        hidden: widths of the classifier's hidden layers; in the paper, of the layers after the ones that patches share.
        neighbours: number of random neighbours, of the eight, beside each middle patch; 1 in the paper.
        patch_size: side in pixels.
        patch_gap: pixels from one patch to the next.
        patch_jitter: largest shift of every patch down and right in pixels; the paper shifts by up to 7 to each side.
        patch_scale: smallest and largest share of the image's area that all nine places together take; in the paper,
            158,000 of 150,000 to 450,000 pixels.

    Raises:
        ValueError: if a number is out of its range, or if shifts are so large that directions mix.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        hidden: list[int] = [4096, 4096],
        neighbours: int = 1,
        patch_size: int = 96,
        patch_gap: int = 48,
        patch_jitter: int = 14,
        patch_scale: list[float] = [0.35, 1.0],
    ) -> None:
        super().__init__()
        require_between(1, _SIDES, neighbours=neighbours)
        require_at_least(0, patch_gap=patch_gap, patch_jitter=patch_jitter)
        require_at_least(1, patch_size=patch_size)
        # With larger shifts, a patch beside the middle can lie nearer to a diagonal than to its own direction.
        apart = patch_size + patch_gap
        most = apart / (1 + 1 / math.tan(math.pi / _SIDES))
        problem = f"must be below {most:.1f} with patches {apart} pixels apart, got {patch_jitter}"
        require(patch_jitter < most, "patch_jitter", problem)
        view = 3 * patch_size + 2 * patch_gap + patch_jitter
        scale = area_range("patch_scale", patch_scale)
        self._plan = Patches(view, patch_size, 3, patch_jitter, 1 + neighbours, scale, middle_first=True)
        self.classifier = mlp((2 * features, *hidden, _SIDES))

    @property
    def plan(self) -> Patches:
        return self._plan

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        features = backbone(torch.cat([view.pixels for view in views.views])).view(len(views), len(views.index), -1)
        neighbours = features[1:]
        logits = self.classifier(torch.cat((features[:1].expand_as(neighbours), neighbours), dim=-1).flatten(0, 1))
        return {
            "side": Term(losses.classification(logits, sides(views).flatten().to(logits.device, non_blocking=True)))
        }


def sides(views: Views) -> Tensor:
    """The direction from view 0 to each other view in eighths of a circle, `(V - 1, B)`: 0 right, 2 below, 4 left, 6
    above.
    """
    centres = torch.stack([view.transform["patch"][:, :2] for view in views.views])
    right, down = (centres[1:] - centres[0]).unbind(-1)
    return (torch.atan2(down, right) * (_SIDES / (2 * math.pi))).round().long() % _SIDES
