"""Whether an equivariant objective has become an invariant one: it ignores actions, and views of an object are one.

An objective that predicts the embedding of a view from that of another view and the action between them always has a
second solution: embeddings that do not change with the view, and a predictor that ignores the action. Its loss is low
too, so the loss does not show which of the two a run has found.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.data.source import Source
from ssl_inv.data.splits import SubsetOfViews
from ssl_inv.engine.features import feature_table
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.modes import frozen
from ssl_inv.objectives.base import Objective
from ssl_inv.transforms.keyed_random import distinct
from ssl_inv.views.as_data import TrainingViews
from ssl_inv.views.maker import ViewMaker

OBJECTS = 256
"""Training objects that are looked at, at most."""

_ENOUGH = 16
"""Objects from which the shares mean something."""

_VIEWS = 0xAC7
"""The purpose of the random numbers that choose two views of every object."""

ACTION, GAIN, WITHIN = "action_dependence", "action_gain", "within_object"
"""The names of the scores."""


def action_dependence(predicted: Tensor, with_others: Tensor) -> float:
    """The share of the predictions' variance that comes from actions: 0 if they ignore it, 1 if nothing else matters.

        mean_n |p(z_n, a_n) - p(z_n, a_m)|^2 / (2 sum_d Var_d p)

    with the unbiased variance over the batch. Two independent draws differ by twice the variance, so the numerator is
    twice the part of the variance that another action changes.

    Args:
        predicted: predictions with their own actions, `(N, D)`.
        with_others: of the same embeddings with actions of other samples, `(N, D)`.
    """
    total = predicted.double().var(dim=0).sum()
    changed = (predicted - with_others).double().square().sum(dim=1).mean()
    return float(changed / (2 * total)) if total > 0 else 0.0


def action_gain(predicted: Tensor, with_others: Tensor, targets: Tensor) -> float:
    """How much better predictions are by the right action than by another: 0 for no better, 1 for exact ones.

        1 - mean_n d(p(z_n, a_n), y_n) / mean_n d(p(z_n, a_m), y_n)

    with d = 1 - cos around the mean target. A prediction may depend on the action and know nothing of what it does: one
    that is linear in the action, as SIE's, cannot ignore it.

    Args:
        predicted: predictions with their own actions, `(N, D)`.
        with_others: of the same embeddings with actions of other samples, `(N, D)`.
        targets: the embeddings that the actions lead to, `(N, D)`.
    """
    mean = targets.double().mean(dim=0)
    own, others = (
        1 - F.cosine_similarity(one.double() - mean, targets.double() - mean, dim=1).mean()
        for one in (predicted, with_others)
    )
    return float(1 - own / others) if others > 0 else 0.0


def within_object(embeddings: Tensor) -> float:
    """The share of the embeddings' variance that lies between views of one object: 0 if all views of an object have one
    embedding, 1 if they differ as much as views of different objects.

    Args:
        embeddings: of V views of N objects, `(N, V, D)`.
    """
    total = embeddings.double().flatten(0, 1).var(dim=0).sum()
    within = embeddings.double().var(dim=1).sum(dim=1).mean()
    return float(within / total) if total > 0 else 0.0


@dataclass
class ActionUse:
    """Scores how far an objective's predictions depend on the action, and how far views of one object differ.

    Attributes:
        objective: it has a predictor, or the part "equivariant".
        backbone: its backbone.
        source: training objects, in views that record what the predictor reads.
        normalise: from pixels in [0, 1] to the backbone's input.
        device: where the networks are.
        seed: draws two views of every object.
    """

    objective: Objective
    backbone: Backbone
    source: Source
    normalise: Callable[[Tensor], Tensor]
    device: torch.device
    seed: int = 0

    def __post_init__(self) -> None:
        several = np.flatnonzero(self.source.view_counts >= 2)
        spread = np.linspace(0, max(len(several) - 1, 0), OBJECTS).astype(np.int64)
        objects = several[np.unique(spread)[: len(several)]]
        # Views of one number may be equally far apart in all objects, as on a turntable.
        counts = self.source.view_counts[objects]
        views = distinct(self.seed, objects, _VIEWS, population=counts, count=2)
        self._pairs = SubsetOfViews(self.source, objects, list(views))

    def scores(self) -> dict[str, float]:
        """`within_object` of the predictor's embeddings, `action_dependence` and `action_gain`; the first of the
        equivariant part alone where there is no predictor. Nothing for fewer than 16 objects of two views.

        The networks run in evaluation mode and without gradient.
        """
        if len(self._pairs) < _ENOUGH:
            return {}
        predictor = self.objective.predictor(self.backbone)
        probed = self.objective.representations(self.backbone)

        def encode(pixels: Tensor) -> dict[str, Tensor]:
            return {"all": probed(pixels)["equivariant"] if predictor is None else predictor.embed(pixels)}

        both = nn.ModuleList([self.backbone, self.objective])
        every = np.arange(len(self._pairs))
        table = feature_table(encode, both, self._pairs, every, 2, self.normalise, self.device)
        rows = _pairs(table.objects)
        embeddings = table.part("all")[rows]
        if len(rows) < _ENOUGH:
            return {}
        found = {WITHIN: within_object(embeddings)}
        if predictor is None:
            return found
        first, second = (table.transform.select(rows[:, view]).to(self.device) for view in (0, 1))
        # Of another object, half of all objects away.
        other = torch.arange(len(rows), device=self.device).roll(len(rows) // 2)
        start = embeddings[:, 0].to(self.device)
        with frozen(both), torch.no_grad():
            own, others = (
                predictor.predict(start, one.relative(two))
                for one, two in ((first, second), (first.select(other), second.select(other)))
            )
        own, others = own.cpu(), others.cpu()
        gain = action_gain(own, others, embeddings[:, 1])
        return {**found, ACTION: action_dependence(own, others), GAIN: gain}


def _pairs(objects: Tensor) -> Tensor:
    """The rows of the two views of every object that has both, `(N, 2)`."""
    same = torch.nonzero(objects[1:] == objects[:-1])[:, 0]
    return torch.stack((same, same + 1), dim=1)


def action_use(
    objective: Objective, view_maker: ViewMaker, backbone: Backbone, source: Source, device: torch.device, seed: int
) -> ActionUse | None:
    """What scores an objective, or None if it is not told how views differ, or its views cannot be made one by one.

    Args:
        objective: the run's.
        view_maker: of the run.
        backbone: of the run.
        source: training objects.
        device: where the networks are.
        seed: draws views and augmentations.
    """
    if not objective.parameters_told:
        return None
    if objective.predictor(backbone) is None and "equivariant" not in _parts(objective, backbone, source.image_size):
        return None
    if all(name in source.groups for name in objective.parameters_told):
        return ActionUse(objective, backbone, source, view_maker.whole, device, seed)
    try:
        made = TrainingViews(source, objective.plan, view_maker.augmentation, 2, seed)
    except ValueError:  # views that depend on their batch
        return None
    if not all(name in made.groups for name in objective.parameters_told):
        return None
    return ActionUse(objective, backbone, made, view_maker.normalise, device, seed)


def _parts(objective: Objective, backbone: Backbone, size: int) -> tuple[str, ...]:
    # Before training, the networks need not be on its device yet.
    pixels = torch.zeros(2, backbone.in_channels, size, size, device=next(backbone.parameters()).device)
    with frozen(backbone), frozen(objective), torch.no_grad():
        return tuple(objective.representations(backbone)(pixels))


LEAST_GAIN, LEAST_WITHIN = 0.05, 0.02
"""The scores below which a predictor makes nothing of the action, and below which views of one object are one vector.

