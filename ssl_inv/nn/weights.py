"""Weights that a backbone starts from: found under their prefix and fitted. Nothing is loaded silently in part."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from ssl_inv.catalogue import SettingError
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.weight_files import Weights, read_weights

__all__ = ["HEADS", "Fit", "Weights", "fit", "read_weights", "start_from"]

Table = Mapping[str, Tensor]
"""Tensors by name."""

HEADS = (
    *("fc", "head", "heads", "head_dist", "classifier", "linear", "last_linear", "last_layer", "online_head"),
    *("projector", "projection", "projection_head", "prototypes", "predictor", "prediction_head", "dino_head"),
    *("ibot_head", "mask_token", "masked_embed", "decoder", "decoder_blocks", "decoder_embed", "decoder_norm"),
    *("decoder_pos_embed", "decoder_pred", "queue", "queue_ptr", "pre_logits"),
)
"""First names of what a file may hold beside the backbone: classifiers, and heads of pretraining."""

_WRAPPERS = (
    *("", "module.", "model.", "backbone.", "encoder.", "module.backbone.", "module.encoder.", "module.model."),
    *("student.backbone.", "teacher.backbone.", "trunk.", "visual.", "_feature_blocks."),
)
"""Prefixes that are tried where parameters have names of another library."""

_SEQUENCE: Mapping[str, str] = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Places of torchvision's ResNet layers in an `nn.Sequential` of its children, as lightly's examples have it."""


