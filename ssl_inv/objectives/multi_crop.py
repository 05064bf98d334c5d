"""What objectives with two global crops and several local ones share."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from ssl_inv.catalogue import require, require_above, require_at_least, require_between, require_widths
from ssl_inv.nn.backbones import Backbone
from ssl_inv.views import Crops, MultiCrop, View


def require_distillation_settings(
    projector: Sequence[int], prototypes: int, student_temperature: float, momentum: float
) -> None:
    """Raise a `SettingError` if a setting that DINO and iBOT share is out of its range."""
    require_widths(projector=projector)
    require_at_least(2, prototypes=prototypes)
    require_above(0, student_temperature=student_temperature)
    require_between(0, 1, momentum=momentum)


def require_shares_of_steps(**shares: float) -> None:
    """Raise a `SettingError` for the first of some shares of all steps that is not from 0 to below 1."""
    for name, share in shares.items():
        require(0 <= share < 1, name, f"must be a share of all steps from 0 to below 1, got {share}")


def area_range(name: str, scale: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest share of an image's area, from the setting `name`.

    Raises:
        SettingError: if they are not two in order, above 0 and up to 1.
    """
    fits = len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1
    problem = "must be the smallest and the largest share of the image's area, above 0 and up to 1"
    require(fits, name, f"{problem}, got {list(scale)}")
    return scale[0], scale[1]


def global_and_local(count: int, size: int, scale: Sequence[float]) -> MultiCrop:
    """Two crops by the augmentation, and `count` small ones of `size` pixels and a `scale` of the image's area."""
    shares = area_range("local_scale", scale)
    require_at_least(0, local_crops=count)
    require_at_least(1, local_size=size)
    return MultiCrop((Crops(2), Crops(count, size, shares)) if count else (Crops(2),))


def encode_by_size(backbone: Backbone, views: Sequence[View]) -> Tensor:
    """Features `(V B, D)` of V views, in their order; neighbours of one size go through the backbone together."""
    same = [[view.pixels for view in some] for _, some in groupby(views, key=lambda view: view.pixels.shape[-2:])]
    return torch.cat([backbone(torch.cat(pixels)) for pixels in same])


def by_crop(rows: Tensor, crops: int) -> Tensor:
    """Rows `(V B, D)` of V crops, one crop after the other, as `(V, B, D)`."""
    return rows.view(crops, -1, rows.shape[-1])


def mean_of_different_crops(pairs: Tensor) -> Tensor:
    """The mean of a `(T, S)` matrix of losses without its diagonal, where teacher and student see the same crop."""
    teachers, students = pairs.shape
    return (pairs.sum() - pairs.diagonal().sum()) / (teachers * students - min(teachers, students))
