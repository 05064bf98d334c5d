"""How a view was made: named parameters, each an element of a group, and the actions from one view to another."""

from ssl_inv.transforms.group import Group
from ssl_inv.transforms.groups import Box, Category, Circle, Code, Flag, Pose, Real, Rotation
from ssl_inv.transforms.keyed_random import Key
from ssl_inv.transforms.projective import Projective
from ssl_inv.transforms.transform import Action, Convention, Transform, require

__all__ = [
    "Action",
    "Box",
    "Category",
    "Circle",
    "Code",
    "Convention",
    "Flag",
    "Group",
    "Key",
    "Pose",
    "Projective",
    "Real",
    "Rotation",
    "Transform",
    "require",
]
