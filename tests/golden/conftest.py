"""Fixtures of the tests against the authors' numbers."""

from collections.abc import Callable
from typing import Any

import pytest
from small import bank_and_clusters, drawn_negatives, interclr, same_processes, seq_jepa

__all__ = ["bank_and_clusters", "drawn_negatives", "interclr", "same_processes", "seq_jepa"]


@pytest.fixture(scope="module")
def facts(request: pytest.FixtureRequest, golden: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """The recorded facts of the file that a module of tests names."""
    return golden(request.module.FACTS)
