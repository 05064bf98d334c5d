"""Checks before the first step: what would fail later, or be silently wrong."""

import copy

import torch
from torch import Tensor, nn

from ssl_inv.augment.policy import Augmentation
from ssl_inv.augment.shared import Shared
from ssl_inv.catalogue import SettingError
from ssl_inv.data.source import Source
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.modes import frozen
from ssl_inv.nn.stems import SMALL_STEM_ARCHITECTURES
from ssl_inv.objectives.base import Objective
from ssl_inv.transforms import Pose, Rotation


def require_input_size(model: nn.Module, size: int) -> None:
    """Raise a `ValueError` if a network takes images of one size only, and `size` is another."""
    patches = getattr(model, "patch_embed", None)
    wanted = getattr(patches, "img_size", None)
    if wanted is not None and getattr(patches, "strict_img_size", False) and wanted[0] != size:
        raise SettingError("size", f"images have {size} pixels a side, but this network takes {wanted[0]}")


def require_forward(model: nn.Module, size: int) -> None:
    """Raise a `ValueError` if images of `size` pixels do not go through a network, whatever the reason: they are halved
    once too often.
    """
    try:
        with frozen(model), torch.no_grad():
            model(torch.zeros(1, 3, size, size))
    except (ArithmeticError, AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        name = f"{model.architecture} with {model.arguments}" if isinstance(model, Backbone) else type(model).__name__
        raise ValueError(f"images of {size} pixels do not go through {name}: {reason}") from None


def advice_on_stem(backbone: Backbone, size: int) -> str | None:
    """What to say where a ResNet with its own stem has shrunk images of `size` pixels to a last map of one pixel; None
    elsewhere.
    """
    halvings = 5
    if backbone.architecture not in SMALL_STEM_ARCHITECTURES or size > 2**halvings:
        return None
    side = -(-size // 2 ** (halvings - 2))
    return (
        f"backbone.stem: images of {size} pixels leave {backbone.architecture} a last map of one pixel, which sees little of them; "
        f"3x3-stride1 leaves {side} x {side}"
    )


def require_exact_gradients(backbone: Backbone, size: int) -> None:
    """Raise a `ValueError` if training in bfloat16 on the CPU would give wrong gradients for images of `size` pixels.

    Where a map has shrunk to one pixel, most taps of a wide kernel meet padding alone. oneDNN leaves the bfloat16
    gradient of their weights as it finds the memory, except for kernels of 3 that move by 1 (torch 2.15, kernels of 3,
    5 and 7, strides of 1 and 2).
    """

    def refuse(convolution: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(convolution, nn.Conv2d)
        kernel, stride = max(convolution.kernel_size), max(convolution.stride)
        if max(inputs[0].shape[-2:]) == 1 and kernel > 1 and (kernel, stride) != (3, 1):
            raise SettingError(
                "precision",
                f"bf16, but on the CPU it gives wrong gradients where maps have one pixel, as images of {size} pixels have in "
                f"{backbone.architecture}; choose fp32 or larger images",
            )

    probe = copy.deepcopy(backbone).eval()
    for convolution in probe.modules():
        if isinstance(convolution, nn.Conv2d):
            convolution.register_forward_pre_hook(refuse)
    with torch.no_grad():
        probe(torch.zeros(1, 3, size, size))


def require_objective(constructor: object, name: str) -> None:
    """Raise a `SettingError` unless a class that a recipe names is an objective."""
    if not (isinstance(constructor, type) and issubclass(constructor, Objective)):
        raise SettingError("name", f"{name!r} does not derive from ssl_inv.objectives.base.Objective")


def require_embedding(objective: Objective, backbone: Backbone, size: int) -> None:
    """Raise what the objective's own networks raise on the backbone's features of images of `size` pixels."""
    if (predictor := objective.predictor(backbone)) is not None:
        with frozen(backbone), frozen(objective), torch.no_grad():
            predictor.embed(torch.zeros(1, 3, size, size))


def require_batch(batch_size: int, objective: Objective, augmentation: Augmentation, processes: int) -> None:
    """Raise a `SettingError` if a batch cannot be normalised, or its chunks would be torn apart by processes."""
    if batch_size == 1 and any(isinstance(one, nn.BatchNorm1d) for one in objective.modules()):
        raise SettingError(
            "batch_size", "1 is too small: the objective's heads normalise over the batch; choose 2 or more"
        )
    for operation in (one for policy in augmentation.policies for one in policy.operations):
        if isinstance(operation, Shared) and processes > 1 and batch_size % (operation.samples * processes):
            needed = f"{operation.samples} samples that are augmented alike times {processes} processes"
            raise SettingError(
                "batch_size", f"must be a multiple of {needed}, {operation.samples * processes}; got {batch_size}"
            )


def advice_on_rotations(objective: Objective, source: Source, augmentation: Augmentation) -> str | None:
    """What to say where an augmentation turns views of which the objective is given the data's rotation; None
    elsewhere.
    """
    turning = [name for name in ("flip", "vertical_flip", "angle") if name in augmentation.groups]
    given = [name for name in objective.parameters_told if isinstance(source.groups.get(name), Rotation | Pose)]
    if not turning or not given or objective.told_of_plain_views:
        return None
    return (
        f"augmentation: {turning[0]!r} mirrors or turns views, and the objective is told {given[0]!r} of the data "
        "as if it did not"
    )
