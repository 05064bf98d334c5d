"""Views of a batch of samples, and the plans by which objectives ask for them.

A plan says which views, never how they are made: that is for `ssl_inv.views.makers`. Whatever the plan, each image is
decoded once. `Pair` and `Sequence` are served from the data's own views (video frames, renderings of one object) where
every object has enough, and so is a `Path` along parameters that the data records; all other plans make their views of
one image.
"""

from ssl_inv.data.source import Links, Way
from ssl_inv.views.plan import Plan, View, Views
from ssl_inv.views.plans import Crops, Linked, MultiCrop, Pair, Path, PolicyChoice, Sequence, Several
from ssl_inv.views.plans_of_pieces import Cutting, Inhibition, Patches, Saccades, Saliency, StoredMaps, Turns

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
