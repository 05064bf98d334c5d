"""Which part of a backbone an objective around another one shows it, and what it finds of the passes."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ssl_inv.nn.backbones import Backbone

Size = tuple[int, int]
"""Height and width, in pixels or patches."""


_BEHIND_THE_MAP = ("head.", "head_norm.", "norm_head.", "conv_head.", "fc_norm.", "attn_pool.")
"""How names of parameters begin that timm's models have behind their last map."""


class _AroundModel(nn.Module):
    """A timm model with something changed; what is asked of it beyond that, such as `patch_embed`, is the model's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


class SomeChannels(_AroundModel):
    """A timm model that shows some channels of its features; all else that is asked of it, such as `patch_embed`, is
    the model's.

    Args:
        model: the whole model.
        channels: how many are shown.
        remember: whether the features of every call are kept for `features_of`.
        start: number of the first one that is shown.

    Raises:
        ValueError: if pooled features are not the channels of the last map.
    """

    def __init__(self, model: nn.Module, channels: int, remember: bool = False, start: int = 0) -> None:
        super().__init__(model)
        require_pooled_channels(model)
        self.num_features = self.head_hidden_size = channels
        self.shown = slice(start, start + channels)
        self._calls: list[tuple[Tensor, Tensor]] | None = [] if remember else None
        self._shown: tuple[Tensor, Tensor] | None = None

    def forward(self, pixels: Tensor) -> Tensor:
        """Pooled features `(B, channels)`."""
        return self.forward_head(self.forward_features(pixels))

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Tokens `(B, N, channels)` or maps `(B, channels, h, w)`."""
        features = self._features(pixels)
        shown = features[..., self.shown] if features.dim() == 3 else self._as_map(features)[:, self.shown]
        self._shown = shown, features
        return shown

    def forward_head(self, shown: Tensor) -> Tensor:
        """Pooled features `(B, channels)` of what `forward_features` has just given: a model may normalise all channels
        together.

        Raises:
            ValueError: if it is anything else.
        """
        last, self._shown = self._shown, None
        if last is None or last[0] is not shown:
            raise ValueError(
                "forward_head pools what forward_features gave last, and nothing else: the other channels are not known"
            )
        pooled: Tensor = self.model.forward_head(last[1])  # type: ignore[operator]
        return pooled[:, self.shown]

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """What the model says of its stages, the last of which has the channels that are shown.

        Raises:
            ValueError: if the features are not the channels of the last stage.
        """
        *before, last = self.model.feature_info  # type: ignore[misc]
        if last["num_chs"] != self.model.num_features:
            raise ValueError(
                f"the backbone's last stage has {last['num_chs']} channels and {self.model.num_features} features are made of them"
            )
        return [*before, {**last, "num_chs": self.num_features}]

    def forward_intermediates(self, pixels: Tensor, **options: Any) -> list[Tensor]:
        """Maps of several stages, the last of them with the channels that are shown; what comes before, all channels
        are made of.
        """
        *before, last = self.model.forward_intermediates(pixels, **{**options, "intermediates_only": True})  # type: ignore[operator]
        return [*before, last[:, self.shown]]

    def features_of(self, pixels: Tensor) -> Tensor:
        """All channels of the last map `(B, D, h, w)` of views that the backbone has seen, alone or behind each other
        in a larger batch.

        What it has not seen, or not all patches of, goes through it now.
        """
        usable = [call for call in self._calls or () if call[1].requires_grad or not torch.is_grad_enabled()]
        # The very tensors first: to compare numbers, the host has to wait for the device.
        for batch, features in sorted(usable, key=lambda call: call[0] is not pixels):
            if (start := _place(pixels, batch)) is not None:
                return self._as_map(features[start : start + len(pixels)])
        return self._as_map(self._features(pixels))

    def _features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(pixels)  # type: ignore[operator]
        if self._calls is not None and self._is_whole(pixels, features):
            self._calls.append((pixels, features))
        return features

    def _is_whole(self, pixels: Tensor, features: Tensor) -> bool:
        """Whether no patch was dropped on the way."""
        grid: Callable[[Size], Size] | None = getattr(
            getattr(self.model, "patch_embed", None), "dynamic_feat_size", None
        )
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


def require_pooled_channels(model: nn.Module) -> None:
    """Raise a `ValueError` if a model's pooled features are not the channels of its last map, as behind a hidden layer
    they are not.
    """
    channels, pooled = model.num_features, getattr(model, "head_hidden_size", None)
    if pooled not in (None, channels):
        raise ValueError(
            f"the backbone has a hidden layer behind its pooling, from {channels} channels to {pooled} features, so these cannot be told "
            "apart by channels; choose a network without one"
        )


def leave_out_head(model: nn.Module) -> None:
    """Leave the layers of a model behind its last map as they are, such as ConvNeXt's last norm: where only the map is
    seen, none learns.

    Raises:
        ValueError: if the pooled features are not the channels of the map.
    """
    require_pooled_channels(model)
    while isinstance(model, _AroundModel):
        model = model.model
    for name, parameter in model.named_parameters():
        if name.startswith(_BEHIND_THE_MAP):
            parameter.requires_grad_(False)


class OnePass(_AroundModel):
    """A timm model through which the same batch passes once, however often it is asked about it; to be made anew for
    every loss.

    Args:
        model: the whole model, whose everything else this has too.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._passed: list[tuple[Tensor, bool, Tensor]] = []

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Tokens or maps."""
        for batch, with_gradient, features in self._passed:
            if batch is pixels and with_gradient == torch.is_grad_enabled():
                return features
        found: Tensor = self.model.forward_features(pixels)  # type: ignore[operator]
        self._passed.append((pixels, torch.is_grad_enabled(), found))
        return found


def _place(pixels: Tensor, batch: Tensor) -> int | None:
    """The row of a batch at which some views stand in it, or None."""
    if batch is pixels:
        return 0
    if batch.shape[1:] != pixels.shape[1:]:
        return None
    starts = range(0, len(batch) - len(pixels) + 1, len(pixels))
    return next((start for start in starts if torch.equal(batch[start : start + len(pixels)], pixels)), None)
