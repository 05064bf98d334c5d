"""ResNets with stems for small images, registered with timm."""

from collections.abc import Mapping
from typing import Any, Literal

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

# timm's register_model appends each name to this list. Without the list, it makes one of the registered names alone.
__all__ = ["SMALL_STEM_ARCHITECTURES", "SUFFIXES", "SmallStemResNet", "Stem"]

Stem = Literal["default", "3x3-stride1", "3x3-stride2"]
"""The first layers of a ResNet.

`default` halves the resolution twice (7x7 with stride 2, max-pool). `3x3-stride2` halves it once and `3x3-stride1` not
at all, both without max-pool: the usual stems for images of 64 and 32 pixels.
"""

SUFFIXES: Mapping[str, str] = {"default": "", "3x3-stride1": "_stem3x3s1", "3x3-stride2": "_stem3x3s2"}

SMALL_STEM_ARCHITECTURES: Mapping[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
default_cfgs: dict[str, Any] = {}
"""timm's name for the configurations of a module's models."""


class SmallStemResNet(ResNet):
    """timm's ResNet with a 3x3 first convolution and no max-pool.

    Args:
        stem_stride: stride of the first convolution, 1 or 2.
        arguments: all arguments of timm's `ResNet`.
    """

    def __init__(self, *, stem_stride: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        colours, channels = int(arguments.get("in_chans", 3)), int(self.bn1.num_features)  # type: ignore[arg-type]
        first = nn.Conv2d(colours, channels, 3, stride=stem_stride, padding=1, bias=False)
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        self.add_module("conv1", first)
        self.add_module("maxpool", nn.Identity())
        # timm tells the reductions of its own stem, which halves once before `act1` and once behind it.
        self.feature_info: list[dict[str, Any]] = [
            {**one, "reduction": stem_stride * (one["reduction"] // 4 or 1)} for one in self.feature_info
        ]


def _register_small_stem(base: str, block: type[nn.Module], layers: tuple[int, ...], stem: Stem, stride: int) -> None:
    name = base + SUFFIXES[stem]

    def create(pretrained: bool = False, **arguments: Any) -> nn.Module:
        model: nn.Module = build_model_with_cfg(
            SmallStemResNet, name, pretrained, **{"block": block, "layers": layers, "stem_stride": stride, **arguments}
        )
        return model

    create.__name__ = name
    create.__module__ = __name__
    create.__doc__ = f"timm's {base} with a 3x3 stem of stride {stride} and no max-pool."
    default_cfgs.update(
        generate_default_cfgs(
            {name: {"first_conv": "conv1", "classifier": "fc", "input_size": (3, 32 * stride, 32 * stride)}}
        )
    )
    globals()[name] = register_model(create)


for _base, (_block, _layers) in SMALL_STEM_ARCHITECTURES.items():
    _register_small_stem(_base, _block, _layers, "3x3-stride1", 1)
    _register_small_stem(_base, _block, _layers, "3x3-stride2", 2)
