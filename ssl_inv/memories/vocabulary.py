"""Visual words (OBoW): a vocabulary that follows the features, and images as bags of its words."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_inv.catalogue import SettingError, require, require_at_least
from ssl_inv.memories.base import Memory
from ssl_inv.nn.distributed import all_sum, gather, world_size

Making = Literal["local_average", "no_averaging", "global_average"]
Pooling = Literal["max", "mean"]

_AT_ONCE = 2**23
"""How many distances between positions and words exist at once, 32 MiB of float32, and as many codes; more if one image
alone has more.
"""


class SmallMapError(SettingError):
    """Feature maps are too small for the border and the window."""


class VisualWords(Memory):
    """Turns feature maps into bags of visual words, and renews the vocabulary (Gidaris et al., CVPR 2021, sec. 3.2).

    With f_u the feature at position u, v_k the K words, and m a moving average of the mean of min_k |f_u - v_k|^2,

        code_k(u) = softmax_k(- (inverse_delta / m) |f_u - v_k|^2),    bag_k = max_u code_k(u) / sum over k of this,

    so the softness follows the scale of the features. The vocabulary is a queue: in training mode, every image of the
    global batch replaces the oldest word by a feature of its own. K need not be a multiple of the batch. Nothing here
    has a gradient.

    Args:
        channels: of the feature maps.
        count: K.
        inverse_delta: the sharpness of the softmax; None assigns each position to its nearest word alone.
        pooling: over positions; `mean` needs no normalisation.
        making: the feature that becomes an image's word: the average of a window at a random position, the feature at a
            random position, or the average of all.
        border: pixels of the map that are cut off on each side, because padding has changed them.
        window: side of the window of `local_average`.
        distance_momentum: the share of m that a step keeps.
        first_distance: m before the first step. None: m is the mean of all steps so far, until the moving average
            forgets as fast.

    Raises:
        SettingError: if a number is out of its range.
    """

    words: Tensor
    oldest: Tensor
    distance: Tensor
    batches: Tensor

    def __init__(
        self,
        channels: int,
        count: int = 8192,
        inverse_delta: float | None = 15.0,
        pooling: Pooling = "max",
        making: Making = "local_average",
        border: int = 1,
        window: int = 3,
        distance_momentum: float = 0.99,
        first_distance: float | None = 0.5,
    ) -> None:
        super().__init__()
        require_at_least(2, vocabulary=count)
        for name, value in (("inverse_delta", inverse_delta), ("first_distance", first_distance)):
            require(value is None or value > 0, name, f"must be above 0, got {value}")
        require_at_least(0, border=border)
        require_at_least(1, window=window)
        kept = f"must be at least 0 and below 1, got {distance_momentum}"
        require(0 <= distance_momentum < 1, "distance_momentum", kept)
        self.inverse_delta, self.pooling, self.making = inverse_delta, pooling, making
        self.border, self.window = border, window if making == "local_average" else 1
        self.distance_momentum, self.follows_first_batches = distance_momentum, first_distance is None
        self.register_buffer("words", torch.randn(count, channels).clamp_min(0))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))
        self.register_buffer("distance", torch.tensor(first_distance or 0.0))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, maps: Tensor, draws: Tensor) -> Tensor:
        """Bags of words `(B, K)` of feature maps.

        In training mode, m includes the distances of this batch, and a word of each image waits.

        Args:
            maps: `(B, channels, h, w)`, of this process.
            draws: `(B,)`, uniform in [0, 1): the position of each image's word.
        """
        with torch.autocast(maps.device.type, enabled=False):
            maps = self._inner(maps)
            comparison = Comparison(maps, self.words)
            distances, nearest = comparison.nearest()
            mean_distance = self.distance
            if self.training:
                of_batch = all_sum(distances.mean()) / world_size()
                self._wait(of_batch, gather(self._made(maps, draws, 1)[:, 0]))
                mean_distance = self._followed(of_batch)
            if self.inverse_delta is None:
                return counted(nearest, len(self.words), self.pooling, maps.dtype)
            # Maps that are all alike have a mean distance of zero; the assignment is then hard.
            return comparison.soft_bags(self.inverse_delta / mean_distance.clamp_min(1e-12), self.pooling)

    def _take_in(self, waiting: list[tuple[Tensor, ...]]) -> None:
        means, made = zip(*waiting, strict=True)
        self.distance.copy_(self._followed(torch.stack(means).mean()))
        self.batches += 1
        words = torch.cat(made)
        # Of more images than words, the last ones stay.
        steps = torch.arange(len(words), device=words.device)[-len(self.words) :]
        self.words.index_copy_(0, (self.oldest + steps) % len(self.words), words[-len(self.words) :])
        self.oldest.add_(len(words)).remainder_(len(self.words))

    @torch.no_grad()
    def fill(self, maps: Tensor, draws: Tensor) -> None:
        """Replace all words by features of the global batch, equally many of each image, at different positions.

        If there are more words than positions, the rest become mixtures of two features, so that no two words are
        equal.

        Args:
            maps: as in `forward`.
            draws: as in `forward`.
        """
        maps = self._inner(maps)
        made = gather(self._made(maps, draws, math.ceil(len(self.words) / (len(maps) * world_size()))))
        features = made.transpose(0, 1).flatten(0, 1)
        rounds = range(math.ceil(len(self.words) / len(features)))
        mixtures = [
            features.lerp(features.roll(1 + number % max(1, len(features) - 1), 0), 1 / (number + 2))
            for number in rounds[:-1]
        ]
        self.words.copy_(torch.cat([features, *mixtures])[: len(self.words)])

    def require_fit(self, maps: Tensor) -> None:
        """Raise a `SmallMapError` if feature maps are too small for the border and the window."""
        needed = 2 * self.border + self.window
        if min(maps.shape[-2:]) < needed:
            sizes, setting = " x ".join(map(str, maps.shape[-2:])), "border" if self.border else "window"
            settings = f"border {self.border} and window {self.window}"
            raise SmallMapError(
                setting,
                f"{settings} need feature maps of at least {needed} pixels a side, got {sizes}; make border or window "
                f"smaller, or the images larger",
            )

    def _inner(self, maps: Tensor) -> Tensor:
        """The maps without their border, in the precision of the words."""
        self.require_fit(maps)
        rows, columns = (slice(self.border, side - self.border) for side in maps.shape[-2:])
        return maps[:, :, rows, columns].to(self.words.dtype)

    def _made(self, maps: Tensor, draws: Tensor, count: int) -> Tensor:
        """`count` words of each image, as far apart as possible, or one of each position: `(B, at most count, C)`."""
        if self.making == "global_average":
            maps = maps.mean((2, 3), keepdim=True)
        elif self.making == "local_average":
            maps = F.avg_pool2d(maps, self.window, stride=1)
        features = maps.flatten(2)
        places = features.shape[2]
        # A number just below 1, times the number of places, may be rounded up to that number.
        first = (draws * places).long().clamp_max(places - 1)
        offsets = torch.arange(min(count, places), device=maps.device) * max(1, places // count)
        chosen = (first[:, None] + offsets) % places
        return features.gather(2, chosen[:, None].expand(-1, features.shape[1], -1)).transpose(1, 2)

    def _followed(self, mean: Tensor) -> Tensor:
        """The moving average m after a step with this mean distance."""
        rate = torch.full_like(mean, 1 - self.distance_momentum)
        if self.follows_first_batches:
            rate = torch.maximum(rate, (self.batches + 1).to(rate.dtype).reciprocal())
        return self.distance.lerp(mean, rate)


class Comparison:
    """Compares every position of feature maps with every word, a few images at a time.

    It caches the last block of distances. A second pass in reverse order computes one block less.

    Args:
        maps: `(B, C, h, w)`; the P = h w positions of an image are in row-major order.
        words: `(K, C)`.
    """

    def __init__(self, maps: Tensor, words: Tensor) -> None:
        positions = maps.shape[2] * maps.shape[3]
        images = min(len(maps), max(1, _AT_ONCE // (positions * len(words))))
        self.words, self.lengths = words, torch.linalg.vector_norm(words, dim=1).square()
        self.parts = torch.split(maps, images)
        # One buffer for all blocks: freeing and allocating blocks of several sizes takes several times the memory.
        self._buffer = maps.new_empty(images * positions, len(words))
        self._cached: int | None = None

    def nearest(self) -> tuple[Tensor, Tensor]:
        """The squared distance of every position to its nearest word, and the number of this word, both `(B, P)`."""
        distances, nearest = [], []
        for number, part in enumerate(self.parts):
            least, word = self._distances(number).min(dim=1)
            distances.append(least.view(len(part), -1) + torch.linalg.vector_norm(part, dim=1).square().flatten(1))
            nearest.append(word.view(len(part), -1))
        return torch.cat(distances), torch.cat(nearest)

    def soft_bags(self, sharpness: Tensor, pooling: Pooling) -> Tensor:
        """The softmax over words of -sharpness times squared distance, pooled over positions, normalised to sum to 1.

        Args:
            sharpness: one number.
            pooling: over positions.

        Returns:
            `(B, K)`.
        """
        bags, buffer = [], torch.empty_like(self._buffer)
        for number in reversed(range(len(self.parts))):
            logits = self._distances(number).mul_(-sharpness)
            self._cached = None
            codes = torch.softmax(logits, dim=1, out=buffer[: len(logits)])
            codes = codes.view(len(self.parts[number]), -1, len(self.words))
            bags.append(codes.amax(dim=1) if pooling == "max" else codes.mean(dim=1))
        return F.normalize(torch.cat(bags[::-1]), p=1, dim=1)

    def _distances(self, number: int) -> Tensor:
        """Squared distances of one part's positions to all words, minus the feature's squared length, `(b P, K)`."""
        part = self.parts[number].permute(0, 2, 3, 1)
        rows = self._buffer[: part[..., 0].numel()]
        if self._cached != number:
            torch.addmm(self.lengths, part.flatten(0, 2), self.words.T, alpha=-2, out=rows)
            self._cached = number
        return rows


def counted(nearest: Tensor, count: int, pooling: Pooling, dtype: torch.dtype) -> Tensor:
    """Bags `(B, K)` of positions with one word each, normalised to sum to 1.

    Args:
        nearest: the number of each position's word, `(B, P)`.
        count: K.
        pooling: `max`: whether a word occurs; `mean`: how often.
        dtype: of the bags.
    """
    bags = torch.zeros(len(nearest), count, dtype=dtype, device=nearest.device)
    one = torch.ones_like(nearest, dtype=dtype)
    bags = bags.scatter_(1, nearest, one) if pooling == "max" else bags.scatter_add_(1, nearest, one)
    return F.normalize(bags, p=1, dim=1)


def perplexity(distributions: Tensor) -> Tensor:
    """Over how many words distributions `(..., K)` spread: the exponential of their entropy."""
    return (-(distributions * (distributions + 1e-5).log()).sum(dim=-1)).exp()
