"""Operations that change colours: what they draw, and what they do to pixels.

Formulas and units are those of torchvision and kornia.
"""

from collections.abc import Mapping
from itertools import pairwise, permutations
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv.augment.operation import Draws, Photometric, Side, Style, check_range
from ssl_inv.augment.warp import Neutral, Record, Rows, changed, chosen, column
from ssl_inv.catalogue import require_at_least, require_between
from ssl_inv.transforms import Circle, Code, Flag, Group, Real, keyed_random
from ssl_inv.transforms.keyed_random import Key

ORDERS = np.array(list(permutations(range(4))))
"""The 24 orders of brightness, contrast, saturation and hue; `jitter_order` is a row."""

NEVER_SOLARISED = 256 / 255
"""A threshold that no pixel reaches."""

ERASED = 0.5
"""The colour of erased rectangles: mid-grey."""

_RED, _GREEN, _BLUE = 0.2989, 0.587, 0.114
"""Luma of ITU-R 601, rounded as in torchvision."""

_CACHED_PIXELS = 2**16
"""Pixels that one core jitters at a time: the planes that a change of hue needs beside them then fit into a cache of 1
MB.
"""

_IMPERCEPTIBLE = 0.2
"""A Gaussian of this many pixels leaves a pixel all but four millionths of its weight."""

JitterOrder = Literal["sample", "epoch", "fixed"]


def luma(pixels: Tensor) -> Tensor:
    """Brightness as the eye weighs the channels, `(n, 1, H, W)`."""
    return (pixels[:, :1] * _RED).add_(pixels[:, 1:2], alpha=_GREEN).add_(pixels[:, 2:], alpha=_BLUE)


