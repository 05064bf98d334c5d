"""Average precision of detected boxes, by the definition of Pascal VOC since 2010."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MOST = 2**24


@dataclass(frozen=True)
class Found:
    """The detections of one class in M images, the best score first.

    Attributes:
        hits: `(D,)`, bool: whether a detection is right.
        images: the image of each, `(D,)`.
        wanted: objects of the class in each image that must be found, `(M,)`.
    """

    hits: Tensor
    images: Tensor
    wanted: Tensor


def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes `(n, 4)` and `(m, 4)`, given as left, top, right, bottom: `(n, m)`."""
    low, high = torch.maximum(one[:, None, :2], other[:, :2]), torch.minimum(one[:, None, 2:], other[:, 2:])
    both = (high - low).clamp_min(0).prod(dim=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (one, other)]
    return both / (areas[0][:, None] + areas[1] - both).clamp_min(1e-12)


def judged(boxes: Tensor, scores: Tensor, truth: Tensor, difficult: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Which detections of one class in one image are right.

    In the order of their scores, each is compared with the object that it overlaps most. It is right if the overlap is
    at least `least` and the object was not found before. A detection of a difficult object counts for nothing.

    Args:
        boxes: `(n, 4)`.
        scores: `(n,)`.
        truth: boxes of the objects, `(m, 4)`.
        difficult: which of them need not be found, `(m,)`.
        least: intersection over union.

    Returns:
        Scores `(k,)` of the detections that count, and whether each is right, `(k,)`.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    taken, kept, hits = set[int](), [], []
    shared = overlaps(boxes[order].double(), truth.double()) if len(truth) else None
    for row, place in enumerate(order.tolist()):
        best = -1
        if shared is not None:
            best = int(shared[row].argmax())
            best = best if float(shared[row, best]) >= least else -1
        if best >= 0 and bool(difficult[best]):
            continue
        kept.append(place)
        hits.append(best >= 0 and best not in taken)
        taken.add(best)
    return scores[torch.tensor(kept, dtype=torch.int64)], torch.tensor(hits, dtype=torch.bool)


def together(parts: Sequence[tuple[Tensor, Tensor]], wanted: Tensor) -> Found:
    """The detections of all images from those of each, as `judged` gives them, and the objects to find in each."""
    scores = torch.cat([scores for scores, _ in parts])
    images = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(one) for one, _ in parts]))
    order = torch.argsort(scores, descending=True, stable=True)
    return Found(torch.cat([hits for _, hits in parts])[order], images[order], wanted)


def average_precision(found: Found, weights: Tensor) -> Tensor:
    """The area under the curve of precision over recall, each precision raised to the highest at a higher recall.

    Args:
        found: detections.
        weights: how often each image counts, `(R, M)`.

    Returns:
        `(R,)`, float64; NaN where there is nothing to find.
    """
    pieces = max(1, _MOST // max(len(found.hits), 1))
    return torch.cat([_precision(found, some.double()) for some in torch.split(weights, pieces)])


def _precision(found: Found, weights: Tensor) -> Tensor:
    positives = weights @ found.wanted.double()
    each = weights[:, found.images]
    right = (each * found.hits).cumsum(dim=1)
    precision = right / each.cumsum(dim=1).clamp_min(1e-12)
    raised = precision.flip(1).cummax(dim=1).values.flip(1) if precision.shape[1] else precision
    recall = right / positives[:, None].clamp_min(1e-12)
    steps = torch.diff(recall, dim=1, prepend=torch.zeros_like(recall[:, :1])) if recall.shape[1] else recall
    return torch.where(positives > 0, (steps * raised).sum(dim=1), torch.nan)
