"""One of kornia's augmentations, drawn sample by sample from seeds and recorded in the units of this package.

How it draws is found out by trying: it is asked for the parameters of two batches of different sizes. Draws whose size
follows that of the batch are made for all rows at once. An augmentation that draws anything for a batch as a whole is
asked for one row at a time, and then applied together to the rows that have the same.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from kornia.augmentation import GeometricAugmentationBase2D, MixAugmentationBaseV2, RandomJigsaw
from kornia.augmentation.auto.operations.base import OperationBase
from kornia.augmentation.base import _BasicAugmentationBase
from torch import Tensor, nn

from ssl_inv.augment.keyed_draws import Draw, KeyedDraws, NoOtherDraws, UnknownDrawError, unit_numbers
from ssl_inv.augment.kornia_trials import LENGTHS, TRIED, agreed, all_equal, differ, same_where_both_are, some_seeds
from ssl_inv.augment.kornia_units import Sides, Unit, unit_of
from ssl_inv.augment.operation import check_probability
from ssl_inv.catalogue import SettingError
from ssl_inv.transforms import Flag, Group

Parameters = dict[str, Any]
"""kornia's parameters of a batch, by kornia's names."""

_RECORDED = 64
"""Parameters of more numbers a sample, such as noise, are drawn again from the seed in place of being recorded."""

_SMALL_SIDES = (16, 16)

_WITHIN = 0xA991
"""Sets draws while pixels are changed apart from those of parameters."""

_NEARLY_ONE = 1 - 2.0**-24

_ROUNDED_BY_BATCH = ("ColorJitter", "RandomElasticTransform", "RandomJPEG")
"""On a CPU, sums over an image are rounded in another way if threads share fewer images."""

_CURVED = ("RandomElasticTransform", "RandomFisheye", "RandomThinPlateSpline")
"""Geometric augmentations that are no homographies."""


class KorniaPart:
    """An augmentation of kornia that changes one sample at a time.

    Args:
        module: the augmentation, or an operation of kornia's `auto` policies.
        label: its name in records.

    Attributes:
        groups: what is recorded, by name: `LABEL.applied` unless it always is, and `LABEL.parameter`.
        seeded: whether seeds are needed to apply it, beside the record.

    Raises:
        ValueError: if what it draws for a sample cannot be made independent of the batch.
    """

    def __init__(self, module: nn.Module, label: str) -> None:
        self._given, module = module, copy.deepcopy(module)
        core: Any = module.op if isinstance(module, OperationBase) else module
        if not isinstance(core, _BasicAugmentationBase):
            raise ValueError(f"{label}: {type(core).__name__} is none of kornia's augmentations of images")
        if isinstance(core, MixAugmentationBaseV2) and not isinstance(core, RandomJigsaw):
            reason = "it mixes the samples of a batch, so a view would depend on its batch"
            raise ValueError(f"kornia's {type(core).__name__} cannot make views: {reason}")
        check_probability(p=float(core.p), p_batch=float(core.p_batch))
        self.probability = float(core.p) * float(core.p_batch)
        if self.probability <= 0 and core is module:
            raise SettingError("p", "must be above 0; an augmentation that is never applied is left out")
        # kornia is only given the rows that it is to change.
        core.p = core.p_batch = 1.0
        self.module: Any = module
        self._sides_after: dict[Sides, Sides] = {}
        self.core: Any = core
        self.label = label
        try:
            self._find_out()
        except UnknownDrawError as error:
            raise ValueError(f"kornia's {type(core).__name__} cannot make views: {error}") from None

    def __reduce__(self) -> tuple[type["KorniaPart"], tuple[nn.Module, str]]:
        return KorniaPart, (self._given, self.label)

    @property
    def moves(self) -> bool:
        """Whether it moves pixels."""
        return isinstance(self.core, GeometricAugmentationBase2D)

    @property
    def certain(self) -> bool:
        """Whether it is always applied."""
        return self.probability >= 1

    @property
    def projective(self) -> bool:
        """Whether it moves pixels by a homography."""
        curved = any(kind.__name__ in _CURVED for kind in type(self.core).__mro__)
        return self.moves and not curved

    # How it draws.

    def _find_out(self) -> None:
        self._plan: list[Draw] = []
        seeds = [some_seeds(size, number) for number, size in enumerate((*TRIED, TRIED[0]))]
        sides = self._sides_to_try()
        with NoOtherDraws():
            draws, others = (self._batch(some, sides)[1] for some in seeds[:2])
        if self.core.same_on_batch and draws:
            raise SettingError("same_on_batch", "must be false; operations that samples share stand in `shared`")
        agree = len(draws) == len(others)
        self._plan = [agreed(*pair) for pair in zip(draws, others, strict=True)] if agree else []
        drawn, other, again = (self._batch(some, sides)[0] for some in seeds)
        varying = [name for name, value in drawn.items() if differ(value, again[name])]
        self._rows = [name for name in varying if (drawn[name].shape[:1], other[name].shape[:1]) == LENGTHS]
        self._shared = [name for name in varying if name not in self._rows]
        batch = [number for number, draw in enumerate(self._plan) if draw.kind == "batch"]
        self._order = batch[0] if len(batch) == 1 and self._is_order(drawn, seeds[0], batch[0]) else None
        self._singly = not agree or (bool(batch) and self._order is None)
        alike = [name for name in self._rows if batch and all_equal(drawn[name]) and all_equal(other[name])]
        self._alike = [*self._shared, *alike]
        """Parameters that all rows have in common when kornia applies it."""
        found = self._each(seeds[0], sides)
        self._large = [name for name in self._rows if found[name][0].numel() > _RECORDED]
        self._units = {name: self._unit(name, found[name], sides) for name in found if name not in self._large}
        self.groups: dict[str, Group] = {} if self.certain else {f"{self.label}.applied": Flag()}
        self.groups |= {f"{self.label}.{unit.name}": unit.group for unit in self._units.values()}
        self._neutral = {name: unit.group.neutral(1) for name, unit in self._units.items()}
        some = torch.tensor([3, 1])
        for name, value in self._each(seeds[0][some], sides).items():
            if not same_where_both_are(found[name][some], value):
                raise UnknownDrawError(f"what it draws for a sample, {name!r}, depends on the batch")
        self._any_sides = bool(self._large) and not self._singly
        if self._any_sides:
            small = self._each(seeds[0], _SMALL_SIDES)
            self._any_sides = all(torch.equal(found[name], small[name]) for name in self._units)
        images = unit_numbers(seeds[0][:5], 0, 3 * sides[0] * sides[1], 24).view(5, 3, *sides)
        with KeyedDraws(seeds[0][:1]) as mode, NoOtherDraws():
            self._applied(images[:1], self._batch(seeds[0][:1], sides)[0])
        self._draws_when_applied = bool(mode.draws)
        self._alone = self._draws_when_applied or self._rounds_by_batch(images, seeds[0][:5], sides)
        """Whether kornia is given one image at a time."""
        self.seeded = bool(self._large) or self._draws_when_applied

    def _sides_to_try(self) -> Sides:
        """Sides at which crops can move, but small ones where much is drawn for every pixel."""
        size = self.core.flags.get("size", 0)
        side = 2 * max(size if isinstance(size, tuple | list) else (int(size), 24))
        drawn, _ = self._batch(some_seeds(*TRIED), (side, side))
        large = any(isinstance(one, Tensor) and one.numel() > _RECORDED * TRIED[0] for one in drawn.values())
        return (side, side) if large else (max(side, 128),) * 2

    def _rounds_by_batch(self, images: Tensor, seeds: Tensor, sides: Sides) -> bool:
        """Whether kornia rounds in another way for fewer images, as some convolutions do."""
        if any(kind.__name__ in _ROUNDED_BY_BATCH for kind in type(self.core).__mro__):
            return True
        self._alone = False
        record = self._record(seeds, sides, torch.ones(len(seeds), dtype=torch.bool))
        together = self.apply(images, record, seeds)
        parts = [torch.tensor(rows) for rows in ([2], [4, 0])]
        return not all(
            torch.equal(
                together[rows], self.apply(images[rows], {name: one[rows] for name, one in record.items()}, seeds[rows])
            )
            for rows in parts
        )

    def _is_order(self, drawn: Parameters, seeds: Tensor, number: int) -> bool:
        """Whether the only draw for the batch is an order, which is the only parameter that a batch shares."""
        permuted = self._plan[number].arguments == ("permutation",) and len(self._shared) == 1
        return permuted and torch.equal(drawn[self._shared[0]], self._orders(seeds[:1], number)[0])

    def _orders(self, seeds: Tensor, number: int) -> Tensor:
        return unit_numbers(seeds, number, self._plan[number].count).argsort(dim=1, stable=True)

    def _unit(self, name: str, found: Tensor, sides: Sides) -> Unit:
        """The unit of a parameter; its range is what kornia makes of the ends of the range of random numbers."""
        ends = [found]
        if self._singly:
            ends.append(self._each(some_seeds(64, 3), sides)[name])
        elif name not in self._shared:
            ends += [self._batch(some_seeds(1, 3), sides, constant)[0][name] for constant in (0.0, _NEARLY_ONE)]
        every = torch.cat(ends)
        return unit_of(type(self.core), name, every.amin(0), every.amax(0))

    # Drawing.

    def _batch(self, seeds: Tensor, sides: Sides, constant: float | None = None) -> tuple[Parameters, list[Draw]]:
        """What kornia draws for a batch, and how it draws it."""
        shape = torch.Size((len(seeds), 3, *sides))
        with KeyedDraws(seeds, self._plan, constant) as mode, self._own_errors():
            drawn: Parameters = self.module.forward_parameters(shape)
        return drawn, mode.draws

    def _each(self, seeds: Tensor, sides: Sides) -> dict[str, Tensor]:
        """What is drawn for every row by itself, `(n, ...)`, of the parameters that vary."""
        names = (*self._rows, *self._shared)
        if self._singly:
            alone = [self._batch(seed.view(1), sides)[0] for seed in seeds]
            return {
                name: torch.cat([one[name] if name in self._rows else one[name].unsqueeze(0) for one in alone])
                for name in names
            }
        drawn, _ = self._batch(seeds, sides)
        if self._order is not None:
            drawn[self._shared[0]] = self._orders(seeds, self._order)
        return {name: drawn[name] for name in names}

    def draw(self, seeds: Tensor, sides: Sides) -> dict[str, Tensor]:
        """The record of every row, by name, `(n, ...)`; neutral in rows that are left as they are.

        Args:
            seeds: random whole numbers from [0, 2^62), int64, `(n,)`.
            sides: height and width of the images, in pixels.
        """
        # Seeds are random themselves, and what is drawn from them is independent of their digits.
        return self._record(seeds, sides, (seeds & (2**53 - 1)).double() * 2.0**-53 < self.probability)

    def _record(self, seeds: Tensor, sides: Sides, applied: Tensor) -> dict[str, Tensor]:
        record = {} if self.certain else {f"{self.label}.applied": applied.float()}
        found = self._each(seeds, _SMALL_SIDES if self._any_sides else sides) if self._units else {}
        for name, unit in self._units.items():
            value = unit.record(found[name], sides)
            if not self.certain:
                value = torch.where(applied if value.dim() == 1 else applied[:, None], value, self._neutral[name])
            record[f"{self.label}.{unit.name}"] = value
        return record

    # Applying.

    def apply(self, pixels: Tensor, record: Mapping[str, Tensor], seeds: Tensor) -> Tensor:
        """The changed images `(n, 3, H', W')`.

        Args:
            pixels: `(n, 3, H, W)`, float in [0, 1].
            record: what is drawn for each, on the host.
            seeds: int64, `(n,)`; only used if it is `seeded`.

        Raises:
            ValueError: if it would change the size of some images and leave that of others.
        """
        applied = self._applied_rows(record, len(pixels))
        if not len(applied):
            return pixels
        changed = None
        for rows, parameters in self._groups_of_rows(applied, record, seeds, _sides(pixels)):
            every = len(rows) == len(pixels)
            made = self._changed(pixels if every else pixels[rows.to(pixels.device)], parameters, seeds[rows])
            if every:
                return made
            if made.shape[1:] != pixels.shape[1:] and len(applied) < len(pixels):
                self._refuse_sizes(pixels, made)
            if changed is None:
                changed = (
                    pixels.clone() if made.shape == pixels[rows].shape else made.new_empty(len(pixels), *made.shape[1:])
                )
            changed.index_copy_(0, rows.to(pixels.device), made)
        assert changed is not None
        return changed

    def sides_after(self, sides: Sides) -> Sides:
        """Height and width of changed images."""
        if sides not in self._sides_after:
            self._sides_after[sides] = _sides(self.tried(torch.full((1, 3, *sides), 0.5)))
        return self._sides_after[sides]

    def tried(self, pixels: Tensor) -> Tensor:
        """Images that were certainly changed, whatever its probability.

        Raises:
            ValueError: if it cannot change images of this size, or would change the size of some only.
        """
        seeds, sides = some_seeds(len(pixels), 4), _sides(pixels)
        made = self.apply(pixels, self._record(seeds, sides, torch.ones(len(pixels), dtype=torch.bool)), seeds)
        if made.shape != pixels.shape and not self.certain:
            self._refuse_sizes(pixels, made)
        return made

    def _refuse_sizes(self, pixels: Tensor, made: Tensor) -> None:
        sizes = f"{made.shape[-1]}x{made.shape[-2]} of images of {pixels.shape[-1]}x{pixels.shape[-2]} pixels"
        raise ValueError(f"{self.label} makes {sizes}, so it cannot be left to chance: p must be 1")

    def _applied_rows(self, record: Mapping[str, Tensor], count: int) -> Tensor:
        if self.certain:
            return torch.arange(count)
        return torch.nonzero(record[f"{self.label}.applied"] > 0.5)[:, 0]

    def parameters(self, record: Mapping[str, Tensor], seeds: Tensor, sides: Sides) -> Parameters:
        """Kornia's parameters of all rows; those that a batch shares are given for each row."""
        restored = {
            name: unit.restore(record[f"{self.label}.{unit.name}"], sides) for name, unit in self._units.items()
        }
        drawn, _ = self._batch(seeds, sides)
        if self._singly and self._large:
            drawn |= {name: value for name, value in self._each(seeds, sides).items() if name in self._large}
        return {**drawn, **restored}

    def _groups_of_rows(
        self, rows: Tensor, record: Mapping[str, Tensor], seeds: Tensor, sides: Sides
    ) -> Iterator[tuple[Tensor, Parameters]]:
        """Rows that kornia can change together, with their parameters."""
        own = {name: record[name][rows] for name in self.groups}
        groups = [torch.arange(len(rows))]
        if self._alike:
            values = [
                own[f"{self.label}.{self._units[name].name}"].reshape(len(rows), -1).double() for name in self._alike
            ]
            _, number = torch.unique(torch.cat(values, dim=1), dim=0, return_inverse=True)
            groups = [torch.nonzero(number == one)[:, 0] for one in range(int(number.max()) + 1)]
        for some in groups:
            part = {name: value[some] for name, value in own.items()}
            found = self.parameters(part, seeds[rows[some]], sides)
            yield rows[some], {**found, **{name: found[name][0] for name in self._shared}}

    def _changed(self, pixels: Tensor, parameters: Parameters, seeds: Tensor) -> Tensor:
        if not self._alone:
            return self._applied(pixels, parameters)
        made = []
        for row, seed in enumerate(seeds):
            own = {
                name: value[row : row + 1] if isinstance(value, Tensor) and len(value) == len(seeds) else value
                for name, value in parameters.items()
            }
            with KeyedDraws(seed.view(1) + _WITHIN):
                made.append(self._applied(pixels[row : row + 1], own))
        return torch.cat(made)

    def _applied(self, pixels: Tensor, parameters: Parameters) -> Tensor:
        with self._own_errors():
            changed: Tensor = self.module(pixels, params=parameters)
        return changed

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        try:
            yield
        except (UnknownDrawError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # Somebody else's augmentation can raise anything.
            reason = " ".join(str(error).split())
            raise ValueError(f"{self.label} cannot change the images: {reason}") from error

    def maps(self, record: Mapping[str, Tensor], seeds: Tensor, sides: Sides) -> tuple[Tensor, Sides]:
        """The map from each changed image to the image, `(n, 3, 3)`, float64, and the sides of the changed ones.

        Coordinates (x, y, 1) run from -1 to 1 between the outer edges of the outer pixels. kornia's matrices lead from
        the image to the changed one, in pixels counted from the centre of the first.
        """
        found = torch.eye(3, dtype=torch.float64).repeat(len(seeds), 1, 1)
        rows = self._applied_rows(record, len(seeds))
        if not len(rows):
            return found, sides
        parameters = self.parameters({name: record[name][rows] for name in self.groups}, seeds[rows], sides)
        image = torch.zeros((), dtype=torch.float64).expand(len(rows), 3, *sides)
        precise = {name: _precise(value) for name, value in parameters.items()}
        matrices = self.core.compute_transformation(image, params=precise, flags=self.core.flags)
        after = self.sides_after(sides)
        found[rows] = _to_edges(sides) @ torch.linalg.inv(matrices.double()) @ torch.linalg.inv(_to_edges(after))
        return found, after


def _sides(pixels: Tensor) -> Sides:
    return pixels.shape[-2], pixels.shape[-1]


def _precise(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _to_edges(sides: Sides) -> Tensor:
    """From pixels, counted from the centre of the first, to coordinates from -1 to 1 between the outer edges."""
    height, width = sides
    rows = [[2 / width, 0.0, 1 / width - 1], [0.0, 2 / height, 1 / height - 1], [0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=torch.float64)
