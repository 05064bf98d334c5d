"""Operations that change the values of pixels where they are.

Factors and units are those of torchvision's and kornia's.
"""

from collections.abc import Mapping
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_inv.augment.operation import (
    Draws,
    Happening,
    Operation,
    between,
    check_probability,
    check_range,
    where_applied,
)
from ssl_inv.catalogue import SettingError, require_between
from ssl_inv.transforms import Circle, Code, Group, Real, keyed_random
from ssl_inv.transforms.keyed_random import Key

ORDERS = np.array(list(permutations(range(4))))
"""The 24 orders of brightness, contrast, saturation and hue; `jitter_order` is a row."""


NEVER_SOLARISED = 256 / 255
"""A threshold that no pixel reaches."""


JitterOrder = Literal["sample", "epoch", "fixed"]


class Jitter(Operation):
    """Colour jitter: brightness, contrast, saturation and hue, in random order.

    Records the factors `brightness`, `contrast`, `saturation` (1 is neutral), the turn `hue` and `jitter_order`.

    Args:
        brightness: factors are drawn from 1 - brightness to 1 + brightness, and not below 0.
        contrast: likewise.
        saturation: likewise.
        hue: turns are drawn from -hue to hue; at most 0.5.
        order: a random order for every `sample`; one for the first views of all samples of an `epoch`, one for the
            second and so on; or `fixed`: brightness, contrast, saturation, hue.
        probability: of being applied.
    """

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
        check_probability("probability", probability)
        self.reach = np.array([brightness, contrast, saturation, hue])
        for name, value in zip(("brightness", "contrast", "saturation", "hue"), self.reach, strict=True):
            if not 0 <= value <= (0.5 if name == "hue" else float("inf")):
                raise SettingError(
                    name, f"must be at least 0{' and at most 0.5' if name == 'hue' else ''}, got {value}"
                )
        self.order, self.probability = order, probability

    @property
    def groups(self) -> Mapping[str, Group]:
        factor = {name: Real(scale=0.8, neutral_value=1.0) for name in ("brightness", "contrast", "saturation")}
        return {**factor, "hue": Circle(), "jitter_order": Code()}

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        key = key.for_purpose("jitter")
        applied, unit = key.happens(self.probability), key.uniform(5)
        low, high = np.maximum(1 - self.reach[:3], 0), 1 + self.reach[:3]
        factors = where_applied(applied, low + (high - low) * unit[:, :3], 1.0)
        hue = where_applied(applied, np.remainder(between(-self.reach[3], self.reach[3], unit[:, 3]), 1.0))
        order = np.where(applied, self._order(key, unit[:, 4]), 0)
        return {
            "brightness": factors[:, 0],
            "contrast": factors[:, 1],
            "saturation": factors[:, 2],
            "hue": hue,
            "jitter_order": order,
        }

    def _order(self, key: Key, unit: NDArray[np.float64]) -> NDArray[np.int64]:
        if self.order == "fixed":
            return np.zeros(len(key), dtype=np.int64)
        if self.order == "epoch":
            unit = np.broadcast_to(keyed_random.uniform(key.seed, key.epoch, key.view, count=1)[:, 0], unit.shape)
        return (unit * len(ORDERS)).astype(np.int64)


def grey(*, probability: float = 0.2) -> Operation:
    """Loss of all colour. Records `grey`.

    Args:
        probability: of being applied.
    """
    return Happening("grey", probability)


class Blur(Operation):
    """A Gaussian blur whose kernel spans a tenth of the view, as in SimCLR. Records `blur`, the standard deviation in
    pixels.

    Args:
        sigma: smallest and largest standard deviation, in pixels of the view.
        probability: of being applied.
    """

    def __init__(self, *, sigma: list[float] = [0.1, 2.0], probability: float = 0.5) -> None:
        check_probability("probability", probability)
        self.sigma, self.probability = check_range("sigma", sigma, 0), probability

    @property
    def groups(self) -> Mapping[str, Group]:
        return {"blur": Real(scale=2.0)}

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        key = key.for_purpose("blur")
        return {"blur": where_applied(key.happens(self.probability), between(*self.sigma, key.uniform(1)[:, 0]))}


class Solarise(Operation):
    """An inversion of all values at or above a threshold. Records `solarise`, the threshold; above 1 where not applied.

    Args:
        threshold: between 0 and 1.
        probability: of being applied.
    """

    def __init__(self, *, threshold: float = 128 / 255, probability: float = 0.2) -> None:
        check_probability("probability", probability)
        require_between(0, 1, threshold=threshold)
        self.threshold, self.probability = threshold, probability

    @property
    def groups(self) -> Mapping[str, Group]:
        return {"solarise": Real(neutral_value=NEVER_SOLARISED)}

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        applied = key.for_purpose("solarise").happens(self.probability)
        return {"solarise": np.where(applied, self.threshold, NEVER_SOLARISED)}


