"""From decoded images to augmented views and the transforms that made them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_inv import keyed_random
from ssl_inv.augment import geometric, photometric
from ssl_inv.registry import register
from ssl_inv.transforms import Box, Circle, Flag, Group, Real, Transform


@dataclass(frozen=True)
class Key:
    """What the random numbers of a view depend on, and all that they depend on.

    Attributes:
        seed: the run's seed.
        epoch: passes over the data so far, `(B,)`.
        index: numbers of the samples in the data set, `(B,)`.
        view: which view of the sample, a single number.
    """

    seed: int
    epoch: NDArray[np.int64]
    index: NDArray[np.int64]
    view: int

    def uniform(self, purpose: int, count: int) -> NDArray[np.float64]:
        """Numbers from [0, 1), `(B, count)`; different purposes have independent numbers."""
        return keyed_random.uniform(self.seed, self.epoch, self.index, self.view, purpose, count=count)


class Augmentation(ABC):
    """Makes one view of every image of a batch. Constructors take keyword-only settings, the recipe's schema."""

    @property
    @abstractmethod
    def groups(self) -> dict[str, Group]:
        """The parameters that it records, by name."""

    @abstractmethod
    def __call__(self, pixels: Tensor, key: Key) -> tuple[Tensor, Transform]:
        """Views and transforms.

        Args:
            pixels: `(B, 3, H, W)` in [0, 1].
            key: decides every random choice.

        Returns:
            Views `(B, 3, S, S)` in [0, 1], and how each was made.
        """


@register("none")
class NoAugmentation(Augmentation):
    """Views as the data set has them."""

    @property
    def groups(self) -> dict[str, Group]:
        return {}

    def __call__(self, pixels: Tensor, key: Key) -> tuple[Tensor, Transform]:
        return pixels, Transform.empty()


@register("simclr")
class SimCLRAugmentation(Augmentation):
    """SimCLR's policy: random resized crop, flip, colour jitter, grey, blur (Chen et al., ICML 2020, appendix A).

    Args:
        size: side of the views in pixels; none keeps the size of the images.
        min_scale: smallest share of the image area that a crop takes; the largest is the whole image.
        flip: probability of a horizontal flip.
        jitter: probability of colour jitter.
        strength: multiplies the jitter ranges 0.8 (brightness, contrast, saturation) and 0.2 (hue); 1 for large images, 0.5 for CIFAR.
        grey: probability of turning grey.
        blur: probability of a Gaussian blur with sigma uniform in 0.1 to 2 pixels; 0 for small images.
    """

    def __init__(
        self,
        *,
        size: int | None = None,
        min_scale: float = 0.08,
        flip: float = 0.5,
        jitter: float = 0.8,
        strength: float = 1.0,
        grey: float = 0.2,
        blur: float = 0.5,
    ) -> None:
        for name, value in (("flip", flip), ("jitter", jitter), ("grey", grey), ("blur", blur)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a probability between 0 and 1, got {value}")
        if not 0 < min_scale <= 1:
            raise ValueError(f"min_scale must lie between 0 and 1, got {min_scale}")
        self.size, self.min_scale, self.flip, self.jitter, self.grey, self.blur = size, min_scale, flip, jitter, grey, blur
        self.ranges = np.array([0.8, 0.8, 0.8, 0.2]) * strength

    @property
    def groups(self) -> dict[str, Group]:
        return {
            "crop": Box(),
            "flip": Flag(),
            "brightness": Real(scale=0.8, neutral_value=1.0),
            "contrast": Real(scale=0.8, neutral_value=1.0),
            "saturation": Real(scale=0.8, neutral_value=1.0),
            "hue": Circle(),
            "grey": Flag(),
            "blur": Real(scale=2.0),
        }

    def __call__(self, pixels: Tensor, key: Key) -> tuple[Tensor, Transform]:
        boxes, flipped = self._crops(pixels, key), self._happens(pixels, key, 1, self.flip)
        views = geometric.resample(pixels, boxes, flipped, self.size or pixels.shape[-1])
        factors, order = self._factors(pixels, key)
        views = photometric.jitter(views, factors, order)
        greyed = self._happens(pixels, key, 4, self.grey)
        views = torch.where(greyed.view(-1, 1, 1, 1) > 0, photometric.grey(views), views)
        sigma = self._happens(pixels, key, 5, self.blur) * self._tensor(pixels, 0.1 + 1.9 * key.uniform(6, 1)[:, 0])
        if blurred := sigma.nonzero().squeeze(1).tolist():
            views[blurred] = photometric.blur(views[blurred], sigma[blurred])
        columns = (boxes, flipped, *factors.unbind(1)[:3], torch.remainder(factors[:, 3], 1.0), greyed, sigma)
        return views, Transform(dict(zip(self.groups, columns, strict=True)), self.groups)

    def _tensor(self, like: Tensor, array: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(array).to(device=like.device, dtype=like.dtype)

    def _happens(self, like: Tensor, key: Key, purpose: int, probability: float) -> Tensor:
        return self._tensor(like, (key.uniform(purpose, 1)[:, 0] < probability).astype(np.float64))

    def _crops(self, pixels: Tensor, key: Key) -> Tensor:
        aspect = pixels.shape[-1] / pixels.shape[-2]
        return self._tensor(pixels, geometric.draw_crops(key.uniform(0, 40), (self.min_scale, 1.0), (3 / 4, 4 / 3), aspect))

    def _factors(self, pixels: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """The four jitter factors, neutral where no jitter is applied, and their order."""
        random = key.uniform(2, 9)
        neutral = np.array([1.0, 1.0, 1.0, 0.0])
        low = np.maximum(neutral - self.ranges, np.array([0.0, 0.0, 0.0, -0.5]))
        high = np.minimum(neutral + self.ranges, np.array([np.inf, np.inf, np.inf, 0.5]))
        factors = np.where(random[:, 8:] < self.jitter, low + (high - low) * random[:, :4], neutral)
        return self._tensor(pixels, factors), torch.from_numpy(np.argsort(random[:, 4:8], axis=1)).to(pixels.device)
