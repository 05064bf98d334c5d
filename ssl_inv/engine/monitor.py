"""Scores during training on a few objects, and a warning when the features collapse."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_inv.data.source import Data
from ssl_inv.engine.action_use import ActionUse
from ssl_inv.engine.features import choose_objects, feature_table
from ssl_inv.engine.settings import MonitorSettings
from ssl_inv.evaluation.protocols.knn import NearestNeighbours
from ssl_inv.evaluation.protocols.spectrum import normalised_deviation, rankme
from ssl_inv.evaluation.ridge import ridge_accuracy, ridge_r2
from ssl_inv.objectives.base import Encoder

_VIEWS = 2

_ENOUGH = 16
"""Rows from which the spread of features means something."""

COLLAPSED_RANK = 2.0
"""RankMe below which the features of different images lie on little more than one line."""

COLLAPSED_DEVIATION = 0.02
"""Deviation of the normalised features, where 1 is evenly spread directions, below which the features are practically
one point.
"""


@dataclass
class OnlineMonitor:
    """Scores an encoder on the same few objects each time, within a share of the training time.

    The encoder runs in evaluation mode and without gradient. None of its statistics change; no random state is read.

    Attributes:
        data: training objects to fit on, validation objects to score.
        encoder: maps pixels to the parts that are scored.
        module: the network behind the encoder.
        normalise: from pixels in [0, 1] to the encoder's input.
        settings: steps between scores, number of objects, share of the time.
        device: where the encoder is.
        seed: draws the objects.
        action_use: scores whether an equivariant objective has become invariant; None for other objectives.
    """

    data: Data
    encoder: Encoder
    module: nn.Module
    normalise: Callable[[Tensor], Tensor]
    settings: MonitorSettings
    device: torch.device
    seed: int = 0
    action_use: ActionUse | None = None

    def __post_init__(self) -> None:
        self.seconds = 0.0
        """Time spent so far."""
        self._last = 0.0
        self._train = choose_objects(self.data.train, self.settings.objects, self.seed)
        self._validation = choose_objects(self.data.validation, self.settings.objects, self.seed)

    def due(self, step: int, training_seconds: float) -> bool:
        """Whether to score after `step`, given the training time so far."""
        if not self.settings.every or step % self.settings.every:
            return False
        share = self.settings.share
        return share == 1 or self.seconds + self._last <= share * training_seconds

    def scores(self) -> dict[str, float]:
        """The scores by name: `knn`, `linear`, a ridge R2 for each recorded parameter, the features' spread, and those
        of `action_use`.
        """
        begun = time.perf_counter()
        train, validation = (
            feature_table(self.encoder, self.module, source, objects, _VIEWS, self.normalise, self.device)
            for source, objects in ((self.data.train, self._train), (self.data.validation, self._validation))
        )
        # A few rows have a low rank, and a large deviation or none, whatever the encoder does.
        features = max(validation.part("all"), train.part("all")[:_ENOUGH], key=len)
        scores = {"rankme": rankme(features), "deviation": normalised_deviation(features) * features.shape[1] ** 0.5}
        accuracy = ridge_accuracy(train, validation, "all")
        if accuracy is not None:
            scores["linear"] = accuracy
            vote = NearestNeighbours().measure(train, validation, "all")[0].value
            scores |= {} if vote is None else {"knn": vote}
        for part in train.features:
            for name in train.transform.names:
                scores[f"r2 {name}" + ("" if part == "all" else f", {part}")] = ridge_r2(train, validation, part, name)
        if self.action_use is not None:
            self.action_use.device = self.device
            scores |= self.action_use.scores()
        self._last = time.perf_counter() - begun
        self.seconds += self._last
        return scores


def collapse(scores: dict[str, float]) -> str | None:
    """A sentence if the features have collapsed, else None. It needs no labels."""
    if scores["deviation"] < COLLAPSED_DEVIATION:
        deviation = f"normalised deviation {scores['deviation']:.4f}, 1 is spread evenly"
        return f"the features of different images are nearly one vector ({deviation})"
    if scores["rankme"] < COLLAPSED_RANK:
        return f"the features of different images lie nearly on one line (RankMe {scores['rankme']:.2f})"
    return None
