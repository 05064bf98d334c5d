"""Operations that change colours: what they draw, and what they do to pixels.

Formulas and units are those of torchvision and kornia.
"""

from collections.abc import Mapping
from itertools import pairwise, permutations
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment.kernels import (
    HUE_SHAPE,
    blend_at_once,
    brighten,
    contrast,
    convolve_at_once,
    gaussian,
    gaussian_weights,
    invert_from,
    keep_bits,
    linear_hue,
    linear_hue_matrices,
    luma,
    mix_at_once,
    saturate,
    turn_hue,
    turn_hue_at_once,
)
from ssl_inv.augment.operation import Draws, PerView, Photometric, Side, Style, check_range, require_colours
from ssl_inv.augment.warp import Neutral, Record, Rows, changed, chosen
from ssl_inv.catalogue import require_at_least, require_between
from ssl_inv.transforms import Circle, Code, Flag, Group, Real, keyed_random
from ssl_inv.transforms.keyed_random import Key

ORDERS = np.array(list(permutations(range(4))))
"""The 24 orders of brightness, contrast, saturation and hue; `jitter_order` is a row."""

NEVER_SOLARISED = 256 / 255
"""A threshold that no pixel reaches."""

ERASED = 0.5
"""The colour of erased rectangles: mid-grey."""

_CACHED_PIXELS = 2**16
"""Pixels that one core jitters at a time: the planes that a change of hue needs beside them then fit into a cache of 1
MB.
"""

JitterOrder = Literal["sample", "epoch", "fixed"]


