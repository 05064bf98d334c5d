"""How each plan is fulfilled: draws that depend on a key, views rendered from them, and each view again from its
record.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv import views as plans
from ssl_inv.augment.local import COLOURS
from ssl_inv.augment.photometric import Blur, ColourDropping, Erasing, Jitter, Noise, Posterise, Solarise, grey
from ssl_inv.augment.policy import Augmentation, Policy
from ssl_inv.catalogue import SettingError, suggest
from ssl_inv.transforms import Box, Circle, Real, Transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.views.saccades import cut_squares, draw_fixations, official_patches, spectral_residual

Finish = Callable[[Tensor], Tensor]
"""Changes views `(n, 3, H, W)` in place before they are handed over: a normalisation."""


_COLOUR = (Jitter(), grey(), Blur(), Solarise(), Posterise(), Noise(), ColourDropping(), Erasing())


_OF_COLOUR = {name for one in _COLOUR for name in one.groups}


_OF_COLOUR |= {f"field_{name}" for name in COLOURS}
"""Parameters that change values where they are, and so move no saliency."""


@dataclass(frozen=True)
class Made:
    """One view of every sample.

    Attributes:
        pixels: `(B, 3, H, W)`, finished.
        transform: how they were made, on the host.
        source: which of the data's own views they were made of.
    """

    pixels: Tensor
    transform: Transform
    source: int = 0


class Maker(ABC):
    """Fulfils one plan.

    Sources are the data's own views, one or more, `(B, 3, H, W)` each, uint8 or float in [0, 1]; views are in [0, 1]
    until finished.
    """

    @abstractmethod
    def make(self, sources: Sequence[Tensor], key: Key, finish: Finish) -> list[Made]:
        """All views of the plan; `key` is that of its first, and further ones have the numbers that follow."""

    @abstractmethod
    def replay(self, sources: Sequence[Tensor], transform: Transform, number: int, finish: Finish) -> Tensor:
        """View `number` of the plan again, from its record; parameters of other origin are passed over."""


def maker_of(plan: plans.Plan, augmentation: Augmentation, policy: plans.PolicyChoice = None) -> Maker:
    """What fulfils a plan.

    Args:
        plan: the views that are wanted.
        augmentation: makes them.
        policy: number of the policy of all views, or `plain` for none; None is those which the plan says.

    Raises:
        ValueError: if the augmentation does not do what the plan builds on.
        TypeError: if the plan is none of `ssl_inv.views`.
    """
    chosen = [augmentation.policy(number if policy is None else policy) for number in range(max(plan.count, 2))]
    match plan:
        case plans.Pair() | plans.Linked():
            return EachByItsPolicy(augmentation, tuple(chosen))
        case plans.Sequence():
            last = augmentation.policies[-1] if policy is None else chosen[0]
            return EachByItsPolicy(augmentation, (*[chosen[0]] * plan.observed, last))
        case plans.MultiCrop():
            kinds = [kind for kind in plan.crops for _ in range(kind.count)]
            cropped = tuple(one.with_crop(kind.size, kind.scale) for one, kind in zip(chosen, kinds, strict=False))
            return EachByItsPolicy(augmentation, cropped, tuple(kind.centre for kind in kinds))
        case plans.Path():
            return AlongPath(augmentation, plan, *(one.with_crop(plan.size, plan.scale) for one in chosen[:2]))
        case plans.Patches():
            return PiecesOfOneView(augmentation, chosen[0].with_crop(plan.view, plan.scale), PatchCutter(plan))
        case plans.Saccades():
            whole = chosen[0].with_crop(plan.size, None)
            return PiecesOfOneView(augmentation, whole, SaccadeCutter(plan, whole))
        case plans.Turns():
            return PiecesOfOneView(augmentation, chosen[0].with_crop(plan.size, plan.scale), TurnCutter())
        case plans.Several():
            parts = zip(plan.plans, plan.choices, strict=True)
            return OneAfterTheOther(tuple((one, maker_of(one, augmentation, choice)) for one, choice in parts))
    raise TypeError(f"no way is known to make the views of {type(plan).__name__}; plans are those of ssl_inv.views")


def _of_view(key: Key, number: int) -> Key:
    return replace(key, view=key.view + number)


@dataclass(frozen=True)
class EachByItsPolicy(Maker):
    """Views that know nothing of each other, of one image or of an image each.

    Attributes:
        augmentation: says what is recorded.
        policies: one a view.
        centres: the share of the sides that a crop about the centre takes, one a view; none where the policy crops.
            Empty: none anywhere.
    """

    augmentation: Augmentation
    policies: tuple[Policy, ...]
    centres: tuple[float | None, ...] = ()

    def make(self, sources: Sequence[Tensor], key: Key, finish: Finish) -> list[Made]:
        made = []
        for number in range(len(self.policies)):
            source = number % len(sources)
            transform = self._draw(_of_view(key, number), number, *sources[source].shape[-2:])
            made.append(Made(self.replay(sources, transform, number, finish), transform, source))
        return made

    def replay(self, sources: Sequence[Tensor], transform: Transform, number: int, finish: Finish) -> Tensor:
        return self.policies[number].render(sources[number % len(sources)], transform, finish)

    def _draw(self, key: Key, number: int, height: int, width: int) -> Transform:
        drawn = self.augmentation.draw(key, height, width, self.policies[number])
        if not self.centres or (centre := self.centres[number]) is None:
            return drawn
        crop = torch.tensor([0.5, 0.5, centre, centre]).repeat(len(key), 1)
        return Transform({**drawn.values, "crop": crop}, {**drawn.groups, "crop": Box()})


@dataclass(frozen=True)
class AlongPath(Maker):
    """A view, and the way that some parameters of a second one lead.

    All views are made of one image; along parameters that the data records, each is made of an image of its own.

    Attributes:
        augmentation: says what is recorded.
        plan: the parameters, and how far along the way the views are.
        first: makes the first view.
        second: makes all others.

    Raises:
        ValueError: if the second policy does not draw a parameter, or the parameter has no values between two others.
    """

    augmentation: Augmentation
    plan: plans.Path
    first: Policy
    second: Policy

    def __post_init__(self) -> None:
        drawn = self.second.groups
        for name in self._drawn:
            if name not in drawn:
                raise ValueError(
                    f"Path: parameters: no operation of the second view's policy draws {name!r}; {suggest(name, drawn)}"
                )
            if not drawn[name].continuous:
                raise ValueError(
                    f"Path: parameters: {name!r} names something or says yes or no; there is no way from one to the other"
                )

    def make(self, sources: Sequence[Tensor], key: Key, finish: Finish) -> list[Made]:
        transforms = self._draw(key, *sources[0].shape[-2:])
        return [
            Made(self.replay(sources, transform, number, finish), transform, self._source(number))
            for number, transform in enumerate(transforms)
        ]

    def replay(self, sources: Sequence[Tensor], transform: Transform, number: int, finish: Finish) -> Tensor:
        return (self.second if number else self.first).render(sources[self._source(number)], transform, finish)

    @property
    def _drawn(self) -> list[str]:
        """Those of the path's parameters that the augmentation changes."""
        return [name for name in self.plan.parameters if name not in self.plan.own]

    def _source(self, number: int) -> int:
        return number if self.plan.own else 0

    def _draw(self, key: Key, height: int, width: int) -> list[Transform]:
        first = self.augmentation.draw(key, height, width, self.first)
        end = self.augmentation.draw(_of_view(key, 1), height, width, self.second)
        way = [self._along(end, fraction) for fraction in self.plan.fractions]
        return [first if self.plan.on_first else self._along(first, 0.0), end, *way]

    def _along(self, end: Transform, fraction: float) -> Transform:
        """The transform `fraction` of the way from neutral parameters to their values in `end`; all other parameters
        stay.
        """
        target = end.only(self._drawn)
        neutral = Transform({name: group.neutral(len(end)) for name, group in target.groups.items()}, target.groups)
        return Transform({**end.values, **neutral.path(target, fraction).values}, end.groups)


