"""AMCL: several projection heads, each with a learnt temperature for every pair of views."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import require, require_at_least, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import gather, rank
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Pair, Views


class AdaptiveMultiHead(Objective):
    """Adaptive multi-head contrastive learning on SimCLR's pairs (Wang, Koniusz, Gedeon, Zheng, ECCV 2024), from the
    paper's equations.

    Each head projects view i to z_i. A small network gives the temperature of each pair of views,

        t_ij = low + (high - low) sigmoid(MLP([z_i, z_j])).

    With j the other view of i, n any view of another sample, s the cosine and d the dimension of z,

        L = mean_i sum_heads [-s_ij / t_ij + max_n s_in / t_in + regularisation (Omega(t_ij) - Omega(t_in))],

        Omega(t) = d/2 log t + 1 / t.

    The last t_in belongs to the n with the maximum. The loss is the likelihood of positives under a Gaussian around the
    view, of variance t.

    As published, the loss has no lower bound: a pair with a cosine above `regularisation` gains without end from a
    lower temperature. Only `low` stops it, and gradients grow as 1 / low. Nor does the loss keep features apart at
    first: where all cosines are near one, the hardest negative repels no more than the positive attracts, and features
    collapse in short training. `negatives: all` repairs this. It takes the logarithm of the sum over n of exp(s_in /
    t_in), of which the maximum is the largest part, and the mean of Omega(t_in) with the weights of that sum. The
    authors' code does not run, and its loss has no negatives.

    When:
        To study temperatures and heads on pairs made by many augmentations; there the paper finds most of its gain over
        SimCLR. Not as a first choice: as published it collapses easily, and the range of temperatures needs care. Not
        where features must tell how an image was seen.

    Args:
        projector: widths of the layers of each head.
        heads: number of heads.
        hidden: width of the hidden layer of the temperature network. The network has one value for each pair of a
            view of the global batch and a view of this process's part: batches of 256 and a width of 128 take 134 MB
            for each head.
        temperatures: low and high. The authors' low of 0.00001 needs a small learning rate or a clipped gradient.
        regularisation: weight of Omega; beta in the paper.
        negatives: `hardest` as in the paper, or `all`.
    """

    least_batch = 2

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [2048, 128],
        heads: int = 3,
        hidden: int = 128,
        temperatures: list[float] = [1e-5, 2.0],
        regularisation: float = 0.1,
        negatives: Literal["hardest", "all"] = "hardest",
    ) -> None:
        super().__init__()
        require_widths(projector=projector)
        require_at_least(1, heads=heads, hidden=hidden)
        in_order = len(temperatures) == 2 and 0 < temperatures[0] <= temperatures[1]
        require(in_order, "temperatures", f"must be the lowest, above 0, and the highest, got {temperatures}")
        require_at_least(0, regularisation=regularisation)
        self.regularisation, self.hardest = regularisation, negatives == "hardest"
        self.projectors = nn.ModuleList(make_projector(features, projector) for _ in range(heads))
        self.temperatures = nn.ModuleList(
            PairTemperature(projector[-1], hidden, temperatures[0], temperatures[1]) for _ in range(heads)
        )

    @property
    def plan(self) -> Pair:
        return Pair()

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        x, y = (backbone(view.pixels) for view in views.views)
        parts = [
            self._head_loss(head(x), head(y), of_pair)
            for head, of_pair in zip(self.projectors, self.temperatures, strict=True)
        ]
        attraction, repulsion, regularity = torch.stack(parts).sum(dim=0)
        return {
            "attraction": Term(attraction),
            "repulsion": Term(repulsion),
            "regularity": Term(regularity, self.regularisation),
        }

    def _head_loss(self, x: Tensor, y: Tensor, temperature: nn.Module) -> Tensor:
        """The three parts of one head's loss, `(3,)`, from the projections `(B, D)` of both views."""
        with torch.autocast(x.device.type, enabled=False):
            x, y = losses.unit_rows(x), losses.unit_rows(y)
            own, everyone = torch.cat((x, y)), torch.cat((gather(x), gather(y)))
            similarities, temperatures = own @ everyone.T, temperature(own, everyone)
            return pair_terms(similarities, temperatures, x.shape[1], self.hardest)


class PairTemperature(nn.Module):
    """A temperature for every pair of a row and a column: low + (high - low) sigmoid of an MLP with one hidden layer.

    Args:
        dimensions: D, of a row and of a column.
        hidden: width of the hidden layer.
        low: lowest temperature.
        high: highest temperature.
    """

    def __init__(self, dimensions: int, hidden: int, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.row, self.column = nn.Linear(dimensions, hidden), nn.Linear(dimensions, hidden, bias=False)
        self.output = nn.Linear(hidden, 1)
        # Both together are one linear layer on [row, column]. Apart, the 2 D numbers of every pair need no memory.
        for part in (self.row.weight, self.column.weight, self.row.bias):
            nn.init.uniform_(part, -1 / math.sqrt(2 * dimensions), 1 / math.sqrt(2 * dimensions))

    def forward(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Temperatures `(B, C)` of rows `(B, D)` with columns `(C, D)`."""
        hidden = torch.relu(self.row(rows)[:, None] + self.column(columns)[None])
        return self.low + (self.high - self.low) * torch.sigmoid(self.output(hidden).squeeze(2))


def pair_terms(similarities: Tensor, temperatures: Tensor, dimensions: int, hardest: bool = True) -> Tensor:
    """Means over views of -s / t of the positive, s / t of the negatives, and the difference of their Omega: `(3,)`.

    Args:
        similarities: of this process's 2 B views with the views of all processes, `(2 B, 2 W B)`; in both, all first
            views come before all second views.
        temperatures: of the same pairs.
        dimensions: d in Omega(t) = d/2 log t + 1 / t.
        hardest: whether only the negative with the largest s / t counts; else all count, by the logarithm of the sum of
            exp(s / t).
    """
    views, everyone = similarities.shape
    samples, of_all = views // 2, everyone // 2
    sample = torch.arange(views, device=similarities.device) % samples + rank() * samples
    other = sample + of_all * (torch.arange(views, device=similarities.device) < samples)
    scores, omega = similarities / temperatures, dimensions / 2 * temperatures.log() + temperatures.reciprocal()
    negatives = scores.scatter(1, torch.stack((sample, sample + of_all), dim=1), float("-inf"))
    with torch.no_grad():
        weights = F.one_hot(negatives.argmax(dim=1), everyone).to(omega.dtype) if hardest else negatives.softmax(dim=1)
    repulsion = negatives.amax(dim=1) if hardest else negatives.logsumexp(dim=1)
    positive, regularity = (one.gather(1, other[:, None])[:, 0] for one in (scores, omega))
    return losses.sample_mean(torch.stack((-positive, repulsion, regularity - (weights * omega).sum(dim=1)), dim=1))
