"""What makes the views of each plan: the host decides how, then policies make views of pixels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from ssl_inv.augment.geometry import Crop, centre_squares
from ssl_inv.augment.maps import PROJECTIVE
from ssl_inv.augment.policy import Augmentation, Policy
from ssl_inv.catalogue import suggest
from ssl_inv.data.source import Images, Indices
from ssl_inv.transforms import Group, Transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.transforms.regions import Regions
from ssl_inv.views.cutters import Cutter, PatchCutter, SaccadeCutter, TurnCutter
from ssl_inv.views.pieces import Patches, QuarterTurns, Saccades
from ssl_inv.views.plan import Plan
from ssl_inv.views.plans import (
    Alike,
    Linked,
    MultiCrop,
    Pair,
    PolicyChoice,
    SameCrop,
    Several,
    TransformPath,
    ViewSequence,
)
from ssl_inv.views.renderings import Extent, Last, Made, Rendering, extents_of, in_frame, moved_by


class Maker(ABC):
    """Makes the views of one plan, in two steps: the host decides how, then policies make views of pixels."""

    @abstractmethod
    def origins(self, sources: int) -> list[tuple[int, Policy]]:
        """The image, of as many `sources`, and the policy of everything that is rendered."""

    @abstractmethod
    def transforms(self, key: Key, extents: Sequence[Extent]) -> list[Transform]:
        """How everything is rendered. `key` is that of the first view, and further views have the numbers that follow.

        Args:
            key: decides every random choice.
            extents: of each of the sources.
        """

    def renderings(self, key: Key, extents: Sequence[Extent]) -> list[Rendering]:
        """Everything that is rendered; photographs with a crop in any case, the centre square if none is drawn."""
        both = zip(self.origins(len(extents)), self.transforms(key, extents), strict=True)
        return [Rendering(source, policy, in_frame(one, extents[source])) for (source, policy), one in both]

    def make(self, images: Sequence[Images], key: Key, last: Last = None) -> list[Made]:
        """All views of the plan; `key` is that of the first, and further ones have the numbers that follow.

        Args:
            images: the data's own views that they are made of.
            key: decides every random choice.
            last: what is done to finished views.
        """
        renderings = self.renderings(key, extents_of(images))
        every = zip(renderings, self._pictures(images), self.cut_up(), strict=True)
        rendered = [
            one.policy.render(pixels, one.transform, regions, None if cut else last)
            for one, (pixels, regions), cut in every
        ]
        return self.views(renderings, rendered, key, last)

    def render(self, images: Sequence[Images], transform: Transform, number: int, last: Last = None) -> Tensor:
        """View `number` of the plan from its record; parameters of other origin are ignored."""
        place, host = self.rendering_of(number), transform.to("cpu")
        source, policy = self.origins(len(images))[place]
        pixels, regions = self._pictures(images)[place]
        whole = in_frame(host, extents_of(images)[source])
        rendered = policy.render(pixels, whole, regions, None if self.cut_up()[place] else last)
        return self.view_of(rendered, host, number, last)

    def cut_up(self) -> list[bool]:
        """Which renderings are no views themselves: views are cut out of them."""
        return [False] * len(self.origins(1))

    def _pictures(self, images: Sequence[Images]) -> list[tuple[Tensor, Regions | None]]:
        """The pixels that each rendering is made of, and where in photographs they lie."""
        pieces, found = [iter(one.pieces) for one in images], list[tuple[Tensor, Regions | None]]()
        for source, _ in self.origins(len(images)):
            piece = next(pieces[source], None)
            found.append((images[source].pixels, None) if piece is None else (piece.pixels, piece.regions))
        return found

    def views(
        self, renderings: Sequence[Rendering], rendered: Sequence[Tensor], key: Key, last: Last = None
    ) -> list[Made]:
        """All views of the plan from what was rendered."""
        both = zip(renderings, rendered, strict=True)
        return [Made(pixels, one.transform, one.source) for one, pixels in both]

    def rendering_of(self, number: int) -> int:
        """Which rendering view `number` of the plan is, or is cut out of."""
        return number

    def view_of(self, rendered: Tensor, transform: Transform, number: int, last: Last = None) -> Tensor:
        """View `number` of the plan from its rendering and its record, which is on the host."""
        return rendered

    def host_part(self) -> "Maker":
        """The maker that renders the same and only decides how; loader processes get it."""
        return self


def maker_of(plan: Plan, augmentation: Augmentation, policy: PolicyChoice = None) -> Maker:
    """What makes the views of a plan.

    Args:
        plan: the views that are wanted.
        augmentation: makes them.
        policy: number of the policy of all views, or `plain` for none; None for the policies that the plan names.

    Raises:
        ValueError: if the augmentation does not do what the plan builds on.
        TypeError: if the plan is none of `ssl_inv.views`.
    """
    if policy is None and not isinstance(plan, Several):
        augmentation.require_views(plan.count)
    chosen = [augmentation.policy(number if policy is None else policy) for number in range(max(plan.count, 2))]
    match plan:
        case Pair() | Linked():
            return EachByItsPolicy(augmentation, tuple(chosen))
        case ViewSequence():
            last = augmentation.policies[-1] if policy is None else chosen[0]
            return EachByItsPolicy(augmentation, (*[chosen[0]] * plan.observed, last))
        case Alike():
            return EachByItsPolicy(augmentation, tuple(chosen), images=(0, 2) if plan.parameters else ())
        case SameCrop():
            second = replace(chosen[1], size=chosen[0].size)
            return EachByItsPolicy(augmentation, (chosen[0], second), one_crop=True)
        case MultiCrop():
            kinds = [kind for kind in plan.crops for _ in range(kind.count)]
            cropped = tuple(one.with_crop(kind.size, kind.scale) for one, kind in zip(chosen, kinds, strict=False))
            return EachByItsPolicy(augmentation, cropped, tuple(kind.centre for kind in kinds))
        case TransformPath():
            return AlongPath(augmentation, plan, *(one.with_crop(plan.size, plan.scale) for one in chosen[:2]))
        case Patches():
            return PiecesOfOneView(augmentation, chosen[0].with_crop(plan.view, plan.scale), PatchCutter(plan))
        case Saccades():
            whole = chosen[0].with_crop(plan.size, None)
            return PiecesOfOneView(augmentation, whole, SaccadeCutter(plan, whole))
        case QuarterTurns():
            return PiecesOfOneView(augmentation, chosen[0].with_crop(plan.size, plan.scale), TurnCutter(plan))
        case Several():
            parts = zip(plan.plans, plan.choices, strict=True)
            made = [(one.count, one.sources, maker_of(one, augmentation, choice)) for one, choice in parts]
            return OneAfterTheOther(tuple(made))
    raise TypeError(f"the views of {type(plan).__name__} cannot be made; plans are those of ssl_inv.views")


@dataclass(frozen=True)
class EachByItsPolicy(Maker):
    """Independent views, of one image or of an image each.

    Attributes:
        augmentation: says what is recorded.
        policies: one a view.
        centres: the share of the sides that a crop about the centre takes, one a view; None where the policy crops.
            Empty: None everywhere.
        one_crop: whether all views move pixels as the first does.
        images: which image each view is made of; empty: one after the other.
    """

    augmentation: Augmentation
    policies: tuple[Policy, ...]
    centres: tuple[float | None, ...] = ()
    one_crop: bool = False
    images: tuple[int, ...] = ()

    def origins(self, sources: int) -> list[tuple[int, Policy]]:
        images = self.images or range(sources)
        return [(images[number % len(images)] % sources, policy) for number, policy in enumerate(self.policies)]

    def transforms(self, key: Key, extents: Sequence[Extent]) -> list[Transform]:
        found: list[Transform] = []
        for number, policy in enumerate(self.policies):
            height, width = extents[self.origins(len(extents))[number][0]]
            transform = self.augmentation.draw(replace(key, view=key.view + number), height, width, policy)
            if self.one_crop and found:
                transform = Transform({**transform.values, **moved_by(found[0], self.policies[0])}, transform.groups)
            if self.centres and (centre := self.centres[number]) is not None:
                if isinstance(height, int):
                    crop = torch.tensor([0.5, 0.5, centre, centre]).repeat(len(key), 1)
                else:
                    crop = torch.from_numpy(centre_squares(height, width, len(key), centre)).float()
                transform = Transform({**transform.values, "crop": crop}, {**transform.groups, **Crop.groups})
                side = policy.size or int(np.minimum(height, width).min())
                transform = self.augmentation.with_projective(transform, policy, side)
            found.append(transform)
        return found


@dataclass(frozen=True)
class AlongPath(Maker):
    """A view, and the path along which some parameters of a second view go.

    All views are made of one image. Along parameters that the data records, each is made of an image of its own.

    Attributes:
        augmentation: says what is recorded.
        plan: the parameters, and how far along the path the views are.
        first: makes the first view.
        second: makes all others.

    Raises:
        ValueError: if the second policy does not draw a parameter, or the parameter has no values between two others.
    """

    augmentation: Augmentation
    plan: TransformPath
    first: Policy
    second: Policy

    def __post_init__(self) -> None:
        drawn = self.second.groups
        for name in self._drawn:
            if name not in drawn:
                problem = f"no operation of the second view's policy draws {name!r}; {suggest(name, drawn)}"
            elif name == PROJECTIVE:
                problem = f"{name!r} follows from other parameters; name these: {', '.join(_continuous(drawn))}"
            elif not drawn[name].continuous:
                problem = f"{name!r} names something or says yes or no, so it has no values between two others"
            else:
                continue
            raise ValueError(f"TransformPath: parameters: {problem}")

    def origins(self, sources: int) -> list[tuple[int, Policy]]:
        numbers = range(self.plan.count)
        return [(number if self.plan.own else 0, self.second if number else self.first) for number in numbers]

    def transforms(self, key: Key, extents: Sequence[Extent]) -> list[Transform]:
        extent, side = extents[0], int(np.minimum(*extents[0]).min())
        first = self.augmentation.draw(key, *extent, self.first)
        end = self.augmentation.draw(replace(key, view=key.view + 1), *extent, self.second)
        way = [self._along(end, fraction, extent, self.second.size or side) for fraction in self.plan.fractions]
        return [first if self.plan.on_first else self._along(first, 0.0, extent, self.first.size or side), end, *way]

    @property
    def _drawn(self) -> list[str]:
        """The parameters of the path that the augmentation changes."""
        return [name for name in self.plan.parameters if name not in self.plan.own]

    def _along(self, end: Transform, fraction: float, extent: Extent, size: int) -> Transform:
        """The transform `fraction` of the way from neutral parameters to their values in `end`; all other parameters
        stay.
        """
        target = end.only(self._drawn)
        values = {name: group.neutral(len(end)) for name, group in target.groups.items() if name != "crop"}
        if "crop" in target.groups:
            values["crop"] = torch.from_numpy(centre_squares(*extent, len(end))).float()
        neutral = Transform(values, target.groups)
        along = Transform({**end.values, **neutral.path(target, fraction).values}, end.groups)
        return self.augmentation.with_projective(along, self.second, size)


def _continuous(groups: Mapping[str, Group]) -> list[str]:
    return [name for name, group in groups.items() if group.continuous and name != PROJECTIVE]


@dataclass(frozen=True)
class PiecesOfOneView(Maker):
    """Views that are cut out of a larger one, or turned.

    Attributes:
        augmentation: says what is recorded.
        policy: makes the larger view.
        cutter: makes pieces of it.
    """

    augmentation: Augmentation
    policy: Policy
    cutter: Cutter

    def origins(self, sources: int) -> list[tuple[int, Policy]]:
        return [(0, self.policy)]

    def transforms(self, key: Key, extents: Sequence[Extent]) -> list[Transform]:
        return [self.augmentation.draw(key, *extents[0], self.policy)]

    def cut_up(self) -> list[bool]:
        return [True]

    def views(
        self, renderings: Sequence[Rendering], rendered: Sequence[Tensor], key: Key, last: Last = None
    ) -> list[Made]:
        (view,), transform = rendered, renderings[0].transform
        records = self.cutter.draw(view, key, transform)
        return [Made(self._piece(view, record, last), transform.merge(record)) for record in records]

    def _piece(self, view: Tensor, record: Transform, last: Last) -> Tensor:
        piece = self.cutter.cut(view, record).contiguous(memory_format=torch.channels_last)
        return last.apply(piece) if last else piece

    def rendering_of(self, number: int) -> int:
        return 0

    def view_of(self, rendered: Tensor, transform: Transform, number: int, last: Last = None) -> Tensor:
        return self._piece(rendered, transform, last)

    def host_part(self) -> Maker:
        # Saliency maps and functions stay here.
        return EachByItsPolicy(self.augmentation, (self.policy,))


@dataclass(frozen=True)
class OneAfterTheOther(Maker):
    """The views of several plans.

    Attributes:
        parts: of each plan, none of them `Several`, how many views it has, of how many images they are made, and its
            maker.
    """

    parts: tuple[tuple[int, int, Maker], ...]

    def origins(self, sources: int) -> list[tuple[int, Policy]]:
        return [one for _, own, maker in self.parts for one in maker.origins(min(own, sources))]

    def transforms(self, key: Key, extents: Sequence[Extent]) -> list[Transform]:
        found: list[Transform] = []
        for first, (_, own, maker) in zip(self._firsts, self.parts, strict=True):
            found += maker.transforms(replace(key, view=key.view + first), extents[:own])
        return found

    def cut_up(self) -> list[bool]:
        return [one for _, _, maker in self.parts for one in maker.cut_up()]

    def views(
        self, renderings: Sequence[Rendering], rendered: Sequence[Tensor], key: Key, last: Last = None
    ) -> list[Made]:
        made: list[Made] = []
        start = 0
        for first, (_, _, maker) in zip(self._firsts, self.parts, strict=True):
            part = slice(start, start := start + len(maker.origins(1)))
            made += maker.views(renderings[part], rendered[part], replace(key, view=key.view + first), last)
        return made

    def rendering_of(self, number: int) -> int:
        part, number = self._part(number)
        return sum(len(maker.origins(1)) for _, _, maker in self.parts[:part]) + self.parts[part][2].rendering_of(
            number
        )

    def view_of(self, rendered: Tensor, transform: Transform, number: int, last: Last = None) -> Tensor:
        part, number = self._part(number)
        return self.parts[part][2].view_of(rendered, transform, number, last)

    def host_part(self) -> Maker:
        return OneAfterTheOther(tuple((count, own, maker.host_part()) for count, own, maker in self.parts))

    @property
    def _firsts(self) -> list[int]:
        """The number of the first view of every plan."""
        return list(accumulate((count for count, _, _ in self.parts), initial=0))[:-1]

    def _part(self, number: int) -> tuple[int, int]:
        """The plan that view `number` is of, and its number there."""
        for part, (count, _, _) in enumerate(self.parts):
            if number < count:
                return part, number
            number -= count
        raise IndexError("the plan has fewer views")


@dataclass(frozen=True)
class Frames:
    """Which regions of photographs the views of a plan need; see `Framing`.

    Attributes:
        maker: decides how views are made.
        seed: decides the random numbers.
    """

    maker: Maker
    seed: int

    def regions(self, objects: Indices, epoch: int, sides: Sequence[Indices]) -> list[list[Regions]]:
        """See `Framing.regions`."""
        key = Key(self.seed, np.full_like(objects, epoch), objects, 0)
        found: list[list[Regions]] = [[] for _ in sides]
        for source, policy, transform in self.maker.renderings(key, [(one[:, 0], one[:, 1]) for one in sides]):
            regions = policy.regions(transform, sides[source])
            alike = (
                one
                for one in found[source]
                if (one.size, one.black) == (regions.size, regions.black)
                and np.array_equal(one.corners, regions.corners)
            )
            found[source].append(next(alike, regions))
        return found