class Jitter(Photometric):
    """Colour jitter: brightness, contrast, saturation and hue, in random order.

    Of images that are not red, green and blue it changes brightness and contrast only; `saturation` and `hue` are 0.

    Records the factors `brightness`, `contrast`, `saturation` (1 is neutral), the turn `hue` and `jitter_order`.

    Args:
        brightness: factors are drawn from 1 - brightness to 1 + brightness, and not below 0.
        contrast: largest change of contrast, as for brightness.
        saturation: largest change of saturation, as for brightness.
        hue: turns are drawn from -hue to hue; at most 0.5.
        order: a random order for every `sample`; one for the first views of all samples of an `epoch`, one for the
            second and so on; or `fixed`: brightness, contrast, saturation, hue.
        probability: of being applied.
    """

    neutral: Mapping[str, Neutral] = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    groups: Mapping[str, Group] = {
        **{name: Real(scale=0.8, neutral_value=1.0) for name in ("brightness", "contrast", "saturation")},
        "hue": Circle(),
        "jitter_order": Code(),
    }

    def __init__(
        self,
        *,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        order: JitterOrder = "sample",
        probability: float = 0.8,
    ) -> None:
        super().__init__(probability)
        require_at_least(0, brightness=brightness, contrast=contrast, saturation=saturation)
        require_between(0, 0.5, hue=hue)
        self.reach, self.order = np.array([brightness, contrast, saturation, hue]), order

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        key = key.for_purpose("jitter")
        applied, unit = key.happens(self.probability), key.uniform(5)
        order = unit[:, 4]
        if self.order == "epoch":
            order = np.broadcast_to(keyed_random.uniform(key.seed, key.epoch, key.view, count=1)[:, 0], order.shape)
        number = (order * len(ORDERS)).astype(np.int64) if self.order != "fixed" else 0
        low, high, reach = np.maximum(1 - self.reach[:3], 0), 1 + self.reach[:3], self.reach[3]
        brightness, contrast, saturation = np.where(applied, (low + (high - low) * unit[:, :3]).T, 1.0)
        return {
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": np.where(applied, np.remainder(-reach + (reach - -reach) * unit[:, 3], 1.0), 0.0),
            "jitter_order": np.where(applied, number, 0),
        }

    def require_channels(self, channels: int) -> None:
        for name, reach in (("saturation", self.reach[2]), ("hue", self.reach[3])):
            if reach:
                require_colours(self, channels, "set `saturation: 0` and `hue: 0`", name)

    @classmethod
    def sorted_rows(cls, record: Record, count: int) -> Rows:
        """All `count` rows, with equal orders side by side. Hue comes first, because it costs most."""
        rows = np.flatnonzero(changed(record, count, cls.neutral))
        order = np.full((count, 4), -1)
        order[rows] = ORDERS[record["jitter_order"][rows] if "jitter_order" in record else 0]
        return np.lexsort((*order.T[::-1], order.argmax(axis=1)))

    @staticmethod
    def apply(views: Tensor, rows: Rows, record: Record, style: Style) -> None:
        """Change neighbours together that take the same change at the same stage; so sort the rows before."""
        order, numbers = _orders_and_factors(rows, record)
        factors = torch.from_numpy(numbers).to(views.device, non_blocking=True).view(4, -1, 1, 1, 1)
        most = max(1, _CACHED_PIXELS * torch.get_num_threads() // views[0, 0].numel())
        parts = [
            (int(stage[start]), slice(first, min(first + most, stop)))
            for stage in order.T
            for start, stop in pairwise([*np.flatnonzero(np.diff(stage, prepend=-1)).tolist(), len(stage)])
            for first in range(start, stop, most)
        ]
        with chosen(views, rows) as pixels:
            for change, part in parts:
                some, factor = pixels[part], factors[change, part]
                if change > 1 and some.shape[1] != 3:
                    continue  # no colours
                if change < 3:
                    (brighten, contrast, saturate)[change](some, factor)
                elif style.hue == "hsv":
                    turn_hue(some, factor)
                else:
                    linear_hue(some, factor)

    @staticmethod
    def numbers(rows: Rows, record: Record, side: int, style: Style) -> Mapping[str, NDArray[Any]]:
        order, factors = _orders_and_factors(rows, record)
        found: dict[str, NDArray[Any]] = {"turns": (6 * factors[3]).reshape(-1, 1, 1), "shape": HUE_SHAPE}
        if style.hue == "linear":
            found = {"matrices": linear_hue_matrices(factors[3])}
        for number, (part, stage) in enumerate(_blends(order)):
            change = order[part][np.arange(len(stage)), stage]
            factor = factors[change, np.arange(len(order))[part]]
            rest = 1 - factor
            share = np.stack((factor, rest * (change == 2), rest * (change == 1))).astype(np.float32)
            found[f"blend {number}"] = share.reshape(3, -1, 1, 1, 1)
        return found

    @staticmethod
    def apply_at_once(views: Tensor, rows: Rows, record: Record, style: Style, numbers: Mapping[str, Tensor]) -> None:
        """All that is not hue is one kind of change, so there are three before a turn of hue and three after it. Rows
        are sorted, so that neighbours take part in each.
        """
        blends = _blends(_orders_and_factors(rows, record)[0])
        with chosen(views, rows, numbers["rows"]) as pixels:
            for number, (part, stage) in enumerate(blends):
                coloured = number == 3 and pixels.shape[1] == 3
                if coloured and style.hue == "hsv":
                    turn_hue_at_once(pixels, numbers["turns"], numbers["shape"])
                elif coloured:
                    mix_at_once(pixels, numbers["matrices"])
                if len(stage):
                    blend_at_once(pixels[part], *numbers[f"blend {number}"].unbind())


def _orders_and_factors(rows: Rows, record: Record) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The order of the four changes for every row, `(n, 4)`, and their numbers, `(4, n)`; neutral if not recorded."""
    order = ORDERS[record["jitter_order"][rows] if "jitter_order" in record else np.zeros_like(rows)]
    missing = np.ones(len(rows), np.float32)
    each = [record[name][rows] if name in record else missing * neutral for name, neutral in Jitter.neutral.items()]
    return order, np.stack(each)


def _blends(order: NDArray[np.int64]) -> list[tuple[slice, NDArray[np.int64]]]:
    """Which rows take part in each of three blends before and three after a turn of hue, and at which stage of their
    own order. The rows are sorted by the stage of their hue.
    """
    hue = order.argmax(axis=1)
    firsts = [int(np.searchsorted(hue, number, side="right")) for number in range(3)]
    before = [(slice(first, len(hue)), np.full(len(hue) - first, number)) for number, first in enumerate(firsts)]
    return before + [(slice(0, last), hue[:last] + 1 + number) for number, last in enumerate(reversed(firsts))]


class Grey(PerView):
    """Loss of all colour. Records `grey`.

    Args:
        probability: of being applied.
    """

    groups: Mapping[str, Group] = {"grey": Flag()}
    neutral: Mapping[str, Neutral] = {"grey": 0.0}

    def __init__(self, *, probability: float = 0.2) -> None:
        super().__init__(probability)

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        return {"grey": key.for_purpose("grey").happens(self.probability).astype(np.float64)}

    def require_channels(self, channels: int) -> None:
        require_colours(self, channels, "leave it out, or set its probability to 0")

    @staticmethod
    def change(pixels: Tensor, numbers: Mapping[str, Tensor]) -> None:
        pixels.copy_(luma(pixels).expand_as(pixels))


class Blur(Photometric):
    """A Gaussian blur whose kernel spans a tenth of the view and at least 3 pixels, as in SimCLR. Records `blur`, the
    standard deviation in pixels.

    Args:
        sigma: smallest and largest standard deviation, in pixels of the view.
        probability: of being applied.
    """

    groups: Mapping[str, Group] = {"blur": Real(scale=2.0)}
    neutral: Mapping[str, Neutral] = {"blur": 0.0}

    def __init__(self, *, sigma: list[float] = [0.1, 2.0], probability: float = 0.5) -> None:
        super().__init__(probability)
        self.sigma = check_range("sigma", sigma, 0)

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        key = key.for_purpose("blur")
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * key.uniform(1)[:, 0]
        return {"blur": np.where(key.happens(self.probability), sigma, 0.0)}

    @staticmethod
    def apply(views: Tensor, rows: Rows, record: Record, style: Style) -> None:
        gaussian(views, np.stack((record["blur"], record["blur"]), axis=1).astype(np.float64), _reach(views.shape[-1]))

    @staticmethod
    def numbers(rows: Rows, record: Record, side: int, style: Style) -> Mapping[str, NDArray[Any]]:
        weights = gaussian_weights(record["blur"][rows].astype(np.float64), min(_reach(side), side - 1))
        return {"weights": weights}

    @staticmethod
    def apply_at_once(views: Tensor, rows: Rows, record: Record, style: Style, numbers: Mapping[str, Tensor]) -> None:
        with chosen(views, rows, numbers["rows"]) as pixels:
            weights = numbers["weights"].repeat_interleave(pixels.shape[1], dim=0)
            pixels.copy_(convolve_at_once(pixels, weights))


def _reach(side: int) -> int:
    """The radius of SimCLR's kernel in pixels."""
    return max(3, side // 10 // 2 * 2 + 1) // 2


class Solarise(PerView):
    """An inversion of all values at or above a threshold. Records `solarise`, the threshold; above 1 where not applied.

    Args:
        threshold: between 0 and 1.
        probability: of being applied.
    """

    groups: Mapping[str, Group] = {"solarise": Real(neutral_value=NEVER_SOLARISED)}
    neutral: Mapping[str, Neutral] = {"solarise": NEVER_SOLARISED}

    def __init__(self, *, threshold: float = 128 / 255, probability: float = 0.2) -> None:
        super().__init__(probability)
        require_between(0, 1, threshold=threshold)
        self.threshold = threshold

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        applied = key.for_purpose("solarise").happens(self.probability)
        return {"solarise": np.where(applied, self.threshold, NEVER_SOLARISED)}

    @staticmethod
    def change(pixels: Tensor, numbers: Mapping[str, Tensor]) -> None:
        invert_from(pixels, numbers["solarise"])


class Posterise(PerView):
    """Fewer levels: only the highest bits of the 8-bit values are kept. Records `posterise`, how many; 8 where not
    applied.

    Args:
        bits: fewest and most bits that are kept.
        probability: of being applied.
    """

    groups: Mapping[str, Group] = {"posterise": Real(scale=8.0, neutral_value=8.0)}
    neutral: Mapping[str, Neutral] = {"posterise": 8.0}

    def __init__(self, *, bits: list[int] = [3, 5], probability: float = 0.5) -> None:
        super().__init__(probability)
        self.bits = check_range("bits", bits, 1, 8)

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        key = key.for_purpose("posterise")
        bits = np.floor(self.bits[0] + (self.bits[1] + 1 - self.bits[0]) * key.uniform(1)[:, 0])
        return {"posterise": np.where(key.happens(self.probability), bits, 8.0)}

    @staticmethod
    def change(pixels: Tensor, numbers: Mapping[str, Tensor]) -> None:
        keep_bits(pixels, numbers["posterise"])


class Erasing(Photometric):
    """A rectangle painted over with mid-grey (Zhong et al., AAAI 2020). Records `erasing`: its left and top side, width
    and height, in fractions of the view.

    Args:
        scale: smallest and largest share of the view's area.
        ratio: smallest and largest width over height.
        probability: of being applied.
    """

    groups: Mapping[str, Group] = {"erasing": Real(dimensions=4)}
    neutral: Mapping[str, Neutral] = {"erasing": 0.0}

    def __init__(
        self, *, scale: list[float] = [0.02, 0.33], ratio: list[float] = [0.3, 3.3], probability: float = 0.5
    ) -> None:
        super().__init__(probability)
        self.scale, self.ratio = check_range("scale", scale, 0, 1), check_range("ratio", ratio, 1e-3, 1e3)

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        key = key.for_purpose("erasing")
        unit, (low, high) = key.uniform(4), np.log(self.ratio)
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * unit[:, 0]
        ratio = np.exp(low + (high - low) * unit[:, 1])
        w, h = np.minimum(np.sqrt(area * ratio), 1), np.minimum(np.sqrt(area / ratio), 1)
        boxes = np.stack((unit[:, 2] * (1 - w), unit[:, 3] * (1 - h), w, h), axis=1)
        return {"erasing": np.where(key.happens(self.probability)[:, None], boxes, 0.0)}

    @staticmethod
    def apply(views: Tensor, rows: Rows, record: Record, style: Style) -> None:
        corners = _corners(record["erasing"][rows], views.shape[-1]).tolist()
        for row, (left, top, right, bottom) in zip(rows.tolist(), corners, strict=True):
            views[row, :, top:bottom, left:right] = ERASED

    @staticmethod
    def numbers(rows: Rows, record: Record, side: int, style: Style) -> Mapping[str, NDArray[Any]]:
        return {"corners": _corners(record["erasing"][rows], side).T.reshape(2, 2, -1, 1)}

    @staticmethod
    def apply_at_once(views: Tensor, rows: Rows, record: Record, style: Style, numbers: Mapping[str, Tensor]) -> None:
        low, high = numbers["corners"].unbind()
        place = torch.arange(views.shape[-1], device=views.device)
        across, down = (place.ge(low) & place.lt(high)).unbind()
        with chosen(views, rows, numbers["rows"]) as pixels:
            pixels.masked_fill_((down.unsqueeze(2) & across.unsqueeze(1)).unsqueeze(1), ERASED)


def _corners(boxes: NDArray[Any], side: int) -> NDArray[np.int64]:
    """Left, top, right and bottom of boxes in pixels, `(n, 4)`."""
    boxes = boxes.astype(np.float64)
    corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1) * side
    whole: NDArray[np.int64] = np.rint(corners).astype(np.int64)
    return whole
