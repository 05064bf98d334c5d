"""Objectives around another one: which part of the backbone the inner one sees, and what the outer one finds of its passes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssl_inv.backbones import Backbone
from ssl_inv.objectives.base import Losses, Objective
from ssl_inv.registry import OBJECTIVES
from ssl_inv.transforms import Group

Size = tuple[int, int]
"""Height and width, in pixels or patches."""


def base_objective(features: int, groups: Mapping[str, Group], *, name: str, **settings: Any) -> Objective:
    """The objective that a setting `base` describes.

    Args:
        features: dimensions of the pooled vector that it sees.
        groups: the parameters of all views' transforms, by name.
        name: registered, or a dotted path.
        settings: its own.

    Raises:
        ValueError: if there is no such objective, or it refuses its settings.
    """
    constructor = OBJECTIVES.find(name).load()
    if not issubclass(constructor, Objective):
        raise ValueError(f"base: {name!r} does not derive from ssl_inv.objectives.base.Objective")
    try:
        objective: Objective = constructor(features, groups, **settings)
    except ValueError as error:
        raise ValueError(f"base: {error}") from error
    return objective


def beside(base: Losses, own: Losses) -> Losses:
    """The terms of a base objective and those that stand beside them.

    Raises:
        ValueError: if both have a term of one name, one of which would be lost.
    """
    if both := sorted(base.keys() & own.keys()):
        raise ValueError(f"base: its loss has a term {both[0]!r} too, as an objective around itself has")
    return {**base, **own}


class FirstChannels(nn.Module):
    """A timm model that shows the first channels of its features; all else that is asked of it, such as `patch_embed`, is the model's.

    Args:
        model: the whole model.
        channels: how many are shown.
        remember: whether the features of every call are kept for `features_of`.
    """

    def __init__(self, model: nn.Module, channels: int, remember: bool = False) -> None:
        super().__init__()
        self.model, self.num_features = model, channels
        self._calls: list[tuple[Tensor, Tensor]] | None = [] if remember else None
        self._shown: tuple[Tensor, Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pooled features `(B, channels)`."""
        return self.forward_head(self.forward_features(pixels))

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Tokens `(B, N, channels)` or maps `(B, channels, h, w)`."""
        features = self._features(pixels)
        shown = features[..., : self.num_features] if features.dim() == 3 else self._as_map(features)[:, : self.num_features]
        self._shown = shown, features
        return shown

    def forward_head(self, shown: Tensor) -> Tensor:
        """Pooled features `(B, channels)` of what `forward_features` has just given: a model may normalise all channels together.

        Raises:
            ValueError: if it is anything else.
        """
        last, self._shown = self._shown, None
        if last is None or last[0] is not shown:
            raise ValueError("forward_head pools what forward_features gave last, and nothing else: the other channels are not known")
        pooled: Tensor = self.model.forward_head(last[1])  # type: ignore[operator]
        return pooled[:, : self.num_features]

    def features_of(self, pixels: Tensor) -> Tensor:
        """All channels of the last map `(B, D, h, w)` of views that the backbone has seen, alone or behind each other in a larger batch.

        What it has not seen, or not all patches of, goes through it now.
        """
        for batch, features in self._calls or ():
            usable = features.requires_grad or not torch.is_grad_enabled()
            if usable and (start := _place(pixels, batch)) is not None:
                return self._as_map(features[start : start + len(pixels)])
        return self._as_map(self._features(pixels))

    def _features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(pixels)  # type: ignore[operator]
        if self._calls is not None and self._is_whole(pixels, features):
            self._calls.append((pixels, features))
        return features

    def _is_whole(self, pixels: Tensor, features: Tensor) -> bool:
        """Whether no patch was dropped on the way."""
        grid: Callable[[Size], Size] | None = getattr(getattr(self.model, "patch_embed", None), "dynamic_feat_size", None)
        if features.dim() != 3 or grid is None:
            return True
        rows, columns = grid((pixels.shape[-2], pixels.shape[-1]))
        return features.shape[1] == rows * columns + int(getattr(self.model, "num_prefix_tokens", 0))

    def _as_map(self, features: Tensor) -> Tensor:
        """Maps `(B, D, h, w)` of what the model gives: tokens, or maps with channels first or last."""
        if features.dim() == 3:
            tokens = features[:, int(getattr(self.model, "num_prefix_tokens", 0)) :]
            side = math.isqrt(tokens.shape[1])
            if side**2 != tokens.shape[1]:
                raise ValueError(f"the backbone's {tokens.shape[1]} tokens are no square map, as is needed here")
            return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
        return features if features.shape[1] == self.model.num_features else features.permute(0, 3, 1, 2)

    def as_backbone(self, whole: Backbone) -> Backbone:
        """A backbone with this model, called as the one that it shows a part of."""
        return Backbone(self, whole.architecture, whole.arguments)


def _place(pixels: Tensor, batch: Tensor) -> int | None:
    """The row of a batch at which some views stand in it, or None."""
    if batch is pixels:
        return 0
    if batch.shape[1:] != pixels.shape[1:]:
        return None
    starts = range(0, len(batch) - len(pixels) + 1, len(pixels))
    return next((start for start in starts if torch.equal(batch[start : start + len(pixels)], pixels)), None)