class Posterise(Operation):
    """Fewer levels: only the highest bits of the 8-bit values are kept. Records `posterise`, how many; 8 where not
    applied.

    Args:
        bits: fewest and most bits that are kept.
        probability: of being applied.
    """

    def __init__(self, *, bits: list[int] = [3, 5], probability: float = 0.5) -> None:
        check_probability("probability", probability)
        low, high = check_range("bits", [float(one) for one in bits], 1, 8)
        self.bits, self.probability = (int(low), int(high)), probability

    @property
    def groups(self) -> Mapping[str, Group]:
        return {"posterise": Real(scale=8.0, neutral_value=8.0)}

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        key = key.for_purpose("posterise")
        bits = np.floor(between(self.bits[0], self.bits[1] + 1, key.uniform(1)[:, 0]))
        return {"posterise": where_applied(key.happens(self.probability), bits, 8.0)}


class Noise(Operation):
    """Independent Gaussian noise on every value. Records `noise`, its standard deviation, and `noise_seed`.

    Args:
        deviation: smallest and largest standard deviation; 1 is the way from black to white.
        probability: of being applied.
    """

    def __init__(self, *, deviation: list[float] = [0.0, 0.1], probability: float = 0.5) -> None:
        check_probability("probability", probability)
        self.deviation, self.probability = check_range("deviation", deviation, 0), probability

    @property
    def groups(self) -> Mapping[str, Group]:
        return {"noise": Real(scale=0.1), "noise_seed": Code()}

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        key = key.for_purpose("noise")
        applied = key.happens(self.probability)
        noise = where_applied(applied, between(*self.deviation, key.uniform(1)[:, 0]))
        return {"noise": noise, "noise_seed": np.where(applied, key.for_purpose("seed").seeds(), 0)}


class ColourDropping(Operation):
    """Noise in place of all channels but one, as in context prediction (Doersch, Gupta, Efros, ICCV 2015, sec. 3.1).

    A lens bends the colours differently away from its axis, which tells a network where in a photograph it looks; of a
    single channel this cannot be seen. The noise has a hundredth of the standard deviation of the channel that stays,
    about mid-grey. Records `colour_dropping`, the number of that channel from 1, 0 where not applied, and
    `colour_dropping_seed`.

    Args:
        probability: of being applied.
    """

    def __init__(self, *, probability: float = 1.0) -> None:
        check_probability("probability", probability)
        self.probability = probability

    @property
    def groups(self) -> Mapping[str, Group]:
        return {"colour_dropping": Code(), "colour_dropping_seed": Code()}

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        key = key.for_purpose("colour_dropping")
        applied = key.happens(self.probability)
        kept = 1 + (3 * key.uniform(1)[:, 0]).astype(np.int64)
        seeds = key.for_purpose("seed").seeds()
        return {"colour_dropping": np.where(applied, kept, 0), "colour_dropping_seed": np.where(applied, seeds, 0)}


class Erasing(Operation):
    """A rectangle painted over (Zhong et al., AAAI 2020). Records `erasing`: its left and top
    side, width and height, in fractions of the view.

    Args:
        scale: smallest and largest share of the view's area.
        ratio: smallest and largest width over height.
        probability: of being applied.
    """

    def __init__(
        self, *, scale: list[float] = [0.02, 0.33], ratio: list[float] = [0.3, 3.3], probability: float = 0.5
    ) -> None:
        check_probability("probability", probability)
        self.scale, self.ratio = check_range("scale", scale, 0, 1), check_range("ratio", ratio, 1e-3, 1e3)
        self.probability = probability

    @property
    def groups(self) -> Mapping[str, Group]:
        return {"erasing": Real(dimensions=4)}

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        key = key.for_purpose("erasing")
        unit = key.uniform(4)
        area, ratio = (
            between(*self.scale, unit[:, 0]),
            np.exp(between(np.log(self.ratio[0]), np.log(self.ratio[1]), unit[:, 1])),
        )
        w, h = np.minimum(np.sqrt(area * ratio), 1), np.minimum(np.sqrt(area / ratio), 1)
        boxes = np.stack((unit[:, 2] * (1 - w), unit[:, 3] * (1 - h), w, h), axis=1)
        return {"erasing": where_applied(key.happens(self.probability), boxes)}