class Cutter(ABC):
    """Makes several views of one."""

    @abstractmethod
    def draw(self, view: Tensor, key: Key, transform: Transform) -> list[Transform]:
        """What to take of `view`, which `transform` tells of: a record for each piece, on the host."""

    @abstractmethod
    def cut(self, view: Tensor, record: Transform) -> Tensor:
        """The piece that `record` tells of."""


@dataclass(frozen=True)
class PiecesOfOneView(Maker):
    """Views that are cut of a larger one, or turned.

    Attributes:
        augmentation: says what is recorded.
        policy: makes the larger view.
        cutter: makes pieces of it.
    """

    augmentation: Augmentation
    policy: Policy
    cutter: Cutter

    def make(self, sources: Sequence[Tensor], key: Key, finish: Finish) -> list[Made]:
        height, width = sources[0].shape[-2:]
        transform = self.augmentation.draw(key, height, width, self.policy)
        view = self.policy.render(sources[0], transform)
        records = self.cutter.draw(view, key, transform)
        return [Made(finish(self.cutter.cut(view, record)), transform.merge(record)) for record in records]

    def replay(self, sources: Sequence[Tensor], transform: Transform, number: int, finish: Finish) -> Tensor:
        return finish(self.cutter.cut(self.policy.render(sources[0], transform), transform.to("cpu")))


