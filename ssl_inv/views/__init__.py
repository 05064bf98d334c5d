"""Views of a batch of samples, and the plans by which objectives ask for them.

A plan says which views, never how they are made: that is for `ssl_inv.augment.plans`. Whatever the plan, each image is decoded once.
`Pair` and `Sequence` are served from the data's own views (video frames, renderings of one object) where every object has enough, and so is
a `Path` along parameters that the data records; all other plans make their views of one image.
"""

from ssl_inv.views.base import Links, Plan, View, Views, Way
from ssl_inv.views.pieces import Cutting, Inhibition, Patches, Saccades, Saliency, StoredMaps, Turns
from ssl_inv.views.whole import Crops, Linked, MultiCrop, Pair, Path, PolicyChoice, Sequence, Several

__all__ = [
    "Crops",
    "Cutting",
    "Inhibition",
    "Linked",
    "Links",
    "MultiCrop",
    "Pair",
    "Patches",
    "Path",
    "Plan",
    "PolicyChoice",
    "Saccades",
    "Saliency",
    "Sequence",
    "Several",
    "StoredMaps",
    "Turns",
    "View",
    "Views",
    "Way",
]
