"""DINO: predict from crops of an image the prototypes that a moving average of the network finds in other crops."""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_inv.catalogue import require_at_least
from ssl_inv.memories.centring import CentredTargets
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import PrototypeHead
from ssl_inv.nn.teacher import Teacher, cosine_momentum
from ssl_inv.objectives.base import Losses, Objective, Term
from ssl_inv.objectives.multi_crop import (
    by_crop,
    encode_by_size,
    global_and_local,
    mean_of_different_crops,
    require_distillation_settings,
    require_shares_of_steps,
)
from ssl_inv.transforms import Group
from ssl_inv.views import MultiCrop, Views


class DINO(Objective):
    """Self-distillation with no labels (Caron et al., ICCV 2021, eq. 1 to 3), as the authors' code computes it.

    With s the student's logits of a crop, t the teacher's logits of one of the two global crops, and c a moving average
    of t,

        L = mean over pairs of different crops of
            CE(softmax((t - c) / teacher_temperature), softmax(s / student_temperature)).

    The teacher is a moving average of backbone and head, without dropout and stochastic depth. Crops of one size go
    through the student together, so batch normalisation sees all of them at once, as in the authors' code. A vision
    transformer needs the argument `dynamic_img_size: true` for local crops. Schedules advance by the step; the authors'
    advance by the epoch. After the last step the teacher is kept and judged, as in the paper; until then monitors read
    the student. `augmentation: {name: dino}` has the paper's three policies.

    When:
        Features for classes and retrieval on plain images, above all from vision transformers and with kNN. No record
        of views is needed. Not on small budgets: it wants many crops, long training and schedules for temperatures and
        teacher. Not where features must tell how an image was seen.

    Args:
        local_crops: number of small crops of a sample, besides two global ones of the augmentation's size and scale.
        local_size: side of local crops in pixels.
        local_scale: smallest and largest share of the image's area that a local crop takes.
        projector: widths of the head's MLP; the last is the dimension of the prototypes.
        batch_norm: whether the head's hidden layers have batch normalisation, as in the paper for ResNets.
        prototypes: number of prototypes.
        unit_norm: whether all prototypes have length one. Learnt lengths can give better features, but train less
            stably.
        frozen_prototypes: share of all steps in which the prototypes are frozen; in the paper, its first epoch of 100.
        student_temperature: divides the student's logits.
        teacher_temperature: divides the teacher's logits after the warm-up; higher ones, such as 0.07, need a warm-up.
        warmup_temperature: divides the teacher's logits in the first step.
        temperature_warmup: share of all steps in which the teacher's temperature changes linearly from the first to the
            second; 30 epochs in the paper.
        targets: `centre` as above; `sinkhorn` replaces centring by assignments that use all prototypes equally, as in
            DINOv2.
        centre_momentum: of the centre, in each step.
        momentum: of the teacher in the first step; it rises to 1 along half a cosine.
        koleo: weight of DINOv2's term that spreads the features of each global crop; 0.1 there, and over the global
            batch here.
        keep: which network's weights become the backbone's after the last step.
    """

    teacher: Teacher

    def __init__(
        self,
        features: int,
        groups: Mapping[str, Group],
        *,
        local_crops: int = 8,
        local_size: int = 96,
        local_scale: list[float] = [0.05, 0.4],
        projector: list[int] = [2048, 2048, 256],
        batch_norm: bool = False,
        prototypes: int = 65536,
        unit_norm: bool = True,
        frozen_prototypes: float = 0.01,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        warmup_temperature: float = 0.04,
        temperature_warmup: float = 0.0,
        targets: Literal["centre", "sinkhorn"] = "centre",
        centre_momentum: float = 0.9,
        momentum: float = 0.996,
        koleo: float = 0.0,
        keep: Literal["teacher", "student"] = "teacher",
    ) -> None:
        super().__init__()
        require_at_least(0, koleo=koleo)
        require_distillation_settings(projector, prototypes, student_temperature, momentum)
        require_shares_of_steps(frozen_prototypes=frozen_prototypes, temperature_warmup=temperature_warmup)
        self.crops = global_and_local(local_crops, local_size, local_scale)
        self.student_temperature, self.momentum = student_temperature, momentum
        self.frozen_prototypes, self.keep = frozen_prototypes, keep
        self.sinkhorn, self.koleo = targets == "sinkhorn", koleo
        self.head = PrototypeHead(features, projector, prototypes, batch_norm, unit_norm)
        self.centring = CentredTargets(
            prototypes, centre_momentum, teacher_temperature, warmup_temperature, temperature_warmup
        )

    @property
    def plan(self) -> MultiCrop:
        return self.crops

    def adopt(self, backbone: Backbone) -> None:
        self.teacher = Teacher(self._network(backbone))

    def _network(self, backbone: Backbone) -> nn.Module:
        return nn.Sequential(backbone, self.head)

    def loss(self, views: Views, backbone: Backbone) -> Losses:
        targets = self._targets(torch.cat([view.pixels for view in views.views[:2]]))
        features = encode_by_size(backbone, views.views)
        student = by_crop(self.head(features), len(views))
        pairs = losses.distillation(student, targets, self.student_temperature)
        terms = {"distillation": Term(mean_of_different_crops(pairs))}
        if self.koleo:
            first, second = by_crop(features, len(views))[:2]
            terms["koleo"] = Term(losses.koleo(first) + losses.koleo(second), self.koleo)
        return terms

    @torch.no_grad()
    def _targets(self, pixels: Tensor) -> Tensor:
        """The teacher's probabilities for both global crops, `(2, B, K)`."""
        logits = self.teacher(pixels)
        if self.sinkhorn:
            return by_crop(losses.sinkhorn(logits, self.centring.temperature), 2)
        targets = self.centring(logits)
        self.centring.put(logits.mean(dim=0, dtype=self.centring.centre.dtype))
        return by_crop(targets, 2)

    def held(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        return self.head.prototype_parameters() if (step - 1) / steps < self.frozen_prototypes else ()

    def after_step(self, backbone: Backbone, step: int, steps: int) -> None:
        self.teacher.follow(self._network(backbone), cosine_momentum(self.momentum, step, steps))
        self.centring.flush()
        self.centring.warm_up(step / steps)
        if step == steps and self.keep == "teacher":
            backbone.load_state_dict(self.teacher.network.get_submodule("0").state_dict())
