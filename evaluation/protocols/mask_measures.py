"""Region similarity J and contour accuracy F of masks, after Perazzi et al. (CVPR 2016)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

TOLERANCE = 0.008
"""Distance at which contours agree, as a share of the image's diagonal."""


def region_similarity(predicted: Tensor, truth: Tensor) -> Tensor:
    """J, intersection over union of masks `(T, H, W)`, bool: `(T,)`, float64; 1 where both are empty."""
    both, either = ((one).sum(dim=(1, 2)).double() for one in (predicted & truth, predicted | truth))
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)


def contour_accuracy(predicted: Tensor, truth: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """F, the harmonic mean of the precision and the recall of contours of masks `(T, H, W)`, bool: `(T,)`, float64.

    A pixel of a contour agrees if the other contour has a pixel within `tolerance` diagonals of the image, rounded up
    to pixels. F is 1 where neither mask has a contour, and 0 where one has none.
    """
    one, other = contours(predicted), contours(truth)
    reach = math.ceil(tolerance * math.hypot(*predicted.shape[1:]))
    hits = [(here & _widened(there, reach)).sum(dim=(1, 2)).double() for here, there in ((one, other), (other, one))]
    counts = [here.sum(dim=(1, 2)).double() for here in (one, other)]
    precision, recall = (hit / count.clamp_min(1) for hit, count in zip(hits, counts, strict=True))
    measured = 2 * precision * recall / (precision + recall).clamp_min(1e-300)
    return torch.where((counts[0] == 0) & (counts[1] == 0), 1.0, measured)


def contours(masks: Tensor) -> Tensor:
    """The pixels of masks `(T, H, W)`, bool, that differ from one to the right, below, or below to the right."""
    wide = pad(masks.float()[:, None], (0, 1, 0, 1), mode="replicate")[:, 0] > 0.5
    return (masks != wide[:, :-1, 1:]) | (masks != wide[:, 1:, :-1]) | (masks != wide[:, 1:, 1:])


def _widened(lines: Tensor, reach: int) -> Tensor:
    """Pixels with a pixel of the lines `(T, H, W)` within a disk."""
    steps = torch.arange(-reach, reach + 1)
    disk = (steps[:, None].square() + steps.square() <= reach**2).float()[None, None]
    return conv2d(lines.float()[:, None], disk, padding=reach)[:, 0] > 0.5
