"""FINO: around any objective, columns of metadata attract features or repel them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, require, require_at_least, require_recorded, require_widths
from ssl_inv.memories.centroids import Centroids, known_cross_entropy
from ssl_inv.memories.progress import Progress
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone, Cached
from ssl_inv.objectives.around import Around, base_objective, beside
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Category, Flag, Group, Transform
from ssl_inv.views import Views

Schedule = Literal["sigmoid", "linear", "constant"]


_LARGE = 10.0
"""The largest size of a target without a range: its squared error is then a hundred times that of a scaled one."""

_SPARE = 0.01
"""The share of a range by which values may leave it: they are written down in few digits."""


class FINO(Progress, Around):
    """Metadata guidance beside any objective ("FINO", 2026, arXiv 2606.05107), after its formulas.

    Columns that are known of every view, such as a site, a sensor or a time, guide the backbone's features h. One head
    for each column reads h_v of the first two views of the base objective; between them stands a layer that passes h on
    and multiplies its gradient by lambda(t) for a column that attracts and by -lambda(t) for one that repels:

        L = L_base + sum over columns of weight mean_v l(head(layer(h_v)), column_v).

    A head that attracts makes h tell its column. One that repels learns to tell it all the same, and makes h forget it.
    lambda(t) = 2 / (1 + exp(-10 s)) - 1, with s the share of the steps after the warm-up. For a category, l is the
    prototypical loss of `ssl_inv.memories.centroids.Centroids`, or the cross entropy of an MLP; for other columns the
    squared error of an MLP. Centroids move to features of the trained network; in the paper, to those of its teacher. A
    prototypical head has no parameters, so it is no adversary: where it repels, it only pushes away from slowly moving
    centroids. The paper's balance of gradients is left out: it gives every column the same share, whatever its weight.

    Columns are recorded parameters: those of a table by its setting `latents`, such as `{site: category, year: real}`,
    latents of rendered data, or parameters of an augmentation. A run reads no column that the data section and this
    objective do not both name.

    When:
        Something is known of every image that the features should tell (a region, an antibody), or should not (a plate,
        a scanner, a year), for example in medicine or remote sensing. It goes with any objective. Not for a nuisance
        that depends on the class: to repel it removes the class too. Not where no column is known, and not to predict
        the effect of an action.

    Args:
        base: the objective, a mapping with its `name` and settings.
        attract: columns that features should tell.
        repel: columns that features should not tell.
        head: of categories and flags: `prototypes`, or `classification` by an MLP.
        weight: of each column that attracts.
        repel_weight: of each column that repels; null is a tenth of `weight`, as in the authors' code.
        schedule: of lambda after the warm-up: `sigmoid`, `linear` from 0 to 1, or `constant` 1.
        warmup: share of all steps in which lambda is 0.
        hidden: widths of the MLPs' hidden layers.
        dropout: behind each hidden layer.
        ranges: smallest and largest value of a column of single numbers, such as `{year: [2002, 2017]}`; its target is
            then scaled to 0 to 1, and the prediction passes a sigmoid. All training views must lie inside. Others are
            predicted as their group writes them: divided by its scale, a circle as cosine and sine. A column with
            values beyond 10, such as a year, needs a range: its squared error would hide every other term.
        centroid_momentum: the share of a centroid that a step keeps.
        concentration: divides the similarities with a centroid at the start.
    """

    base: Objective

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        base: Annotated[dict[str, Any], "objective"],
        attract: list[str] = [],
        repel: list[str] = [],
        head: Literal["prototypes", "classification"] = "prototypes",
        weight: float = 0.03,
        repel_weight: float | None = None,
        schedule: Schedule = "sigmoid",
        warmup: float = 0.04,
        hidden: list[int] = [256, 256],
        dropout: float = 0.0,
        ranges: dict[str, Any] = {},
        centroid_momentum: float = 0.999,
        concentration: float = 0.07,
    ) -> None:
        columns = [*attract, *repel]
        require(bool(columns), "attract", "and repel are empty; name at least one column that the data record")
        require_recorded("attract", attract, groups)
        require_recorded("repel", repel, groups)
        both = next((name for name in repel if name in attract), None)
        require(both is None, "repel", f"{both!r} is in attract too; a column attracts or repels")
        repelled = weight / 10 if repel_weight is None else repel_weight
        require_at_least(0, weight=weight, repel_weight=repelled)
        require(0 <= warmup < 1, "warmup", f"must be a share of all steps from 0 to below 1, got {warmup}")
        require(0 <= dropout < 1, "dropout", f"must be at least 0 and below 1, got {dropout}")
        require_widths(hidden=hidden)
        super().__init__(base=base_objective(features, groups, **base))
        self.schedule: Schedule = schedule
        self.warmup = warmup
        self.columns = {name: _Column(name, groups[name], name in repel, _range(ranges, name)) for name in columns}
        for name in ranges:
            fits = name in self.columns and self.columns[name].is_single_number
            require(fits, "ranges", f"{name!r} is no column of single numbers that guides")
        self.column_weights = {name: repelled if one.repels else weight for name, one in self.columns.items()}
        self.heads = nn.ModuleList()
        for name, one in self.columns.items():
            if one.kinds and head == "prototypes":
                self.heads.append(Centroids(one.kinds, features, centroid_momentum, concentration))
                continue
            setting = "repel" if one.repels else "attract"
            require(one.width > 0, setting, f"{name!r} has no numeric value")
            self.heads.append(guide_head((features, *hidden, one.width), dropout))

    @property
    def parameters_told(self) -> list[str]:
        # All views of an object are of one site: that categories do not differ between them is no mistake.
        measured = [name for name, one in self.columns.items() if not isinstance(one.group, Category)]
        return list(dict.fromkeys((*super().parameters_told, *measured)))

    def require_values(self, recorded: Transform) -> None:
        super().require_values(recorded)
        for name, column in self.columns.items():
            if name in recorded.values:
                column.require_values(recorded[name])

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        cached = Cached(backbone)
        terms = self.base.loss(views, cached)
        guided = views.views[:2]
        features = [cached.whole_pooled(view.pixels) for view in guided]
        return beside(terms, self.guide_losses(features, [view.transform for view in guided]))

    def guide_losses(self, features: list[Tensor], records: list[Transform]) -> Losses:
        """A term for each column, from the features `(B, D)` of some views and their records."""
        strength = guidance(self.share_done, self.warmup, self.schedule)
        terms = {}
        for (name, column), head in zip(self.columns.items(), self.heads, strict=True):
            signed = -strength if column.repels else strength
            errors = [
                column.error(head, scaled_gradient(one, signed), record[name])
                for one, record in zip(features, records, strict=True)
            ]
            if isinstance(head, Centroids):
                head.put(*((one, record[name].long()) for one, record in zip(features, records, strict=True)))
            terms[f"guide_{name}"] = Term(torch.stack(errors).mean(), self.column_weights[name])
        return terms

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        super().after_step(backbone, step, steps)
        for head in self.heads:
            if isinstance(head, Centroids):
                head.flush()
        self.advance(step, steps)


@dataclass(frozen=True)
class _Column:
    """A column of metadata.

    Attributes:
        name: of the recorded parameter.
        group: of its values.
        repels: whether features should not tell it.
        range: its smallest and largest value, or None.
    """

    name: str
    group: Group
    repels: bool
    range: tuple[float, float] | None

    @property
    def kinds(self) -> int:
        """How many kinds a category has; 0 for other columns."""
        if isinstance(self.group, Category):
            return self.group.count
        return 2 if isinstance(self.group, Flag) else 0

    @property
    def width(self) -> int:
        """Outputs of the MLP that predicts it."""
        return self.kinds or self.group.value_vector(self.group.neutral(1)).shape[1]

    @property
    def is_single_number(self) -> bool:
        """Whether its values are numbers that a range can scale."""
        return not self.kinds and self.group.neutral(1).dim() == 1

    def require_values(self, values: Tensor) -> None:
        """Raise a `SettingError` if recorded values leave the column's range, or need one that it has not."""
        known = values[values.isfinite().all(dim=1)] if values.dim() > 1 else values[values.isfinite()]
        if self.kinds or not len(known):
            return
        if not self.is_single_number:
            largest = float(self.group.value_vector(known).abs().max())
            problem = f"{self.name!r} has values up to {_number(largest)}, whose squared error hides every other term"
            require(largest <= _LARGE, "repel" if self.repels else "attract", f"{problem}; record it in a larger unit")
            return
        low, high = float(known.min()), float(known.max())
        found = f"training views have {_number(low)} to {_number(high)}"
        wanted = f"{{{self.name}: [{_number(low)}, {_number(high)}]}}"
        if self.range is None:
            problem = f"has none of {self.name!r}, of which {found}: unscaled, its squared error hides every other term"
            advice = f"give {wanted}" if low < high else "all are the same, so leave the column out"
            scaled = float(self.group.value_vector(known).abs().max()) <= _LARGE
            require(scaled, "ranges", f"{problem}; {advice}")
            return
        spare = _SPARE * (self.range[1] - self.range[0])
        problem = f"of {self.name!r} is {_number(self.range[0])} to {_number(self.range[1])}, but {found}"
        inside = self.range[0] - spare <= low and high <= self.range[1] + spare
        advice = f"give {wanted}" if low < high else "leave it out"
        require(inside, "ranges", f"{problem}, which no prediction can reach; {advice}")

    def error(self, head: nn.Module, features: Tensor, values: Tensor) -> Tensor:
        """The loss of a head on features `(B, D)` for recorded values of the same rows."""
        if isinstance(head, Centroids):
            return head(features, values.long())  # type: ignore[no-any-return]
        told = losses.full_precision(head(features))
        if self.kinds:
            return known_cross_entropy(told, values.long())
        if self.range is None:
            return losses.token_error(told, self.group.value_vector(values).to(told.dtype), "squared")
        low, high = self.range
        target = (values.to(told.dtype) - low) / (high - low + 1e-8)
        return losses.token_error(told.sigmoid(), target[:, None], "squared")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.7g}"


