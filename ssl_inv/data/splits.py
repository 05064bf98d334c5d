"""Classes of objects, and train and validation splits."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_inv.catalogue import suggest
from ssl_inv.data.source import Data, Indices, Labels, Source, Subset, split_objects

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


def _subset(source: Source, objects: Indices) -> Source:
    return source if len(objects) == len(source) else Subset(source, objects)


def _check_fit(train: Source, validation: Source) -> None:
    if train.image_size != validation.image_size:
        sizes = f"{train.image_size} and {validation.image_size}"
        raise ValueError(f"images of the train and the validation set have {sizes} pixels a side; give a `size`")
    if train.groups != validation.groups:
        both = f"{sorted(train.groups)}, the validation set {sorted(validation.groups)}"
        raise ValueError(f"the train set records for every view {both}")
