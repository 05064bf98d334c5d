"""kornia's containers and automatic policies, chosen and drawn sample by sample.

`ImageSequential(random_apply=...)`, RandAugment, AutoAugment and TrivialAugment choose their augmentations once a batch
in kornia. Here every sample has a choice of its own, and the samples that have chosen the same are changed together.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from kornia.augmentation import ImageSequential, PatchSequential, VideoSequential
from kornia.augmentation.auto.base import PolicyAugmentBase
from kornia.augmentation.auto.operations.base import OperationBase
from kornia.augmentation.auto.operations.policy import PolicySequential
from kornia.augmentation.base import _BasicAugmentationBase
from torch import Tensor, nn

from ssl_inv.augment.keyed_draws import KeyedDraws, NoOtherDraws, UnknownDrawError
from ssl_inv.augment.kornia_part import KorniaPart
from ssl_inv.augment.kornia_units import Sides
from ssl_inv.transforms import Code, Group
from ssl_inv.transforms.keyed_random import random_bits

_CHOICE, _CHILD = 0xC401CE, 0x51ED270B
"""Set the numbers of choices, and those of one member from those of the next, apart."""


class Part(Protocol):
    """Something that changes images, drawn from seeds; see `KorniaPart`."""

    label: str
    groups: dict[str, Group]
    seeded: bool

    @property
    def projective(self) -> bool: ...

    @property
    def moves(self) -> bool: ...

    def draw(self, seeds: Tensor, sides: Sides) -> dict[str, Tensor]: ...

    def apply(self, pixels: Tensor, record: Mapping[str, Tensor], seeds: Tensor) -> Tensor: ...

    def tried(self, pixels: Tensor) -> Tensor: ...

    def sides_after(self, sides: Sides) -> Sides: ...

    def maps(self, record: Mapping[str, Tensor], seeds: Tensor, sides: Sides) -> tuple[Tensor, Sides]: ...


def part_of(module: nn.Module, label: str) -> Part:
    """What applies a module of kornia, or any module that changes images without chance.

    Raises:
        ValueError: if it cannot be made independent of the batch, or changes no images.
    """
    if isinstance(module, PatchSequential | VideoSequential):
        raise ValueError(
            f"kornia's {type(module).__name__} cannot make views: it draws for patches or frames, not views"
        )
    if isinstance(module, PolicySequential) and len(module) == 1:
        return part_of(module[0], f"{label.rpartition('.')[0]}.{type(module[0]).__name__}")
    if isinstance(module, PolicyAugmentBase | PolicySequential | ImageSequential):
        return KorniaSequence(module, label)
    if isinstance(module, OperationBase | _BasicAugmentationBase):
        return KorniaPart(module, label)
    return WithoutChance(module, label)


class WithoutChance:
    """A module without random parameters, such as a filter.

    Args:
        module: changes images `(n, 3, H, W)`.
        label: its name in messages.

    Raises:
        ValueError: if it draws something.
    """

    groups: dict[str, Group]
    seeded = projective = moves = False

    def __init__(self, module: nn.Module, label: str) -> None:
        self.module, self.label, self.groups = module, label, {}
        with KeyedDraws(torch.zeros(1, dtype=torch.int64)) as mode, NoOtherDraws():
            self.apply(torch.full((1, 3, 32, 32), 0.5), {}, torch.zeros(1, dtype=torch.int64))
        if mode.draws:
            raise ValueError(f"{label} draws something, and is none of kornia's augmentations of images")

    def draw(self, seeds: Tensor, sides: Sides) -> dict[str, Tensor]:
        return {}

    def apply(self, pixels: Tensor, record: Mapping[str, Tensor], seeds: Tensor) -> Tensor:
        try:
            return torch.cat([self.module(one) for one in torch.split(pixels, 1)])
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except UnknownDrawError as error:
            raise ValueError(f"{self.label} is none of kornia's augmentations of images, and {error}") from None
        except Exception as error:  # Somebody else's module can raise anything.
            raise ValueError(f"{self.label} cannot change the images: {' '.join(str(error).split())}") from error

    def tried(self, pixels: Tensor) -> Tensor:
        return self.apply(pixels, {}, torch.zeros(len(pixels), dtype=torch.int64))

    def sides_after(self, sides: Sides) -> Sides:
        height, width = self.tried(torch.full((1, 3, *sides), 0.5)).shape[-2:]
        return height, width

    def maps(self, record: Mapping[str, Tensor], seeds: Tensor, sides: Sides) -> tuple[Tensor, Sides]:
        return torch.eye(3, dtype=torch.float64).repeat(len(seeds), 1, 1), sides


class KorniaSequence:
    """Augmentations one after the other; all of them, or some that each sample chooses.

    Args:
        module: kornia's container or policy.
        label: its name in records.

    Attributes:
        groups: those of all members, and `LABEL.choice`, the numbers of the chosen members from 1, in their order.
        seeded: whether seeds are needed to apply it, beside the record.

    Raises:
        ValueError: if a member cannot be made independent of the batch, or can be chosen twice.
    """

    def __init__(self, module: nn.Module, label: str) -> None:
        self.module: Any = module
        self.label = label
        children = dict(module.named_children())
        kinds = Counter(_kind(child) for child in children.values())
        seen: Counter[str] = Counter()
        self._parts: list[Part] = []
        for child in children.values():
            kind = _kind(child)
            seen[kind] += 1
            self._parts.append(part_of(child, f"{label}.{kind}" + (f"_{seen[kind]}" if kinds[kind] > 1 else "")))
        self._numbers = {name: number for number, name in enumerate(children)}
        most = _most_chosen(module, len(children))
        weights = getattr(module, "random_apply_weights", torch.ones(len(children)))
        if most > int((weights > 0).sum()) or (_chooses(module) and most > weights.sum()):
            advice = "give at least as many weights, with a sum of at least as much"
            raise ValueError(f"{label}: chooses {most} members and may choose one of them twice; {advice}")
        self._slots, self._chooses = most, _chooses(module)
        self.groups: dict[str, Group] = {f"{label}.choice": Code(most)} if self._chooses else {}
        for part in self._parts:
            self.groups |= part.groups
        self.seeded = any(part.seeded for part in self._parts)

    @property
    def projective(self) -> bool:
        """Whether some member moves pixels by a homography."""
        return any(part.projective for part in self._parts)

    @property
    def moves(self) -> bool:
        """Whether some member moves pixels."""
        return any(part.moves for part in self._parts)

    def sides_after(self, sides: Sides) -> Sides:
        """See `KorniaPart.sides_after`."""
        for part in self._parts:
            sides = sides if self._chooses else part.sides_after(sides)
        return sides

    def draw(self, seeds: Tensor, sides: Sides) -> dict[str, Tensor]:
        """See `KorniaPart.draw`."""
        choice = self._choices(seeds)
        record: dict[str, Tensor] = {f"{self.label}.choice": choice} if self._chooses else {}
        for number, part in enumerate(self._parts):
            rows = torch.nonzero((choice == number + 1).any(1))[:, 0]
            some = part.draw(_of_member(seeds[rows], number), sides) if len(rows) else {}
            for name, group in part.groups.items():
                every = group.neutral(len(seeds))
                record[name] = every if not len(rows) else every.to(some[name].dtype).index_copy_(0, rows, some[name])
            sides = sides if self._chooses else part.sides_after(sides)
        return record

    def _choices(self, seeds: Tensor) -> Tensor:
        """The members of each sample in their order, by their numbers from 1; 0 for none, `(n, slots)`."""
        if not self._chooses:
            return torch.arange(1, len(self._parts) + 1).repeat(len(seeds), 1)
        found = torch.zeros(len(seeds), self._slots, dtype=torch.int64)
        for row, seed in enumerate(seeds):
            with KeyedDraws(seed.view(1) + _CHOICE):
                chosen = [self._numbers[name] + 1 for name, _ in self.module.get_forward_sequence()]
            found[row, : len(chosen)] = torch.tensor(chosen, dtype=torch.int64)
        return found

    def apply(self, pixels: Tensor, record: Mapping[str, Tensor], seeds: Tensor) -> Tensor:
        """See `KorniaPart.apply`."""
        for number, rows in self._steps(record, len(pixels)):
            part, every = self._parts[number], len(rows) == len(pixels)
            own = {name: record[name][rows] for name in part.groups}
            index = rows.to(pixels.device)
            made = part.apply(pixels if every else pixels[index], own, _of_member(seeds[rows], number))
            if not every and made.shape[1:] != pixels.shape[1:]:
                raise ValueError(f"{part.label}: changes the size of images, so it cannot be left to chance")
            pixels = made if every else pixels.index_copy(0, index, made)
        return pixels

    def tried(self, pixels: Tensor) -> Tensor:
        """See `KorniaPart.tried`."""
        for part in self._parts:
            made = part.tried(pixels)
            if self._chooses and made.shape != pixels.shape:
                raise ValueError(f"{part.label}: changes the size of images, so it cannot be left to chance")
            pixels = made
        return pixels

    def maps(self, record: Mapping[str, Tensor], seeds: Tensor, sides: Sides) -> tuple[Tensor, Sides]:
        """See `KorniaPart.maps`."""
        total = torch.eye(3, dtype=torch.float64).repeat(len(seeds), 1, 1)
        for number, rows in self._steps(record, len(seeds)):
            part = self._parts[number]
            if part.projective:
                own = {name: record[name][rows] for name in part.groups}
                found, _ = part.maps(own, _of_member(seeds[rows], number), sides)
                total[rows] = total[rows] @ found
            sides = sides if self._chooses else part.sides_after(sides)
        return total, sides

    def _steps(self, record: Mapping[str, Tensor], count: int) -> list[tuple[int, Tensor]]:
        """Which member changes which rows, one after the other."""
        if not self._chooses:
            return [(number, torch.arange(count)) for number in range(len(self._parts))]
        choice = record[f"{self.label}.choice"]
        return [
            (number - 1, torch.nonzero(choice[:, slot] == number)[:, 0])
            for slot in range(self._slots)
            for number in sorted(set(choice[:, slot].tolist()))
            if number
        ]


def _of_member(seeds: Tensor, number: int) -> Tensor:
    return random_bits(seeds + (number + 1) * _CHILD, 1)[:, 0] >> 2 & (2**62 - 1)


def _kind(module: nn.Module) -> str:
    return type(module[0] if isinstance(module, PolicySequential) and len(module) == 1 else module).__name__


def _chooses(module: nn.Module) -> bool:
    return isinstance(module, PolicyAugmentBase) or (isinstance(module, ImageSequential) and bool(module.random_apply))


def _most_chosen(module: nn.Module, members: int) -> int:
    if isinstance(module, ImageSequential) and module.random_apply:
        bounds: Any = module.random_apply
        return int(bounds[1]) - 1
    if isinstance(module, PolicyAugmentBase):
        return int(getattr(module, "n", 1))
    return members
