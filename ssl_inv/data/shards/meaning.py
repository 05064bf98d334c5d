"""What the samples of shards say of their objects: latents, classes and splits."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_inv.catalogue import SettingError, require, suggest
from ssl_inv.data.latents import Latent, column_name, latents_from_header, latents_from_settings
from ssl_inv.data.names import utf8_name
from ssl_inv.data.shards.samples import Samples, class_names
from ssl_inv.data.shards.store import Store
from ssl_inv.data.source import Indices, Labels
from ssl_inv.data.splits import SPLIT_NAMES, labels_from_names, split_of, splits_of
from ssl_inv.transforms import Transform

SplitFrom = Literal["shards", "json", "none"]

_WORDS = re.compile(r"[-_./]")


class Said:
    """The samples of some shards by object. Samples that name the same object are its views; a sample that names none
    is an object of its own.

    Args:
        path: what the user calls the shards, for messages.
        store: the shards.
        samples: their samples.

    Attributes:
        order: the images sorted by object, else in their order, `(V,)`.
        counts: how many images each object has, `(N,)`, in the order of their first images.
    """

    def __init__(self, path: str, store: Store, samples: Samples) -> None:
        self._path, self._store, self._samples = path, store, samples
        numbers: dict[str, int] = {}
        self._objects = np.array([numbers.setdefault(key, len(numbers)) for key in samples.keys], dtype=np.int64)
        self.order: Indices = np.argsort(self._objects, kind="stable")
        self.counts: Indices = np.bincount(self._objects)
        self._first = self.order[np.cumsum(self.counts) - self.counts]

    def _name(self, image: int) -> str:
        return utf8_name(self._store.name(int(self._samples.shard[image]), int(self._samples.member[image])))

    def latents(self, settings: Mapping[str, str] | None) -> tuple[Transform, str]:
        """What is recorded of every image, in `order`, and a note on numbers that are no latents because they have no
        unit.

        Args:
            settings: see `shards`.

        Raises:
            ValueError: if a description cannot be understood, or a sample lacks a number.
        """
        columns = self._samples.columns
        full_name = {column_name(name): name for name in columns}
        described = latents_from_header(list(columns)) if settings is None else latents_from_settings(settings)

        def numbers(latent: Latent) -> NDArray[np.float64]:
            if missing := [name for name in latent.columns if name not in full_name]:
                raise ValueError(f"{self._path}: no json has a number {missing[0]!r}; {suggest(missing[0], full_name)}")
            return np.stack([self._complete(full_name[name])[self.order] for name in latent.columns], axis=1)

        values = {one.name: one.values(numbers(one), f"{self._path}: the json of samples") for one in described}
        used = {full_name[name] for one in described for name in one.columns}
        bare = [name for name in columns if settings is None and name not in used]
        advice = f"for a latent, write {bare[0]}[real] there, or name it in `latents`" if bare else ""
        note = f"numbers in .json without a unit: {', '.join(bare)}; {advice}" if bare else ""
        return Transform(values, {one.name: one.group for one in described}), note

    def _complete(self, name: str) -> NDArray[np.float64]:
        """The numbers of a name, which no sample lacks."""
        values = self._samples.columns[name]
        if not (known := np.isfinite(values)).all():
            raise ValueError(f"{self._path}, {self._name(int(np.argmin(known)))}: its json has no number {name!r}")
        return values

    def labels(self, classes: Sequence[str] | None, required: bool) -> Labels | None:
        """The classes of the objects; None if no sample has one.

        Args:
            classes: the names in index order; None takes those of the samples.
            required: whether it is an error that there is none.

        Raises:
            ValueError: if samples of one object disagree, or a class is not in `classes`.
        """
        if not any(self._samples.classes):
            require(not required, "labels", "is 'samples', but no sample has .cls, or class in its .json")
            return None
        named = self._one_per_object(self._samples.classes, "class")
        return labels_from_names(named, class_names(self._samples) if classes is None else classes, self._path)

    def splits(self, how: SplitFrom | None) -> dict[str, Indices]:
        """The objects of every split by its name; empty if the shards have no split.

        Args:
            how: see `shards`.

        Raises:
            ValueError: if only some of the shards or samples name a split, or an object is in several.
        """
        by_shard = None if how in ("json", "none") else self._by_shard(how == "shards")
        if by_shard is not None:
            return self._split([by_shard[shard] for shard in self._samples.shard.tolist()])
        if how == "none" or not any(self._samples.splits):
            require(how != "json", "split", "is 'json', but no sample has split in its .json")
            return {}
        found = {name: split_of(name) for name in set(self._samples.splits)}
        if wrong := [image for image, name in enumerate(self._samples.splits) if found[name] is None]:
            where = f"{self._path}, {self._name(wrong[0])}"
            raise ValueError(f"{where}: {self._samples.splits[wrong[0]]!r} is not a split ({SPLIT_NAMES})")
        return self._split([str(found[name]) for name in self._samples.splits])

    def _by_shard(self, required: bool) -> list[str] | None:
        """The split of every shard by its name; None if no name says so."""
        named = [_split_of_shard(shard.address.name) for shard in self._store.shards]
        if not any(named):
            what = f"is 'shards', but no name of a shard has one of the words {SPLIT_NAMES}"
            require(not required, "split", what)
            return None
        if None in named:
            other = self._store.shards[named.index(None)].address.name
            problem = f"some shards are called after a split ({SPLIT_NAMES}), but not {other}"
            raise SettingError("path", f"{problem}; name the shards that you want, or set `split: none`")
        return [str(one) for one in named]

    def _split(self, names: Sequence[str]) -> dict[str, Indices]:
        return splits_of(np.array(self._one_per_object(names, "split"), dtype=np.str_))

    def _one_per_object(self, values: Sequence[str], what: str) -> list[str]:
        """What is said of every object by its first image; an error if another image says something else."""
        first = self._first[self._objects]
        for image, (value, other) in enumerate(zip(values, first.tolist(), strict=True)):
            if value != values[other]:
                both = f"{self._name(other)} ({values[other]!r}) and {self._name(image)} ({value!r})"
                raise ValueError(f"{self._path}: {both} show one object but differ in their {what}")
        return [values[image] for image in self._first.tolist()]


def _split_of_shard(name: str) -> str | None:
    """The split that the words of a shard's name and its folders mean, if they mean one."""
    meanings = {split_of(word) for word in _WORDS.split(name)} - {None}
    return meanings.pop() if len(meanings) == 1 else None
