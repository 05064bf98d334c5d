"""Any timm model behind one small face: a pooled vector, and feature maps or patch tokens where the model has them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, suggest
from ssl_inv.nn.stems import SMALL_STEM_ARCHITECTURES, SUFFIXES, Stem

# timm's register_model appends to this list and would otherwise make one that holds nothing else.
__all__ = ["Backbone", "Stem", "make_backbone", "to_channels_last"]


class Backbone(nn.Module):
    """A timm model without its classifier.

    Args:
        model: a timm model that was made with `num_classes=0`.
        architecture: the timm name that makes it again.
        arguments: what else `timm.create_model` has to be told to make it again.

    Attributes:
        features: dimensions of the pooled vector.
        channels: of the last feature map, or of the tokens; another number where a hidden layer follows the pooling, as
            in MobileNets.
    """

    def __init__(
        self, model: nn.Module, architecture: str, arguments: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        super().__init__()
        self.model = model
        self.architecture = architecture
        self.arguments = dict(arguments)
        self.channels = int(model.num_features)  # type: ignore[arg-type]
        self.features = int(getattr(model, "head_hidden_size", None) or self.channels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pooled features `(B, D)` of normalised pixels `(B, 3, H, W)`."""
        return self.model(pixels)  # type: ignore[no-any-return]

    def feature_map(self, pixels: Tensor) -> Tensor:
        """The last feature map `(B, C, h, w)` of a convolutional model.

        Raises:
            TypeError: if the model gives no such map.
        """
        features = self._last(pixels)
        if features.dim() != 4:
            raise TypeError(f"{self.architecture} gives tokens, not a feature map")
        # Swin and MaxViT keep channels last; their number tells which axis they are on.
        return features if features.shape[1] == self.channels else features.permute(0, 3, 1, 2)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Patch tokens `(B, N, C)`, without class or register tokens.

        Raises:
            TypeError: if the model has no tokens.
        """
        features = self._last(pixels)
        if features.dim() != 3:
            raise TypeError(f"{self.architecture} gives a feature map, not tokens")
        return features[:, int(getattr(self.model, "num_prefix_tokens", 0)) :]

    def _last(self, pixels: Tensor) -> Tensor:
        forward_features: Callable[[Tensor], Tensor] = self.model.forward_features  # type: ignore[assignment]
        return forward_features(pixels)


class SharedPass(Backbone):
    """A backbone through which a batch passes once, however often it is asked about it in a row; for use without
    gradients.

    Args:
        whole: the backbone, whose weights this shares.
    """

    def __init__(self, whole: Backbone) -> None:
        super().__init__(whole.model, whole.architecture, whole.arguments)
        self._batch: Tensor | None = None
        self._found: dict[str, Tensor] = {}

    def forward(self, pixels: Tensor) -> Tensor:
        # In timm a network is its features and its head, one after the other.
        head: Callable[[Tensor], Tensor] | None = getattr(self.model, "forward_head", None)
        return self._once("pooled", pixels, super().forward if head is None else lambda batch: head(self._last(batch)))

    def _last(self, pixels: Tensor) -> Tensor:
        return self._once("last", pixels, super()._last)

    def _once(self, what: str, pixels: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        if pixels is not self._batch:
            self._batch, self._found = pixels, {}
        if what not in self._found:
            self._found[what] = compute(pixels)
        return self._found[what]


def make_backbone(
    *,
    name: str = "resnet18",
    stem: Literal["default", "3x3-stride1", "3x3-stride2"] = "default",
    arguments: dict[str, Any] = {},  # noqa: B006
) -> Backbone:
    """An untrained backbone.

    Args:
        name: any name of `timm.list_models()`.
        stem: the first layers of a ResNet: `3x3-stride1` for images of about 32 pixels, `3x3-stride2` for about 64, or
        `default`.
        arguments: further arguments of the timm model, such as `{img_size: 64, patch_size: 8}` for a vision
            transformer.

    Raises:
        ValueError: if timm has no such model, the model refuses an argument, or its stem cannot be changed.
    """
    if not timm.is_model(name):
        raise SettingError("name", f"timm has no model called {name!r}; {suggest(name, timm.list_models())}")
    if stem != "default" and name not in SMALL_STEM_ARCHITECTURES:
        raise SettingError("stem", f"{stem!r} exists for {', '.join(SMALL_STEM_ARCHITECTURES)}, not for {name}")
    architecture = name + SUFFIXES[stem]
    try:
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    except (TypeError, AssertionError) as error:
        raise SettingError("arguments", f"{name} refuses {arguments}: {error}; {{}} gives none") from None
    return Backbone(model, architecture, arguments)


def to_channels_last(module: nn.Module) -> nn.Module:
    """Keep 4-D weights with channels last, which convolutions run faster on; values do not change."""
    return module.to(memory_format=torch.channels_last)