@dataclass(frozen=True)
class Fit:
    """How weights fit a backbone.

    Attributes:
        part: the prefix of the backbone's parameters in the file.
        loaded: the tensors that fit, by the backbone's names.
        resampled: names whose tensors were resampled to the backbone's shape: positions and patches.
        missing: names that the file lacks.
        unknown: names that the backbone lacks, without heads.
        other_shape: name -> the file's shape and the backbone's.
        heads: first names of heads under the same prefix, which stay out.
        others: first names of everything else in the file, such as other networks and memories.
        adapted: names of first layers for three channels that were adapted to those of the images, as timm does: summed
            for one, and else repeated and scaled by 3 / channels.
    """

    part: str
    loaded: dict[str, Tensor]
    resampled: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    other_shape: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether every parameter of the backbone, and every one of the file under the prefix, has its counterpart."""
        return not (self.missing or self.unknown or self.other_shape)

    @property
    def differences(self) -> str:
        """What did not match, in words."""
        shapes = [f"{name} {tuple(was)} for {tuple(wanted)}" for name, (was, wanted) in self.other_shape.items()]
        parts = (("missing", self.missing), ("unknown", self.unknown), ("of another shape", shapes))
        return "; ".join(f"{what}: {_some(names)}" for what, names in parts if names)


def fit(backbone: Backbone, weights: Weights, prefix: str | None = None) -> Fit:
    """Find a backbone among weights, and compare names and shapes. The backbone does not change.

    Args:
        backbone: the network.
        weights: the weights.
        prefix: of its parameters in the file; None finds the one under which most parameters have counterparts. Of a
            teacher and a student that fit equally, it takes the teacher; of a network and its moving average by another
            name, the network.

    Raises:
        SettingError: if nothing fits, or there is no such prefix.
    """
    own = backbone.model.state_dict()
    candidates = list(_candidates(weights.content, own, prefix))
    scored = [(_hits(one, own), label, one) for label, one in candidates]
    converted = _converter(backbone.model)
    if max((hits for hits, _, _ in scored), default=0) < len(own) / 2:
        # Perhaps names of the authors' code, which timm translates.
        scored = [(_hits(converted(one), own), label, one) for _, label, one in scored]
    best = max(scored, key=lambda one: (one[0], -_followed(one[1]), -len(one[1])), default=None)
    if best is None or not best[0]:
        known = _some(sorted({f"{name.split('.')[0]}.*" for _, one in _tables(weights.content) for name in one}), 8)
        where = f"under {prefix!r}" if prefix is not None else f"in {weights.source}"
        setting = "weights" if prefix is None else "weights_prefix"
        raise SettingError(setting, f"no parameter of {backbone.architecture} is {where}; it holds {known}")
    _, part, table = best
    state = {**converted(table)}
    adapted = _adapt_first_layers(state, own, backbone)
    found = _compared(part, table, state, own, weights.content)
    return replace(found, adapted=adapted, resampled=[name for name in found.resampled if name not in adapted])


def _adapt_first_layers(state: dict[str, Tensor], own: Table, backbone: Backbone) -> list[str]:
    """Adapt the first layers for red, green and blue to the channels of a backbone; their names."""
    channels, config = backbone.in_channels, getattr(backbone.model, "pretrained_cfg", {})
    first = config.get("first_conv") or ()
    names = [f"{name}.weight" for name in ([first] if isinstance(first, str) else first)]
    adapted = []
    for name in names:
        before, wanted = state.get(name), own.get(name)
        if channels == 3 or before is None or wanted is None or before.dim() != 4:
            continue
        fits = (before.shape[0], before.shape[2:]) == (wanted.shape[0], wanted.shape[2:])
        if fits and before.shape[1] == 3 and wanted.shape[1] == channels:
            state[name] = adapt_input_conv(channels, before)
            adapted.append(name)
    return adapted


def _compared(part: str, table: Table, state: Table, own: Table, content: Mapping[str, Any]) -> Fit:
    loaded = {name: one for name, one in state.items() if name in own and one.shape == own[name].shape}
    # Networks without it run the same: it counts batches only.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    heads = sorted({name.split(".")[0] for name in unknown if name.split(".")[0] in HEADS})
    shapes = {
        name: (list(one.shape), list(own[name].shape))
        for name, one in state.items()
        if name in own and one.shape != own[name].shape
    }
    changed = [name for name in loaded if name in table and _resampled(table[name], loaded[name])]
    everything = [f"{way}.{name}".strip(".") for way, one in _tables(content) for name in one]
    others = sorted({_first(name) for name in everything if part and not name.startswith(f"{part}.")})
    unknown = [name for name in unknown if name.split(".")[0] not in HEADS]
    return Fit(part, loaded, changed, missing, unknown, shapes, heads, others)


def start_from(backbone: Backbone, weights: Weights, prefix: str | None = None, partial: bool = False) -> Fit:
    """Load weights into a backbone.

    Args:
        backbone: the network.
        weights: the weights.
        prefix: see `fit`.
        partial: whether some parameters may keep their random values, and some of the file stay out.

    Raises:
        SettingError: if nothing fits, a number is not finite, or not everything fits and `partial` is false.
    """
    found = fit(backbone, weights, prefix)
    if not found.whole and not partial:
        advice = "backbone.weights_partial: true loads what fits" if found.loaded else "nothing fits"
        name = backbone.architecture
        raise SettingError("weights", f"{weights.source} fits {name} in part; {found.differences}; {advice}")
    if not found.loaded:
        raise SettingError("weights", f"nothing in {weights.source} fits {backbone.architecture}; {found.differences}")
    for name, one in found.loaded.items():
        if not torch.isfinite(one).all():
            raise SettingError("weights", f"{name} in {weights.source} is not finite")
    backbone.model.load_state_dict(found.loaded, strict=False)
    return found


def _tables(
    content: Mapping[Any, Any], way: tuple[str, ...] = (), seen: set[int] | None = None
) -> Iterator[tuple[str, Table]]:
    """Every mapping inside with tensors by name, and its path. One that stands in several places is found once."""
    seen = set() if seen is None else seen
    tensors = {name: one for name, one in content.items() if isinstance(name, str) and isinstance(one, Tensor)}
    if tensors:
        yield ".".join(way), tensors
    for name, one in content.items():
        if isinstance(one, Mapping) and len(way) < 6 and id(one) not in seen:
            seen.add(id(one))
            yield from _tables(one, (*way, str(name)), seen)


def _candidates(content: Mapping[str, Any], own: Table, wanted: str | None) -> Iterator[tuple[str, Table]]:
    """Parts of a file that may be the backbone: the path and prefix, and its tensors without the prefix."""
    names = [name for name in own if not name.endswith("num_batches_tracked")]
    for way, table in [one for given in _tables(content) for one in _with_sequences(*given, own)]:
        ends = {name[: -len(some)] for some in (*names[:3], *names[-3:]) for name in table if name.endswith(some)}
        prefixes = {end for end in ends if not end or end.endswith(".")} | set(_WRAPPERS)
        for prefix in sorted(prefixes):
            label = f"{way}.{prefix}".strip(".")
            if wanted is not None and wanted.strip(".") not in (label, prefix.strip(".")):
                continue
            if part := {name[len(prefix) :]: one for name, one in table.items() if name.startswith(prefix)}:
                yield label, part


def _with_sequences(way: str, table: Table, own: Table) -> Iterator[tuple[str, Table]]:
    """A table, and the same with a ResNet's own names for the places in a sequence of its layers."""
    yield way, table
    if "layer4.0.conv1.weight" not in own:
        return
    end = "7.0.conv1.weight"
    starts = {name[: -len(end)] for name in table if name.endswith(end)}
    for start in (one for one in starts if not one or one.endswith(".")):
        pattern = re.compile(rf"{re.escape(start)}({'|'.join(_SEQUENCE)})\.(.+)")
        found = {name: pattern.fullmatch(name) for name in table}
        yield way, {f"{start}{_SEQUENCE[one[1]]}.{one[2]}" if one else k: table[k] for k, one in found.items()}


def _converter(model: nn.Module) -> Callable[[Table], Table]:
    """The translation of other libraries' names that timm has for a model; it also resamples positions."""
    own = getattr(model, "checkpoint_filter_fn", None)
    translate = own or getattr(sys.modules.get(type(model).__module__), "checkpoint_filter_fn", None)

    def converted(table: Table) -> Table:
        if translate is None:
            return table
        try:
            found: Table = translate(dict(table), model)
        except Exception:  # It meets whatever a file holds.
            return table
        return found

    return converted


def _hits(table: Table, own: Table) -> int:
    return sum(name in own for name in table)


def _resampled(before: Tensor, after: Tensor) -> bool:
    """Whether numbers have changed, not only the shape or positions in front."""
    same = before.numel() >= after.numel() and torch.equal(before.flatten()[-after.numel() :], after.flatten())
    return before.shape != after.shape and not same


def _first(name: str) -> str:
    """What a tensor belongs to: the first part of its name that is no wrapper."""
    parts = name.split(".")
    return next(
        (part for part in parts if part not in ("state_dict", "model", "module", "classy_state_dict")), parts[0]
    )


def _followed(label: str) -> int:
    """How far a part of a file is from what its authors evaluate."""
    if re.search(r"momentum|target|ema\b|_k\b", label):
        return 2
    return 1 if "student" in label else 0


def _some(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
