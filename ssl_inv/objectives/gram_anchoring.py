"""Gram anchoring: beside any objective, patch features keep the similarities that an earlier teacher gave them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import require, require_at_least
from ssl_inv.memories.progress import Progress
from ssl_inv.nn.backbones import Backbone, Cached
from ssl_inv.nn.losses import sample_mean, unit_rows
from ssl_inv.nn.teacher import Teacher
from ssl_inv.objectives.around import Around, base_objective, beside
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Views

Negatives = Literal["kept", "clipped", "teacher-clipped"]
"""What happens to cosines below 0 in `gram_anchor`."""


class GramAnchoring(Progress, Around):
    """Any objective with the Gram term of DINOv3 (Simeoni et al., 2025, arXiv 2508.10104, sec. 4).

    Late in long training, features of patches lose the place that they describe, while pooled features still improve.
    So the cosines between the patches of an image are tied to those of an anchor, an earlier teacher that is frozen:

        L = L_base + weight mean over images and pairs of patches of (cos(s_i, s_j) - cos(a_i, a_j))^2,

    with s the student's patches and a the anchor's, of all views that have the size of the first view. Patches may
    move as they like if their similarities stay. The anchor is a copy of the base's EMA teacher of the backbone, or of
    the backbone itself if the base has none. It is copied at `start`, before which the term is 0 and costs nothing, and
    `refreshes` times after that. In the paper's further form the anchor sees each crop at twice the resolution; here it
    sees what the student sees.

    When:
        A vision transformer is trained for long, and its maps are used: segmentation, correspondence, depth. DINOv3
        switches it on for the last steps only. Not in short training, where the anchor's similarities are still poor.
        Not for pooled features, which hardly change. The memory grows with the squared number of patches.

    Args:
        base: the objective, a mapping with its `name` and settings. If it drops patches, whole images pass the backbone
            in addition. Masked patches that keep their positions, as in `ibot`, are compared too, as in the paper.
        weight: of the term.
        start: when the term begins, as a share of all steps. DINOv3 begins after 1,000,000 steps. With 0, the first
            anchor is the backbone that training starts from, such as one with `backbone.weights`.
        refresh_every: optimiser steps between two anchors.
        refreshes: how often the anchor is renewed; 0 keeps the first.
        negatives: cosines below 0 are `kept`, as in DINOv3's recipes, or `clipped` to 0, or `teacher-clipped`: the
            anchor's are clipped to 0, the student's kept.

    Raises:
        ValueError: if a number is out of its range.
    """

    base: Objective
    anchor: Teacher

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        base: Annotated[dict[str, Any], "objective"],
        weight: float = 2.0,
        start: float = 0.9,
        refresh_every: int = 10_000,
        refreshes: int = 3,
        negatives: Negatives = "kept",
    ) -> None:
        require_at_least(0, weight=weight, refreshes=refreshes)
        require_at_least(1, refresh_every=refresh_every)
        require(0 <= start < 1, "start", f"must be a share of all steps from 0 to below 1, got {start}")
        super().__init__(base=base_objective(features, groups, **base))
        self.weight, self.start, self.negatives = weight, start, negatives
        self.refresh_every, self.refreshes = refresh_every, refreshes
        self.anchored = start == 0

    def get_extra_state(self) -> dict[str, Any]:
        """How far training is, and whether there is an anchor."""
        return {**super().get_extra_state(), "anchored": self.anchored}

    def set_extra_state(self, state: Any) -> None:
        """Continue from such a state."""
        super().set_extra_state(state)
        self.anchored = bool(state["anchored"])

    def adopt(self, backbone: Backbone) -> None:
        super().adopt(backbone)
        self.anchor = Teacher(backbone)

    def require_size(self, backbone: Backbone, size: int) -> None:
        super().require_size(backbone, size)
        height, width = backbone.places(size)
        problem = "the last map of these images has one place, and the term compares several; take larger images"
        key = "backbone.arguments" if hasattr(backbone.model, "patch_embed") else "backbone.stem"
        advice = "or a smaller patch_size" if key == "backbone.arguments" else "or, for a ResNet, 3x3-stride1"
        require(height * width > 1, key, f"{problem} {advice}")

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        cached = Cached(backbone)
        terms = self.base.loss(views, cached)
        pixels = [view.pixels for view in views.views if view.pixels.shape == views[0].pixels.shape]
        if not self.anchored:
            value = next(iter(terms.values())).value.new_zeros(())
        else:
            anchor = self.anchor.network
            assert isinstance(anchor, Backbone)
            with torch.no_grad():
                wanted = [Cached(anchor).whole_map(one) for one in pixels]
            found = [cached.whole_map(one) for one in pixels]
            pairs = zip(found, wanted, strict=True)
            value = torch.stack([gram_anchor(_patches(s), _patches(a), self.negatives) for s, a in pairs]).mean()
        return beside(terms, {"gram": Term(value, self.weight)})

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        super().after_step(backbone, step, steps)
        self.advance(step, steps)
        first = max(1, round(self.start * steps)) if self.start else 0
        since = step - first
        if since >= 0 and since % self.refresh_every == 0 and since <= self.refreshes * self.refresh_every:
            source = _followed(self.base) or backbone
            self.anchor.follow(source, 0.0)
            self.anchor.follow_statistics(source, 0.0)
            self.anchored = True


def gram_anchor(student: Tensor, anchor: Tensor, negatives: Negatives = "kept") -> Tensor:
    """Mean over images and pairs of patches of (cos(s_i, s_j) - cos(a_i, a_j))^2, of all processes.

    Args:
        student: patches `(B, P, C)`.
        anchor: patches of the same images, `(B, P, C')`.
        negatives: see `GramAnchoring`.
    """
    with torch.autocast(student.device.type, enabled=False):
        found, wanted = (one @ one.mT for one in (unit_rows(student), unit_rows(anchor)))
        wanted = wanted if negatives == "kept" else wanted.clamp_min(0)
        found = found.clamp_min(0) if negatives == "clipped" else found
        return sample_mean((found - wanted).square().mean(dim=(1, 2)))


def _patches(maps: Tensor) -> Tensor:
    """Maps `(B, C, h, w)` as patches `(B, h w, C)`."""
    return maps.flatten(2).mT


def _followed(objective: nn.Module) -> Backbone | None:
    """The EMA of the backbone that an objective has, or None."""
    for module in objective.modules():
        if isinstance(module, Teacher):
            for network in (module.network, *module.network.children()):
                if isinstance(network, Backbone):
                    return network
    return None
