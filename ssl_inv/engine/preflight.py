"""Checks before the first step, of what would fail later or give wrong results silently."""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ssl_inv.augment.policy import Augmentation
from ssl_inv.augment.shared import Shared
from ssl_inv.catalogue import SettingError, require
from ssl_inv.data.source import Source, Subset
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.modes import frozen
from ssl_inv.nn.sharding import blocks, shared_weight
from ssl_inv.nn.stems import SMALL_STEM_ARCHITECTURES
from ssl_inv.objectives.base import Objective
from ssl_inv.transforms import Pose, Rotation, Transform
from ssl_inv.views.maker import ViewMaker

_FEW, _MANY = 64, 4096
"""Samples that are drawn to see which parameters differ; the rest if some do not among the few."""

_OBJECTS = 16
"""Objects whose views are compared, spread over all."""

_RECORDS = 16384
"""Views whose recorded values are looked at, spread over all."""

_SAME = 1e-6
"""Values that differ by no more are equal: some are computed in single precision."""

_SHARDED = 0.25
"""The least share of a backbone's weights for which it is worth to shard it."""


def require_input_size(model: nn.Module, size: int) -> None:
    """Raise a `SettingError` if a network takes only images of another size."""
    patches = getattr(model, "patch_embed", None)
    wanted = getattr(patches, "img_size", None)
    if wanted is not None and getattr(patches, "strict_img_size", False) and wanted[0] != size:
        raise SettingError("size", f"must be {wanted[0]} for this network, got {size}")


def require_whole_patches(backbone: Backbone, size: int) -> None:
    """Raise a `SettingError` if a recipe's own patch size leaves a margin of images of `size` pixels in no patch.

    Some of timm's networks leave such a margin by their design: what they were trained for is not refused.
    """
    side = backbone.arguments.get("patch_size")
    padded = backbone.arguments.get("dynamic_img_pad", False)
    if padded or not isinstance(side, int) or side < 1 or size % side == 0 or size < side:
        return
    fits = min((one for one in range(2, size + 1) if size % one == 0), key=lambda one: abs(one - side))
    problem = f"{side} does not divide images of {size} pixels, of which a margin of {size % side} would be lost"
    raise SettingError("arguments.patch_size", f"{problem}; choose {fits}, or images of {side * (size // side)} pixels")


def require_forward(model: nn.Module, size: int, channels: int = 3) -> None:
    """Raise a `ValueError` if a network fails on images of `size` pixels, as one that halves them too often or takes
    other channels, or does not give one vector of each, as a tensor or as the part `all` of features by part.
    """
    name = f"{model.architecture} with {model.arguments}" if isinstance(model, Backbone) else type(model).__name__
    image = torch.zeros(1, channels, size, size)
    try:
        with frozen(model), torch.no_grad():
            given = [model(image)]
            if isinstance(model, Backbone):
                # Objectives take both ways to the pooled features.
                given.append(model.encode(image).pooled)
    except Exception as error:  # A network fails in its own ways.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        kind = f"{size} pixels" + (f" and {channels} channel(s)" if channels != 3 else "")
        raise ValueError(f"the network {name} fails on images of {kind}: {reason}") from None
    for features in given:
        pooled = features.get("all") if isinstance(features, Mapping) else features
        width = model.features if isinstance(model, Backbone) else None
        if isinstance(features, Mapping) and pooled is None:
            what = f"the parts {', '.join(map(str, features))} and no part `all`"
        elif not isinstance(pooled, Tensor):
            what = f"a {type(pooled).__name__}"
        elif pooled.dim() == 2 and len(pooled) == 1 and width in (None, pooled.shape[1]):
            continue
        else:
            what = f"numbers of the form {tuple(pooled.shape)}"
        wanted = "one vector" if width is None else f"one vector of {width} numbers"
        raise ValueError(f"the network {name} gives {what} of an image, and needed is {wanted}; does it pool?")


def require_shardable(backbone: Backbone, objective: Objective) -> None:
    """Raise a `SettingError` if a backbone has no blocks to be kept in shards, or an objective needs it whole."""
    name, instead = backbone.architecture, "trainer.strategy ddp keeps it whole"
    inside = [one for parent, place in blocks(backbone.model) for one in getattr(parent, place).parameters()]
    weights = sum(one.numel() for one in backbone.model.parameters())
    share = sum(one.numel() for one in inside) / max(1, weights)
    lists = "in lists that are called blocks, stages, layers or layer1, which alone trainer.strategy fsdp shards"
    require(share >= _SHARDED, "backbone.name", f"{name} has {share:.0%} of its weights {lists}; {instead}")
    weight = shared_weight(backbone.model)
    where = f"{name} uses {weight} in several places, which trainer.strategy fsdp cannot shard"
    require(weight is None, "backbone.name", f"{where}; {instead}")
    for module in objective.modules():
        if isinstance(module, Objective) and module.needs_whole_backbone:
            reason = f"{type(module).__name__} {module.needs_whole_backbone}, so trainer.strategy fsdp cannot shard it"
            raise SettingError("objective.name", f"{reason}; {instead}")


