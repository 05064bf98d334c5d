"""AMCL: several projection heads, and a temperature that is learnt for every pair of views and every head."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require_at_least, require_filled
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.distributed import gather, rank
from ssl_inv.nn.heads import projector as make_projector
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Pair, Views


class AdaptiveMultiHead(Objective):
    """Adaptive multi-head contrastive learning, on SimCLR's pairs (Wang, Koniusz, Gedeon, Zheng, ECCV 2024), from the
    paper's equations.

    Every head projects a view i to z_i, and a small network tells the temperature of each pair, t_ij = low + (high -
    low) sigmoid(MLP([z_i, z_j])). With j the other view of i, n all views of other samples, s the cosine and d the
    dimension of z,

        L = mean_i sum_heads [-s_ij / t_ij + max_n s_in / t_in + regularisation (Omega(t_ij) - Omega(t_in))],

        Omega(t) = d/2 log t + 1 / t,

    the last t_in being that of the n that has the maximum. It is the likelihood of positives as a Gaussian around the
    view, of variance t. As it stands it is not bounded: a pair whose cosine is above `regularisation` gains without end
    by a lower temperature, so it is `low` that ends it, and gradients have the size of 1 / low. Nor does it keep
    features apart at first: where all cosines are near one, the hardest negative repels no more than the positive
    attracts, and in short training features collapse. `negatives: all` is the repair: the logarithm of the sum over n
    of exp(s_in / t_in), of which the maximum is the largest part, and the mean of Omega(t_in) with the weights of that
    sum. The authors' code, which does not run, has a loss without negatives.

    When:
        A study of temperatures and of heads, on pairs made by many augmentations, where the paper finds most of its
        gain over SimCLR. Not as a first choice: as published it collapses easily, and the range of the temperatures
        takes care. Nor where features have to tell how an image was seen.

    Args:
        projector: widths of the layers of each head.
        heads: how many.
        hidden: width of the hidden layer of the network that tells temperatures. It has a value for every pair of views
            of the global batch and this process's part of it: batches of 256 and a width of 128 take 134 MB for each
            head.
        temperatures: low and high; the authors' low of 0.00001 needs a small learning rate or a clipped gradient.
        regularisation: weight of Omega; beta in the paper.
        negatives: `hardest` as in the paper, or `all`.
    """

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        projector: list[int] = [2048, 128],  # noqa: B006 - never changed, and a recipe shows it as it stands
        heads: int = 3,
        hidden: int = 128,
        temperatures: list[float] = [1e-5, 2.0],  # noqa: B006
        regularisation: float = 0.1,
        negatives: Literal["hardest", "all"] = "hardest",
    ) -> None:
        super().__init__()
        require_filled(projector=projector)
        if min(heads, hidden) < 1:
            raise ValueError(f"heads and hidden must be at least 1, got {heads} and {hidden}")
        if len(temperatures) != 2 or not 0 < temperatures[0] <= temperatures[1]:
            raise SettingError("temperatures", f"must be the lowest, above 0, and the highest, got {temperatures}")
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
        """The three parts of one head's loss from the projections `(B, D)` of both views, `(3,)`."""
        with torch.autocast(x.device.type, enabled=False):
            x, y = losses.unit_rows(x), losses.unit_rows(y)
            own, everyone = torch.cat((x, y)), torch.cat((gather(x), gather(y)))
            similarities, temperatures = own @ everyone.T, temperature(own, everyone)
            return pair_terms(similarities, temperatures, x.shape[1], self.hardest)


class PairTemperature(nn.Module):
    """A temperature for every pair of a row and a column: low + (high - low) sigmoid of an MLP, with one hidden layer,
    on both.

    Args:
        dimensions: D, of one of both.
        hidden: width of the hidden layer.
        low: the lowest temperature.
        high: the highest.
    """

    def __init__(self, dimensions: int, hidden: int, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.row, self.column = nn.Linear(dimensions, hidden), nn.Linear(dimensions, hidden, bias=False)
        self.output = nn.Linear(hidden, 1)
        # Side by side the two are one linear layer on [row, column]; apart, the 2 D numbers of every pair are never
        # written down.
        for part in (self.row.weight, self.column.weight, self.row.bias):
            nn.init.uniform_(part, -1 / math.sqrt(2 * dimensions), 1 / math.sqrt(2 * dimensions))

    def forward(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Temperatures `(B, C)` of rows `(B, D)` with columns `(C, D)`."""
        hidden = torch.relu(self.row(rows)[:, None] + self.column(columns)[None])
        return self.low + (self.high - self.low) * torch.sigmoid(self.output(hidden).squeeze(2))


def pair_terms(similarities: Tensor, temperatures: Tensor, dimensions: int, hardest: bool = True) -> Tensor:
    """The mean over views of -s / t of the positive, s / t of the negatives, and the difference of their Omega: `(3,)`.

    Args:
        similarities: of this process's 2 B views, the first of its samples before the second, with those of all,
        likewise, `(2 B, 2 W B)`.
        temperatures: of the same pairs.
        dimensions: d in Omega(t) = d/2 log t + 1 / t.
        hardest: whether negatives count by the one whose s / t is largest, or all by the logarithm of the sum of exp(s
            / t).
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
