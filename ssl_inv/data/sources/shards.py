"""Tar shards, as webdataset writes them: every sample is some files with one name and different endings."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch

from ssl_inv.catalogue import SettingError, require, require_at_least
from ssl_inv.data.decoding import PLAIN, Reading
from ssl_inv.data.folder_index import cache_folder
from ssl_inv.data.image_files import THREADED_BYTES, EncodedImages
from ssl_inv.data.images import Photographs
from ssl_inv.data.names import utf8_name
from ssl_inv.data.orders import WINDOW_BLOCKS
from ssl_inv.data.reading import reading_of
from ssl_inv.data.shards.addresses import Address, find_shards
from ssl_inv.data.shards.index import stamped_size
from ssl_inv.data.shards.meaning import Said, SplitFrom
from ssl_inv.data.shards.remote import Copies
from ssl_inv.data.shards.samples import samples_of
from ssl_inv.data.shards.store import Store
from ssl_inv.data.source import Data, Indices, Labels
from ssl_inv.data.splits import part
from ssl_inv.transforms import Group, Transform

_GIGABYTE = 10**9

_TOLD = 5
"""Broken shards that are named one by one."""

_LOG = logging.getLogger("ssl_inv.data")


def shards(
    *,
    path: str,
    size: int | None = None,
    members: list[str] = [],
    labels: Literal["samples", "none"] | None = None,
    latents: dict[str, str] | None = None,
    split: Literal["shards", "json", "none"] | None = None,
    validation: str | None = None,
    validation_share: float = 0.1,
    split_seed: int = 0,
    cache: bool | None = None,
    cache_gb: float = 10.0,
    max_broken: float = 0.01,
    max_broken_shards: float = 0.01,
    photographs: Literal["whole", "squares"] = "whole",
    background: Literal["black", "white", "drop"] = "black",
    white: float | None = None,
    bands: list[int] = [],
    range: list[float | list[float]] = [],  # noqa: A002 - the name of the setting
    channels: int | None = None,
    max_pixels: int = 178_956_970,
) -> Data:
    """Tar shards, as webdataset writes them, on a disk or behind an address.

    Args:
        path: a folder with tar files, one tar, a pattern such as `train-{000..146}.tar`, or an address of any of these,
            such as `s3://bucket/photos/`. Shards called train and val, valid, validation or test, or in folders called
            so, are its split.
        size: side in pixels; the shorter side of every image is resized to it and the centre square cut out. None keeps
            the images as they are; they must then be squares of one size.
        members: endings of the images of a sample, such as `[left.jpg, right.jpg]`, which are views of one object;
            empty takes what `views` in its json lists, else its only image.
        labels: `samples`: the class is in `.cls`, or `class` in `.json`; `none`: no classes; None: `samples` if a
            sample has a class.
        latents: numbers in `.json` and what they hold, such as `{azimuth: circle deg, zoom: real scale=0.5}`; see
            `ssl_inv.data.latents` for all words. None takes the names with words, such as `azimuth[deg]`.
        split: `shards`: by the names of shards; `json`: by `split` in `.json`; `none`: at random; None: by the names of
            shards if these say so, else by `.json` if it says so.
        validation: other shards, with the validation images; all of them are used.
        validation_share: share of the objects held out for validation when neither `validation` nor a split is there.
        split_seed: which objects are held out.
        cache: whether decoded images stay in memory; None: if all of them fit in 2 GB.
        cache_gb: disk space for whole copies of remote shards, in the folder `SSL_INV_CACHE` or the user's cache; 0
            reads every image from the address.
        max_broken: share of the images that may be unreadable.
        max_broken_shards: share of the shards that may be missing or cut. Their samples are left out; those of a shard
            that was indexed before count under `max_broken`.
        photographs: whether views are cut out of the `whole` images, of any size and shape, or out of the centre
            `squares`, which small machines decode and keep more cheaply; the same without a `size`. Evaluations take
            the squares.
        background: what transparent pixels are laid over; `drop` shows what the file has under them.
        white: the value that becomes 255 in images of 16 bits or of floats, where 0 becomes 0; None takes 65535, or in
            a grey TIFF what its tags say, and refuses 32 bits and floats.
        bands: the bands of the file that are taken, counted from 1, any number of them; a single one is grey. Empty
            takes the file's own colours, or all bands if `channels` says how many.
        range: the values that become 0 and 255, `[0, 4095]`, or such a pair for each band; values beyond are cut off,
            and NaN becomes 0. Empty: as `white` says, and bytes as they are.
        channels: of the images; None: as many as `bands`, or 3, where grey is repeated. 1 makes or keeps a single
            channel of grey, 4 also takes opacity as a channel.
        max_pixels: of an image in memory. A JPEG that is reduced while it is decoded may have more in its file.
    """
    require_at_least(0, cache_gb=cache_gb)
    found = find_shards(path)
    reading, names = reading_of(background, white, bands, range, channels, max_pixels), None

    def opened(path: str, addresses: list[Address], split: SplitFrom | None) -> "ShardImages":
        store = open_shards(path, addresses, cache_gb, max_broken_shards)
        meaning = Meaning(tuple(members), labels, latents, split)
        return ShardImages(path, store, size, meaning, cache, max_broken, names, photographs, reading)

    source = opened(path, found, split)
    if validation is None:
        return _told(part(source, source.splits, None, validation_share, split_seed, source.notes), path)
    others = find_shards(validation)
    if both := {one.place for one in map(_resolved, found)} & {one.place for one in map(_resolved, others)}:
        problem = f"{min(both)!r} is a shard of `path` too; leave it out, or name other shards there"
        raise SettingError("validation", problem)
    names = None if source.labels is None else source.labels.names
    judged = opened(validation, others, "none")
    notes = {**source.notes, **{f"{key} in validation": judged.notes[key] for key in _SAID if key in judged.notes}}
    return _told(part(source, source.splits, judged, validation_share, split_seed, notes), validation)


_SAID = ("classes", "not used", "broken shards")
"""Notes on validation shards that are told beside those on the others."""


def _told(data: Data, path: str) -> Data:
    """The data, after a warning if only those to train on have classes."""
    train, judged = (one.labels is not None and bool(one.labels.known.any()) for one in (data.train, data.validation))
    if train and not judged:
        what = "no sample to judge by has a .cls, or a class in its .json"
        _LOG.warning("%s: %s, so nothing is judged by classes", path, what)
    return data


def _on_classes(path: str, labels: Labels | None) -> str | None:
    """What is missing of the classes of samples; None if nothing is."""
    if labels is None:
        return f"none: no sample of {path} has a .cls, or a class in its .json; folders are no classes in shards"
    if missing := int((~labels.known).sum()):
        return f"{missing} of {len(labels.known)} objects have none"
    return None


def _resolved(address: Address) -> Address:
    return address if address.remote else replace(address, place=str(Path(address.place).resolve()))


@dataclass(frozen=True)
class Meaning:
    """What samples hold; see `shards`."""

    members: tuple[str, ...] = ()
    labels: Literal["samples", "none"] | None = None
    latents: Mapping[str, str] | None = None
    split: SplitFrom | None = None

    def __post_init__(self) -> None:
        known = get_args(SplitFrom)
        require(self.labels in ("samples", "none", None), "labels", f"must be samples or none, got {self.labels!r}")
        require(self.split in (*known, None), "split", f"must be {', '.join(known)} or null, got {self.split!r}")


def open_shards(path: str, addresses: Sequence[Address], cache_gb: float, max_broken_shards: float) -> Store:
    """Shards with their indices.

    Args:
        path: what the user calls them, for messages.
        addresses: of the shards.
        cache_gb: see `shards`.
        max_broken_shards: see `shards`.

    Raises:
        ValueError: if more shards are broken than may be.
    """
    require(0 <= max_broken_shards <= 1, "max_broken_shards", f"must be a share from 0 to 1, got {max_broken_shards}")
    remote = any(address.remote for address in addresses)
    copies = Copies(cache_folder() / "shards", int(cache_gb * _GIGABYTE)) if remote and cache_gb > 0 else None
    store = Store(addresses, copies)
    sizes = [stamped_size(shard.index.stamp) for shard in store.shards if shard.address.remote]
    if copies is not None and sizes and copies.most < (wanted := min(sum(sizes), 2 * WINDOW_BLOCKS * max(sizes))):
        # Copies would be removed before they were used, and made again.
        store.copies = None
        enough = f"{wanted / _GIGABYTE:.3g} GB, for the shards that training reads at a time"
        _LOG.warning("%s is read without copies: cache_gb is %g, less than %s", path, cache_gb, enough)
    tolerated = int(max_broken_shards * len(addresses))
    if len(store.broken) > tolerated or not store.shards:
        name, reason = next(iter(store.broken.items()))
        counts = f"{len(store.broken)} of {len(addresses)} shards cannot be used"
        advice = "; raise `max_broken_shards` to go on without them" if store.shards else ""
        raise ValueError(f"{path}: {counts}, the first {name}: {reason}{advice}")
    for number, (name, reason) in enumerate(store.broken.items()):
        if number == _TOLD:
            _LOG.warning("%s: %d more shards cannot be used", path, len(store.broken) - _TOLD)
            break
        _LOG.warning("shard %s: %s", name, reason)
    return store


class ShardImages(EncodedImages):
    """Images in tar shards. Objects are in the order of their first images, in the order of the shards.

    Args:
        path: see `shards`.
        store: the shards.
        size: see `shards`.
        meaning: what samples hold.
        cache: see `StoredImages`.
        max_broken: see `StoredImages`.
        classes: the class names in index order, for example from the train set; None takes those in the shards, in the
            order of their numbers if they have numbers, else of the alphabet.
        photographs: see `StoredImages`.
        reading: how the numbers of a file become colours.

    Attributes:
        splits: the objects of every split by its name; empty if the shards have no split.
        notes: facts for the run's record.

    Raises:
        ValueError: if it is not clear what a sample holds, only some shards or samples name a split, or samples of one
            object disagree on its class or split.
    """

    def __init__(
        self,
        path: str,
        store: Store,
        size: int | None = None,
        meaning: Meaning | None = None,
        cache: bool | None = None,
        max_broken: float = 0.01,
        classes: Sequence[str] | None = None,
        photographs: Photographs = "whole",
        reading: Reading = PLAIN,
    ) -> None:
        meaning = Meaning() if meaning is None else meaning
        samples = samples_of(store, meaning.members)
        said = Said(path, store, samples)
        self.store = store
        self._shard, self._member = samples.shard[said.order], samples.member[said.order]
        if not len(said.order) and samples.left_out:
            raise ValueError(f"{path} has no images; not used: {'; '.join(samples.left_out)}")
        self._record, bare = said.latents(meaning.latents)
        self.splits = said.splits(meaning.split)
        super().__init__(path, said.counts, size, cache, max_broken, photographs, reading)
        self._labels = None if meaning.labels == "none" else said.labels(classes, meaning.labels == "samples")
        left = samples.left_out + ([bare] if bare else [])
        broken = [f"{name}: {reason}" for name, reason in store.broken.items()]
        on_classes = None if meaning.labels == "none" else _on_classes(path, self._labels)
        self.notes = {
            "images": f"{len(said.order)} of {len(said.counts)} objects in {len(store.shards)} shard(s) from {path}",
            "latents": ", ".join(self._record.names) or "none",
            **({"classes": on_classes} if on_classes else {}),
            **({"not used": "; ".join(left)} if left else {}),
            **({"broken shards": f"{len(broken)}, the first {broken[0]}"} if broken else {}),
        }

    @property
    def blocks(self) -> Indices:
        return self._shard[self._counts.first_images]

    @property
    def stamp(self) -> str:
        return self.store.stamp

    @property
    def groups(self) -> dict[str, Group]:
        return dict(self._record.groups)

    def _transform(self, images: Indices) -> Transform:
        return self._record.select(torch.from_numpy(images))

    def _place(self, image: int) -> tuple[int, int]:
        return int(self._shard[image]), int(self._member[image])

    def _name(self, image: int) -> str:
        return utf8_name(self.store.name(*self._place(image)))

    def _read(self, image: int) -> bytes:
        return self.store.read(*self._place(image))

    def _worth_threads(self, image: int) -> bool:
        return self.store.size(*self._place(image)) >= THREADED_BYTES
