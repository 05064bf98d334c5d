"""E-SSL: an invariant objective that also predicts which way up a small crop is."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import require_above, require_at_least, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import normalised_mlp
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.objectives.base import Losses, PairLoss, PairObjective, Term
from ssl_inv.objectives.multi_crop import area_range
from ssl_inv.transforms import Group
from ssl_inv.views import Pair, QuarterTurns, Several, Views


class ESSL(PairObjective):
    """Equivariant contrastive learning with quarter turns (Dangovski et al., ICLR 2022).

        L = L_SSL(x, y) + rotation CE(head(f(turned small crop)), turn)

    The second term is over all four turns of one crop of every image. These crops are one batch for the backbone; x and
    y are one batch each. Absolute turns can be predicted only where the data has a way up; the authors advise against
    them where images occur both ways.

    When:
        Images have a way up, and the turn of a small crop can be recognised: on natural images the authors gain classes
        over the same objective without turns. No record of views is needed. Not where an image and its turned copy both
        occur, for instance in aerial or microscopic images. Not for anything except quarter turns in the plane: on
        rendered solids the floor reveals these at once, and R2 of the object's rotation stays at SimCLR's.

    Args:
        base: L_SSL. `simclr` is InfoNCE between the views, the mean of both directions, with negatives from the other
            view only, as in the authors' code. `simsiam` is minus the cosine of prediction and stopped projection, the
            mean of both directions.
        projector: widths of the projector's layers.
        projector_norm: for `simclr`: whether a normalisation without affine part follows the projector, as in the
            authors' code for CIFAR; for `simsiam` there is always one.
        temperature: for `simclr`: divides the cosine similarities; the authors take 0.5 on CIFAR and 0.2 on ImageNet.
        predictor_hidden: for `simsiam`: width of the predictor's hidden layer.
        rotation: weight of the prediction of turns.
        rotation_head: widths of the head's hidden layers, each followed by LayerNorm and ReLU.
        last_activation: whether ReLU follows the last hidden layer too; the authors' code for SimSiam leaves it out.
        turned_size: side of the turned crop in pixels; the authors take 16 on CIFAR and 96 on ImageNet.
        turned_scale: smallest and largest share of the image's area that the turned crop takes; None takes the
            augmentation's. On ImageNet the authors take 0.05 and 0.14.

    Raises:
        ValueError: if a number is out of its range.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        base: Literal["simclr", "simsiam"] = "simclr",
        projector: list[int] = [2048, 2048, 2048],
        projector_norm: bool = False,
        temperature: float = 0.5,
        predictor_hidden: int = 512,
        rotation: float = 0.4,
        rotation_head: list[int] = [2048, 2048],
        last_activation: bool = True,
        turned_size: int = 16,
        turned_scale: list[float] | None = None,
    ) -> None:
        super().__init__()
        require_at_least(0, rotation=rotation)
        require_at_least(1, predictor_hidden=predictor_hidden, turned_size=turned_size)
        require_widths(projector=projector)
        require_above(0, temperature=temperature)
        self.temperature, self.rotation = temperature, rotation
        if turned_size is not None:
            require_at_least(1, turned_size=turned_size)
        scale = None if turned_scale is None else area_range("turned_scale", turned_scale)
        self._plan = Several((Pair(), QuarterTurns(turned_size, scale)), policies=(None, 0))
        self.predictor_head: nn.Module | None = None
        self.rotation_head = _rotation_head((features, *rotation_head), last_activation)
        normalised = projector_norm or base == "simsiam"
        self.projector = normalised_mlp(features, projector) if normalised else make_projector(features, projector)
        if base == "simsiam":
            width = projector[-1]
            self.predictor_head = make_projector(width, (predictor_hidden, width))

    @property
    def plan(self) -> Several:
        return self._plan

    def pair(self, views: Views, backbone: Backbone) -> PairLoss:
        pair, turned = self.plan.parts(views)
        x, y = (self.embed(view.pixels, backbone) for view in pair.views)
        logits = self.rotation_head(backbone(torch.cat([view.pixels for view in turned.views])))
        turns = torch.arange(4, device=logits.device).repeat_interleave(len(turned.index))
        rotation = Term(losses.classification(logits, turns), self.rotation)
        return PairLoss({**self.embedding_loss(x.embeddings, y.embeddings), "rotation": rotation}, x, y)

    def embedding_loss(self, x: Tensor, y: Tensor) -> Losses:
        """L_SSL from the projections `(B, D)` of the pair."""
        if self.predictor_head is None:
            return {"info_nce": Term(losses.symmetric_info_nce(x, y, self.temperature))}
        errors = losses.cosine_distance(self.predictor_head(x), y.detach()) + losses.cosine_distance(
            self.predictor_head(y), x.detach()
        )
        return {"cosine": Term(errors / 2 - 1)}


def _rotation_head(widths: tuple[int, ...], last_activation: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.ReLU(inplace=True)]
    if layers and not last_activation:
        layers.pop()
    return nn.Sequential(*layers, nn.Linear(widths[-1], 4))
