"""Any timm model behind one small face: a pooled vector, and feature maps or patch tokens where the model has them."""

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from ssl_inv.evaluation.features import frozen
from ssl_inv.registry import suggest

# timm's register_model appends to this list and would otherwise make one that holds nothing else.
__all__ = ["Backbone", "Stem", "make_backbone", "to_channels_last"]

Stem = Literal["default", "3x3-stride1", "3x3-stride2"]
"""The first layers of a ResNet.

`default` halves the resolution twice (7x7 of stride 2, max-pool); `3x3-stride2` halves it once and `3x3-stride1` not at all, both without
max-pool: the usual stems for images of 64 and of 32 pixels.
"""

_SUFFIXES: Mapping[str, str] = {"default": "", "3x3-stride1": "_stem3x3s1", "3x3-stride2": "_stem3x3s2"}
_SMALL_STEM_ARCHITECTURES: Mapping[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class Backbone(nn.Module):
    """A timm model without its classifier.

    Args:
        model: a timm model that was made with `num_classes=0`.
        architecture: the timm name that makes it again.
        arguments: what else `timm.create_model` has to be told to make it again.

    Attributes:
        features: dimensions of the pooled vector.
        channels: of the last feature map, or of the tokens; another number where a hidden layer follows the pooling, as in MobileNets.
    """

    def __init__(self, model: nn.Module, architecture: str, arguments: Mapping[str, Any] = MappingProxyType({})) -> None:
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
    """A backbone through which a batch passes once, however often it is asked about it in a row; for use without gradients.

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
        stem: the first layers of a ResNet: `3x3-stride1` for images of about 32 pixels, `3x3-stride2` for about 64, or `default`.
        arguments: further arguments of the timm model, such as `{img_size: 64, patch_size: 8}` for a vision transformer.

    Raises:
        ValueError: if timm has no such model, the model refuses an argument, or its stem cannot be changed.
    """
    if not timm.is_model(name):
        raise ValueError(f"name: timm has no model called {name!r}; {suggest(name, timm.list_models())}")
    if stem != "default" and name not in _SMALL_STEM_ARCHITECTURES:
        raise ValueError(f"stem {stem!r} exists for {', '.join(_SMALL_STEM_ARCHITECTURES)}, not for {name}")
    architecture = name + _SUFFIXES[stem]
    try:
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    except (TypeError, AssertionError) as error:
        raise ValueError(f"arguments: {name} refuses {arguments}: {error}; {{}} gives none") from None
    return Backbone(model, architecture, arguments)


class SmallStemResNet(ResNet):
    """timm's ResNet with a 3x3 first convolution and no max-pool.

    Args:
        stem_stride: stride of the first convolution, 1 or 2.
        arguments: everything that timm's `ResNet` takes.
    """

    def __init__(self, *, stem_stride: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        channels = arguments.get("in_chans", 3), self.bn1.num_features
        first = nn.Conv2d(int(channels[0]), int(channels[1]), 3, stride=stem_stride, padding=1, bias=False)  # type: ignore[arg-type]
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        self.add_module("conv1", first)
        self.add_module("maxpool", nn.Identity())


def _register_small_stem(base: str, block: type[nn.Module], layers: tuple[int, ...], stem: Stem, stride: int) -> None:
    name = base + _SUFFIXES[stem]

    def create(pretrained: bool = False, **arguments: Any) -> nn.Module:
        model: nn.Module = build_model_with_cfg(
            SmallStemResNet, name, pretrained, **{"block": block, "layers": layers, "stem_stride": stride, **arguments}
        )
        return model

    create.__name__ = name
    create.__module__ = __name__
    create.__doc__ = f"timm's {base} with a 3x3 stem of stride {stride} and no max-pool."
    default_cfgs.update(
        generate_default_cfgs({name: {"first_conv": "conv1", "classifier": "fc", "input_size": (3, 32 * stride, 32 * stride)}})
    )
    globals()[name] = register_model(create)


default_cfgs: dict[str, Any] = {}
for _base, (_block, _layers) in _SMALL_STEM_ARCHITECTURES.items():
    _register_small_stem(_base, _block, _layers, "3x3-stride1", 1)
    _register_small_stem(_base, _block, _layers, "3x3-stride2", 2)


def require_input_size(model: nn.Module, size: int) -> None:
    """Raise a `ValueError` if a network takes images of one size only, and `size` is another."""
    patches = getattr(model, "patch_embed", None)
    wanted = getattr(patches, "img_size", None)
    if wanted is not None and getattr(patches, "strict_img_size", False) and wanted[0] != size:
        raise ValueError(f"size: images have {size} pixels a side, but this network takes {wanted[0]}")


def require_forward(model: nn.Module, size: int) -> None:
    """Raise a `ValueError` if images of `size` pixels do not go through a network, whatever the reason: they are halved once too often."""
    try:
        with frozen(model), torch.no_grad():
            model(torch.zeros(1, 3, size, size))
    except (ArithmeticError, AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        name = f"{model.architecture} with {model.arguments}" if isinstance(model, Backbone) else type(model).__name__
        raise ValueError(f"images of {size} pixels do not go through {name}: {reason}") from None


def advice_on_stem(backbone: Backbone, size: int) -> str | None:
    """What to say where a ResNet with its own stem has shrunk images of `size` pixels to a last map of one pixel; None elsewhere."""
    halvings = 5
    if backbone.architecture not in _SMALL_STEM_ARCHITECTURES or size > 2**halvings:
        return None
    side = -(-size // 2 ** (halvings - 2))
    return (
        f"backbone.stem: images of {size} pixels leave {backbone.architecture} a last map of one pixel, which sees little of them; "
        f"3x3-stride1 leaves {side} x {side}"
    )


def require_exact_gradients(backbone: Backbone, size: int) -> None:
    """Raise a `ValueError` if training in bfloat16 on the CPU would give wrong gradients for images of `size` pixels.

    Where a map has shrunk to one pixel, most taps of a wide kernel meet padding alone. oneDNN leaves the bfloat16 gradient of their weights
    as it finds the memory, except for kernels of 3 that move by 1 (torch 2.15, kernels of 3, 5 and 7, strides of 1 and 2).
    """

    def refuse(convolution: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(convolution, nn.Conv2d)
        kernel, stride = max(convolution.kernel_size), max(convolution.stride)
        if max(inputs[0].shape[-2:]) == 1 and kernel > 1 and (kernel, stride) != (3, 1):
            raise ValueError(
                f"precision is bf16, but on the CPU it gives wrong gradients where maps have one pixel, as images of {size} pixels have in "
                f"{backbone.architecture}; choose fp32 or larger images"
            )

    probe = copy.deepcopy(backbone).eval()
    for convolution in probe.modules():
        if isinstance(convolution, nn.Conv2d):
            convolution.register_forward_pre_hook(refuse)
    with torch.no_grad():
        probe(torch.zeros(1, 3, size, size))


def to_channels_last(module: nn.Module) -> nn.Module:
    """Keep 4-D weights with channels last, which convolutions run faster on; values do not change."""
    return module.to(memory_format=torch.channels_last)
