"""The policies of papers: which operations make each view of a sample."""

from dataclasses import replace
from typing import Any, Literal

from ssl_inv.augment.colour import Blur, Grey, Jitter, Solarise
from ssl_inv.augment.geometry import Crop, Flip
from ssl_inv.augment.operation import Draws, Operation, Side, Style, check_probability, operations_of
from ssl_inv.augment.policy import Augmentation, Policy
from ssl_inv.catalogue import SettingError, require_at_least, require_between
from ssl_inv.transforms.keyed_random import Key

Hue = Literal["hsv", "linear"]
Padding = Literal["reflection", "border", "zeros"]


def none(*, size: int | None = None, extra: list[dict[str, Any]] = []) -> Augmentation:
    """Views as the data set has them.

    Args:
        size: side of the views in pixels; None keeps the size of the images.
        extra: operations that are applied nevertheless, each a mapping with its name and settings.
    """
    return _one(operations_of(extra, "extra"), size)


def custom(
    *, operations: list[dict[str, Any]], size: int | None = None, padding: Padding = "reflection", hue: Hue = "hsv"
) -> Augmentation:
    """A policy of your own.

    Args:
        operations: what may happen to a view, each a mapping with its name and settings. The order in which it happens
            is fixed: everything geometric at once, then jitter, grey, blur, solarise, posterise, noise, colour
            dropping, erasing.
        size: side of the views in pixels; None keeps the size of the images.
        padding: what a view shows beyond the border of its image.
        hue: `hsv` is exactly torchvision's; `linear` turns colours about the grey axis, which is faster, but not the
            same.
    """
    return _one(operations_of(operations), size, padding, hue)


def simclr(
    *,
    size: int | None = None,
    min_scale: float = 0.08,
    flip: float = 0.5,
    jitter: float = 0.8,
    strength: float = 1.0,
    grey: float = 0.2,
    blur: float = 0.5,
    hue: Hue = "hsv",
    extra: list[dict[str, Any]] = [],
) -> Augmentation:
    """SimCLR's policy: random resized crop, flip, colour jitter, grey, blur (Chen et al., ICML 2020, appendix A).

    Args:
        size: side of the views in pixels; None keeps the size of the images.
        min_scale: smallest share of the image area that a crop takes; the largest is the whole image.
        flip: probability of a horizontal flip.
        jitter: probability of colour jitter.
        strength: multiplies the jitter ranges 0.8 (brightness, contrast, saturation) and 0.2 (hue); 1 for large images,
            0.5 for CIFAR.
        grey: probability of turning grey.
        blur: probability of a Gaussian blur with sigma uniform in 0.1 to 2 pixels; 0 for small images.
        hue: `hsv` is exactly torchvision's; `linear` turns colours about the grey axis, which is faster, but not the
            same.
        extra: further operations, each a mapping with its name and settings.
    """
    check_probability(flip=flip, jitter=jitter, grey=grey, blur=blur)
    require_at_least(0, strength=strength)
    reach = 0.8 * strength
    operations = (
        _crop(min_scale),
        Flip(probability=flip),
        Jitter(brightness=reach, contrast=reach, saturation=reach, hue=min(0.2 * strength, 0.5), probability=jitter),
        Grey(probability=grey),
        Blur(probability=blur),
    )
    return _one((*operations, *operations_of(extra, "extra")), size, hue=hue)


def moco(
    *,
    size: int | None = None,
    min_scale: float = 0.2,
    blur: float = 0.5,
    hue: Hue = "hsv",
    extra: list[dict[str, Any]] = [],
) -> Augmentation:
    """MoCo v2's policy: SimCLR's with weaker jitter and larger crops (Chen et al., 2020, arXiv 2003.04297, and its
    code).

    Args:
        size: side of the views in pixels; None keeps the size of the images.
        min_scale: smallest share of the image area that a crop takes.
        blur: probability of a Gaussian blur with sigma uniform in 0.1 to 2 pixels.
        hue: `hsv` is exactly torchvision's; `linear` turns colours about the grey axis, which is faster, but not the
            same.
        extra: further operations, each a mapping with its name and settings.
    """
    check_probability(blur=blur)
    operations = (
        _crop(min_scale),
        Flip(),
        Jitter(),
        Grey(),
        Blur(probability=blur),
    )
    return _one((*operations, *operations_of(extra, "extra")), size, hue=hue)


