"""The benchmark of photographs with recorded transforms: every run can be built, no view shows what lies beyond its
photograph, and its table says what each candidate knows.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ssl_inv.augment.operation import operations_of
from ssl_inv.augment.policies import custom
from ssl_inv.catalogue import OBJECTIVES, RecipeError
from ssl_inv.run.recipe import resolve
from ssl_inv.transforms.keyed_random import Key

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def module():
    """A module of the benchmarks or of the generator of pages by its name."""
    places = [str(REPOSITORY / name) for name in ("benchmarks", "docs")]
    sys.path[:0] = places
    yield importlib.import_module
    for place in places:
        sys.path.remove(place)
