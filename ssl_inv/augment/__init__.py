"""Augmentations: draw how each view is made, render it on the device, record it as a Transform."""

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
    "affine": "geometric:affine",
    "blur": "photometric:Blur",
    "colour_dropping": "photometric:ColourDropping",
    "crop": "geometric:Crop",
    "erasing": "photometric:Erasing",
    "flip": "geometric:flip",
    "grey": "photometric:grey",
    "jitter": "photometric:Jitter",
    "noise": "photometric:Noise",
    "perspective": "geometric:Perspective",
    "posterise": "photometric:Posterise",
    "random_field": "local:RandomField",
    "rotation": "geometric:rotation",
    "scale": "geometric:scale",
    "shared": "shared:Shared",
    "shear": "geometric:shear",
    "solarise": "photometric:Solarise",
    "translation": "geometric:translation",
    "vertical_flip": "geometric:vertical_flip",
}
"""What a policy is made of, by its name in recipes -> "module:class", relative to this package."""
