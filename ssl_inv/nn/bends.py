"""How far the embeddings of three views are from lying on a path, from the first to the last."""

import torch.nn.functional as F
from torch import Tensor

from ssl_inv.nn.losses import full_precision, sample_mean


def geodesic_deviation(left: Tensor, centre: Tensor, right: Tensor) -> Tensor:
    """Mean squared distance of `centre` from the plane through the origin, `left` and `right`; all `(B, D)`.

    Rows are normalised first. So this is the squared sine of the angle between a row of `centre` and the great circle
    through the other two.
    """
    left, centre, right = (F.normalize(full_precision(one), dim=1) for one in (left, centre, right))
    # The sum and the difference of unit vectors are orthogonal. Equal ends span no plane: for differences below 1e-3
    # the second axis fades out.
    for axis in (F.normalize(left + right, dim=1), F.normalize(right - left, dim=1, eps=1e-3)):
        centre = centre - (centre * axis).sum(dim=1, keepdim=True) * axis
    return sample_mean(centre.square().sum(dim=1))


def tangent_bend(left: Tensor, centre: Tensor, right: Tensor, normalised: bool = True) -> Tensor:
    """As `bend`, after removing from both steps their components along `centre`, which point off the sphere.

    Args:
        left: start of the path, `(B, D)`.
        centre: where the path may turn, `(B, D)`.
        right: end of the path, `(B, D)`.
        normalised: whether the component is computed with `centre` at length 1. seq-JEPA's code uses `centre` as it is,
            so a long one removes a multiple of the component.
    """
    left, centre, right = full_precision(left), full_precision(centre), full_precision(right)
    axis = F.normalize(centre, dim=1) if normalised else centre
    first, second = (step - (step * axis).sum(dim=1, keepdim=True) * axis for step in (centre - left, right - centre))
    return sample_mean(1 - F.cosine_similarity(first, second, dim=1))


def bend(left: Tensor, centre: Tensor, right: Tensor) -> Tensor:
    """Mean of 1 - cos of the angle by which the path from `left` to `right` turns at `centre`; all `(B, D)`.

    It is 0 for a straight line.
    """
    first, second = full_precision(centre) - full_precision(left), full_precision(right) - full_precision(centre)
    return sample_mean(1 - F.cosine_similarity(first, second, dim=1))
