"""Views that another library's transforms make of whole images: lightly's for a method, or a list of torchvision's.

    augmentation = from_library(lightly.transforms.SimCLRTransform(input_size=64))

The transforms crop the images themselves, and so they stand in the place of a policy, not within one.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms import v2

from ssl_inv.augment import torchvision_names
from ssl_inv.augment.maps import maps
from ssl_inv.augment.operation import Draws, Following, Normalisation, Side, groups_of
from ssl_inv.augment.policy import Augmentation, Policy
from ssl_inv.augment.regions import windows
from ssl_inv.augment.seeded import Seeded, kept_generators, stacked, tried_image
from ssl_inv.augment.warp import Record, as_float
from ssl_inv.augment.written import group_of
from ssl_inv.catalogue import RecipeError, SettingError, require, suggest, within
from ssl_inv.transforms import Transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.transforms.regions import Regions

_FREQUENCIES = "it takes or gives frequencies and not an image; FDATransform has it within"
_GRIDS = "it gives masks or grids beside its views, which no objective here reads"
_PIECES = "it gives a pile of pieces; the objective context-prediction has patches"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("AmplitudeRescaleTransform", "GaussianMixtureMask", "IRFFT2DTransform"), _FREQUENCIES),
    **dict.fromkeys(("PhaseShiftTransform", "RFFT2DTransform", "RandomFrequencyMaskTransform"), _FREQUENCIES),
    **dict.fromkeys(("AddGridTransform", "DetConSTransform", "VICRegLTransform"), _GRIDS),
    **dict.fromkeys(("Jigsaw", "PIRLTransform"), _PIECES),
    "MultiViewTransformV2": "it takes modules, which no recipe holds; in Python, use from_library",
    "ToTensor": "it changes the type of an image and nothing else",
}
"""Transforms of lightly that no recipe can use, and why."""


@dataclass(frozen=True)
class Chain(Following):
    """Transforms of one image, one after the other, with their draws for images of any side.

    Attributes:
        parts: the transforms.
        side: of the squares that they begin with, in pixels; None is that of the images.
    """

    parts: tuple[Seeded, ...]
    side: int | None = None

    moves = True
    probability = 1.0

    @property
    def groups(self) -> Mapping[str, Any]:  # type: ignore[override]
        return groups_of(self.parts)

    def draw_for_view(self, key: Key, height: Side, width: Side, size: int) -> dict[str, Draws]:
        side = self.side or int(np.minimum(height, width).min())
        return self.draw(key, side, side)

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        drawn: dict[str, Draws] = {}
        for part, (high, wide) in zip(self.parts, self.sizes(int(height)), strict=False):
            drawn |= part.draw(key, high, wide)
        return drawn

    def sizes(self, side: int, seed: int = 0, channels: int = 3) -> tuple[tuple[int, int], ...]:
        """Height and width before every transform and behind the last one, for a square of this side."""
        return _sizes(self.parts, side, seed, channels)

    def follow(self, views: Tensor, record: Record) -> Tensor:
        made = []
        with kept_generators() as start:
            for row, image in enumerate(views.cpu()):
                for part in self.parts:
                    image = part.of_row(image, record, row, start)
                made.append(image)
        return stacked(made, self.parts[-1].label).to(views.device)


@lru_cache(maxsize=256)
def _sizes(parts: tuple[Seeded, ...], side: int, seed: int, channels: int) -> tuple[tuple[int, int], ...]:
    image, found = tried_image(side, channels), [(side, side)]
    with kept_generators() as start:
        for number, part in enumerate(parts):
            start(seed + number)
            image = part.certainly(image)
            found.append((image.shape[-2], image.shape[-1]))
    return tuple(found)


@dataclass(frozen=True)
class WholePolicy(Policy):
    """The views that a chain of another library's transforms makes of whole images.

    Of photographs it is given the square in their middle.

    Attributes:
        title: what makes them, for messages.
        source: side in pixels of the squares of photographs; None for images of one size.
    """

    title: str = ""
    source: int | None = None

    @property
    def chain(self) -> Chain:
        """The transforms."""
        (chain,) = (one for one in self.operations if isinstance(one, Chain))
        return chain

    def regions(self, transform: Transform, sides: NDArray[np.int64]) -> Regions:
        require(self.source is not None, "size", "squares of photographs need a side")
        record = {name: value.numpy() for name, value in transform.values.items()}
        return windows(maps(record, len(sides))[0], sides, self.source or 1)

    def render(
        self,
        pixels: Tensor,
        transform: Transform,
        regions: Regions | None = None,
        normalisation: Normalisation | None = None,
    ) -> Tensor:
        host = transform.to("cpu")
        if self.source is not None:
            pixels = Policy((), self.source).render(pixels, host.only([n for n in host.names if n == "crop"]), regions)
        record = {name: value.numpy() for name, value in host.values.items()}
        with torch.no_grad():
            views = self.chain.follow(as_float(pixels), record)
            views = views.clamp_(0, 1).contiguous(memory_format=torch.channels_last)
            return normalisation.apply(views) if normalisation else views

    def check(self, size: int, channels: int = 3) -> None:
        side = self.source or size
        try:
            end = self.chain.sizes(side, channels=channels)[-1]
        except Exception as error:  # Somebody else's class can raise anything.
            kind = f"{side} pixels" + (f" and {channels} channel(s)" if channels != 3 else "")
            raise ValueError(f"{self.title} fails on images of {kind}: {' '.join(str(error).split())}") from error
        wanted = self.size or side
        if end != (wanted, wanted):
            raise ValueError(f"{self.title} makes views of {end[1]}x{end[0]} pixels, not of {wanted}x{wanted}")

    def with_crop(self, size: int | None, scale: tuple[float, float] | None) -> "WholePolicy":
        """This policy, which must make such views already.

        Raises:
            RecipeError: if it makes others.
        """
        same = "; give both the same"
        if size is not None and self.size is not None and size != self.size:
            raise RecipeError(
                f"augmentation: {self.title} makes views of {self.size} pixels, and {size} are wanted{same}"
            )
        for own in _scales(self.chain.parts) if scale is not None else ():
            if scale is not None and not np.allclose(own, scale):
                shares = f"{own[0]:g} to {own[1]:g} of the area, and {scale[0]:g} to {scale[1]:g}"
                raise RecipeError(f"augmentation: {self.title} takes crops of {shares} are wanted{same}")
        return self if size is None or self.size is not None else replace(self, size=size)

    def of_photographs(self, side: int) -> "WholePolicy":
        """The same views of the squares in the middle of photographs, brought to this side."""
        chain = replace(self.chain, side=side)
        return replace(self, operations=(chain,), source=side, size=self.size or side)


@dataclass(frozen=True)
class WholeAugmentation(Augmentation):
    """Another library's transforms of whole images, one policy for each view that they make.

    Attributes:
        title: what makes them, for messages.
        exact: whether there must be as many views as policies; otherwise the last policy makes all further views.
    """

    title: str = ""
    exact: bool = False

    def sized(self, size: int) -> "WholeAugmentation":
        return replace(
            self, policies=tuple(one.of_photographs(size) for one in self.policies if isinstance(one, WholePolicy))
        )

    def policy(self, number: int | Literal["plain"]) -> Policy:
        return Policy((), self.policies[0].size) if number == "plain" else super().policy(number)

    def require_views(self, count: int) -> None:
        if self.exact and count != len(self.policies):
            raise RecipeError(f"augmentation: {self.title} makes {len(self.policies)} views, and {count} are wanted")


def from_library(transform: Any, label: str | None = None) -> WholeAugmentation:
    """The augmentation that another library's transform is: one image in, one view or several views out.

    Its normalisation is taken out, because views are normalised last.

    Args:
        transform: of lightly or torchvision, or any other callable that takes a picture of PIL and gives a view. It is
            copied.
        label: its name in records; None is the name of its class.

    Raises:
        ValueError: if it does not make images, or not of one size.
    """
    own, title = copy.deepcopy(transform), label or type(transform).__name__
    several = isinstance(getattr(own, "transforms", None), list) and not isinstance(own, torch.nn.Module | v1.Compose)
    views = own.transforms if several else [own]
    for view in views:
        _strip(view)
    chains: dict[int, tuple[Seeded, ...]] = {id(view): (Seeded(view, title),) for view in views}
    return _augmentation([chains[id(view)] for view in views], title)


def _augmentation(views: Sequence[tuple[Seeded, ...]], title: str) -> WholeAugmentation:
    made = {id(parts): WholePolicy((Chain(parts),), _size_of(parts, title), title=title) for parts in views}
    alike = len(made) == 1
    policies = [made[id(parts)] for parts in (views[:1] if alike else views)]
    return WholeAugmentation(tuple(policies), title=title, exact=not alike)


def _size_of(parts: tuple[Seeded, ...], title: str) -> int | None:
    """The side of the views; None if it is that of the images."""
    side = max(part.tried_side for part in parts)
    sides = (side, side + 32)
    ends = [Chain(parts).sizes(one, seed)[-1] for seed, one in enumerate(sides)]
    if len({*ends}) == 1 and ends[0][0] == ends[0][1]:
        return ends[0][0]
    if ends == [(one, one) for one in sides]:
        return None
    raise ValueError(f"{title} makes views of different sizes, such as {ends[0]} and {ends[-1]}, or no squares")


def _strip(transform: Any) -> None:
    """Take the normalisation out of a transform."""
    for inner in _within(transform):
        if isinstance(members := getattr(inner, "transforms", None), list):
            inner.transforms = [one for one in members if not isinstance(one, v1.Normalize | v2.Normalize)]


def _within(transform: Any) -> Iterator[Any]:
    """A transform and all transforms within it."""
    yield transform
    members = getattr(transform, "transforms", None)
    inner = getattr(transform, "transform", None)
    for one in [*(members if isinstance(members, list | tuple) else ()), *([] if inspect.ismethod(inner) else [inner])]:
        if one is not None:
            yield from _within(one)


def _scales(parts: Sequence[Seeded]) -> list[tuple[float, float]]:
    """The shares of the area that the crops of some transforms take."""
    every = (inner for part in parts for inner in _within(part.transform))
    return [one.scale for one in every if isinstance(one, v1.RandomResizedCrop | v2.RandomResizedCrop)]


def lightly(*, transform: str, settings: dict[str, Any] = {}) -> WholeAugmentation:
    """A transform of lightly, such as `SimCLRTransform` or `DINOTransform`, with all views that it makes.

    lightly draws from global generators. Here every view of a sample is drawn from the key, and recorded as its seed.
    Its normalisation is taken out: the section `normalization` says how views are normalised.

    Args:
        transform: the name of its class in `lightly.transforms`.
        settings: of its constructor, by name. A transform within it is a mapping with `transform` and `settings`.
    """
    made, name = _of_lightly(transform, settings), transform
    with within("transform"):
        return from_library(made, name)


def _of_lightly(name: str, settings: Mapping[str, Any]) -> Any:
    import lightly.transforms

    classes = {key: one for key, one in vars(lightly.transforms).items() if inspect.isclass(one)}
    if name in REFUSED:
        raise SettingError("transform", f"{name} cannot be used: {REFUSED[name]}")
    if name not in classes:
        usable = sorted({*classes} - {*REFUSED})
        raise SettingError("transform", f"lightly has no transform called {name!r}; {suggest(name, usable)}")
    known = inspect.signature(classes[name]).parameters
    arguments = {}
    for key, value in settings.items():
        require(key != "normalize", "settings.normalize", "views are normalised as the section `normalization` says")
        require(key in known, f"settings.{key}", f"{name} has no such argument; {suggest(str(key), known)}")
        arguments[key] = _as_meant(f"settings.{key}", value)
    try:
        return classes[name](**arguments)
    except Exception as error:  # Somebody else's class can raise anything.
        problem = " ".join(str(error).split())
        raise SettingError("settings", f"{name} refuses its settings: {problem}") from error


def _as_meant(way: str, value: Any) -> Any:
    if isinstance(value, dict) and "transform" in value:
        with within(way):
            return _of_lightly(value["transform"], value.get("settings", {}))
    return tuple(value) if isinstance(value, list) else value


def torchvision(*, transform: list[Any]) -> WholeAugmentation:
    """Transforms of `torchvision.transforms.v2`, one after the other, in place of a policy.

    Every view of a sample is drawn from the key, and recorded as the seeds and, where torchvision draws them
    beforehand, the parameters of all transforms. The section `normalization` says how views are normalised.

    Args:
        transform: mappings, each with the `name` of a class and its arguments; also `label` and `groups`, as in other
            operations. For views of several kinds a list of such lists, one for each view.
    """
    require(len(transform) > 0, "transform", "must have at least one transform")
    several = all(isinstance(one, list) for one in transform)
    views = [_chain(f"transform[{number}]", one) for number, one in enumerate(transform)] if several else []
    views = views or [_chain("transform", transform)]
    with within("transform"):
        return _augmentation(views, "the list of torchvision's transforms")


def _chain(way: str, members: Sequence[Any]) -> tuple[Seeded, ...]:
    require(len(members) > 0, way, "must have at least one transform")
    found: list[Seeded] = []
    for number, one in enumerate(members):
        with within(f"{way}[{number}]"):
            require(isinstance(one, dict), "name", f"must be a mapping with its `name`, got {one!r}")
            own = {key: value for key, value in one.items() if key not in ("label", "groups")}
            groups = {key: group_of(key, value) for key, value in one.get("groups", {}).items()}
            # What stands behind images of random sizes cannot be drawn beforehand.
            fixed = not found or _square(tuple(found))
            found.append(Seeded(torchvision_names.made(own), one.get("label"), groups, parameters=fixed))
    with within(way):
        groups_of(found)
    return tuple(found)


def _square(parts: tuple[Seeded, ...]) -> bool:
    """Whether some transforms always make squares of one size."""
    side = max(part.tried_side for part in parts)
    ends = {Chain(parts).sizes(side, seed)[-1] for seed in (0, 7, 14)}
    return len(ends) == 1 and all(height == width for height, width in ends)