def _range(ranges: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    if name not in ranges:
        return None
    found = ranges[name]
    numbers = isinstance(found, list) and all(isinstance(one, int | float) for one in found)
    if not numbers or len(found) != 2 or not found[0] < found[1]:
        raise SettingError("ranges", f"of {name!r} must be a smallest and a largest number, got {found!r}")
    return float(found[0]), float(found[1])


def guide_head(widths: Iterable[int], dropout: float) -> nn.Sequential:
    """Linear - GELU - Dropout for every width but the last, then a linear map."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


def guidance(share: float, warmup: float, schedule: Schedule) -> float:
    """lambda(t), from 0 to 1.

    Args:
        share: of all steps that are done.
        warmup: share of all steps in which it is 0.
        schedule: of the steps after these.
    """
    if share < warmup:
        return 0.0
    if schedule == "constant":
        return 1.0
    done = (share - warmup) / (1 - warmup)
    return done if schedule == "linear" else 2 / (1 + math.exp(-10 * done)) - 1


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradient, None


def scaled_gradient(tensor: Tensor, factor: float) -> Tensor:
    """The tensor; its gradient is multiplied by a factor, which may be negative (Ganin, Lempitsky, ICML 2015)."""
    return _Scaled.apply(tensor, factor)  # type: ignore[no-any-return]