@dataclass(frozen=True)
class PatchCutter(Cutter):
    """Some cells of a loose grid."""

    plan: plans.Patches

    def draw(self, view: Tensor, key: Key, transform: Transform) -> list[Transform]:
        cells = self.plan.grid**2
        shifts = np.floor(key.for_purpose("patches/shift").uniform(2 * cells) * (self.plan.jitter + 1)).astype(np.int64)
        ranks = key.for_purpose("patches/order").uniform(cells)
        if self.plan.middle_first:
            ranks[:, cells // 2] = -1
        order = np.argsort(ranks, axis=1, kind="stable")
        corners = patch_corners(self.plan, shifts.reshape(-1, cells, 2), order)
        return [
            Transform(*_box(corners[:, number], self.plan.patch, self.plan.view)) for number in range(self.plan.keep)
        ]

    def cut(self, view: Tensor, record: Transform) -> Tensor:
        return _cut_box(view, record, self.plan.patch)


def patch_corners(plan: plans.Patches, shifts: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The upper left corners of the cells that are kept, (y, x) in pixels, `(B, keep, 2)`.

    Args:
        plan: the grid.
        shifts: of all cells row by row, (y, x) in pixels, `(B, grid^2, 2)`.
        order: a permutation of the cells, of which the first are kept, `(B, grid^2)`.
    """
    cells = np.stack(np.divmod(np.arange(plan.grid**2), plan.grid), axis=-1)
    corners: NDArray[np.int64] = np.take_along_axis(plan.step * cells + shifts, order[:, : plan.keep, None], axis=1)
    return corners


def _box(corners: NDArray[np.int64], side: int, size: int) -> tuple[dict[str, Tensor], dict[str, Box]]:
    """Where squares lie whose upper left corners are (y, x), in fractions of views of `size` pixels."""
    centres = (corners[:, ::-1] + side / 2) / size
    boxes = np.concatenate((centres, np.full_like(centres, side / size)), axis=1)
    return {"patch": torch.from_numpy(boxes.astype(np.float32))}, {"patch": Box()}


def _cut_box(view: Tensor, record: Transform, side: int) -> Tensor:
    left, top = np.rint(record["patch"][:, :2].numpy().T.astype(np.float64) * view.shape[-1] - side / 2).astype(
        np.int64
    )
    return cut_squares(view, top, left, side)


@dataclass(frozen=True)
class SaccadeCutter(Cutter):
    """Patches about fixations.

    Attributes:
        plan: how fixations are drawn.
        policy: made the whole view, and moves stored maps in the same way.
    """

    plan: plans.Saccades
    policy: Policy

    def draw(self, view: Tensor, key: Key, transform: Transform) -> list[Transform]:
        maps = self._maps(view, key, transform)
        random = key.for_purpose("saccades").uniform(self.plan.count)
        fixations = draw_fixations(maps, random, self.plan.inhibition, self.plan.radius)
        return [self.record(fixations[:, number], view.shape[-1]) for number in range(self.plan.count)]

    def cut(self, view: Tensor, record: Transform) -> Tensor:
        if self.plan.cutting == "official":
            return official_patches(view, record["fixation"], self.plan.patch)
        return _cut_box(view, record, self.plan.patch)

    def record(self, fixations: NDArray[np.int64], size: int) -> Transform:
        """The record of patches about fixations (row, column) on views of `size` pixels, `(B, 2)`."""
        # The authors' code reads a row as a column; where the patch lies is recorded as it is.
        seen = fixations[:, ::-1] if self.plan.cutting == "official" else fixations
        values, groups = _box(seen - self.plan.patch // 2, self.plan.patch, size)
        places = torch.from_numpy((fixations / size).astype(np.float32))
        return Transform({"fixation": places, **values}, {"fixation": Real(dimensions=2), **groups})

    def _maps(self, view: Tensor, key: Key, transform: Transform) -> NDArray[np.float64]:
        """The saliency of every pixel of the view, `(B, H, W)`."""
        saliency = self.plan.saliency
        if isinstance(saliency, str):
            maps = torch.ones(len(view), 1, 1) if saliency == "uniform" else spectral_residual(view)
        else:
            maps = saliency(view) if callable(saliency) else self._stored(saliency, key, transform, view.shape[-1])
        if maps.dim() != 3 or len(maps) != len(view):
            raise SettingError(
                "saliency", f"maps of {len(view)} views have the shape ({len(view)}, h, w), not {tuple(maps.shape)}"
            )
        maps = F.interpolate(
            maps.cpu().double().unsqueeze(1), view.shape[-2:], mode="bilinear", antialias=True
        ).squeeze(1)
        if not bool(((maps >= 0) & maps.isfinite()).all()):
            raise SettingError("saliency", "a map has values that are negative or not finite")
        return maps.numpy()

    def _stored(self, saliency: plans.StoredMaps, key: Key, transform: Transform, size: int) -> Tensor:
        maps = torch.stack([torch.as_tensor(saliency[int(index)]).float() for index in key.index])
        maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        moves = transform.only([name for name in transform.names if name not in _OF_COLOUR])
        return replace(self.policy, size=size).render(maps.unsqueeze(1).repeat(1, 3, 1, 1), moves)[:, 0]


@dataclass(frozen=True)
class TurnCutter(Cutter):
    """The four quarter turns."""

    def draw(self, view: Tensor, key: Key, transform: Transform) -> list[Transform]:
        return [
            Transform({"turn": torch.full((len(view),), float(turn))}, {"turn": Circle(period=4.0)})
            for turn in range(4)
        ]

    def cut(self, view: Tensor, record: Transform) -> Tensor:
        turned = torch.empty_like(view)
        turns = record["turn"].numpy().astype(int)
        for turn in np.unique(turns).tolist():
            rows = torch.from_numpy(np.flatnonzero(turns == turn)).to(view.device, non_blocking=True)
            turned.index_copy_(0, rows, torch.rot90(view.index_select(0, rows), turn, (2, 3)))
        return turned


@dataclass(frozen=True)
class OneAfterTheOther(Maker):
    """The views of several plans.

    Attributes:
        parts: the plans, none of them of several, and what fulfils each.
    """

    parts: tuple[tuple[plans.Plan, Maker], ...]

    def make(self, sources: Sequence[Tensor], key: Key, finish: Finish) -> list[Made]:
        made: list[Made] = []
        for plan, maker in self.parts:
            made += maker.make(sources[: plan.sources], _of_view(key, len(made)), finish)
        return made

    def replay(self, sources: Sequence[Tensor], transform: Transform, number: int, finish: Finish) -> Tensor:
        for plan, maker in self.parts:
            if number < plan.count:
                return maker.replay(sources[: plan.sources], transform, number, finish)
            number -= plan.count
        raise IndexError("the plan has fewer views")
