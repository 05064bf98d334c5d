"""`import ssl_inv.backbones` registers the small-stem ResNets and the IBN-Nets with timm. Exported folders name them."""

from ssl_inv.nn.backbones import *  # noqa: F403
