"""Views of a batch of samples, and the plans by which objectives ask for them.

A plan says which views are needed; `ssl_inv.views.maker` makes them. Whatever the plan, each image is decoded once. The
data's own views (video frames, renderings of one object) serve `Pair` and `ViewSequence` where every object has enough,
and a `TransformPath` along parameters that the data records. All other plans make their views from one image.
"""

from ssl_inv.data.wanted import Links, Way
from ssl_inv.views.pieces import Cutting, Inhibition, Patches, QuarterTurns, Saccades, Saliency, StoredMaps
from ssl_inv.views.plan import Plan, View, Views
from ssl_inv.views.plans import (
    Alike,
    Crops,
    Linked,
    MultiCrop,
    Pair,
    PolicyChoice,
    SameCrop,
    Several,
    TransformPath,
    ViewSequence,
)

__all__ = [
    "Alike",
    "Crops",
    "Cutting",
    "Inhibition",
    "Linked",
    "Links",
    "MultiCrop",
    "Pair",
    "Patches",
    "Plan",
    "PolicyChoice",
    "QuarterTurns",
    "Saccades",
    "Saliency",
    "SameCrop",
    "Several",
    "StoredMaps",
    "TransformPath",
    "View",
    "ViewSequence",
    "Views",
    "Way",
]
