"""Random fields as an operation: what it draws, how it moves pixels, how it changes colours."""

import math
from collections.abc import Mapping
from itertools import permutations
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment import fields
from ssl_inv.augment.operation import Draws, Photometric, Side, Style, check_range, require_colours
from ssl_inv.augment.warp import Neutral, Planes, Record, Rows, changed, chosen, pixel_centres, put
from ssl_inv.catalogue import SettingError
from ssl_inv.transforms import Code, Flag, Group, Real
from ssl_inv.transforms.keyed_random import Key

GEOMETRIC = ("translate", "rotate", "scale", "shear")
COLOURS = ("hue", "saturation", "value")
Local = Literal["translate", "rotate", "scale", "shear", "hue", "saturation", "value"]

_MODES = ("field_modes_that_move", "field_modes_that_tint")
"""The names of amplitudes in a record with modes."""


class RandomField(Photometric):
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
            up to three times as steep at equal strength. They fit the paper's numbers better than the default, windows
            of larger fields.
    """

    groups: Mapping[str, Group] = {
        **{f"field_{name}": Real(scale=1 / 3) for name in (*GEOMETRIC, *COLOURS)},
        "field_gamma": Real(scale=10.0, neutral_value=10.0),
        "field_periodic": Flag(),
        "field_seed": Code(),
        "field_order": Code(),
    }
    neutral: Mapping[str, Neutral] = {f"field_{name}": 0.0 for name in COLOURS}
    still: Mapping[str, Neutral] = {f"field_{name}": 0.0 for name in GEOMETRIC}
    """Parameters that decide whether pixels are moved, with the values that leave them where they are."""

    def __init__(
        self,
        *,
        transforms: list[Local] = ["translate"],
        gamma: list[float] = [7.0, 10.0],
        alpha: list[float] = [0.0, 1 / 3],
        probability: float = 0.8,
        periodic: bool = False,
    ) -> None:
        super().__init__(probability)
        if not transforms or len(set(transforms)) < len(transforms):
            raise SettingError("transforms", f"must name one or more transforms, each once, got {transforms}")
        self.transforms = [name for name in (*GEOMETRIC, *COLOURS) if name in transforms]
        self.gamma, self.alpha = check_range("gamma", gamma, 0.1, 100), check_range("alpha", alpha, 0, 10)
        self.periodic = periodic
        left_out = {f"field_{name}" for name in (*GEOMETRIC, *COLOURS) if name not in transforms}
        self.groups = {name: group for name, group in RandomField.groups.items() if name not in left_out}

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        key = key.for_purpose("random_field")
        applied, unit = key.happens(self.probability), key.uniform(2 + len(self.transforms))
        orders = math.factorial(sum(name in GEOMETRIC for name in self.transforms))
        alpha, gamma = (low + (high - low) * unit for low, high in (self.alpha, self.gamma))
        strengths = np.where(applied[:, None], alpha[:, 2:], 0.0)
        return {
            **{f"field_{name}": strengths[:, place] for place, name in enumerate(self.transforms)},
            "field_gamma": np.where(applied, gamma[:, 0], 10.0),
            "field_periodic": np.where(applied, float(self.periodic), 0.0),
            "field_seed": np.where(applied, key.for_purpose("seed").seeds(), 0),
            "field_order": np.where(applied, (unit[:, 1] * orders).astype(np.int64), 0),
        }

    def require_channels(self, channels: int) -> None:
        if any(name in COLOURS for name in self.transforms):
            require_colours(self, channels, f"leave {', '.join(COLOURS)} out of its transforms", "transforms")

    @staticmethod
    def reach(record: Record, count: int) -> NDArray[np.float64]:
        """A bound of how far from the centre of a view its pixels read, from 1 at its border, for the `count` rows of a
        record, `(count,)`.
        """
        bound = np.ones(count)
        for name in GEOMETRIC:
            strength = np.asarray(record.get(f"field_{name}", np.zeros(count)), np.float64)
            bound *= np.where(strength > 0, math.sqrt(2), 1) if name == "rotate" else 1 + strength
        return bound

    @staticmethod
    def modes(record: Record, count: int, size: int) -> dict[str, NDArray[np.float32]]:
        """The amplitudes of the modes of all fields, drawn once for the `count` rows of a record, to be added to it."""
        found = {}
        moves = [name for name in GEOMETRIC if f"field_{name}" in record]
        for purpose, (neutral, needed) in enumerate(
            ((RandomField.still, fields.field_count(moves)), (RandomField.neutral, len(COLOURS)))
        ):
            if not changed(record, count, neutral).any():
                continue
            parts = []
            for periodic in (False, True):
                rows = np.flatnonzero((record["field_periodic"] > 0) == periodic)
                seed, gamma = (torch.from_numpy(record[name][rows]) for name in ("field_seed", "field_gamma"))
                drawn = fields.coefficients(seed + purpose, gamma, needed, size, periodic=periodic)
                parts.append((rows, drawn.numpy()))
            side = max(part.shape[-1] for _, part in parts)
            every = found[_MODES[purpose]] = np.zeros((count, needed, side, side), np.float32)
            for rows, part in parts:
                every[rows, :, : part.shape[-1], : part.shape[-1]] = part
        return found

    @staticmethod
    def points(record: Record, size: int, device: torch.device) -> Planes:
        """The point of a view without fields that each pixel shows: x and y from -1 to 1, `(n, size, size)` each.

        Args:
            record: of the n views that are moved, with `modes`.
            size: side of the views in pixels.
            device: where the views are.
        """
        transforms = [name for name in GEOMETRIC if f"field_{name}" in record]
        drawn = _fields(record, 0, size, device)
        alphas = _strengths(record, transforms, device)
        x, y = pixel_centres(size, device)
        if transforms == ["translate"]:
            return drawn[:, 0].mul_(alphas[:, :1, None]).add_(x), drawn[:, 1].mul_(alphas[:, :1, None]).add_(y)
        order = torch.tensor(list(permutations(range(len(transforms)))))[torch.from_numpy(record["field_order"])]
        centres = torch.stack((x.expand(1, size, size), y.expand(1, size, size)), dim=-1)
        moved = fields.warp(centres.expand(len(alphas), -1, -1, -1), transforms, alphas, drawn, order)
        return moved[..., 0], moved[..., 1]

    @staticmethod
    def apply(views: Tensor, rows: Rows, record: Record, style: Style) -> None:
        some, device = {name: value[rows] for name, value in record.items()}, views.device
        with chosen(views, rows) as pixels:
            drawn = _fields(some, 1, views.shape[-1], device)
            pixels.copy_(fields.local_colour(pixels, _strengths(some, COLOURS, device), drawn))


def _strengths(record: Record, names: "list[str] | tuple[str, ...]", device: torch.device) -> Tensor:
    """The strengths of local transforms, 0 for those that are not recorded, `(n, N)`."""
    zero = np.zeros(len(record["field_seed"]), dtype=np.float32)
    values = np.stack([record.get(f"field_{name}", zero) for name in names], axis=1)
    return torch.from_numpy(values).to(device, non_blocking=True)


def _fields(record: Record, purpose: int, size: int, device: torch.device) -> Tensor:
    """The fields of every row, `(n, count, size, size)`, from a record with modes; other purposes have other fields."""
    modes, around = record[_MODES[purpose]], record["field_periodic"] > 0
    found = torch.empty(*modes.shape[:2], size, size, device=device)
    for periodic in (False, True):
        waves = fields.cutoffs(record["field_gamma"], size, periodic=periodic)
        # Rows with as many waves go together: beside rows with more, whose sums have more terms, a field would be
        # rounded in another way.
        for most in np.unique(waves[around == periodic]).tolist():
            rows, side = np.flatnonzero((waves == most) & (around == periodic)), 2 * most + 1
            amplitudes = torch.from_numpy(modes[rows, :, :side, :side]).to(device, non_blocking=True)
            made = fields.synthesise(amplitudes, size, periodic=periodic)
            if len(rows) == len(found):
                return made
            put(found, rows, made)
    return found
