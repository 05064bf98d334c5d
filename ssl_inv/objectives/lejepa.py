"""LeJEPA: views predict their mean, and embeddings are held to a normal distribution."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_inv.catalogue import require, require_above, require_at_least, require_widths
from ssl_inv.memories.directions import RandomDirections
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.nn.sigreg import sigreg as sigreg_loss
from ssl_inv.objectives.base import Embedded, Losses, PairLoss, PairObjective, Term
from ssl_inv.objectives.multi_crop import area_range, by_crop
from ssl_inv.transforms import Group
from ssl_inv.views import Crops, MultiCrop, Pair, Plan, Views


class LeJEPA(PairObjective):
    """Joint embedding without teacher, stop-gradient or predictor (Balestriero, LeCun, 2025, arXiv 2511.08544).

        L = (1 - weight) mean (z_v - c)^2 + weight SIGReg(z),

    with z_v the projected view v of a sample and c the mean of its views; see `ssl_inv.nn.sigreg.sigreg` for the second
    term. Views of one size are one batch for the backbone; all views of all sizes are one batch for the projector.

    When:
        An invariant objective with one weight to set: no teacher, no stop-gradient, no predictor, no schedules of
        temperatures, and a loss that may be compared between runs. Not where features must tell how an image was seen.
        Choose the weight anew when the batch size changes, unless `scale_by_batch` is off.

    Args:
        projector: widths of the projector's layers.
        weight: of SIGReg. SIGReg counts more in larger batches, unless `scale_by_batch` is False.
        directions: number of random directions along which embeddings are compared with a normal distribution.
        nodes: points at which characteristic functions are compared.
        reach: largest of these points.
        symmetric_nodes: whether the points are on both sides of 0, as in EB-JEPA's variant BCS. Its loss on two views,
            their squared error plus 10 BCS, is 14 times this one with `weight` 5/7, `nodes` 10 and no `scale_by_batch`.
        scale_by_batch: whether SIGReg is multiplied by the size of the global batch, as in the paper.
        form: `per-view` tests every view separately, as the paper's minimal script does. `flattened` is the form of
            stable-pretraining: all views are one sample N V, c is the mean of the global views alone, and the first
            term has the weight 1.
        global_views: number of views from the unchanged augmentation, or from the data.
        local_views: number of small crops; with none, several views of an object in the data serve as global views.
        local_size: side of the small crops in pixels.
        local_scale: smallest and largest share of the image's area that a small crop takes.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [2048, 128],
        weight: float = 0.02,
        directions: int = 1024,
        nodes: int = 17,
        reach: float = 3.0,
        symmetric_nodes: bool = False,
        scale_by_batch: bool = True,
        form: Literal["per-view", "flattened"] = "per-view",
        global_views: int = 2,
        local_views: int = 0,
        local_size: int = 98,
        local_scale: list[float] = [0.05, 0.3],
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require(0 < weight < 1, "weight", f"must be above 0 and below 1, got {weight}")
        require_at_least(2, nodes=nodes)
        require_above(0, reach=reach)
        self.weight, self.form, self.global_views = weight, form, global_views
        self.test: dict[str, Any] = {
            "nodes": nodes,
            "reach": reach,
            "scale_by_batch": scale_by_batch,
            "symmetric": symmetric_nodes,
        }
        self._plan = _plan(global_views, local_views, local_size, area_range("local_scale", local_scale))
        self.projector = make_projector(features, projector)
        self.directions = RandomDirections(directions)

    @property
    def plan(self) -> Plan:
        return self._plan

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        pixels = [view.pixels for view in views.views]
        sizes = [part for part in (pixels[: self.global_views], pixels[self.global_views :]) if part]
        features = torch.cat([backbone(torch.cat(part)) for part in sizes])
        z = Embedded(features, self.projector(features))
        terms = self.embedding_loss(by_crop(z.embeddings, len(views)))
        first, *_, last = z.by_view(len(views))
        return PairLoss(terms, first, last)

    def embedding_loss(self, z: Tensor) -> Losses:
        """The terms of the loss from the embeddings `(V, B, D)` of all views, the global ones first."""
        flattened = self.form == "flattened"
        distance = losses.distance_from_mean_view(z, self.global_views if flattened else None)
        tested = z.flatten(0, 1) if flattened else z
        sigreg = sigreg_loss(tested, self.directions(z), **self.test)
        return {
            "invariance": Term(distance, 1.0 if flattened else 1 - self.weight),
            "sigreg": Term(sigreg, self.weight),
        }

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.directions.advance(step)


def _plan(global_views: int, local_views: int, local_size: int, local_scale: tuple[float, float]) -> Plan:
    require_at_least(1, global_views=global_views, local_size=local_size)
    require_at_least(0, local_views=local_views)
    if global_views + local_views < 2:
        raise ValueError(f"global_views and local_views must make two or more, got {global_views} and {local_views}")
    if local_views == 0:
        return Pair(global_views)
    return MultiCrop((Crops(global_views), Crops(local_views, local_size, local_scale)))
