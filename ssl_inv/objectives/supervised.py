"""Supervised: a classifier, a regression of how two views differ, or both; the bound of a comparison."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from ssl_inv.catalogue import require, require_above, require_at_least, require_widths
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import action_head
from ssl_inv.objectives.base import Losses, Objective, Term, action_dimensions
from ssl_inv.transforms import Convention, Group, Pose, Rotation
from ssl_inv.views import Pair, Views


class Supervised(Objective):
    """Supervised training with the network, data and budget of self-supervised objectives: the bound that papers on
    3DIEBench set beside theirs (after Garrido, Najman, LeCun, ICML 2023).

    A linear classifier k reads the features h of each view, and a head g reads those of both, side by side (late
    fusion). It tells the action a from view x to view y:

        L = classification (CE(k(h_x), class) + CE(k(h_y), class)) / 2 + action sum_t l_t(g_t(h_x, h_y), a_t)

    l is the mean squared error of the parameter's action vector: cosine and sine on a circle, numbers divided by their
    scale. A quaternion and its negative are one rotation, so of the two the nearer one counts. CE is averaged over the
    views whose class is known.

    When:
        As the bound in a table of self-supervised objectives: the share of its score is what they reach. It tells too
        whether data and budget allow an answer at all. It is not self-supervised: with a `classification` the recipe
        must say `labels: true`, and all views of a batch then carry their classes. No other objective sees these.

    Args:
        labels: consent that the loss reads the classes of the training objects.
        classes: how many classes there are; null takes the number that the training data have, and the run's recipe
            records it.
        classification: weight of the cross entropy; 0 is without classes and needs no labels.
        parameters: of the action between the views, which the head tells; none trains the classifier alone.
        action: weight of the errors of the action, of each parameter.
        hidden: widths of the hidden layers of the head, each followed by batch normalisation.
        convention: form of the action vector. `sie` and `seq-jepa` have plain differences of circles.
    """

    counts_classes = True

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        labels: bool = False,
        classes: int | None = None,
        classification: float = 1.0,
        parameters: list[str] = [],
        action: float = 1.0,
        hidden: list[int] = [512],
        convention: Literal["sie", "seq-jepa", "canonical"] = "canonical",
    ) -> None:
        super().__init__()
        require_at_least(0, classification=classification, action=action)
        learns = classification > 0 or (bool(parameters) and action > 0)
        require(learns, "classification", "is 0 and there is no action to tell: nothing is left to learn")
        self.convention: Convention = convention
        self.names = parameters
        if parameters:
            action_dimensions(groups, parameters, convention)  # all of them together, each once
            self.widths = [action_dimensions(groups, [name], convention) for name in parameters]
            self.quaternions = [isinstance(groups[name], Rotation | Pose) for name in parameters]
        self.needs_labels = classification > 0
        consent = "is false, but the loss reads the classes of the training objects; say `labels: true`"
        require(labels or not self.needs_labels, "labels", f"{consent}, or `classification: 0`")
        self.weights = (classification, action)
        if self.needs_labels:
            require(classes is not None, "classes", "must be given where no training data are there to count them")
            assert classes is not None
            require_above(1, classes=classes)
            self.classifier = nn.Linear(features, classes)
        if hidden:
            require_widths(hidden=hidden)
        if parameters:
            self.head = action_head(2 * features, hidden, sum(self.widths))

    @property
    def parameters_told(self) -> list[str]:
        return self.names

    @property
    def plan(self) -> Pair:
        return Pair()

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        features = backbone(torch.cat([view.pixels for view in views.views]))
        classification, action = self.weights
        terms = {}
        if self.needs_labels:
            if views.labels is None:
                raise ValueError("the views carry no classes")
            logits = self.classifier(features)
            terms["classification"] = Term(losses.known_classification(logits, views.labels.repeat(2)), classification)
        if self.names:
            told = self.head(torch.cat(features.chunk(2), dim=1))
            step = views[0].transform.relative(views[1].transform)
            vector = step.as_vector(self.names, self.convention)
            parted, targets = (torch.split(one, self.widths, 1) for one in (told, vector))
            parts = zip(self.names, parted, targets, strict=True)
            for (name, one, target), is_rotation in zip(parts, self.quaternions, strict=True):
                terms[name] = Term(losses.action_error(one, target, is_rotation), action)
        return terms
