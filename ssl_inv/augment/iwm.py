"""The views of Image World Models: one crop of an image, seen with its colours a little and a lot changed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ssl_inv.augment.operations import geometric, photometric
from ssl_inv.augment.operations.base import Draws, Key, Operation, check_probability, check_strength, operations_of
from ssl_inv.augment.pipeline import Augmentation, Policy
from ssl_inv.augment.render import Style
from ssl_inv.registry import register
from ssl_inv.transforms import Group


class OncePerSample(Operation):
    """An operation that is drawn once for all views of a sample.

    Args:
        operation: what is done.
    """

    def __init__(self, operation: Operation) -> None:
        self.operation = operation

    @property
    def groups(self) -> Mapping[str, Group]:
        return self.operation.groups

    def draw(self, key: Key, height: int, width: int) -> dict[str, Draws]:
        return self.operation.draw(replace(key, view=0), height, width)


@register("iwm")
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
    hue: Literal["hsv", "linear"] = "hsv",
    extra: list[dict[str, Any]] = [],
) -> Augmentation:
    """The policies of Image World Models: the source's, which loses colours and detail, and the target's, which keeps both.

    For the objective of that name (Garrido et al., 2024, 2403.00504). Both views show the same crop and flip, and have a colour jitter of
    their own; grey, blur and solarising happen to the source alone. How often and how much is not the paper's: crops are I-JEPA's, the
    jitter is BYOL's.

    Args:
        size: side of the views in pixels; none keeps the size of the images.
        min_scale: smallest share of the image area that the crop takes; the largest is the whole image.
        flip: probability of a horizontal flip of both views.
        jitter: probability of colour jitter, for each view.
        strength: multiplies the jitter ranges 0.4 (brightness, contrast), 0.2 (saturation) and 0.1 (hue).
        grey: probability of turning the source grey.
        blur: probability of a Gaussian blur of the source with sigma uniform in 0.1 to 2 pixels; 0 for small images.
        solarise: probability of solarising the source.
        hue: `hsv` is exactly torchvision's; `linear` turns colours about the grey axis, which is faster and not the same.
        extra: further operations on the source, each a mapping with its name and settings.
    """
    for name, value in (("flip", flip), ("jitter", jitter), ("grey", grey), ("blur", blur), ("solarise", solarise)):
        check_probability(name, value)
    check_strength(strength)
    target = (
        OncePerSample(geometric.crop_of_at_least(min_scale)),
        OncePerSample(geometric.flip(probability=flip)),
        photometric.Jitter(
            brightness=0.4 * strength,
            contrast=0.4 * strength,
            saturation=0.2 * strength,
            hue=min(0.1 * strength, 0.5),
            probability=jitter,
        ),
    )
    destructive = (
        photometric.grey(probability=grey),
        photometric.Blur(probability=blur),
        photometric.Solarise(probability=solarise),
        *operations_of(extra),
    )
    return Augmentation((Policy((*target, *destructive), size, Style(hue=hue)), Policy(target, size, Style(hue=hue))))
