"""From a batch of raw images to the normalised views that an objective asked for."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.augment.geometry import Crop
from ssl_inv.augment.operation import Normalisation
from ssl_inv.augment.policy import PROJECTIVE, Augmentation, Policy
from ssl_inv.catalogue import suggest
from ssl_inv.data.batches import Batch
from ssl_inv.data.source import Images, Source
from ssl_inv.transforms import Group, Transform
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.views.cutters import Cutter, PatchCutter, SaccadeCutter, TurnCutter
from ssl_inv.views.pieces import Patches, QuarterTurns, Saccades
from ssl_inv.views.plan import Plan, View, Views
from ssl_inv.views.plans import Linked, MultiCrop, Pair, PolicyChoice, Several, TransformPath, ViewSequence


class ViewMaker(nn.Module):
    """Makes views on the device that the batch is on.

    Data whose objects have as many views as a `Pair` or a `ViewSequence` needs serves the plan with them, augmented on
    top if wished; so does data that can render the images of a `TransformPath`. In all other cases the augmentation
    makes the views of a plan from one image.

    Args:
        plan: the views that are wanted.
        source: the data, for what it records of its views.
        augmentation: makes views, with random numbers that depend on seed, epoch and sample alone.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divides afterwards.
        seed: decides the augmentation's random numbers.

    Raises:
        ValueError: if the data has fewer views an object than the plan needs and the augmentation makes none, if the
            augmentation does not do what the plan builds on, if the data cannot render what it should, or if the data
            and the augmentation record parameters of the same name.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        plan: Plan,
        source: Source,
        augmentation: Augmentation,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ) -> None:
        super().__init__()
        plan = plan.over(source.groups)
        self.plan, self.augmentation, self.seed = plan, augmentation, seed
        fewest = int(source.view_counts.min())
        self.loaded_views = plan.own_views if plan.linked or fewest >= plan.own_views else 1
        """How many of the data's own views of each object a batch must have."""
        _require_different_views(plan, augmentation, fewest, self.loaded_views)
        _require_images_between(plan, source, fewest)
        self._maker = maker_of(plan, augmentation)
        for policy in dict.fromkeys(self._maker.used):
            policy.check(source.image_size)
        self._made_groups: dict[str, Group] = {**augmentation.groups, **plan.groups}
        if both := sorted(set(source.groups) & set(self._made_groups)):
            raise ValueError(
                f"the data records {both[0]!r} of its views, and so does the augmentation or the plan; "
                "rename the data's parameter"
            )
        self.groups: dict[str, Group] = {**source.groups, **self._made_groups}
        self._crop_share = augmentation.view_size(source.image_size) / source.image_size
        self.normalisation = Normalisation(tuple(mean), tuple(std))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> Views:
        """The views of a batch whose tensors are on this module's device."""
        index = batch.index.numpy()
        key = Key(self.seed, np.full_like(index, batch.epoch), index, 0)
        views = []
        # Half precision is for networks; views must not depend on it.
        with torch.autocast(self.mean.device.type, enabled=False):
            images = [one.pixels for one in batch.images]
            for pixels, drawn, source in self._maker.make(images, key, self.normalisation):
                values, groups = dict(batch.images[source].transform.values), batch.images[source].transform.groups
                # All views of a sample have the same parameters, neutral where a view has no part in one.
                for name, group in self._made_groups.items():
                    values[name] = drawn.values[name] if name in drawn.values else group.neutral(len(index))
                record = Transform(values, {**groups, **self._made_groups}).to(pixels.device)
                views.append(View(pixels, record))
        return Views(tuple(views), batch.index, batch.shown)

    def render(self, images: Sequence[Images], transform: Transform, number: int) -> Tensor:
        """The pixels of a view again, from its record.

        Args:
            images: what the view was made of: `Batch.images`, or some of its rows.
            transform: how the view was made.
            number: which view of the plan it is.
        """
        with torch.autocast(self.mean.device.type, enabled=False):
            return self._maker.render([one.pixels for one in images], transform, number, self.normalisation)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation; with channels last, as convolutions prefer."""
        return ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def whole(self, pixels: Tensor) -> Tensor:
        """Whole images of the data, pixels in [0, 1], as networks see them where no views are made: evaluation, banks,
        graphs.

        Views may have another size than the data's images, so this is the centre of the image, in the size of views.
        """
        return self.normalise(central(pixels, self._crop_share))


def central(pixels: Tensor, share: float) -> Tensor:
    """The centre of square images `(B, C, S, S)`, `share` of their sides; with a share above 1 the images enlarged."""
    whole, side = pixels.shape[-1], round(pixels.shape[-1] * share)
    if side > whole:
        return F.interpolate(pixels, (side, side), mode="bicubic").clamp(0, 1)
    # To the even number where the middle falls between two pixels, as in torchvision and timm.
    start = round((whole - side) / 2)
    return pixels[..., start : start + side, start : start + side]


def _require_different_views(plan: Plan, augmentation: Augmentation, fewest: int, loaded: int) -> None:
    parts = zip(plan.plans, plan.choices, strict=True) if isinstance(plan, Several) else [(plan, None)]
    for part, policy in parts:
        alike = isinstance(part, Pair | ViewSequence | MultiCrop) and part.count > loaded
        # An image may stand beside another view of its object.
        alike = alike or (isinstance(part, Linked) and part.count > fewest)
        if alike and (policy == "plain" or not augmentation.groups):
            needed = f"objects of this data have {fewest} view(s) and {part.count} are needed"
            advice = "other data" if policy == "plain" else "an augmentation that makes them"
            raise ValueError(f"{needed}; choose {advice}")


def _require_images_between(plan: Plan, source: Source, fewest: int) -> None:
    if plan.way is None:
        return
    wanted = f"images on the way from one view to another along {plan.way.parameters[0]!r} are wanted"
    if not source.renders:
        raise ValueError(
            f"{wanted}, but this data is stored images; choose rendered data, or parameters that an augmentation draws"
        )
    if fewest < 2:
        raise ValueError(f"{wanted}, but objects of this data have {fewest} view; 2 are needed")


# What makes the views of each plan.

Last = Normalisation | None  # what is done to finished views


class Made(NamedTuple):
    """One view of every sample.

    Attributes:
        pixels: `(B, 3, H, W)`, in memory of their own, with channels last.
        transform: how they were made, on the host.
        source: which of the data's own views they were made of.
    """

    pixels: Tensor
    transform: Transform
    source: int = 0


class Maker(ABC):
    """Makes the views of one plan.

    Sources are the data's own views, one or more, `(B, 3, H, W)` each, uint8 or float in [0, 1].
    """

    @property
    @abstractmethod
    def used(self) -> list[Policy]:
        """The policies that make views."""

    @abstractmethod
    def make(self, sources: Sequence[Tensor], key: Key, last: Last = None) -> list[Made]:
        """All views of the plan, ended by `last`; `key` is that of its first, others have the numbers after it."""

    @abstractmethod
    def render(self, sources: Sequence[Tensor], transform: Transform, number: int, last: Last = None) -> Tensor:
        """View `number` of the plan from its record; parameters of other origin are ignored."""


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
    chosen = [augmentation.policy(number if policy is None else policy) for number in range(max(plan.count, 2))]
    match plan:
        case Pair() | Linked():
            return EachByItsPolicy(augmentation, tuple(chosen))
        case ViewSequence():
            last = augmentation.policies[-1] if policy is None else chosen[0]
            return EachByItsPolicy(augmentation, (*[chosen[0]] * plan.observed, last))
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
            return OneAfterTheOther(tuple((one, maker_of(one, augmentation, choice)) for one, choice in parts))
    raise TypeError(f"the views of {type(plan).__name__} cannot be made; plans are those of ssl_inv.views")


@dataclass(frozen=True)
class EachByItsPolicy(Maker):
    """Independent views, of one image or of an image each.

    Attributes:
        augmentation: says what is recorded.
        policies: one a view.
        centres: the share of the sides that a crop about the centre takes, one a view; None where the policy crops.
            Empty: None everywhere.
    """

    augmentation: Augmentation
    policies: tuple[Policy, ...]
    centres: tuple[float | None, ...] = ()

    @property
    def used(self) -> list[Policy]:
        return list(self.policies)

    def make(self, sources: Sequence[Tensor], key: Key, last: Last = None) -> list[Made]:
        made = []
        for number, policy in enumerate(self.policies):
            source = number % len(sources)
            (height, width), of_view = sources[source].shape[-2:], replace(key, view=key.view + number)
            transform = self.augmentation.draw(of_view, height, width, policy)
            if self.centres and (centre := self.centres[number]) is not None:
                crop = torch.tensor([0.5, 0.5, centre, centre]).repeat(len(key), 1)
                transform = Transform({**transform.values, "crop": crop}, {**transform.groups, **Crop.groups})
            made.append(Made(policy.render(sources[source], transform, last), transform, source))
        return made

    def render(self, sources: Sequence[Tensor], transform: Transform, number: int, last: Last = None) -> Tensor:
        return self.policies[number].render(sources[number % len(sources)], transform, last)


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

    def make(self, sources: Sequence[Tensor], key: Key, last: Last = None) -> list[Made]:
        height, width = sources[0].shape[-2:]
        first = self.augmentation.draw(key, height, width, self.first)
        end = self.augmentation.draw(replace(key, view=key.view + 1), height, width, self.second)
        side = min(height, width)
        way = [self._along(end, fraction, self.second.size or side) for fraction in self.plan.fractions]
        transforms = [first if self.plan.on_first else self._along(first, 0.0, self.first.size or side), end, *way]
        return [
            Made(self.render(sources, transform, number, last), transform, number if self.plan.own else 0)
            for number, transform in enumerate(transforms)
        ]

    def render(self, sources: Sequence[Tensor], transform: Transform, number: int, last: Last = None) -> Tensor:
        return self.used[min(number, 1)].render(sources[number if self.plan.own else 0], transform, last)

    @property
    def used(self) -> list[Policy]:
        return [self.first, self.second]

    @property
    def _drawn(self) -> list[str]:
        """The parameters of the path that the augmentation changes."""
        return [name for name in self.plan.parameters if name not in self.plan.own]

    def _along(self, end: Transform, fraction: float, size: int) -> Transform:
        """The transform `fraction` of the way from neutral parameters to their values in `end`; all other parameters
        stay.
        """
        target = end.only(self._drawn)
        neutral = Transform({name: group.neutral(len(end)) for name, group in target.groups.items()}, target.groups)
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

    @property
    def used(self) -> list[Policy]:
        return [self.policy]

    def make(self, sources: Sequence[Tensor], key: Key, last: Last = None) -> list[Made]:
        height, width = sources[0].shape[-2:]
        transform = self.augmentation.draw(key, height, width, self.policy)
        view = self.policy.render(sources[0], transform)
        records = self.cutter.draw(view, key, transform)
        return [Made(self._piece(view, record, last), transform.merge(record)) for record in records]

    def render(self, sources: Sequence[Tensor], transform: Transform, number: int, last: Last = None) -> Tensor:
        return self._piece(self.policy.render(sources[0], transform), transform.to("cpu"), last)

    def _piece(self, view: Tensor, record: Transform, last: Last) -> Tensor:
        piece = self.cutter.cut(view, record).contiguous(memory_format=torch.channels_last)
        return last.apply(piece) if last else piece


@dataclass(frozen=True)
class OneAfterTheOther(Maker):
    """The views of several plans.

    Attributes:
        parts: the plans, none of them `Several`, and the maker of each.
    """

    parts: tuple[tuple[Plan, Maker], ...]

    @property
    def used(self) -> list[Policy]:
        return [policy for _, maker in self.parts for policy in maker.used]

    def make(self, sources: Sequence[Tensor], key: Key, last: Last = None) -> list[Made]:
        made: list[Made] = []
        for plan, maker in self.parts:
            made += maker.make(sources[: plan.sources], replace(key, view=key.view + len(made)), last)
        return made

    def render(self, sources: Sequence[Tensor], transform: Transform, number: int, last: Last = None) -> Tensor:
        for plan, maker in self.parts:
            if number < plan.count:
                return maker.render(sources[: plan.sources], transform, number, last)
            number -= plan.count
        raise IndexError("the plan has fewer views")
