"""Context prediction: on which side of a patch does another one lie?"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_inv.catalogue import SettingError, require_at_least
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import mlp
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Patches, Views

_SIDES = 8


class ContextPrediction(Objective):
    """Prediction of where one patch lies beside another (Doersch, Gupta, Efros, ICCV 2015).

    A patch and one of its eight neighbours go through the backbone, with gaps between them and each a little out of its
    place, so that no edge leads from one to the other. A classifier is given both features:

        L = mean over neighbours n of CE(classifier([f(middle), f(n)]), which of the eight n is).

    All patches of a batch go through the backbone together. The paper has pairs; with several neighbours beside one
    middle patch, it is encoded once for all of them.

    When:
        The teacher by which transitive invariance finds neighbours among photographs, as in its paper, and a baseline
        that needs one view and no negatives. Parts of objects have to be large beside the gaps: not for images of much
        less than 96 pixels, nor where layout tells the place (faces cut to their frame, medical scans). The task is
        also solved by the colour fringes of lenses, which show how far from the axis a patch lies; `colour_dropping`
        among the operations of the augmentation hides them, as does `grey`. Otherwise than in the paper, all patches of
        a photograph keep the same channel, and none has its resolution reduced.

    Args:
        hidden: widths of the classifier's hidden layers; the paper's after the layers that patches share.
        neighbours: how many of the eight stand beside the middle patch, at random; 1 in the paper.
        patch_size: side in pixels.
        patch_gap: pixels from one patch to the next.
        patch_jitter: largest shift of every patch down and right in pixels; the paper's is of 7 to each side.
        patch_scale: smallest and largest share of the image's area that all nine places together take; the paper's
            places take 158,000 of 150,000 to 450,000 pixels.

    Raises:
        ValueError: if a number is out of its range, or shifts are so large that directions mix.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        hidden: list[int] = [4096, 4096],  # noqa: B006 - never changed, and a recipe shows it as it stands
        neighbours: int = 1,
        patch_size: int = 96,
        patch_gap: int = 48,
        patch_jitter: int = 14,
        patch_scale: list[float] = [0.35, 1.0],  # noqa: B006
    ) -> None:
        super().__init__()
        if not 1 <= neighbours <= _SIDES:
            raise SettingError("neighbours", f"must lie between 1 and {_SIDES}, got {neighbours}")
        require_at_least(0, patch_gap=patch_gap, patch_jitter=patch_jitter)
        require_at_least(1, patch_size=patch_size)
        if len(patch_scale) != 2:
            raise SettingError("patch_scale", f"must be two shares, got {patch_scale}")
        # Beyond this a patch beside the middle can lie nearer to a diagonal than to its own direction.
        apart = patch_size + patch_gap
        if patch_jitter >= (most := apart / (1 + 1 / math.tan(math.pi / _SIDES))):
            raise SettingError(
                "patch_jitter", f"must be below {most:.1f} with patches {apart} pixels apart, got {patch_jitter}"
            )
        view = 3 * patch_size + 2 * patch_gap + patch_jitter
        self._plan = Patches(
            view, patch_size, 3, patch_jitter, 1 + neighbours, (patch_scale[0], patch_scale[1]), middle_first=True
        )
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
    """In which eighth of all directions from view 0 each other view lies, `(V - 1, B)`: 0 to the right, 2 below, 4 to
    the left, 6 above.
    """
    centres = torch.stack([view.transform["patch"][:, :2] for view in views.views])
    right, down = (centres[1:] - centres[0]).unbind(-1)
    return (torch.atan2(down, right) * (_SIDES / (2 * math.pi))).round().long() % _SIDES
