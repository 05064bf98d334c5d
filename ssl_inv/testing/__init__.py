"""The conformance suite for objectives: this package's own and anyone else's."""

from ssl_inv.testing.conformance import GROUPS, check_objective
from ssl_inv.testing.networks import random_transform

__all__ = ["GROUPS", "check_objective", "random_transform"]