def byol(
    *,
    size: int | None = None,
    min_scale: float = 0.08,
    blur: list[float] = [1.0, 0.1],
    solarise: list[float] = [0.0, 0.2],
    hue: Hue = "hsv",
    extra: list[dict[str, Any]] = [],
) -> Augmentation:
    """BYOL's two policies (Grill et al., NeurIPS 2020, appendix B), which Barlow Twins, VICReg and MoCo v3 took over.

    Args:
        size: side of the views in pixels; None keeps the size of the images.
        min_scale: smallest share of the image area that a crop takes.
        blur: probability of a Gaussian blur with sigma uniform in 0.1 to 2 pixels, of the first view and of the others.
        solarise: probability of solarising, of the first view and of the others.
        hue: `hsv` is exactly torchvision's; `linear` turns colours about the grey axis, which is faster, but not the
            same.
        extra: further operations, each a mapping with its name and settings.
    """
    return _asymmetric(_crop(min_scale), blur, solarise, size, hue, extra)


def dino(
    *,
    size: int | None = None,
    scale: list[float] = [0.4, 1.0],
    blur: list[float] = [1.0, 0.1, 0.5],
    solarise: list[float] = [0.0, 0.2, 0.0],
    hue: Hue = "hsv",
    extra: list[dict[str, Any]] = [],
) -> Augmentation:
    """DINO's policies: for the first global crop, for the second, and for the local crops (Caron et al., ICCV 2021, and
    its code).

    Args:
        size: side of the global views in pixels; None keeps the size of the images.
        scale: smallest and largest share of the image area that a global crop takes; the plan has the scale of local
            crops.
        blur: probabilities of a Gaussian blur with sigma uniform in 0.1 to 2 pixels.
        solarise: probabilities of solarising.
        hue: `hsv` is exactly torchvision's; `linear` turns colours about the grey axis, which is faster, but not the
            same.
        extra: further operations, each a mapping with its name and settings.
    """
    return _asymmetric(Crop(scale=scale), blur, solarise, size, hue, extra)


def obow(
    *,
    size: int | None = None,
    strength: float = 1.0,
    blur: list[float] = [0.5, 0.0],
    hue: Hue = "hsv",
    extra: list[dict[str, Any]] = [],
) -> Augmentation:
    """OBoW's policies: for the teacher's view, for crops, and for the large view that patches are cut from (CVPR 2021,
    and its code).

    The teacher's view is only flipped. The plan has the sizes of crops.

    Args:
        size: side of the teacher's view in pixels; None keeps the size of the images.
        strength: multiplies the jitter ranges 0.4 (brightness, contrast, saturation) and 0.1 (hue).
        blur: probabilities of a Gaussian blur with sigma uniform in 0.1 to 2 pixels, of crops and of the patches' view.
        hue: `hsv` is exactly torchvision's; `linear` turns colours about the grey axis, which is faster, but not the
            same.
        extra: further operations on crops and patches, each a mapping with its name and settings.
    """
    if len(blur) != 2:
        raise SettingError("blur", f"must have a probability for crops and one for patches, got {blur}")
    require_at_least(0, strength=strength)
    reach = 0.4 * strength
    jitter = Jitter(brightness=reach, contrast=reach, saturation=reach, hue=min(0.1 * strength, 0.5))
    student = Crop(), Flip(), jitter, Grey()
    policies = [(*student, Blur(probability=one), *operations_of(extra, "extra")) for one in blur]
    return Augmentation(tuple(Policy(one, size, Style(hue=hue)) for one in [(Flip(),), *policies]))


def equimod(
    *,
    size: int | None = None,
    min_scale: float = 0.08,
    strength: float = 1.0,
    blur: float = 0.5,
    hue: Hue = "hsv",
    extra: list[dict[str, Any]] = [],
) -> Augmentation:
    """EquiMod's policies (Devillers and Lefort, ICLR 2023, sec. 3): SimCLR's for the first two views, and the image as
    it is for the third.

    Args:
        size: side of the views in pixels; None keeps the size of the images.
        min_scale: smallest share of the image area that a crop takes; the largest is the whole image.
        strength: multiplies the jitter ranges 0.8 (brightness, contrast, saturation) and 0.2 (hue); 1 for large images,
            0.5 for CIFAR.
        blur: probability of a Gaussian blur with sigma uniform in 0.1 to 2 pixels; 0 for small images.
        hue: `hsv` is exactly torchvision's; `linear` turns colours about the grey axis, which is faster, but not the
            same.
        extra: further operations on the first two views, each a mapping with its name and settings.
    """
    augmented = simclr(size=size, min_scale=min_scale, strength=strength, blur=blur, hue=hue, extra=extra).policy(0)
    return Augmentation((augmented, augmented, replace(augmented, operations=())))


