"""`import ssl_inv.backbones` adds the small-stem ResNets to timm's models, which exported folders name."""

from ssl_inv.nn.backbones import *  # noqa: F403
