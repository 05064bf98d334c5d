"""Translations in the frame of the object and of the last step, and poses that training has never shown."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.evaluation.protocols.base import Encoded, Protocol
from ssl_inv.evaluation.protocols.geodesic import (
    Head,
    angle_vectors,
    angular_errors,
    mean_direction,
    median_error,
    predictions,
)
from ssl_inv.evaluation.protocols.transforms_r2 import Kind, Predicted, TransformR2, has_draws
from ssl_inv.evaluation.results import Result
from ssl_inv.transforms import Circle, Group, Pose, Real, Rotation, Transform
from ssl_inv.transforms.keyed_random import permutation
from ssl_inv.transforms.quaternions import quaternion_conjugate, quaternion_rotate

ROTATION, OBJECT, LAST = "rotation", "translation", "position"
"""Names under which data record the rotation R of an object, its shift t along its own axes, and R t."""

BINS = ((0, 15), (15, 30), (30, 60), (60, 90), (90, 180))
"""Degrees from the nearest pose of training; a pose farther than the first of them is out of distribution."""

_FEWEST = 5
_TRAINING_POSES = 20_000
_CHUNK = 2048


@dataclass(frozen=True)
class Frames(Protocol):
    """Translations of an object in two frames, and rotations and angles far from all that training has shown.

    What it measures: whether the features tell by how much an object was shifted, along its own axes or in the fixed
    frame of the scene; and whether what the heads of `ssl_inv.evaluation.protocols.geodesic` have learnt of poses still
    holds where no training view comes near.

    Definition. Translation: an object is moved by M = R T, first shifted by t, then turned by R. In the object's frame
    the target between two views is t2 - t1; in the last frame it is R2 t2 - R1 t1. R2 and pooled R2 of either, see
    `ssl_inv.evaluation.protocols.transforms_r2`. It is measured where data record a rotation, and `translation` or
    `position`.

    Out of distribution: the distance of a validation view is the angle to the nearest of 20,000 training views, in
    SO(3) or, for angles and hues, in degrees of a full turn; for single numbers, such as sizes, how far they lie
    outside the range of training. `ood/HEAD/absolute/NAME/FROM-TO` is the median error in degrees of views at that
    distance; for single numbers the mean error in training deviations, `inside` and `outside`.
    `ood/HEAD/relative/NAME/none`, `/one` and `/both` are the median errors for pairs of which that many views lie
    farther than 15 degrees. Data have such views where they were made so; otherwise the far bins have reasons.

    Source: translations: EquiCaps (Konstantinou et al., 2025) on 3DIEBench-T. Poses out of training's range: seq-JEPA
    (Ghaemi et al., NeurIPS 2025). Here distances are between rotations, for Euler angles mislead: a triple with all
    three angles beyond a quarter turn names a rotation that has a triple within, so that data with all angles outside
    show no new rotation at all. With one or two angles outside, all rotations are new.

    End points: the remark has the error of the best constant. For translations a constant scores 0.

    What it orders wrongly: the two frames are different targets of nearly equal variance, and the one predicts the
    other with an R2 below 0, so that they must not be compared. Views far from training may be harder because of light
    and occlusion and not because of their pose. An encoder that knows little in distribution loses little outside.

    Attributes:
        heads: how the MLP is trained, and what is drawn. Its `parameters` are those that are scored out of
            distribution.
        training_poses: training views that distances are measured to, at most.
    """

    heads: TransformR2 = field(default_factory=TransformR2)
    training_poses: int = _TRAINING_POSES

    headlines: ClassVar[tuple[str, ...]] = ("frames/object/r2", "frames/last/r2")

    @classmethod
    def quick(cls) -> "Frames":
        """Narrow heads and fewer steps."""
        return cls(heads=TransformR2.quick(), training_poses=2_000)

    def run(self, encoded: Encoded) -> Iterator[Result]:
        train, validation = encoded.train.ordered(), encoded.validation.ordered()
        head = replace(self.heads, bootstrap=self.bootstrap, device=self.device, parameters=None)
        frames = in_frames(train.transform), in_frames(validation.transform)
        for part in encoded.parts:
            if frames[0] is None or frames[1] is None:
                yield Result("frames", part, None, detail="the data record no rotation and translation of objects")
            else:
                fitted, scored = replace(train, transform=frames[0]), replace(validation, transform=frames[1])
                for result in replace(head, kinds=("relative",)).measure(fitted, scored, part):
                    form, _, *frame = result.name.split("/")
                    yield replace(result, name="/".join(("frames", *frame, form)), errors=())
            yield from self._distant(train, validation, part, head)

    def _distant(self, train: FeatureTable, validation: FeatureTable, part: str, head: TransformR2) -> Iterator[Result]:
        recorded = train.transform
        names = [name for name in self.heads.parameters or recorded.names if _is_scored(recorded, name)]
        if not names:
            yield Result("ood", part, None, detail="the data record no rotation, angle or single number")
            return
        chosen = torch.from_numpy(permutation(head.seed, 5, length=len(train))[: self.training_poses])
        far = {
            name: distances(recorded.groups[name], recorded[name][chosen], validation.transform[name]) for name in names
        }
        shapes: tuple[Head, ...] = ("linear", "mlp")
        for shape, kind in product(shapes, head.kinds):
            start = f"ood/{shape}/{kind}"
            if not all(has_draws(table, kind, head) for table in (train, validation)):
                yield Result(start, part, None, detail="no object has two views")
                continue
            for name, found in predictions(train, validation, part, shape, kind, names, head).items():
                group = recorded.groups[name]
                if not bool(found.targets.isfinite().all()):
                    yield Result(f"{start}/{name}", part, None, detail="not a finite number in all validation views")
                elif isinstance(group, Real):
                    unit = float(recorded.as_vector([name]).double().std(correction=0))
                    yield from self._ranges(f"{start}/{name}", part, found, far[name], kind, unit)
                else:
                    yield from self._angles(f"{start}/{name}", part, found, far[name], kind, group)

    def _angles(
        self, start: str, part: str, found: Predicted, far: Tensor, kind: Kind, group: Group
    ) -> Iterator[Result]:
        true, guess = angle_vectors(group, found.targets), angle_vectors(group, found.predictions)
        errors, constant = (angular_errors(true, one) for one in (guess, mean_direction(true).expand_as(true)))
        for label, rows in _groups(far[found.rows], kind):
            count = int(rows.sum())
            if count < _FEWEST:
                detail = f"{count} of the validation draws; at least {_FEWEST} are needed"
                yield Result(f"{start}/{label}", part, None, detail=detail)
                continue
            middle, level = (float(np.median(one[rows].numpy())) for one in (errors, constant))
            spread = median_error(errors[rows], found.objects[rows], self.bootstrap)
            detail = f"degrees, {count} draws; a constant scores {level:.3g}"
            yield Result(f"{start}/{label}", part, middle, spread, detail)

    def _ranges(
        self, start: str, part: str, found: Predicted, far: Tensor, kind: Kind, unit: float
    ) -> Iterator[Result]:
        if not unit > 0:
            yield Result(start, part, None, detail="the target is the same in all training views")
            return
        errors = (found.targets.double() - found.predictions.double()).abs()[:, 0] / unit
        outside = (far[found.rows] > 0).any(dim=1)
        for label, rows in (("inside", ~outside), ("outside", outside)):
            count = int(rows.sum())
            if count < _FEWEST:
                detail = f"{count} of the validation draws; at least {_FEWEST} are needed"
                yield Result(f"{start}/{label}", part, None, detail=detail)
                continue
            spread = self.bootstrap.mean_error(errors[rows], found.objects[rows])
            yield Result(
                f"{start}/{label}", part, float(errors[rows].mean()), spread, f"{count} draws of {kind} values"
            )


def in_frames(recorded: Transform) -> Transform | None:
    """The parameters `object` and `last`, the translations t and R t of M = R T; None if they do not follow from what
    is recorded.
    """
    turn = recorded.values.get(ROTATION)
    if turn is None or not isinstance(recorded.groups[ROTATION], Rotation):
        return None
    turn = turn.double()
    if (own := _three(recorded, OBJECT)) is not None:
        shift, last = own, quaternion_rotate(turn, own)
    elif (fixed := _three(recorded, LAST)) is not None:
        shift, last = quaternion_rotate(quaternion_conjugate(turn), fixed), fixed
    else:
        return None
    group = Real(dimensions=3)
    return Transform({"object": shift.float(), "last": last.float()}, {"object": group, "last": group})


def _three(recorded: Transform, name: str) -> Tensor | None:
    found = recorded.values.get(name)
    return None if found is None or found.dim() != 2 or found.shape[1] != 3 else found.double()


def distances(group: Group, known: Tensor, asked: Tensor) -> Tensor:
    """How far each of `asked` lies from the nearest of `known`, `(M,)`.

    In degrees for rotations, for the rotation of poses, and for points of a circle, a full turn of which has 360; for
    single numbers, how far outside their range.
    """
    if isinstance(group, Real):
        return (known.min() - asked).clamp_min(0) + (asked - known.max()).clamp_min(0)
    vectors = [angle_vectors(group, group.value_vector(values)) for values in (known, asked)]
    found = []
    for some in torch.split(vectors[1], _CHUNK):
        cosine = some @ vectors[0].T
        # A quaternion and its negative are the same rotation.
        nearest = (cosine.abs() if some.shape[1] == 4 else cosine).argmax(dim=1)
        found.append(angular_errors(some, vectors[0][nearest]))
    return torch.cat(found)


def _groups(far: Tensor, kind: Kind) -> list[tuple[str, Tensor]]:
    """Names of the groups that draws are scored in, and their rows; distances `(P, 1 or 2)`."""
    if kind == "absolute":
        last = BINS[-1][1]
        return [(f"{low}-{high}", (far[:, 0] >= low) & ((far[:, 0] < high) | (high == last))) for low, high in BINS]
    outside = (far >= BINS[0][1]).sum(dim=1)
    return [(label, outside == number) for number, label in enumerate(("none", "one", "both"))]


def _is_scored(recorded: Transform, name: str) -> bool:
    group = recorded.groups[name]
    return isinstance(group, Rotation | Pose | Circle) or (isinstance(group, Real) and recorded[name].dim() == 1)
