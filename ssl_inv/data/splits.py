"""Classes of objects, and train and validation splits."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_inv.catalogue import SettingError, suggest
from ssl_inv.data.source import Data, Indices, Labels, Source, Subset, split_objects
from ssl_inv.transforms.keyed_random import uniform

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Names of splits in folders and split columns, in lower case, and their meaning."""

SPLIT_NAMES = ", ".join(_SPLITS)


def labels_from_names(objects: Sequence[str], classes: Sequence[str] | None, where: str) -> Labels:
    """Labels from the class name of every object.

    Args:
        objects: a class name per object, empty where the class is unknown.
        classes: the names in index order, for example from a train set; None takes the names that occur, in ascending
            order.
        where: the data, for messages.

    Raises:
        ValueError: if a name is not in `classes`.
    """
    index = {name: number for number, name in enumerate(dict.fromkeys(objects))}
    numbers = np.fromiter((index[name] for name in objects), dtype=np.int64, count=len(objects))
    return labels_from_numbers(numbers, list(index), classes, where)


def labels_from_numbers(
    numbers: NDArray[np.integer], found: Sequence[str], classes: Sequence[str] | None, where: str
) -> Labels:
    """Labels from the number of the class name of every object, for millions of them.

    Args:
        numbers: of every object, an index into `found`, `(N,)`.
        found: class names, all of which occur; the empty one means that the class is unknown.
        classes: see `labels_from_names`.
        where: see `labels_from_names`.

    Raises:
        ValueError: if a name is not in `classes`.
    """
    present = sorted(set(found) - {""})
    names = tuple(present if classes is None else classes)
    index = {name: number for number, name in enumerate(names)}
    if unknown := [name for name in present if name not in index]:
        raise ValueError(f"{where}: the train set has no class {unknown[0]!r}; {suggest(unknown[0], names)}")
    values = np.array([index.get(name, 0) for name in found], dtype=np.int64)
    known = np.array([name != "" for name in found], dtype=bool)
    return Labels(torch.from_numpy(values[numbers]), torch.from_numpy(known[numbers]), names)


def split_of(name: str) -> str | None:
    """`train`, `validation` or `test` if a name means one of them, in any case of letters; None otherwise."""
    return _SPLITS.get(name.lower())


def splits_of(names: NDArray[np.str_]) -> dict[str, Indices]:
    """The objects of every split, from the split of every object `(N,)`."""
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}


def part(
    source: Source,
    splits: Mapping[str, Indices],
    validation: Source | None,
    validation_share: float,
    split_seed: int,
    notes: Mapping[str, str],
) -> Data:
    """Train and validation objects of one source: by a separate validation source if there is one, else by the data's
    own split, else at random.

    Args:
        source: all objects.
        splits: the data's own split, as `splits_of` gives it; empty if it has none.
        validation: a separate validation source; `source` then gives its train split, or everything without a split.
        validation_share: share of the train objects held out if the data has no split.
        split_seed: which objects are held out.
        notes: facts to record, besides the way of the split.

    Raises:
        ValueError: if the data's own split has no train part, or the two sources do not fit together.
    """
    if splits and "train" not in splits:
        raise ValueError(f"the data has a split called {', '.join(sorted(splits))} but nothing to train on")
    everything = np.arange(len(source), dtype=np.int64)
    train = splits.get("train", everything)
    if validation is not None:
        _check_fit(source, validation)
        return Data(_subset(source, train), validation, {**notes, "split": "separate validation set"})
    held_out = "validation" if "validation" in splits else "test"
    if held_out in splits:
        unused = "; its test split is not used" if held_out == "validation" and "test" in splits else ""
        how = f"the data's own train and {held_out} splits{unused}"
        return Data(Subset(source, train), Subset(source, splits[held_out]), {**notes, "split": how})
    kept, judged = split_objects(len(train), validation_share, split_seed)
    how = f"{len(judged)} of {len(train)} objects held out at random, seed {split_seed}"
    return Data(Subset(source, train[kept]), Subset(source, train[judged]), {**notes, "split": how})


_LEAST_VIEWS = 2
"""Views of an object in each part: training compares two, and so does the R2 of a relative transform."""

_VIEWS = 0x71E35
"""The purpose of the random numbers that choose the views of an object."""


class SubsetOfViews(Subset):
    """Some views of some objects of another source.

    Args:
        source: where the views come from.
        objects: as for `Subset`.
        views: of each of these objects, the numbers of its views in `source`, in the order of this source.
    """

    def __init__(self, source: Source, objects: Indices, views: Sequence[Indices]) -> None:
        super().__init__(source, objects)
        self._counts = torch.tensor([len(one) for one in views], dtype=torch.int64)
        self._first = self._counts.cumsum(0) - self._counts
        self._views = torch.from_numpy(np.concatenate([*views, np.empty(0, dtype=np.int64)]).astype(np.int64))

    @property
    def view_counts(self) -> Indices:
        return cast(Indices, self._counts.numpy())

    def inside(self, objects: Indices, views: Indices) -> tuple[Indices, Indices]:
        return self.objects[objects], cast(Indices, self._views.numpy()[self._first.numpy()[objects] + views])


def hold_out_views(data: Data, share: float, seed: int) -> Data:
    """New views of known objects: the training objects alone, some views of each for training, the others to judge by.

    Random views of an object are held out, at least two, and at least two are left. Objects with fewer than four views
    are left out. The validation objects of the data are not used.

    Args:
        data: with a split by object.
        share: of the views of each object to hold out.
        seed: with the number of the object, decides which.

    Raises:
        SettingError: if the share is not between 0 and 1, or all objects have too few views.
    """
    if not 0 < share < 1:
        raise SettingError("held_out_share", f"must be above 0 and below 1, got {share}")
    counts, least = data.train.view_counts, 2 * _LEAST_VIEWS
    objects = np.flatnonzero(counts >= least)
    if not len(objects):
        what = f"views, which needs objects of at least {least} views, {_LEAST_VIEWS} of them to train on"
        most = int(counts.max(initial=0))
        raise SettingError("held_out", f"{what}, and no training object has more than {most}; choose objects")
    trained, judged = list[Indices](), list[Indices]()
    draws = uniform(seed, objects, _VIEWS, count=int(counts.max()))
    for row, count in zip(draws, counts[objects].tolist(), strict=True):
        order = np.argsort(row[:count], kind="stable").astype(np.int64)
        held_out = min(max(round(count * share), _LEAST_VIEWS), count - _LEAST_VIEWS)
        trained.append(np.sort(order[held_out:]))
        judged.append(np.sort(order[:held_out]))
    few = len(counts) - len(objects)
    left_out = f"; {few} objects with fewer than {least} views are left out" if few else ""
    total, ours = sum(map(len, judged)), int(counts[objects].sum())
    how = f"new views of known objects: {total} of {ours} views of {len(objects)} training objects held out at random"
    train, validation = (SubsetOfViews(data.train, objects, views) for views in (trained, judged))
    return Data(train, validation, {**data.notes, "split": f"{how}, seed {seed}{left_out}"}, "views")


def _subset(source: Source, objects: Indices) -> Source:
    return source if len(objects) == len(source) else Subset(source, objects)


def _check_fit(train: Source, validation: Source) -> None:
    if train.image_size != validation.image_size:
        sizes = f"{train.image_size} and {validation.image_size}"
        raise ValueError(f"images of the train and the validation set have {sizes} pixels a side; give a `size`")
    if train.groups != validation.groups:
        both = f"{sorted(train.groups)}, the validation set {sorted(validation.groups)}"
        raise ValueError(f"the train set records for every view {both}")
