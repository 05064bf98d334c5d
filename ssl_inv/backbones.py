"""`import ssl_inv.backbones` registers small-stem ResNets and IBN-Nets with timm. Exported folders name them."""

from ssl_inv.nn.backbones import *  # noqa: F403
