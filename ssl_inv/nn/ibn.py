"""ResNets whose first normalisations are instance normalisation in part, registered with timm (Pan, Luo, Shi, Tang,
"IBN-Net", ECCV 2018, 1807.09441): they keep less of an image's colours and lighting.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal

import timm
import torch
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    model_entrypoint,
    register_model,
)
from timm.models.resnet import ResNet
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError
from ssl_inv.nn.stems import SMALL_STEM_ARCHITECTURES, SUFFIXES

# timm's register_model appends each name to this list; see `stems`.
__all__ = ["IBN", "IBN_SUFFIXES", "InstanceBatchNorm", "ResNet", "to_ibn"]

IBN = Literal["none", "a", "b"]
"""Where instance normalisation is: nowhere, or as in the paper's IBN-a or IBN-b."""

IBN_SUFFIXES: Mapping[str, str] = {"none": "", "a": "_ibn_a", "b": "_ibn_b"}

default_cfgs: dict[str, Any] = {}
"""timm's name for the configurations of a module's models."""

_BATCH_ONLY = ("running_mean", "running_var", "num_batches_tracked")


class InstanceBatchNorm(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the rest.

    Instance normalisation has a scale and a shift and no running statistics, so it is the same in training and after.
    Its parameters have the names of the authors' code.

    Args:
        norm: a batch normalisation; its scale and shift are kept, its running statistics for the second half only.

    Raises:
        ValueError: if `norm` is of another kind, or has one channel only.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        if type(norm) is not nn.BatchNorm2d or not norm.affine or norm.num_features < 2:
            raise ValueError(f"IBN replaces batch normalisation of 2 channels or more, not {norm}")
        half = norm.num_features // 2
        self.sizes = (half, norm.num_features - half)
        self.IN = nn.InstanceNorm2d(half, eps=norm.eps, affine=True)
        self.BN = nn.BatchNorm2d(norm.num_features - half, eps=norm.eps, momentum=norm.momentum)
        self.load_state_dict(split_norm(norm.state_dict(), half))

    def forward(self, maps: Tensor) -> Tensor:
        """Normalised maps `(B, C, h, w)`.

        Raises:
            SettingError: if a map has one place only, whose variance is 0.
        """
        first, rest = torch.split(maps, list(self.sizes), dim=1)
        return torch.cat((_instance(self.IN, first), self.BN(rest)), dim=1)


class _NormBefore(nn.Sequential):
    """Instance normalisation, then what followed before."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(OrderedDict(norm=nn.InstanceNorm2d(channels, affine=True), act=act))

    def forward(self, maps: Tensor) -> Tensor:
        norm, act = self
        assert isinstance(norm, nn.InstanceNorm2d)
        return act(_instance(norm, maps))  # type: ignore[no-any-return]


class _WholeInstanceNorm(nn.InstanceNorm2d):
    """Instance normalisation in the place of a batch normalisation, with its scale and shift."""

    def __init__(self, norm: nn.Module) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        super().__init__(norm.num_features, eps=norm.eps, affine=True)
        self.load_state_dict({name: norm.state_dict()[name] for name in ("weight", "bias")})

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        _require_places(input)
        return super().forward(input)


def to_ibn(model: nn.Module, kind: IBN) -> nn.Module:
    """Change a ResNet of timm in place, and keep its weights.

    `a`: the first normalisation of every block of stages 1 to 3 becomes an `InstanceBatchNorm`. `b`: the stem's
    normalisation becomes instance normalisation, and one follows the addition, before the activation, in the last block
    of stages 1 and 2.

    Raises:
        ValueError: if it is no ResNet of timm with batch normalisation.
    """
    if not isinstance(model, ResNet):
        raise ValueError(f"IBN is for timm's ResNets, and this is a {type(model).__name__}")
    stages: list[Any] = [model.layer1, model.layer2, model.layer3]
    if kind == "a":
        for block in (block for stage in stages for block in stage):
            block.bn1 = InstanceBatchNorm(block.bn1)
    elif kind == "b":
        if type(model.bn1) is not nn.BatchNorm2d:
            raise ValueError(f"IBN replaces batch normalisation, not {model.bn1}")
        model.bn1 = _WholeInstanceNorm(model.bn1)
        for last, name in ((stage[-1], "act3" if hasattr(stage[-1], "act3") else "act2") for stage in stages[:2]):
            width = (last.conv3 if hasattr(last, "conv3") else last.conv2).out_channels
            setattr(last, name, _NormBefore(width, getattr(last, name)))
    return model


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a plain ResNet or of the authors' IBN-Net, by the names of an IBN-Net of this package, whose own
    stay.
    """
    halved = {name: one.sizes[0] for name, one in model.named_modules() if isinstance(one, InstanceBatchNorm)}
    whole = {name for name, one in model.named_modules() if isinstance(one, _WholeInstanceNorm)}
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        norm, _, last = name.rpartition(".")
        if norm in halved:
            for half, one in split_norm({last: value}, halved[norm]).items():
                found[f"{norm}.{half}"] = one
        elif not (norm in whole and last in _BATCH_ONLY):
            # The authors' IBN-b has the normalisation after an addition as `IN` of the block.
            block = re.fullmatch(r"(layer[12]\.\d+)\.IN\.(\w+)", name)
            act = "act3" if block and f"{block[1]}.act3.norm.weight" in model.state_dict() else "act2"
            found[f"{block[1]}.{act}.norm.{block[2]}" if block else name] = value
    return found


def split_norm(state: Mapping[str, Tensor], half: int) -> dict[str, Tensor]:
    """The state dict of a batch normalisation as that of an `InstanceBatchNorm`."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in ("weight", "bias"):
            found[f"IN.{name}"] = value[:half]
        found[f"BN.{name}"] = value[half:] if value.dim() else value
    return found


def _instance(norm: nn.InstanceNorm2d, maps: Tensor) -> Tensor:
    _require_places(maps)
    return norm(maps)  # type: ignore[no-any-return]


def _require_places(maps: Tensor) -> None:
    if maps.shape[2] * maps.shape[3] < 2:
        problem = "a map of one place has no variance of its own; take larger images or backbone.stem 3x3-stride1"
        raise SettingError("backbone.ibn", problem)


def _builder(base: str, kind: IBN) -> Callable[..., nn.Module]:
    def build(**arguments: Any) -> nn.Module:
        model = to_ibn(model_entrypoint(base)(pretrained=False, **arguments), kind)
        # `ssl_inv.nn.weights` and timm translate the names of plain weights by it.
        model.checkpoint_filter_fn = checkpoint_filter_fn  # type: ignore[assignment]
        return model

    return build


def _register(base: str, kind: IBN) -> None:
    name = base + IBN_SUFFIXES[kind]
    build = _builder(base, kind)

    def create(pretrained: bool = False, **arguments: Any) -> nn.Module:
        model: nn.Module = build_model_with_cfg(
            build,
            name,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            **arguments,
        )
        return model

    create.__name__, create.__module__ = name, __name__
    create.__doc__ = f"timm's {base} as an IBN-Net, kind {kind}."
    known = get_pretrained_cfg(base)
    told = {} if known is None else {key: getattr(known, key) for key in ("input_size", "first_conv", "classifier")}
    default_cfgs.update(generate_default_cfgs({name: told}))
    globals()[name] = register_model(create)


_STEMS = (stem for stem in SUFFIXES.values() if stem)
for _base in (
    *timm.list_models(module="resnet"),
    *(f"{name}{stem}" for stem in _STEMS for name in SMALL_STEM_ARCHITECTURES),
):
    _register(_base, "a")
    _register(_base, "b")
