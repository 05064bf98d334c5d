"""A part of a backbone's channels as a backbone of its own."""

from torch import Tensor

from ssl_inv.nn.backbones import AroundBackbone, Backbone, Change, Features

_BEHIND_THE_MAP = ("head.", "head_norm.", "norm_head.", "conv_head.", "fc_norm.", "attn_pool.")
"""Prefixes of the parameters that timm's models have behind their last map."""


class Part(AroundBackbone):
    """Some channels of a backbone. Pooling sees all channels, as a model may normalise them together.

    Args:
        whole: the backbone.
        channels: the number of channels in the part.
        start: the number of the first one.

    Raises:
        ValueError: if pooled features are not the channels of the last map.
    """

    def __init__(self, whole: Backbone, channels: int, start: int = 0) -> None:
        super().__init__(whole)
        require_pooled_channels(whole)
        self.channels = self.features = channels
        self.some = slice(start, start + channels)

    def encode(self, pixels: Tensor, change: Change | None = None) -> Features:
        return self.whole.encode(pixels, change).channels(self.some)

    def stage_channels(self) -> list[int]:
        """Channels of each stage's map. The last stage has the part's channels.

        Raises:
            ValueError: if the features are not the channels of the last stage.
        """
        *before, last = self.whole.stage_channels() or [self.whole.channels]
        if last != self.whole.channels:
            raise ValueError(
                f"the backbone's last stage has {last} channels, but its features are {self.whole.channels} channels"
            )
        return [*before, self.channels]

    def stage_maps(self, pixels: Tensor, count: int) -> list[Tensor]:
        """Maps of the last stages: the last with the part's channels, the others with all of theirs."""
        *before, last = self.whole.stage_maps(pixels, count)
        return [*before, last[:, self.some]]


def require_pooled_channels(backbone: Backbone) -> None:
    """Raise a `ValueError` if pooled features are not the channels of the last map, because a hidden layer follows."""
    if backbone.features != backbone.channels:
        raise ValueError(
            f"the backbone has a hidden layer behind its pooling, from {backbone.channels} channels to "
            f"{backbone.features} features, so features cannot be split by channels; choose a network without one"
        )


def leave_out_head(backbone: Backbone) -> None:
    """Freeze the layers behind the last map, such as ConvNeXt's last norm: a loss on the map does not reach them.

    Raises:
        ValueError: if the pooled features are not the channels of the map.
    """
    require_pooled_channels(backbone)
    for name, parameter in backbone.model.named_parameters():
        if name.startswith(_BEHIND_THE_MAP):
            parameter.requires_grad_(False)
