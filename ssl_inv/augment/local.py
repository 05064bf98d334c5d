"""From the record of random fields to what they do to the views of a batch."""

import math
from collections.abc import Mapping
from itertools import permutations
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment import fields
from ssl_inv.augment.operation import Draws, Operation, between, check_probability, check_range, where_applied
from ssl_inv.augment.warp import Planes, Rows, pixel_centres
from ssl_inv.catalogue import SettingError
from ssl_inv.transforms import Code, Flag, Group, Real
from ssl_inv.transforms.keyed_random import Key

Record = Mapping[str, NDArray[Any]]
"""The parameters of some views as arrays on the host, by name; a parameter that is not recorded is neutral."""


class LocalChanges:
    """What random fields do to the views of a batch; the numbers that they are made of are drawn once for all rows.

    Args:
        record: how the views are made, B rows.
        rows: how many views there are.
        size: side of the views in pixels.
        device: where the views are.

    Attributes:
        moves: which views a local geometric transform is applied to, `(B,)`.
        tints: which views a local change of colour is applied to, `(B,)`.
    """

    def __init__(self, record: Record, rows: int, size: int, device: torch.device) -> None:
        self.size, self.device = size, device
        self.transforms = [name for name in GEOMETRIC if f"field_{name}" in record]
        self.strengths = _strengths(record, self.transforms, rows)
        self.tint_strengths = _strengths(
            record, [name for name in COLOURS if f"field_{name}" in record] and COLOURS, rows
        )
        self.moves, self.tints = (self.strengths != 0).max(axis=1), (self.tint_strengths != 0).max(axis=1)
        if self.moves.any() or self.tints.any():
            self._order = record["field_order"]
            self._seed, self._gamma = (torch.from_numpy(record[name]) for name in ("field_seed", "field_gamma"))
            self._alike, self._kind, self._place = _alike(record["field_periodic"] > 0, record["field_gamma"], size)
            self._amplitudes = {
                purpose: self._draw(purpose) for purpose in (0, 1) if (self.moves, self.tints)[purpose].any()
            }

    def points(self, rows: Rows) -> Planes:
        """Where every pixel of some views is taken from in the views without fields: x and y, `(n, size, size)` each,
        from -1 to 1.
        """
        drawn, alphas = self._fields(0, rows), self._strengths(self.strengths, rows)
        x, y = pixel_centres(self.size, self.device)
        if self.transforms == ["translate"]:
            return drawn[:, 0].mul_(alphas[:, :1, None]).add_(x), drawn[:, 1].mul_(alphas[:, :1, None]).add_(y)
        order = torch.tensor(list(permutations(range(len(self.transforms)))))[torch.from_numpy(self._order[rows])]
        still = torch.stack((x.expand(1, self.size, self.size), y.expand(1, self.size, self.size)), dim=-1)
        moved = fields.warp(still.expand(len(rows), -1, -1, -1), self.transforms, alphas, drawn, order)
        return moved[..., 0], moved[..., 1]

    def recolour(self, views: Tensor, rows: Rows) -> Tensor:
        """Add fields to hue, saturation and value of some views `(n, 3, size, size)`, in place."""
        return views.copy_(
            fields.local_colour(views, self._strengths(self.tint_strengths, rows), self._fields(1, rows))
        )

    def _strengths(self, values: NDArray[np.float32], rows: Rows) -> Tensor:
        return torch.from_numpy(values[rows]).to(self.device, non_blocking=True)

    def _draw(self, purpose: int) -> list[Tensor]:
        """Amplitudes of each kind of fields; of other purposes, others."""
        count = len(COLOURS) if purpose else fields.field_count(self.transforms)
        found = []
        for number, periodic in enumerate(self._alike):
            rows = torch.from_numpy(np.flatnonzero(self._kind == number))
            numbers = self._seed[rows] + purpose, self._gamma[rows]
            found.append(fields.coefficients(*numbers, count, self.size, periodic=periodic, device=self.device))
        return found

    def _fields(self, purpose: int, rows: Rows) -> Tensor:
        """Fields of some rows, `(n, count, size, size)`."""
        parts = []
        for number in np.unique(self._kind[rows]).tolist():
            chosen = np.flatnonzero(self._kind[rows] == number)
            index = torch.from_numpy(self._place[rows[chosen]]).to(self.device, non_blocking=True)
            amplitudes = self._amplitudes[purpose][number].index_select(0, index)
            made = fields.synthesise(amplitudes, self.size, periodic=self._alike[number])
            if len(chosen) == len(rows):
                return made
            parts.append((chosen, made))
        back = torch.from_numpy(np.argsort(np.concatenate([chosen for chosen, _ in parts])))
        return torch.cat([made for _, made in parts]).index_select(0, back.to(self.device, non_blocking=True))


