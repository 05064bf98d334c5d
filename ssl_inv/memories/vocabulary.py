"""Visual words: a vocabulary that follows the features, images as bags of its words, and their prediction (OBoW)."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_inv.catalogue import require
from ssl_inv.nn.distributed import all_sum, gather, world_size

Making = Literal["local_average", "no_averaging", "global_average"]


Pooling = Literal["max", "mean"]


_AT_ONCE = 2**23
"""Distances between positions and words that exist at once, and as many codes, unless one image has more: 32 MiB of
float32.
"""


class SmallMapError(ValueError):
    """Feature maps have too few positions for a border and a window."""


class VisualWords(nn.Module):
    """Turns feature maps into bags of visual words, and keeps the vocabulary up to date (Gidaris et al., CVPR 2021,
    sec. 3.2).

    With f_u the feature at position u, v_k the K words, and m a moving average of the mean of min_k |f_u - v_k|^2,

        code_k(u) = softmax_k(- (inverse_delta / m) |f_u - v_k|^2),    bag_k = max_u code_k(u) / sum of these over k,

    so that the softness follows the scale of the features. The vocabulary is a queue: in training mode every image of
    the global batch replaces the oldest word by a feature of its own, and K need not be a multiple of the batch. What a
    batch changes waits until `flush`, which belongs into `after_step`, so that the micro-batches of one step see the
    same words. Nothing here has a gradient.

    Args:
        channels: of the feature maps.
        count: K.
        inverse_delta: the softmax's sharpness; None assigns each position to its nearest word alone.
        pooling: over positions; `mean` needs no normalisation.
        making: of which feature an image makes its word: the average of a window at a random position, the feature at a
            random position, or the average of all.
        border: pixels of the map that are dropped on each side, as padding has changed them.
        window: side of the window of `local_average`.
        distance_momentum: what m keeps of itself in a batch.
        first_distance: m before the first batch. None: the mean of all batches so far, until the moving average has
            forgotten as fast.

    Raises:
        ValueError: if a number is out of its range.
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
        require(count >= 2, "vocabulary", f"must be at least 2 words, got {count}")
        require(inverse_delta is None or inverse_delta > 0, "inverse_delta", f"must be above 0, got {inverse_delta}")
        require(
            border >= 0 and window >= 1,
            "border",
            f"must be at least 0 and window at least 1, got {border} and {window}",
        )
        require(
            0 <= distance_momentum < 1, "distance_momentum", f"must lie between 0 and below 1, got {distance_momentum}"
        )
        require(
            first_distance is None or first_distance > 0, "first_distance", f"must be above 0, got {first_distance}"
        )
        self.inverse_delta, self.pooling, self.making = inverse_delta, pooling, making
        self.border, self.window = border, window if making == "local_average" else 1
        self.distance_momentum, self.follows_first_batches = distance_momentum, first_distance is None
        self.register_buffer("words", torch.randn(count, channels).clamp_min(0))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))
        self.register_buffer("distance", torch.tensor(first_distance or 0.0))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self.register_load_state_dict_post_hook(_forget_waiting)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def forward(self, maps: Tensor, draws: Tensor) -> Tensor:
        """Bags of words `(B, K)` of feature maps; in training mode, m has this batch's distances in it, and a word of
        each image waits.

        Args:
            maps: `(B, channels, h, w)`, of this process.
            draws: `(B,)`, uniform in [0, 1): where each image's word is taken from.
        """
        with torch.autocast(maps.device.type, enabled=False):
            maps = self._inner(maps)
            comparison = Comparison(maps, self.words)
            distances, nearest = comparison.nearest()
            mean_distance = self.distance
            if self.training:
                of_batch = all_sum(distances.mean()) / world_size()
                self._waiting.append((of_batch, gather(self._made(maps, draws, 1)[:, 0])))
                mean_distance = self._followed(of_batch)
            if self.inverse_delta is None:
                bags = counted(nearest, len(self.words), self.pooling, maps.dtype)
            else:
                # A mean distance of zero, of maps that are all alike, is a hard assignment too.
                bags = comparison.soft_bags(self.inverse_delta / mean_distance.clamp_min(1e-12), self.pooling)
        return bags

    @torch.no_grad()
    def flush(self) -> None:
        """Take in what the batches since the last time left: their mean distance, and their words in the place of the
        oldest.
        """
        if not self._waiting:
            return
        means, made = zip(*self._waiting, strict=True)
        self._waiting.clear()
        self.distance.copy_(self._followed(torch.stack(means).mean()))
        self.batches += 1
        words = torch.cat(made)
        # Of more images than words the last ones stay.
        steps = torch.arange(len(words), device=words.device)[-len(self.words) :]
        self.words.index_copy_(0, (self.oldest + steps) % len(self.words), words[-len(self.words) :])
        self.oldest.add_(len(words)).remainder_(len(self.words))

    @torch.no_grad()
    def fill(self, maps: Tensor, draws: Tensor) -> None:
        """Replace all words by features of the images of the global batch, equally many of each, at different
        positions.

        What is left over when all positions have been taken becomes mixtures of two features, so that no two words are
        the same.

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

    @property
    def waits(self) -> bool:
        """Whether a batch has left something since the last `flush`."""
        return bool(self._waiting)

    def _inner(self, maps: Tensor) -> Tensor:
        """The maps without their border, in the precision of the words."""
        needed = 2 * self.border + self.window
        if min(maps.shape[-2:]) < needed:
            sizes, settings = "x".join(map(str, maps.shape[-2:])), f"border {self.border} and window {self.window}"
            raise SmallMapError(
                f"{settings} need feature maps of {needed} pixels a side, these are {sizes}; choose less, or larger images"
            )
        rows, columns = (slice(self.border, side - self.border) for side in maps.shape[-2:])
        return maps[:, :, rows, columns].to(self.words.dtype)

    def _made(self, maps: Tensor, draws: Tensor, count: int) -> Tensor:
        """`count` words of each image, as far apart as there are positions, or one of each position: `(B, at most
        count, C)`.
        """
        if self.making == "global_average":
            maps = maps.mean((2, 3), keepdim=True)
        elif self.making == "local_average":
            maps = F.avg_pool2d(maps, self.window, stride=1)
        features = maps.flatten(2)
        places = features.shape[2]
        # Rounding may take a number below 1, times the number of places, to that number.
        first = (draws * places).long().clamp_max(places - 1)
        offsets = torch.arange(min(count, places), device=maps.device) * max(1, places // count)
        chosen = (first[:, None] + offsets) % places
        return features.gather(2, chosen[:, None].expand(-1, features.shape[1], -1)).transpose(1, 2)

    def _followed(self, mean: Tensor) -> Tensor:
        """The mean distance m after a step in which it is `mean`."""
        rate = torch.full_like(mean, 1 - self.distance_momentum)
        if self.follows_first_batches:
            rate = torch.maximum(rate, (self.batches + 1).to(rate.dtype).reciprocal())
        return self.distance.lerp(mean, rate)


class Comparison:
    """Every position of some maps compared with every word, for a few images at a time.

    What was made last is kept, so that who needs all of it twice goes backwards the second time.

    Args:
        maps: `(B, C, h, w)`; the P = h w positions of an image follow each other row by row.
        words: `(K, C)`.
    """

    def __init__(self, maps: Tensor, words: Tensor) -> None:
        positions = maps.shape[2] * maps.shape[3]
        images = min(len(maps), max(1, _AT_ONCE // (positions * len(words))))
        self.words, self.lengths = words, torch.linalg.vector_norm(words, dim=1).square()
        self.parts = torch.split(maps, images)
        # Made once: what is freed and asked for again in pieces of several sizes needs several times as much.
        self._buffer = maps.new_empty(images * positions, len(words))
        self._held: int | None = None

    def nearest(self) -> tuple[Tensor, Tensor]:
        """The squared distance of every position to its nearest word, and the number of this word, both `(B, P)`."""
        distances, nearest = [], []
        for number, part in enumerate(self.parts):
            least, word = self._distances(number).min(dim=1)
            distances.append(least.view(len(part), -1) + torch.linalg.vector_norm(part, dim=1).square().flatten(1))
            nearest.append(word.view(len(part), -1))
        return torch.cat(distances), torch.cat(nearest)

    def soft_bags(self, sharpness: Tensor, pooling: Pooling) -> Tensor:
        """Softmax over words of minus sharpness times squared distance, pooled over positions, normalised to sum to 1:
        `(B, K)`.

        Args:
            sharpness: one number.
            pooling: over positions.
        """
        bags, buffer = [], torch.empty_like(self._buffer)
        for number in reversed(range(len(self.parts))):
            logits = self._distances(number).mul_(-sharpness)
            self._held = None
            codes = torch.softmax(logits, dim=1, out=buffer[: len(logits)]).view(
                len(self.parts[number]), -1, len(self.words)
            )
            bags.append(codes.amax(dim=1) if pooling == "max" else codes.mean(dim=1))
        return F.normalize(torch.cat(bags[::-1]), p=1, dim=1)

    def _distances(self, number: int) -> Tensor:
        """Squared distances of the positions of one part to all words, less the squared length of the feature:
        `(positions, K)`.
        """
        part = self.parts[number].permute(0, 2, 3, 1)
        rows = self._buffer[: part[..., 0].numel()]
        if self._held != number:
            torch.addmm(self.lengths, part.flatten(0, 2), self.words.T, alpha=-2, out=rows)
            self._held = number
        return rows


def counted(nearest: Tensor, count: int, pooling: Pooling, dtype: torch.dtype) -> Tensor:
    """What `Comparison.soft_bags` gives where each position has one word only.

    Args:
        nearest: the numbers of the words, `(B, P)`.
        count: of all words.
        pooling: `max`: whether a word occurs; `mean`: how often.
        dtype: of the bags.
    """
    bags = torch.zeros(len(nearest), count, dtype=dtype, device=nearest.device)
    one = torch.ones_like(nearest, dtype=dtype)
    bags = bags.scatter_(1, nearest, one) if pooling == "max" else bags.scatter_add_(1, nearest, one)
    return F.normalize(bags, p=1, dim=1)


def perplexity(distributions: Tensor) -> Tensor:
    """How many words distributions `(..., K)` spread over: the exponential of their entropy."""
    return (-(distributions * (distributions + 1e-5).log()).sum(dim=-1)).exp()


def _forget_waiting(words: nn.Module, _: Any) -> None:
    assert isinstance(words, VisualWords)
    words._waiting.clear()