class OncePerSample(Operation):
    """An operation that is drawn once for all views of a sample.

    Args:
        operation: the operation.
    """

    def __init__(self, operation: Operation) -> None:
        self.operation, self.groups = operation, operation.groups

    def draw(self, key: Key, height: Side, width: Side) -> dict[str, Draws]:
        return self.operation.draw(replace(key, view=0), height, width)

    def require_channels(self, channels: int) -> None:
        self.operation.require_channels(channels)


def iwm(
    *,
    size: int | None = None,
    min_scale: float = 0.3,
    flip: float = 0.5,
    jitter: float = 0.8,
    strength: float = 1.0,
    grey: float = 0.2,
    blur: float = 0.2,
    solarise: float = 0.2,
    hue: Hue = "hsv",
    extra: list[dict[str, Any]] = [],
) -> Augmentation:
    """The policies of Image World Models (Garrido et al., 2024, 2403.00504): the source loses colours and detail, the
    target keeps both.

    Both views show the same crop and flip, and have a colour jitter of their own. Only the source is turned grey,
    blurred and solarised. The paper does not say how often and how much: crops are I-JEPA's, the jitter is BYOL's.

    Args:
        size: side of the views in pixels; None keeps the size of the images.
        min_scale: smallest share of the image area that the crop takes; the largest is the whole image.
        flip: probability of a horizontal flip of both views.
        jitter: probability of colour jitter, for each view.
        strength: multiplies the jitter ranges 0.4 (brightness, contrast), 0.2 (saturation) and 0.1 (hue).
        grey: probability of turning the source grey.
        blur: probability of a Gaussian blur of the source with sigma uniform in 0.1 to 2 pixels; 0 for small images.
        solarise: probability of solarising the source.
        hue: `hsv` is exactly torchvision's; `linear` turns colours about the grey axis, which is faster, but not the
            same.
        extra: further operations on the source, each a mapping with its name and settings.
    """
    check_probability(flip=flip, jitter=jitter, grey=grey, blur=blur, solarise=solarise)
    require_at_least(0, strength=strength)
    target = (
        OncePerSample(_crop(min_scale)),
        OncePerSample(Flip(probability=flip)),
        Jitter(
            brightness=0.4 * strength,
            contrast=0.4 * strength,
            saturation=0.2 * strength,
            hue=min(0.1 * strength, 0.5),
            probability=jitter,
        ),
    )
    destructive = (
        Grey(probability=grey),
        Blur(probability=blur),
        Solarise(probability=solarise),
        *operations_of(extra, "extra"),
    )
    return Augmentation((Policy((*target, *destructive), size, Style(hue=hue)), Policy(target, size, Style(hue=hue))))


def _asymmetric(
    crop: Operation, blur: list[float], solarise: list[float], size: int | None, hue: Hue, extra: list[dict[str, Any]]
) -> Augmentation:
    """BYOL's operations with several probabilities of blur and solarising, a policy for each."""
    if len(blur) != len(solarise) or not blur:
        raise ValueError(f"blur and solarise have a probability for each policy, got {blur} and {solarise}")
    jitter = Jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    policies = []
    for blurred, solarised in zip(blur, solarise, strict=True):
        operations = (
            crop,
            Flip(),
            jitter,
            Grey(),
            Blur(probability=blurred),
            Solarise(probability=solarised),
        )
        policies.append(Policy((*operations, *operations_of(extra, "extra")), size, Style(hue=hue)))
    return Augmentation(tuple(policies))


def _one(
    operations: tuple[Operation, ...], size: int | None, padding: Padding = "reflection", hue: Hue = "hsv"
) -> Augmentation:
    return Augmentation((Policy(operations, size, Style(padding, hue)),))


def _crop(min_scale: float) -> Crop:
    require_between(0, 1, min_scale=min_scale)
    return Crop(scale=[min_scale, 1.0])