def _alike(periodic: NDArray[np.bool_], gamma: NDArray[np.float32], size: int) -> tuple[list[bool], Rows, Rows]:
    """Rows whose fields have as many waves: beside others, whose sums have more terms, a field would be rounded by what
    stands there.

    Args:
        periodic: whether fields are periodic, `(B,)`.
        gamma: their smoothness, `(B,)`.
        size: side of the views in pixels.

    Returns:
        Of each kind whether its fields are periodic; the kind of each row and its place among the rows of its kind,
        both `(B,)`.
    """
    waves = np.where(periodic, *(fields.cutoffs(gamma, size, periodic=one) for one in (True, False)))
    kinds, kind = np.unique(np.stack((periodic, waves)), axis=1, return_inverse=True)
    kind = kind.reshape(-1)  # numpy 2.0 gave it another shape
    place = np.empty(len(kind), dtype=np.int64)
    for number in range(kinds.shape[1]):
        rows = np.flatnonzero(kind == number)
        place[rows] = np.arange(len(rows))
    return [bool(one) for one in kinds[0]], kind, place


def _strengths(record: Record, names: "list[str] | tuple[str, ...]", rows: int) -> NDArray[np.float32]:
    """The recorded strengths of local transforms, 0 of those that are not recorded, `(B, N)`."""
    zero = np.zeros(rows, dtype=np.float32)
    return np.stack([record.get(f"field_{name}", zero) for name in names], axis=1) if names else zero[:, None]


GEOMETRIC = ("translate", "rotate", "scale", "shear")


COLOURS = ("hue", "saturation", "value")


Local = Literal["translate", "rotate", "scale", "shear", "hue", "saturation", "value"]


class RandomField(Operation):
    """Local transforms, by another amount at every pixel (Mansfield et al., NeurReps 2023, arXiv 2311.03629).

    Records the strength alpha of every transform, `field_translate` and so on, and `field_gamma`, `field_seed`,
    `field_periodic` and `field_order`, from which the fields are made again.

    Args:
        transforms: which of translate, rotate, scale, shear, hue, saturation and value; several geometric ones are
            multiplied in random order, with every strength divided by the square root of their number.
        gamma: smoothness, the exponent of the fields' power spectrum; below 3, fields tear an image apart, and above 10
        they hardly change.
        alpha: strength, the largest value of a field; 1 is half the image's side, half a turn, or from black to white.
        probability: of being applied.
        periodic: whether opposite borders move together, as in fields by Fourier transform without padding. These are
            up to three times as steep at equal strength; the paper's numbers fit them better than the windows of larger
            fields that are the default.
    """

    def __init__(
        self,
        *,
        transforms: list[Local] = ["translate"],
        gamma: list[float] = [7.0, 10.0],
        alpha: list[float] = [0.0, 1 / 3],
        probability: float = 0.8,
        periodic: bool = False,
    ) -> None:
        check_probability("probability", probability)
        if not transforms or len(set(transforms)) < len(transforms):
            raise SettingError("transforms", f"must be different and at least one, got {transforms}")
        self.transforms = [name for name in (*GEOMETRIC, *COLOURS) if name in transforms]
        self.gamma, self.alpha = check_range("gamma", gamma, 0.1, 100), check_range("alpha", alpha, 0, 10)
        self.probability, self.periodic = probability, periodic

    @property
    def groups(self) -> Mapping[str, Group]:
        strengths: dict[str, Group] = {f"field_{name}": Real(scale=1 / 3) for name in self.transforms}
        gamma = Real(scale=10.0, neutral_value=10.0)
        return {
            **strengths,
            "field_gamma": gamma,
            "field_periodic": Flag(),
            "field_seed": Code(),
            "field_order": Code(),
        }

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        key = key.for_purpose("random_field")
        applied, unit = key.happens(self.probability), key.uniform(2 + len(self.transforms))
        orders = math.factorial(sum(name in GEOMETRIC for name in self.transforms))
        strengths = where_applied(applied, between(*self.alpha, unit[:, 2:]))
        return {
            **{f"field_{name}": strengths[:, place] for place, name in enumerate(self.transforms)},
            "field_gamma": where_applied(applied, between(*self.gamma, unit[:, 0]), 10.0),
            "field_periodic": where_applied(applied, np.full(len(key), float(self.periodic))),
            "field_seed": np.where(applied, key.for_purpose("seed").seeds(), 0),
            "field_order": np.where(applied, (unit[:, 1] * orders).astype(np.int64), 0),
        }
