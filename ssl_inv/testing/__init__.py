"""The conformance suite for objectives: those of this package and anybody else's.

`check_objective` checks an objective as the engine, resuming, evaluation and several processes use it. `GROUPS` are the
groups of the transforms that it makes, `random_transform` draws such transforms for tests of one's own.
"""

from ssl_inv.testing.cases import GROUPS
from ssl_inv.testing.conformance import check_objective
from ssl_inv.testing.networks import random_transform

__all__ = ["GROUPS", "check_objective", "random_transform"]
