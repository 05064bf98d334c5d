"""EquiMod's views: augmentations of an image, and the image as it is."""

from dataclasses import replace
from typing import Any, Literal

from ssl_inv.augment.pipeline import Augmentation
from ssl_inv.augment.policies import simclr
from ssl_inv.registry import register


@register("equimod")
def equimod(
    *,
    size: int | None = None,
    min_scale: float = 0.08,
    strength: float = 1.0,
    blur: float = 0.5,
    hue: Literal["hsv", "linear"] = "hsv",
    extra: list[dict[str, Any]] = [],
) -> Augmentation:
    """EquiMod's policies: SimCLR's for the first two views, and the image as it is for the third.

    For the objective of that name (Devillers and Lefort, ICLR 2023, sec. 3).

    Args:
        size: side of the views in pixels; none keeps the size of the images.
        min_scale: smallest share of the image area that a crop takes; the largest is the whole image.
        strength: multiplies the jitter ranges 0.8 (brightness, contrast, saturation) and 0.2 (hue); 1 for large images, 0.5 for CIFAR.
        blur: probability of a Gaussian blur with sigma uniform in 0.1 to 2 pixels; 0 for small images.
        hue: `hsv` is exactly torchvision's; `linear` turns colours about the grey axis, which is faster and not the same.
        extra: further operations on the first two views, each a mapping with its name and settings.
    """
    augmented = simclr(size=size, min_scale=min_scale, strength=strength, blur=blur, hue=hue, extra=extra).policy(0)
    return Augmentation((augmented, augmented, replace(augmented, operations=())))