Where there is a predictor, the first alone counts: objects that look alike leave much of the variance to their views,
also in a run that knows nothing of how they differ.
"""

_LEAST_STEPS, _IN_A_ROW = 200, 3
"""Every run begins so: while features do not hold what actions change, the best prediction ignores them."""


def invariance(scores: Mapping[str, float]) -> str | None:
    """A sentence if these scores are those of an invariant objective, else None."""
    within, gain = scores.get(WITHIN), scores.get(GAIN)
    if gain is not None and within is not None and gain < LEAST_GAIN:
        views = f"views of one object have {within:.3f} of the variance of embeddings"
        return f"the prediction makes nothing of the action ({GAIN} {gain:.3f}); {views}"
    if gain is None and within is not None and within < LEAST_WITHIN:
        return f"views of one object are nearly one vector, with {within:.3f} of the variance"
    return None


class InvarianceWatch:
    """Tells once that an equivariant objective has become invariant: after enough steps, by several scores in a row."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def see(self, step: int, scores: Mapping[str, float]) -> str | None:
        """Count the scores of a step. Gives the warning when it is due, and not again while nothing changes."""
        sentence = invariance(scores)
        if sentence is None:
            self._in_a_row = 0
            return None
        self._in_a_row += step >= _LEAST_STEPS
        if self._in_a_row != _IN_A_ROW:
            return None
        advice = "more views and objects, larger actions, or `anti-invariance` around the objective may help"
        return f"invariance at step {step}, {_IN_A_ROW} scores in a row: {sentence}; {advice}"
