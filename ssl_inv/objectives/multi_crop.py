"""TODO."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from ssl_inv.catalogue import SettingError, require_above, require_at_least, require_between, require_filled
from ssl_inv.nn.backbones import Backbone
from ssl_inv.views import Crops, MultiCrop, View


def require_distillation_settings(
    projector: Sequence[int], prototypes: int, student_temperature: float, momentum: float
) -> None:
    """Raise a `ValueError` if a setting that DINO and iBOT share is out of its range."""
    require_filled(projector=projector)
    require_at_least(2, prototypes=prototypes)
    require_above(0, student_temperature=student_temperature)
    require_between(0, 1, momentum=momentum)


def global_and_local(count: int, size: int, scale: Sequence[float]) -> MultiCrop:
    """Two crops as the augmentation makes them, and `count` small ones of `size` pixels and a `scale` of the image's
    area.
    """
    if len(scale) != 2:
        raise SettingError(
            "local_scale", f"must be the smallest and the largest share of the image's area, got {list(scale)}"
        )
    require_at_least(0, local_crops=count)
    require_at_least(1, local_size=size)
    small = (Crops(count, size, (scale[0], scale[1])),) if count else ()
    return MultiCrop((Crops(2), *small))


def encode_by_size(backbone: Backbone, views: Sequence[View]) -> Tensor:
    """Features `(V B, D)` of V views, one after the other; neighbours of one size go through the backbone together."""
    same = [[view.pixels for view in some] for _, some in groupby(views, key=lambda view: view.pixels.shape[-2:])]
    return torch.cat([backbone(torch.cat(pixels)) for pixels in same])


def by_crop(rows: Tensor, crops: int) -> Tensor:
    """Rows `(V B, D)` of V crops, one crop's after the other's, as `(V, B, D)`."""
    return rows.view(crops, -1, rows.shape[-1])


def mean_of_different_crops(pairs: Tensor) -> Tensor:
    """The mean of a `(T, S)` matrix of losses without its diagonal, where teacher and student see the same crop."""
    teachers, students = pairs.shape
    return (pairs.sum() - pairs.diagonal().sum()) / (teachers * students - min(teachers, students))
