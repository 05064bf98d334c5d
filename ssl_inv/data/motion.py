"""How data record where an object has been moved to, in the terms of 3DIEBench-T (EquiCaps: Konstantinou and others,
arXiv 2506.09895).

An object is first shifted by t along its own axes, then turned by R about the origin of the world, so that it stands at
R t.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssl_inv.transforms import Group, Pose, Real, Transform
from ssl_inv.transforms.quaternions import quaternion_conjugate, quaternion_rotate

Frame = Literal["object", "base"]


TRANSLATION_SCALE = 0.5
"""Largest shift along an axis in 3DIEBench-T; the scale of recorded translations, whatever data they are of."""


_NAMES: dict[Frame, str] = {"object": "translation", "base": "position"}


@dataclass(frozen=True)
class MotionRecord:
    """Which parameters tell of an object's translation, besides its `rotation`.

    Attributes:
        translated: whether objects are shifted at all; if not, there is no parameter.
        frame: `object` records t as `translation`, `base` records R t as `position`. The two have names of their own
            because the step between two views differs: t_b - t_a, or R_b t_b - R_a t_a, which is what is seen.
        pose: whether rotation and translation, as recorded, also stand side by side as `pose`, whose step is that of
            SE(3).

    Raises:
        ValueError: if a pose is to be recorded of objects that are not shifted.
    """

    translated: bool
    frame: Frame = "object"
    pose: bool = False

    def __post_init__(self) -> None:
        if self.pose and not self.translated:
            raise ValueError(
                "pose records rotation and translation together, but objects of this data are not shifted; set pose to false"
            )

    @property
    def name(self) -> str:
        """What the translation is called."""
        return _NAMES[self.frame]

    @property
    def groups(self) -> dict[str, Group]:
        if not self.translated:
            return {}
        translation: dict[str, Group] = {self.name: Real(TRANSLATION_SCALE, dimensions=3)}
        return {**translation, "pose": Pose(TRANSLATION_SCALE)} if self.pose else translation

    def values(self, rotation: Tensor, shift: Tensor) -> dict[str, Tensor]:
        """What is recorded of objects shifted by t `(B, 3)`, then turned by quaternions `(B, 4)`."""
        if not self.translated:
            return {}
        translation = shift if self.frame == "object" else quaternion_rotate(rotation, shift)
        values = {self.name: translation}
        return {**values, "pose": torch.cat((rotation, translation), dim=1)} if self.pose else values

    def position(self, rotation: Tensor, transform: Transform) -> Tensor | None:
        """Where recorded objects stand, R t, `(B, 3)` in float64; None if they are not shifted.

        Args:
            rotation: the recorded rotations, of norm one in float64.
            transform: the record.

        Raises:
            ValueError: if the pose is not made of the recorded rotation and translation.
        """
        if not self.translated:
            return None
        translation = transform[self.name].double()
        if self.pose and not _agree(transform["pose"].double(), rotation, translation):
            raise ValueError(
                f"the parameter pose is not that of rotation and {self.name}; change all three together or set pose to false"
            )
        return quaternion_rotate(rotation, translation) if self.frame == "object" else translation


UNMOVED = MotionRecord(translated=False)
"""The record of objects that stay where they are."""


def _agree(pose: Tensor, rotation: Tensor, translation: Tensor) -> bool:
    same_turn = (pose[:, :4] * rotation).sum(dim=1).abs() > 1 - 1e-5
    return bool(same_turn.all()) and torch.allclose(pose[:, 4:], translation, atol=1e-4)


def recorded_frame(groups: Mapping[str, Group]) -> Frame | None:
    """The frame in which data with these parameters record translations; None if they record none."""
    groups_of_frames = {frame: groups.get(name) for frame, name in _NAMES.items()}
    return next(
        (frame for frame, group in groups_of_frames.items() if isinstance(group, Real) and group.dimensions == 3), None
    )


def recorded_shift(transform: Transform) -> Tensor | None:
    """The shift t of recorded objects along their own axes, `(B, 3)` in float64; None if no translation is recorded."""
    frame = recorded_frame(transform.groups)
    if frame is None:
        return None
    translation = transform[_NAMES[frame]].double()
    return (
        translation
        if frame == "object"
        else quaternion_rotate(quaternion_conjugate(transform["rotation"].double()), translation)
    )
