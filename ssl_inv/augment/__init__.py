"""Augmentations: draw how each view is made, render it on the device, record it as a Transform."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_inv.augment.foreign_transforms import from_library
    from ssl_inv.augment.fused_views import FusedViews
    from ssl_inv.augment.fusion import fuse
    from ssl_inv.augment.keyed import Keyed
    from ssl_inv.augment.seeded import Seeded

__all__ = ["AUGMENTATIONS", "OPERATIONS", "FusedViews", "Keyed", "Seeded", "from_library", "fuse"]

AUGMENTATIONS = {
    "byol": "policies:byol",
    "custom": "policies:custom",
    "dino": "policies:dino",
    "equimod": "policies:equimod",
    "iwm": "policies:iwm",
    "lightly": "foreign_transforms:lightly",
    "moco": "policies:moco",
    "none": "policies:none",
    "obow": "policies:obow",
    "simclr": "policies:simclr",
    "torchvision": "foreign_transforms:torchvision",
}
"""Policies by their name in recipes -> "module:function", relative to this package."""

OPERATIONS = {
    "crop": "geometry:Crop",
    "flip": "geometry:Flip",
    "vertical_flip": "geometry:VerticalFlip",
    "affine": "geometry:Affine",
    "rotation": "geometry:rotation",
    "translation": "geometry:translation",
    "scale": "geometry:scale",
    "shear": "geometry:shear",
    "perspective": "geometry:Perspective",
    "random_field": "local:RandomField",
    "jitter": "colour:Jitter",
    "grey": "colour:Grey",
    "blur": "colour:Blur",
    "solarise": "colour:Solarise",
    "posterise": "colour:Posterise",
    "noise": "noise:Noise",
    "colour_dropping": "noise:ColourDropping",
    "erasing": "colour:Erasing",
    "shared": "shared:Shared",
}
"""Operations by their name in recipes -> "module:class", relative to this package, in the order in which they are
applied. A new operation is a class and a line here.
"""

_PUBLIC = {
    "FusedViews": "fused_views",
    "Keyed": "keyed",
    "Seeded": "seeded",
    "from_library": "foreign_transforms",
    "fuse": "fusion",
}
"""Names of this package -> the module that has them. They are imported when they are used: the tables above are read
before torch is loaded."""


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
