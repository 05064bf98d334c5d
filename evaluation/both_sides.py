"""What an honest reader must know of train and validation: images that stand on both sides, and the classes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from ssl_inv.evaluation.features import FeatureTable
from ssl_inv.transforms.keyed_random import permutation

THUMBNAIL = "8 x 8 pixels"
"""The part of the features that is no encoder's: the image itself, shrunk. Near duplicates are found by it."""

_COMPARED = 2_000
"""Validation rows that are compared with training rows at most: a bound on the time."""

_WITH = 50_000
"""Training rows that they are compared with at most."""

_BLOCK = 4096

_PAIRS = 100_000
"""Random pairs that tell how similar different images are."""

_EQUAL = 1e-3
"""Rows are equal if they are nearer than this share of the mean length of a centred row. Rounding moves features by
1e-5 of it.
"""

_WAY_TO_ONE = 0.7
"""A cosine is that of near duplicates if it lies so far between that of one random pair in a thousand and 1."""

_STRUCTURE = 0.9
"""The cosine of thumbnails without their mean colour, above which the pixels and not the colour are alike."""

_CERTAIN = 0.98
"""It is at least this high, for data whose images have little in common."""


@dataclass(frozen=True)
class Twins:
    """Validation rows that have a twin in train.

    Attributes:
        equal: compared validation rows that are equal to a training row, but for rounding.
        near: others that have nearly the direction of a training row.
        compared: validation rows that were compared.
        pair: the most similar pair, rows of validation and of train; None if there is none.
    """

    equal: int
    near: int
    compared: int
    pair: tuple[int, int] | None


@dataclass(frozen=True)
class ClassBalance:
    """How often classes occur among the labelled validation views.

    Attributes:
        shares: share of each class that occurs, descending.
        names: of these classes.
        views: labelled validation views.
        unseen: names of classes that validation has and train has not.
    """

    shares: tuple[float, ...]
    names: tuple[str, ...]
    views: int
    unseen: tuple[str, ...]

    def level(self, k: int) -> float:
        """The share of views that the k most frequent classes have: what constant predictions score at most."""
        return min(1.0, sum(self.shares[:k]))


def thumbnail(pixels: Tensor) -> Tensor:
    """Images `(B, C, H, W)` as vectors: means over 8 x 8 cells, of each channel up to three, else of all together."""
    few = pixels if pixels.shape[1] <= 3 else pixels.mean(dim=1, keepdim=True)
    return adaptive_avg_pool2d(few.float(), 8).flatten(1)


def twins(train: FeatureTable, validation: FeatureTable, part: str) -> Twins:
    """Look for the rows of validation among those of train.

    At most 2,000 validation rows are compared with at most 50,000 training rows. By thumbnails, copies are found after
    JPEG compression, resizing and slight changes of brightness, and mostly after shifts by a pixel; mirror images are
    not.

    Args:
        train: features of training views.
        validation: features of validation views.
        part: the part that is compared.
    """
    rows, others = _some(len(validation), _COMPARED), _some(len(train), _WITH)
    if not len(rows) or not len(others):
        return Twins(0, 0, len(rows), None)
    bank, queries = train.part(part)[others], validation.part(part)[rows]
    mean = bank.double().mean(dim=0)
    bank, queries = ((one.double() - mean).float() for one in (bank, queries))
    length = float(bank.norm(dim=1).mean())
    if length <= 1e-6 * float(mean.norm()):  # all rows are the same
        return Twins(0, 0, len(rows), None)
    cosine, nearest = _nearest(queries, bank)
    equal = (queries - bank[nearest]).norm(dim=1) < _EQUAL * length
    near = ~equal & (cosine >= _threshold(bank, train.objects[others]))
    if part == THUMBNAIL:
        near &= _same_structure(validation.part(part)[rows], train.part(part)[others][nearest])
    found = (equal | near).nonzero()[:, 0]
    if not len(found):
        return Twins(0, 0, len(rows), None)
    best = int(found[cosine[found].argmax()])
    return Twins(int(equal.sum()), int(near.sum()), len(rows), (int(rows[best]), int(others[nearest[best]])))


def _same_structure(queries: Tensor, found: Tensor) -> Tensor:
    """Whether pairs of thumbnails are alike also without the mean of each channel.

    Two skies of one blue have nearly one direction, whatever stands in them.
    """
    flat = []
    for rows in (queries, found):
        channels = rows.double().reshape(len(rows), -1, 64)
        flat.append(normalize((channels - channels.mean(dim=2, keepdim=True)).flatten(1), dim=1))
    return (flat[0] * flat[1]).sum(dim=1) >= _STRUCTURE


def _some(count: int, most: int) -> Tensor:
    return torch.from_numpy(permutation(0, length=count)[:most].copy()).sort().values


def _nearest(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosine of every query, and the row of the bank that it is with."""
    queries = normalize(queries, dim=1)
    cosine, nearest = torch.full((len(queries),), -2.0), torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(bank), _BLOCK):
        found, row = (queries @ normalize(bank[start : start + _BLOCK], dim=1).T).max(dim=1)
        better = found > cosine
        cosine, nearest = torch.where(better, found, cosine), torch.where(better, start + row, nearest)
    return cosine, nearest


def _threshold(bank: Tensor, objects: Tensor) -> float:
    """From random pairs of training rows of different objects: pairs with validation can be twins."""
    here, there = (torch.from_numpy(permutation(seed, length=_PAIRS)) % len(bank) for seed in (1, 2))
    apart = objects[here] != objects[there]
    if not bool(apart.any()):
        return _CERTAIN
    bank = normalize(bank, dim=1)
    usual = float((bank[here[apart]] * bank[there[apart]]).sum(dim=1).quantile(0.999))
    return max(usual + _WAY_TO_ONE * (1 - usual), _CERTAIN)


def class_balance(train: FeatureTable, validation: FeatureTable) -> ClassBalance | None:
    """How often classes occur; None without labels in validation."""
    known, taught = validation.known_labels(), train.known_labels()
    if not len(known):
        return None
    classes, counts = torch.unique(known, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    names = [_name(validation, int(one)) for one in classes[order]]
    unseen = [_name(validation, int(one)) for one in classes if not bool((taught == one).any())]
    shares = (counts[order] / counts.sum()).tolist()
    return ClassBalance(tuple(shares), tuple(names), len(known), tuple(unseen))


def _name(table: FeatureTable, number: int) -> str:
    return table.class_names[number] if table.class_names else f"class {number}"
