"""Augmentations: draw how each view is made, render it on the device, record it as a Transform."""

from importlib import import_module
from typing import Any

AUGMENTATIONS = {
    "byol": "policies:byol",
    "custom": "policies:custom",
    "dino": "policies:dino",
    "equimod": "policies:equimod",
    "iwm": "policies:iwm",
    "moco": "policies:moco",
    "none": "policies:none",
    "obow": "policies:obow",
    "simclr": "policies:simclr",
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

_CLASSES = {
    "FusedViews": "fused_views",
    "fuse": "fusion",
}
"""What this package offers to Python -> the module that has it. It is imported when it is asked for: the tables above
are read before torch is loaded.
"""


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(import_module(f"{__name__}.{_CLASSES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
