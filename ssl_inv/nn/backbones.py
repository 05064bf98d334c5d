"""Any timm model behind one interface: pooled vectors, and a feature map or patch tokens where the model has them."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

import timm
import torch
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError, foreign_member, require, suggest
from ssl_inv.nn.ibn import IBN, IBN_SUFFIXES
from ssl_inv.nn.modes import frozen
from ssl_inv.nn.stems import SMALL_STEM_ARCHITECTURES, SUFFIXES, Stem

__all__ = ["IBN", "Backbone", "Cached", "Features", "Stem", "make_backbone", "to_channels_last"]

REFUSED_ARGUMENTS: Mapping[str, str] = {
    "pretrained": "weights to start from are a setting of their own: backbone.weights: timm",
    "checkpoint_path": "weights to start from are a setting of their own: backbone.weights: FILE",
    "pretrained_cfg": "weights to start from are a setting of their own: backbone.weights: timm/NAME",
    "pretrained_cfg_overlay": "weights to start from are a setting of their own: backbone.weights: timm/NAME",
    "pretrained_strict": "weights to start from are a setting of their own: backbone.weights_partial",
    "pretrained_filter_fn": "weights to start from are a setting of their own: backbone.weights",
    "pretrained_model_args": "weights to start from are a setting of their own: backbone.weights",
    "kwargs_filter": "arguments are given as they are",
    "cache_dir": "the environment variable HF_HOME says where timm's weights are kept",
    "features_only": "a backbone gives one vector of each image, and maps from the same pass",
    "out_indices": "a backbone gives one vector of each image, and maps from the same pass",
    "feature_cfg": "a backbone gives one vector of each image, and maps from the same pass",
    "num_classes": "a backbone has no classifier; the evaluation trains its own",
    "scriptable": "it would not be in the export",
    "exportable": "it would not be in the export",
    "no_jit": "it would not be in the export",
}
"""Arguments of `timm.create_model` that are no part of a network's structure, and why they are refused."""

Change = tuple[nn.Module, Callable[[nn.Module, Any, Tensor], Tensor]]
"""A module of a timm model, and a forward hook that replaces its output during one pass."""


@dataclass(frozen=True)
class Features:
    """What a backbone computes from one batch.

    Attributes:
        pool: computes the pooled vectors, anew at each call, as the model's head may have dropout.
        arrange: gives the map.
    """

    pool: Callable[[], Tensor]
    arrange: Callable[[], Tensor]

    @property
    def pooled(self) -> Tensor:
        """Pooled vectors `(B, D)`."""
        return self.pool()

    @property
    def map(self) -> Tensor:
        """The last feature map `(B, C, h, w)`, or patch tokens `(B, N, C)` without class or register tokens."""
        return self.arrange()

    def channels(self, some: slice) -> "Features":
        """The same features with some of their channels only."""
        return Features(
            lambda: self.pooled[:, some],
            lambda: found[:, some] if (found := self.map).dim() == 4 else found[..., some],
        )