def advice_on_stem(backbone: Backbone, size: int) -> str | None:
    """Advice if the default stem of a ResNet shrinks images of `size` pixels to a last map of one pixel; else None."""
    halvings = 5
    if backbone.architecture not in SMALL_STEM_ARCHITECTURES or size > 2**halvings:
        return None
    side = -(-size // 2 ** (halvings - 2))
    return (
        f"backbone.stem: images of {size} pixels leave {backbone.architecture} a last map of one pixel, "
        f"which sees little of them; 3x3-stride1 leaves {side} x {side}"
    )


def require_exact_gradients(backbone: Backbone, size: int) -> None:
    """Raise a `SettingError` if bfloat16 on the CPU gives wrong gradients for images of `size` pixels.

    On a map of one pixel, most weights of a wide kernel meet only padding. oneDNN then never writes their bfloat16
    gradient, so it is uninitialised memory. Kernels of 3 with stride 1 are not affected (torch 2.15, tried with kernels
    of 3, 5 and 7 and strides of 1 and 2).
    """

    def refuse(convolution: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(convolution, nn.Conv2d)
        kernel, stride = max(convolution.kernel_size), max(convolution.stride)
        if max(inputs[0].shape[-2:]) == 1 and kernel > 1 and (kernel, stride) != (3, 1):
            raise SettingError(
                "precision",
                f"bf16, but on the CPU it gives wrong gradients for maps of one pixel, as images of {size} pixels have "
                f"in {backbone.architecture}; choose fp32 or larger images",
            )

    probe = copy.deepcopy(backbone).eval()
    for convolution in probe.modules():
        if isinstance(convolution, nn.Conv2d):
            convolution.register_forward_pre_hook(refuse)
    with torch.no_grad():
        probe(torch.zeros(1, backbone.in_channels, size, size))


def require_objective(constructor: object, name: str) -> None:
    """Raise a `SettingError` unless a class that a recipe names is an objective."""
    if not (isinstance(constructor, type) and issubclass(constructor, Objective)):
        raise SettingError("name", f"{name!r} does not derive from ssl_inv.objectives.base.Objective")


def require_embedding(objective: Objective, backbone: Backbone, size: int) -> None:
    """Run the objective's own networks on features of images of `size` pixels, to raise their errors now."""
    if (predictor := objective.predictor(backbone)) is not None:
        with frozen(backbone), frozen(objective), torch.no_grad():
            predictor.embed(torch.zeros(1, backbone.in_channels, size, size))


def require_steps(objective: Objective, backbone: Backbone, size: int) -> None:
    """Raise a `SettingError` if any step of the objective would fail on views of `size` pixels."""
    with frozen(backbone), frozen(objective), torch.no_grad():
        objective.require_size(backbone, size)


def require_batch(batch_size: int, objective: Objective, augmentation: Augmentation, processes: int) -> None:
    """Raise a `SettingError` if a batch cannot be normalised, is too small for the objective, or ranks would split
    samples that are augmented alike.
    """
    if batch_size == 1 and any(isinstance(one, nn.BatchNorm1d) for one in objective.modules()):
        raise SettingError(
            "batch_size", "1 is too small: the objective's heads normalise over the batch; choose 2 or more"
        )
    if isinstance(objective, Objective) and batch_size < objective.least_batch:
        least = objective.least_batch
        raise SettingError(
            "batch_size",
            f"{batch_size} is too small: this objective needs {least} samples together; choose {least} or more",
        )
    alike = objective.plan.alike if isinstance(objective, Objective) else 1
    if alike > 1 and batch_size % (alike * processes):
        needed = f"{alike} samples with the same step times {processes} process(es), {alike * processes}"
        raise SettingError("batch_size", f"must be a multiple of {needed}; got {batch_size}")
    for operation in (one for policy in augmentation.policies for one in policy.operations):
        if isinstance(operation, Shared) and processes > 1 and batch_size % (operation.samples * processes):
            needed = f"{operation.samples} samples that are augmented alike times {processes} processes"
            multiple = operation.samples * processes
            raise SettingError("batch_size", f"must be a multiple of {needed}, {multiple}; got {batch_size}")


def require_normalised(backbone: Backbone, batch_size: int, size: int) -> None:
    """Raise a `SettingError` if batch normalisation in the backbone would have one number for each channel."""
    if batch_size > 1:
        return

    def refuse(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            problem = f"1 is too small: {backbone.architecture} normalises maps of one pixel over the batch"
            raise SettingError("batch_size", f"{problem}; choose 2 or more, or images above {size} pixels")

    probe = copy.deepcopy(backbone).eval()
    for layer in probe.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.register_forward_pre_hook(refuse)
    with torch.no_grad():
        probe(torch.zeros(1, backbone.in_channels, size, size))


def advice_on_rotations(objective: Objective, source: Source, augmentation: Augmentation) -> str | None:
    """Advice if an augmentation turns views while the objective is conditioned on the data's rotation; else None."""
    turning = [name for name in ("flip", "vertical_flip", "angle") if name in augmentation.groups]
    given = [name for name in objective.parameters_told if isinstance(source.groups.get(name), Rotation | Pose)]
    if not turning or not given or objective.told_of_plain_views:
        return None
    return (
        f"augmentation: {turning[0]!r} mirrors or turns views, but the objective is conditioned on {given[0]!r} of the "
        "data before that"
    )


def require_shown(objective: Objective, view_maker: ViewMaker, source: Source) -> None:
    """Raise a `ValueError` if an objective is conditioned on a parameter in which no two views of a sample can differ.

    Parameters of the augmentation are drawn for 4,096 samples, without an image. Those of the data cannot differ if all
    views are made of one image.
    """
    told = [name for name in objective.parameters_told if name in view_maker.groups]
    if view_maker.plan.count < 2 or not (dull := _alike(view_maker, source, told)):
        return
    every = [*view_maker.groups]
    others = [name for name in every if name not in _alike(view_maker, source, every)]
    reason = "all of them are made of one image" if dull[0] in source.groups else "the augmentation never changes it"
    advice = f"leave it out, or choose among {', '.join(others)}" if others else "leave it out"
    named = ", ".join(map(repr, dull))
    raise ValueError(
        f"is conditioned on {named}, but no two views of a sample differ in {dull[0]!r}: {reason}; {advice}"
    )


def _alike(view_maker: ViewMaker, source: Source, names: Sequence[str]) -> list[str]:
    """The recorded parameters among `names` in which no two views of a sample can differ."""
    own = {name for name in names if name in source.groups}
    alike = own if view_maker.loaded_views == 1 and view_maker.plan.way is None else set()
    drawn = [name for name in names if name not in own and name not in view_maker.plan.groups]
    for count in (_FEW, _MANY):
        drawn = _equal(view_maker.drawn(count, source.image_size), drawn) if drawn else []
    return [name for name in names if name in {*alike, *drawn}]


def require_values(objective: Objective, source: Source) -> None:
    """Raise a `SettingError` if the recorded values of training views do not suit a setting of the objective."""
    if not source.groups or not len(source):
        return
    whole = source
    while isinstance(whole, Subset):
        whole = whole.source
    # Sources that know no record without its image would read a file for each.
    most = _OBJECTS if type(whole).record is Source.record else _RECORDS
    ends = np.cumsum(source.view_counts)
    numbers = np.unique(np.linspace(0, ends[-1] - 1, min(most, int(ends[-1]))).astype(np.int64))
    objects = np.searchsorted(ends, numbers, side="right")
    views = numbers - (ends[objects] - source.view_counts[objects])
    objective.require_values(source.record(objects, views).to("cpu"))


def advice_on_alike_views(objective: Objective, view_maker: ViewMaker, source: Source) -> str | None:
    """Advice if the views of some objects have the same recorded parameter while the objective is conditioned on it."""
    told = [name for name in objective.parameters_told if name in source.groups]
    several = np.flatnonzero(source.view_counts > 1)
    if not told or view_maker.loaded_views == 1 or not len(several):
        return None
    objects = several[np.unique(np.linspace(0, len(several) - 1, _OBJECTS).astype(np.int64))]
    # Another pair of views of every object: those of a turntable may all be a quarter turn apart.
    other = 1 + np.arange(len(objects)) % (source.view_counts[objects] - 1)
    records = [source.load(objects, views).transform.to("cpu") for views in (np.zeros_like(objects), other)]
    if not (dull := _equal(records, told)):
        return None
    told_of = f"the objective is conditioned on {', '.join(map(repr, dull))}"
    return f"data: {told_of}, but the views of {len(objects)} objects looked at do not differ in it"


def _equal(records: Sequence[Transform], names: Sequence[str]) -> list[str]:
    """The parameters whose values are equal in all records, row by row."""

    def differ(name: str) -> bool:
        values = [one.groups[name].value_vector(one[name]) for one in records]
        # Names, such as seeds, are no numbers.
        return values[0].numel() > 0 and any(float((one - values[0]).abs().max()) > _SAME for one in values[1:])

    return [name for name in names if not differ(name)]
