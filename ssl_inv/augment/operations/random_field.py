"""The operation that draws random fields; what fields do stands in `ssl_inv.augment.random_field`."""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from ssl_inv.augment.operations.base import Draws, Key, Operation, between, check_probability, check_range, where_applied
from ssl_inv.registry import register
from ssl_inv.transforms import Code, Flag, Group, Real

GEOMETRIC = ("translate", "rotate", "scale", "shear")
COLOURS = ("hue", "saturation", "value")

Local = Literal["translate", "rotate", "scale", "shear", "hue", "saturation", "value"]


@register("random_field")
class RandomField(Operation):
    """Local transforms, by another amount at every pixel (Mansfield et al., NeurReps 2023, arXiv 2311.03629).

    Records the strength alpha of every transform, `field_translate` and so on, and `field_gamma`, `field_seed`, `field_periodic` and
    `field_order`, from which the fields are made again.

    Args:
        transforms: which of translate, rotate, scale, shear, hue, saturation and value; several geometric ones are multiplied in random
            order, with every strength divided by the square root of their number.
        gamma: smoothness, the exponent of the fields' power spectrum; below 3, fields tear an image apart, and above 10 they hardly change.
        alpha: strength, the largest value of a field; 1 is half the image's side, half a turn, or from black to white.
        probability: of being applied.
        periodic: whether opposite borders move together, as in fields by Fourier transform without padding. These are up to three times as
            steep at equal strength; the paper's numbers fit them better than the windows of larger fields that are the default.
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
            raise ValueError(f"transforms must be different and at least one, got {transforms}")
        self.transforms = [name for name in (*GEOMETRIC, *COLOURS) if name in transforms]
        self.gamma, self.alpha = check_range("gamma", gamma, 0.1, 100), check_range("alpha", alpha, 0, 10)
        self.probability, self.periodic = probability, periodic

    @property
    def groups(self) -> Mapping[str, Group]:
        strengths: dict[str, Group] = {f"field_{name}": Real(scale=1 / 3) for name in self.transforms}
        gamma = Real(scale=10.0, neutral_value=10.0)
        return {**strengths, "field_gamma": gamma, "field_periodic": Flag(), "field_seed": Code(), "field_order": Code()}

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
