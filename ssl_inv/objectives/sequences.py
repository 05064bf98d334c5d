"""Sequences of views in the latent space of a world model."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.dynamics import WorldModel
from ssl_inv.objectives.base import ActionPrediction
from ssl_inv.transforms import Transform
from ssl_inv.views import Views


def embedded_sequence(
    views: Views, backbone: Backbone, world: WorldModel, parameters: list[str]
) -> tuple[Tensor, Tensor]:
    """Embeddings of T views `(B, T, D)`, and the standardised actions between them, `(B, T - 1, K)`.

    All views are one batch for the backbone and for the projector. The data's own views are in the order of the data,
    so frames of a video are in the order of time.
    """
    features = backbone(torch.cat([view.pixels for view in views.views]))
    embeddings = world.projector(features).unflatten(0, (len(views), -1))
    told = [view.transform.only(parameters) for view in views.views]
    if views.shown is not None and len(views.shown) == len(views):
        order = views.shown[..., 1].to(embeddings.device).argsort(dim=0, stable=True)
        embeddings, told = embeddings.take_along_dim(order.unsqueeze(2), dim=0), _in_order(told, order)
    steps = [here.relative(there).as_vector(parameters) for here, there in pairwise(told)]
    return embeddings.transpose(0, 1), world.standardised(torch.stack(steps, dim=1))


def _in_order(transforms: Sequence[Transform], order: Tensor) -> list[Transform]:
    """The transforms of T views of each sample, `order[t, b]` of them at place t of sample b."""
    rows = torch.arange(order.shape[1], device=order.device)
    every = {name: torch.stack([one[name] for one in transforms]) for name in transforms[0].names}
    return [
        Transform({name: values[places, rows] for name, values in every.items()}, transforms[0].groups)
        for places in order
    ]


def one_step_prediction(world: WorldModel, backbone: Backbone, parameters: list[str]) -> ActionPrediction:
    """A world model's prediction from one view, for `Objective.predictor`."""

    def move(embedding: Tensor, action: Tensor) -> Tensor:
        return world.predict(embedding.unsqueeze(1), world.standardised(action.unsqueeze(1)))[:, 0]

    return ActionPrediction(lambda pixels: world.projector(backbone(pixels)), move, parameters, "canonical")
