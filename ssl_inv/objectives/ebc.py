"""EbC: the matrix of an unknown action, from some pairs that it relates, must find the partner of another."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.catalogue import require, require_at_least, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import gather, rank
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Alike, Views
from ssl_inv.views.plans import require_alike


class EbC(Objective):
    """Equivariance by contrast: learnt linear actions of an unknown group (arXiv 2510.21706, NeurIPS 2025).

    A group of n + 1 samples shares one unknown action g, which leads from view y_i to view g y_i. With f the embedding,
    X the rows f(y_i) of n of them, the context, and X' the rows f(g y_i), least squares give the matrix R of g. The
    remaining sample is the query: its moved embedding must be nearest to its own partner among the candidates C.

        R^T = (X^T X + ridge mean(diag X^T X) I)^-1 X^T X',  u = R f(y_query),
        L = mean over queries of -log(exp(-|u - f(g y_query)|^2) / sum_{c in C} exp(-|u - c|^2)).

    The gradient passes the least squares and both views. There is no temperature, no normalisation and no teacher. The
    last `invariant` dimensions are not moved, so R is block-diagonal with an identity: they hold what g leaves alone.

    Departures, all off with `ridge: 0, queries: last, candidates: queries`: the ridge, every sample as a query in its
    turn, and candidates from the whole batch, without which few groups in a batch are few comparisons. The paper's
    networks give f directly; here f is a projector, because n must be at least its width.

    When:
        Several objects can be seen before and after the same change, and nothing is known of it, not even how many
        numbers describe it: the matrices found have the structure of the group. In theory f is then a linear map of the
        true latents. Not with few samples that share an action: the context must have at least as many as f has
        dimensions that move. Not where features must hold classes: those go to the invariant dimensions, if at all.

    Args:
        alike: parameters of rendered data that change alike within a group; empty leaves the action to the
            augmentation, whose operation `shared` then has `samples` of `context` + 1.
        context: n, samples of a group beside the query.
        projector: widths of f; the last is the dimension of embeddings.
        invariant: how many of the embedding's last dimensions do not move.
        ridge: added to the diagonal of X^T X, as a share of its mean.
        queries: `last`, one of each group; or `each`, every sample with the others of its group as context.
        candidates: the partners of all `queries`, or all second views of the `batch`.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        alike: list[str] = [],
        context: int = 15,
        projector: list[int] = [512, 8],
        invariant: int = 0,
        ridge: float = 1e-3,
        queries: Literal["each", "last"] = "each",
        candidates: Literal["batch", "queries"] = "batch",
    ) -> None:
        super().__init__()
        require_alike(alike, groups)
        require_at_least(1, context=context)
        require_widths(projector=projector)
        require_at_least(0, invariant=invariant, ridge=ridge)
        width = projector[-1]
        require(invariant < width, "invariant", f"must be below the {width} dimensions of embeddings, got {invariant}")
        moving = width - invariant
        few = f"{context}, fewer than the {moving} dimensions that move, which least squares need"
        require(context >= moving, "context", f"{few}; choose more, or a smaller last width of the projector")
        self.alike, self.context, self.moving, self.ridge = tuple(alike), context, moving, ridge
        self.queries, self.candidates = queries, candidates
        self.projector = make_projector(features, projector)
        self.least_batch = (context + 1) * (2 if queries == "last" and candidates == "queries" else 1)

    @property
    def plan(self) -> Alike:
        return Alike(self.context + 1, self.alike)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        count, group = len(views.index), self.context + 1
        whole = f"{count} on a process, but {group} samples in a row share an action; choose a multiple of {group}"
        require(count % group == 0, "batch_size", whole)
        return self.embedding_loss(*(self.projector(backbone(view.pixels)) for view in views.views))

    def embedding_loss(self, x: Tensor, y: Tensor) -> Losses:
        """The terms of the loss from the embeddings `(B, D)` of both views; groups are consecutive rows.

        `scale`, the mean squared length of embeddings, has no weight: nothing else shows if they shrink or grow.
        """
        x, y = (losses.full_precision(one) for one in (x, y))
        with torch.autocast(x.device.type, enabled=False):
            moved = self._moved(x, y)
            alone = slice(self.context, None, self.context + 1) if self.queries == "last" else slice(None)
            partners = y[alone] if self.candidates == "queries" else y
            rows = torch.arange(len(y), device=y.device)[alone]
            own = torch.arange(len(moved), device=y.device) if self.candidates == "queries" else rows
            own, candidates = own + rank() * len(partners), gather(partners)
            distances = (moved[:, None] - candidates[None]).square().sum(dim=2)
            error = losses.sample_mean(F.cross_entropy(-distances, own, reduction="none"))
            scale = losses.sample_mean((x.square() + y.square()).sum(dim=1) / 2)
        return {"contrast": Term(error), "scale": Term(scale.detach(), 0.0)}

    def _moved(self, x: Tensor, y: Tensor) -> Tensor:
        """The embeddings of the queries, moved by the matrix of their context: `(Q, D)`."""
        group = self.context + 1
        here, there = (one[:, : self.moving].double().reshape(-1, group, self.moving) for one in (x, y))
        if self.queries == "last":
            query = here[:, -1:]
            gram, cross = _products(here[:, :-1], here[:, :-1]), _products(here[:, :-1], there[:, :-1])
            gram, cross = gram.unsqueeze(1), cross.unsqueeze(1)
        else:
            query = here
            gram = _products(here, here).unsqueeze(1) - here[..., None] * here[..., None, :]
            cross = _products(here, there).unsqueeze(1) - here[..., None] * there[..., None, :]
        diagonal = gram.diagonal(dim1=2, dim2=3).mean(dim=2)
        gram = gram + self.ridge * torch.diag_embed(diagonal.unsqueeze(2).expand(-1, -1, self.moving))
        solved = torch.linalg.solve(gram, query.unsqueeze(3).expand(-1, -1, -1, 1))
        moved = (solved.mT @ cross).squeeze(2).flatten(0, 1).to(x.dtype)
        still = x[:, self.moving :]
        return torch.cat((moved, still[self.context :: group] if self.queries == "last" else still), dim=1)


def _products(rows: Tensor, others: Tensor) -> Tensor:
    """X^T X' of each group, `(G, D, D)`, from `(G, n, D)` both."""
    return rows.mT @ others
