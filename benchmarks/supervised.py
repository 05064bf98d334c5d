"""The supervised end point of `exam_encoders.py`: an objective that is told the class of every training object.

The package has no such objective, and its views carry no labels. Whoever wants one says where the classes are.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.transforms import Group
from ssl_inv.views import Pair, Plan, Views


class Supervised(Objective):
    """Cross-entropy of a linear classifier on the pooled features of two views of every object.

    When:
        As the end point of a comparison whose labels are known. It is not self-supervised.

    Args:
        labels: a file of numpy, int64 `(N,)`: the class of each of the N training objects, from 0.
    """

    classes: Tensor

    def __init__(self, features: int, groups: Mapping[str, Group], *, labels: str) -> None:
        super().__init__()
        try:
            classes = torch.from_numpy(np.load(Path(labels), allow_pickle=False))
        except (OSError, ValueError) as error:
            raise SettingError("labels", f"{labels!r} is no file of numpy: {error}") from error
        if classes.dim() != 1 or classes.dtype != torch.int64 or not len(classes) or classes.min() < 0:
            raise SettingError("labels", f"{labels!r} must hold int64 numbers (N,), each at least 0")
        self.register_buffer("classes", classes)
        self.classifier = nn.Linear(features, int(classes.max()) + 1)

    @property
    def plan(self) -> Plan:
        return Pair()

    def allocate(self, objects: int, images: int) -> None:
        if objects != len(self.classes):
            problem = f"there are {objects:,} training objects, but {len(self.classes):,} classes"
            raise SettingError("labels", problem)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        logits = self.classifier(backbone(torch.cat([view.pixels for view in views.views])))
        return {"classification": Term(losses.classification(logits, self.classes[views.index].repeat(len(views))))}