class Jitter(Photometric):
    """Colour jitter: brightness, contrast, saturation and hue, in random order.

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
        order = ORDERS[record["jitter_order"][rows] if "jitter_order" in record else np.zeros_like(rows)]
        missing = np.ones(len(views), np.float32)
        each = [record.get(name, missing * neutral)[rows] for name, neutral in Jitter.neutral.items()]
        factors = torch.from_numpy(np.stack(each)).to(views.device, non_blocking=True).view(4, -1, 1, 1, 1)
        most = len(views)
        if views.device.type == "cpu":
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
                if change == 0:  # brightness
                    some.mul_(factor).clamp_(0, 1)
                elif change == 1:  # contrast: away from the mean luma of the image
                    red, green, blue = some.mean((2, 3)).unbind(1)
                    mean = (red * _RED + green * _GREEN + blue * _BLUE).view(-1, 1, 1, 1)
                    some.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)
                elif change == 2:  # saturation: away from the luma of each pixel
                    share = luma(some).mul_(1 - factor)
                    some.mul_(factor).add_(share).clamp_(0, 1)
                elif style.hue == "hsv":
                    turn_hue(some, factor)
                else:
                    linear_hue(some, factor)


def turn_hue(pixels: Tensor, shift: Tensor) -> None:
    """Turn the hue of the HSV model by `shift`, `(n, 1, 1, 1)`, in turns; value and chroma, hence saturation, stay.

    With the smallest value m and the chroma c, hue lies (green + blue - red - m) / c + 1 sixths of a turn away from
    red: towards green if green is the larger of green and blue, else towards blue. From a hue h in sixths, red is m + c
    clamp(|h - 3| - 1, 0, 1), green is m + c clamp(2 - |h - 2|, 0, 1), and blue the same with 4. The largest channel is
    never selected: masks take ten times as long as arithmetic. To HSV and back, by `ssl_inv.transforms.hsv`, takes 1.5
    times as long, and rounds in another way.
    """
    red, green, blue = pixels.unbind(1)
    largest = torch.maximum(torch.maximum(red, green), blue)
    smallest = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.sub(largest, smallest).add_(1e-12)
    sixths = torch.add(green, blue).sub_(red).sub_(smallest).div_(chroma).add_(1)
    sixths.copysign_(torch.sub(green, blue)).add_(6 * shift[:, 0])
    part = torch.mul(sixths, 1 / 6).floor_()
    sixths.sub_(part, alpha=6)
    base = torch.sub(smallest, chroma, out=smallest)
    torch.addcmul(base, chroma, torch.sub(sixths, 3, out=part).abs_().clamp_(1, 2), out=red)
    base = torch.add(base, chroma, alpha=3, out=largest)
    torch.addcmul(base, chroma, torch.sub(sixths, 2, out=part).abs_().clamp_(1, 2), value=-1, out=green)
    torch.addcmul(base, chroma, sixths.sub_(4).abs_().clamp_(1, 2), value=-1, out=blue)


def linear_hue(pixels: Tensor, shift: Tensor) -> None:
    """Turn colours about the grey axis by `shift`, `(n, 1, 1, 1)`, in turns: a matrix in YIQ space. It is a good deal
    faster than `turn_hue`, but not the same: it keeps luma instead of value, and cuts values that leave [0, 1].
    """
    angle = 2 * torch.pi * shift[:, 0]
    to_yiq = torch.tensor(
        [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], device=pixels.device
    )
    turn = torch.eye(3, device=pixels.device).repeat(len(pixels), 1, 1)
    rows = torch.cat((angle.cos(), -angle.sin()), 2), torch.cat((angle.sin(), angle.cos()), 2)
    turn[:, 1:, 1:] = torch.cat(rows, 1)
    matrices = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    pixels.copy_((matrices @ pixels.flatten(2)).view_as(pixels)).clamp_(0, 1)


class Grey(Photometric):
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

    @staticmethod
    def apply(views: Tensor, rows: Rows, record: Record, style: Style) -> None:
        with chosen(views, rows) as pixels:
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
        widest = max(3, views.shape[-1] // 10 // 2 * 2 + 1)
        gaussian(views, np.stack((record["blur"], record["blur"]), axis=1).astype(np.float64), widest // 2)


def gaussian(pixels: Tensor, deviations: NDArray[np.float64], most: int = 64) -> Tensor:
    """Blur every image along x and along y, in place. Beyond the border an image is mirrored.

    Args:
        pixels: `(n, C, H, W)`.
        deviations: standard deviations along x and along y in pixels, `(n, 2)`; 0 leaves an image as it is.
        most: radius of the largest kernel in pixels. Smaller ones end where less than 3 per mille of the weight lie
            outside.
    """
    limit = np.minimum(most, [pixels.shape[-1] - 1, pixels.shape[-2] - 1])
    radii = np.where(deviations < _IMPERCEPTIBLE, 0, np.minimum(np.ceil(3 * deviations), limit)).astype(int)
    for across, down in {(x, y) for x, y in radii.tolist() if x or y}:
        rows = np.flatnonzero((radii == (across, down)).all(axis=1))
        index = torch.from_numpy(rows).to(pixels.device, non_blocking=True)
        one = pixels[rows[0] : rows[0] + 1] if len(rows) == 1 else None
        smooth = pixels.index_select(0, index) if one is None else one
        for sigma, radius, axis in ((deviations[rows, 0], across, -1), (deviations[rows, 1], down, -2)):
            if not radius:
                continue
            weights = np.exp(-0.5 * (np.arange(-radius, 1) / sigma[:, None]) ** 2).astype(np.float32)
            weights /= 2 * weights.sum(axis=1, keepdims=True) - 1
            on_device = torch.from_numpy(weights).to(pixels.device, non_blocking=True)
            factors = on_device.view(len(rows), radius + 1, 1, 1, 1).unbind(1)
            padded = F.pad(smooth, (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius), mode="reflect")
            extent = smooth.shape[axis]
            smooth = factors[radius] * smooth
            for place in range(radius):
                smooth.addcmul_(padded.narrow(axis, place, extent), factors[place])
                smooth.addcmul_(padded.narrow(axis, 2 * radius - place, extent), factors[place])
        if one is None:
            pixels.index_copy_(0, index, smooth)
        else:
            one.copy_(smooth)
    return pixels


class Solarise(Photometric):
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
    def apply(views: Tensor, rows: Rows, record: Record, style: Style) -> None:
        with chosen(views, rows) as pixels:
            above = torch.ge(pixels, column(record["solarise"][rows], views.device), out=torch.empty_like(pixels))
            pixels.addcmul_(above, 1 - 2 * pixels)


class Posterise(Photometric):
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
    def apply(views: Tensor, rows: Rows, record: Record, style: Style) -> None:
        step = 2 ** (8 - column(record["posterise"][rows], views.device))
        with chosen(views, rows) as pixels:
            pixels.mul_(255).round_().div_(step).floor_().mul_(step).div_(255)


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
        height, width = views.shape[-2:]
        boxes = record["erasing"][rows].astype(np.float64)
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        corners = np.rint(np.concatenate((low, high), axis=1) * [width, height, width, height]).astype(int)
        for row, (left, top, right, bottom) in zip(rows.tolist(), corners.tolist(), strict=True):
            views[row, :, top:bottom, left:right] = ERASED
