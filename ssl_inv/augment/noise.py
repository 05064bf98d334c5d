"""Operations that add noise: what they draw, and what they do to pixels."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ssl_inv.augment.operation import Draws, PerView, Side, check_range, require_colours
from ssl_inv.augment.warp import Neutral
from ssl_inv.transforms import Code, Group, Real
from ssl_inv.transforms.keyed_random import Key


class Noise(PerView):
    """Independent Gaussian noise on every value. Records `noise`, its standard deviation, and `noise_seed`.

    Args:
        deviation: smallest and largest standard deviation; 1 is the way from black to white.
        probability: of being applied.
    """

    groups: Mapping[str, Group] = {"noise": Real(scale=0.1), "noise_seed": Code()}
    neutral: Mapping[str, Neutral] = {"noise": 0.0}

    def __init__(self, *, deviation: list[float] = [0.0, 0.1], probability: float = 0.5) -> None:
        super().__init__(probability)
        self.deviation = check_range("deviation", deviation, 0)

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        key = key.for_purpose("noise")
        applied, (low, high) = key.happens(self.probability), self.deviation
        noise = np.where(applied, low + (high - low) * key.uniform(1)[:, 0], 0.0)
        return {"noise": noise, "noise_seed": np.where(applied, key.for_purpose("seed").seeds(), 0)}

    @staticmethod
    def change(pixels: Tensor, numbers: Mapping[str, Tensor]) -> None:
        pixels.addcmul_(_normal(pixels, numbers["noise_seed"]), numbers["noise"]).clamp_(0, 1)


def _normal(pixels: Tensor, seed: Tensor) -> Tensor:
    """Standard normal numbers like `pixels`, the same on every kind of device, by Box and Muller.

    They are a hash of the seed, `(n, 1, 1, 1)`, and of the place: SplitMix's finaliser on 31 bits. The generator of
    `keyed_random` would be as good, but recorded seeds must give the noise that they always gave.
    """
    place = torch.arange(pixels[0].numel(), device=pixels.device).view(1, *pixels.shape[1:])
    first, second = (_hashed(_hashed(seed + part) + place) for part in (0, 1))
    radius = first.add(1).div(2.0**31).log_().mul_(-2).sqrt_()
    return radius * second.mul(2 * torch.pi / 2.0**31).cos_()


def _hashed(numbers: Tensor) -> Tensor:
    mask = 0x7FFFFFFF
    numbers = numbers ^ (numbers >> 31)
    numbers = (numbers & mask) * 0x45D9F3B & mask
    numbers = (numbers ^ (numbers >> 16)) * 0x45D9F3B & mask
    return numbers ^ (numbers >> 15)


class ColourDropping(PerView):
    """Noise in place of all channels but one, as in context prediction (Doersch, Gupta, Efros, ICCV 2015, sec. 3.1).

    A lens bends the colours differently away from its axis, which tells a network where in a photograph it looks. A
    single channel does not show this. The noise varies about mid-grey with a hundredth of the standard deviation of the
    channel that stays. Records `colour_dropping`, the number of that channel from 1, 0 where not applied, and
    `colour_dropping_seed`.

    Args:
        probability: of being applied.
    """

    groups: Mapping[str, Group] = {"colour_dropping": Code(), "colour_dropping_seed": Code()}
    neutral: Mapping[str, Neutral] = {"colour_dropping": 0.0}

    def __init__(self, *, probability: float = 1.0) -> None:
        super().__init__(probability)

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        key = key.for_purpose("colour_dropping")
        applied, kept = key.happens(self.probability), 1 + (3 * key.uniform(1)[:, 0]).astype(np.int64)
        seeds = key.for_purpose("seed").seeds()
        return {"colour_dropping": np.where(applied, kept, 0), "colour_dropping_seed": np.where(applied, seeds, 0)}

    def require_channels(self, channels: int) -> None:
        require_colours(self, channels, "leave it out; `noise` takes any channels")

    @staticmethod
    def change(pixels: Tensor, numbers: Mapping[str, Tensor]) -> None:
        number, seed = numbers["colour_dropping"], numbers["colour_dropping_seed"]
        deviation = pixels.std((2, 3), correction=0, keepdim=True).gather(1, number - 1) / 100
        noise = _normal(pixels, seed).mul_(deviation).add_(0.5).clamp_(0, 1)
        stays = torch.arange(1, 4, device=pixels.device).view(3, 1, 1) == number
        pixels.copy_(torch.where(stays, pixels, noise))