class Backbone(nn.Module):
    """A timm model without its classifier.

    Args:
        model: a timm model made with `num_classes=0`.
        architecture: the timm name that makes it again.
        arguments: further arguments for `timm.create_model`.

    Attributes:
        features: dimensions D of the pooled vector.
        in_channels: channels of the images.
        channels: channels C of the last feature map or of the tokens. D differs from C where a hidden layer follows the
            pooling, as in MobileNets.
    """

    model: nn.Module
    arguments: dict[str, Any]

    @property
    def in_channels(self) -> int:
        return int(self.arguments.get("in_chans", 3))

    def __init__(
        self, model: nn.Module, architecture: str, arguments: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        super().__init__()
        self.model = model
        self.architecture = architecture
        self.arguments = dict(arguments)
        self.channels = int(cast(int, model.num_features))
        self.features = int(getattr(model, "head_hidden_size", None) or self.channels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pooled features `(B, D)` of normalised pixels `(B, C, H, W)`."""
        return self.model(pixels)  # type: ignore[no-any-return]

    def encode(self, pixels: Tensor, change: Change | None = None) -> Features:
        """All features of normalised pixels `(B, C, H, W)`, from one pass.

        Args:
            pixels: the batch.
            change: replaces the output of one module of the model in this pass, to mask or drop patches.
        """
        model: Any = self.model
        with nullcontext() if change is None else change[0].register_forward_hook(change[1]):
            last = model.forward_features(pixels)
        # In timm, a model is its features and then its head.
        pool = (lambda: model.forward_head(last)) if hasattr(model, "forward_head") else (lambda: model(pixels))
        return Features(pool, lambda: self._arranged(last))

    def _arranged(self, last: Tensor) -> Tensor:
        if last.dim() == 3:
            return last[:, int(getattr(self.model, "num_prefix_tokens", 0)) :]
        # Swin and MaxViT keep channels last. The number of channels tells which axis they are on.
        return last if last.dim() != 4 or last.shape[1] == self.channels else last.permute(0, 3, 1, 2)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """The last feature map `(B, C, h, w)` of a convolutional model.

        Raises:
            TypeError: if the model has no feature map.
        """
        if (found := self.encode(pixels).map).dim() != 4:
            raise TypeError(f"{self.architecture} gives tokens, not a feature map")
        return found

    def places(self, size: int) -> tuple[int, int]:
        """Height and width of the last map of images of `size` pixels; of a square map, if the model gives tokens."""
        weight = next(self.model.parameters())
        image = torch.zeros(1, self.in_channels, size, size, device=weight.device, dtype=weight.dtype)
        with frozen(self.model), torch.no_grad():
            height, width = square_map(self.encode(image).map).shape[-2:]
        return height, width

    def tokens(self, pixels: Tensor) -> Tensor:
        """Patch tokens `(B, N, C)`, without class or register tokens.

        Raises:
            TypeError: if the model has no tokens.
        """
        if (found := self.encode(pixels).map).dim() != 3:
            raise TypeError(f"{self.architecture} gives a feature map, not tokens")
        return found

    def stage_channels(self) -> list[int]:
        """Channels of the map of each stage that `stage_maps` can give."""
        stages: Any = getattr(self.model, "feature_info", ()) if hasattr(self.model, "forward_intermediates") else ()
        return [int(stage["num_chs"]) for stage in stages]

    def stage_maps(self, pixels: Tensor, count: int) -> list[Tensor]:
        """The feature maps `(B, C, h, w)` of the last `count` stages."""
        model: Any = self.model
        maps: list[Tensor] = model.forward_intermediates(pixels, indices=count, intermediates_only=True)
        return maps

    def early_map(self, pixels: Tensor, layer: int) -> Tensor:
        """The map `(B, C, h, w)` that a block or stage makes, without class or register tokens.

        Nothing behind it is computed.

        Args:
            pixels: `(B, 3, H, W)`.
            layer: the number of the block or stage in timm's `feature_info`; the first is 1.
        """
        model: Any = self.model
        wanted = {"indices": [layer - 1], "intermediates_only": True, "stop_early": True, "output_fmt": "NCHW"}
        found: Tensor = model.forward_intermediates(pixels, **wanted)[0]
        return found


class AroundBackbone(Backbone):
    """A backbone that changes what another one gives.

    Args:
        whole: the other backbone. Its weights and its timm model are shared.
    """

    def __init__(self, whole: Backbone) -> None:
        nn.Module.__init__(self)
        # State dicts of saved runs have this name: a teacher may be a copy of a part of a backbone.
        self._modules["model"] = whole
        self.architecture, self.arguments = whole.architecture, whole.arguments
        self.channels, self.features = whole.channels, whole.features

    @property
    def whole(self) -> Backbone:
        """The other backbone."""
        return cast(Backbone, self._modules["model"])

    @property
    def model(self) -> nn.Module:  # type: ignore[override]
        """The whole timm model."""
        return self.whole.model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encode(pixels).pooled

    def encode(self, pixels: Tensor, change: Change | None = None) -> Features:
        return self.whole.encode(pixels, change)

    def stage_channels(self) -> list[int]:
        return self.whole.stage_channels()

    def stage_maps(self, pixels: Tensor, count: int) -> list[Tensor]:
        return self.whole.stage_maps(pixels, count)

    def early_map(self, pixels: Tensor, layer: int) -> Tensor:
        return self.whole.early_map(pixels, layer)


@dataclass(frozen=True)
class _Pass:
    pixels: Tensor
    features: Features
    with_gradient: bool
    changed: bool


class Cached(AroundBackbone):
    """A backbone that computes the features of each batch once.

    `encode` recognises a batch by the tensor itself, not by its numbers, and never gives features that were computed
    without gradients where gradients are wanted, or the reverse. Pooling is not cached. Make a new one for every loss:
    weights must not change while it is used.

    Args:
        whole: the backbone.
        batches: the number of batches kept; None keeps all.
    """

    def __init__(self, whole: Backbone, batches: int | None = None) -> None:
        super().__init__(whole)
        self._passes: deque[_Pass] = deque(maxlen=batches)

    def encode(self, pixels: Tensor, change: Change | None = None) -> Features:
        if change is None:
            for one in self._passes:
                if one.pixels is pixels and one.with_gradient == torch.is_grad_enabled() and not one.changed:
                    return one.features
        return self._passed(pixels, change)

    def _passed(self, pixels: Tensor, change: Change | None = None) -> Features:
        features = self.whole.encode(pixels, change)
        self._passes.append(_Pass(pixels, features, torch.is_grad_enabled(), change is not None))
        return features

    def whole_map(self, pixels: Tensor) -> Tensor:
        """The feature map `(B, C, h, w)` of whole images; patch tokens are arranged as a square map.

        Images that passed inside a larger batch are found there by their numbers. Images that did not pass, or passed
        with some patches dropped, pass now.

        Raises:
            ValueError: if the tokens do not fill a square.
        """
        features, rows = self._whole_images(pixels)
        return square_map(features.map[rows])

    def whole_pooled(self, pixels: Tensor) -> Tensor:
        """The pooled features `(B, D)` of whole images, found as by `whole_map`."""
        features, rows = self._whole_images(pixels)
        return features.pooled[rows]

    def _whole_images(self, pixels: Tensor) -> tuple[Features, slice]:
        """The features of a batch that has these images whole, and where they are in it."""
        usable = [
            one
            for one in self._passes
            if (one.with_gradient or not torch.is_grad_enabled()) and not self._dropped(one.pixels, one.features)
        ]
        # Identical tensors first: to compare numbers, the host waits for the device.
        for one in sorted(usable, key=lambda one: one.pixels is not pixels):
            if (start := _first_row(pixels, one.pixels)) is not None:
                return one.features, slice(start, start + len(pixels))
        return self._passed(pixels), slice(None)

    def _dropped(self, pixels: Tensor, features: Features) -> bool:
        """Whether the model dropped some patches of this batch."""
        grid: Any = getattr(getattr(self.model, "patch_embed", None), "dynamic_feat_size", None)
        if grid is None or (found := features.map).dim() != 3:
            return False
        rows, columns = grid((pixels.shape[-2], pixels.shape[-1]))
        return bool(found.shape[1] < rows * columns)


def _first_row(pixels: Tensor, batch: Tensor) -> int | None:
    """The row at which these images begin in a batch, or None."""
    if batch is pixels:
        return 0
    if batch.shape[1:] != pixels.shape[1:]:
        return None
    starts = range(0, len(batch) - len(pixels) + 1, len(pixels))
    return next((start for start in starts if torch.equal(batch[start : start + len(pixels)], pixels)), None)


def square_map(found: Tensor) -> Tensor:
    """A map `(B, C, h, w)`, also of tokens `(B, N, C)`."""
    if found.dim() == 4:
        return found
    side = math.isqrt(found.shape[1])
    if side**2 != found.shape[1]:
        raise ValueError(f"the backbone's {found.shape[1]} tokens do not fill a square map, which is needed here")
    return found.transpose(1, 2).reshape(len(found), -1, side, side)


def make_backbone(
    *,
    name: str = "resnet18",
    stem: Literal["default", "3x3-stride1", "3x3-stride2"] = "default",
    ibn: Literal["none", "a", "b"] = "none",
    arguments: dict[str, Any] = {},
    weights: str | None = None,
    weights_prefix: str | None = None,
    weights_partial: bool = False,
) -> Backbone:
    """An untrained backbone. The settings of `weights` are for `ssl_inv.nn.weights`: here they load nothing.

    Args:
        name: any name of `timm.list_models()`, or the dotted path of a function that `timm.models.register_model` has
            registered.
        stem: the first layers of a ResNet: `3x3-stride1` for images of about 32 pixels, `3x3-stride2` for about 64
            pixels, or `default`.
        ibn: for ResNets: instance normalisation in early layers, which removes what tells colours and lighting, as in
            IBN-Net (Pan et al., ECCV 2018): `a` for half of the channels after the first convolution of all blocks of
            stages 1 to 3, `b` in the stem and behind stages 1 and 2. Weights of plain ResNets fit, too.
        arguments: further arguments of the timm model, such as `{img_size: 64, patch_size: 8}` for a vision
            transformer. `in_chans` is the number of channels of the data, and need not be said.
        weights: where training starts: `timm` for timm's weights of that name, `timm/NAME` or `hf-hub:OWNER/NAME` for
            others of its hub, the folder of a run or of an export, or a file of another library; null starts with
            random weights. The baseline of the evaluation is random always.
        weights_prefix: of the backbone's parameters in that file, such as `teacher.backbone.`; null finds it.
        weights_partial: whether parameters without a counterpart may keep their random values, and what is unknown in
            the file may stay out. Classifiers and heads of pretraining always stay out.

    Raises:
        SettingError: if timm has no such model, the model refuses an argument, or its stem cannot be changed.
    """
    name = _registered(name)
    if stem != "default" and name not in SMALL_STEM_ARCHITECTURES:
        raise SettingError("stem", f"{stem!r} exists for {', '.join(SMALL_STEM_ARCHITECTURES)}, not for {name}")
    if (refused := next((one for one in arguments if one in REFUSED_ARGUMENTS), None)) is not None:
        raise SettingError(f"arguments.{refused}", REFUSED_ARGUMENTS[refused])
    if not isinstance(channels := arguments.get("in_chans", 3), int) or channels < 1:
        raise SettingError("arguments.in_chans", f"must be a number of channels, got {channels}")
    architecture = name + SUFFIXES[stem] + IBN_SUFFIXES[ibn]
    known = "exists for timm's ResNets, such as resnet18, resnet50 or resnext50_32x4d"
    require(timm.is_model(architecture), "ibn", f"{ibn!r} {known}, not for {name}")
    try:
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
        return Backbone(model, architecture, arguments)
    except Exception as error:  # A model meets wrong arguments with whatever fails first.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if channels != 3 and list(arguments) == ["in_chans"]:
            raise SettingError("name", f"{name} takes no images of {channels} channels: {reason}") from None
        if not arguments:
            raise SettingError("name", f"{name} is no network of images alone: {reason}") from None
        raise SettingError("arguments", f"{name} refuses {arguments}: {reason}; {{}} gives none") from None


def _registered(name: str) -> str:
    """The name in timm of a model, also of one at a dotted path, which is imported."""
    if timm.is_model(name):
        return name
    first, last = name.split(".")[0], name.split(".")[-1]
    if "." not in name or timm.is_model(first):
        raise SettingError("name", f"timm has no model called {name!r}; {suggest(name, timm.list_models())}")
    foreign_member("backbone", name)
    registered = "is not registered with timm; decorate the function with `timm.models.register_model`"
    require(timm.is_model(last), "name", f"the backbone {name!r} {registered}")
    return last


def registering_module(architecture: str) -> str | None:
    """The module that registers a network with timm, if neither timm nor this package does."""
    module = str(timm.models.model_entrypoint(architecture.split(".")[0]).__module__)
    return None if module.partition(".")[0] in ("timm", "ssl_inv") else module


def to_channels_last(module: nn.Module) -> nn.Module:
    """Keep 4-D weights with channels last, which makes convolutions faster; values do not change."""
    return module.to(memory_format=torch.channels_last)
