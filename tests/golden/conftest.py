"""Fixtures of the tests against the authors' numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from small import bank_and_clusters, drawn_negatives, interclr, same_processes, seq_jepa

__all__ = ["bank_and_clusters", "drawn_negatives", "interclr", "same_processes", "seq_jepa"]


@pytest.fixture(scope="module")
def facts(request: pytest.FixtureRequest, golden: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """The recorded facts of the file that a module of tests names."""
    return golden(request.module.FACTS)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """The inputs of the recorded comparisons: embeddings x and y, quaternions q, and the weights of their networks."""
    rng, later = RandomState(0), RandomState(5)
    x0, y0, z = rng.randn(16, 14), rng.randn(16, 14), rng.randn(16, 4)
    weight, colour, weight6 = 0.15 * rng.randn(36, 4), rng.randn(16, 2), 0.15 * rng.randn(36, 6)
    scale = np.linspace(0.3, 1.7, 14)
    x, q = x0 * scale, z / np.linalg.norm(z, axis=1, keepdims=True)
    arrays = {"x": x, "y": 0.6 * x + 0.8 * y0 * scale, "q": q, "qc": np.concatenate([q, colour], 1)}
    arrays |= {"W": weight, "W6": weight6, "W14": 0.3 * later.randn(196, 4)}
    arrays["Pi"], arrays["Pe"] = (later.randn(14, 14) / np.sqrt(14) for _ in range(2))
    for number, rows in ((1, 28), (2, 28), (3, 4)):
        arrays[f"H{number}"], arrays[f"hb{number}"] = later.randn(rows, 28) / np.sqrt(28), 0.1 * later.randn(rows)
    return {name: torch.tensor(array) for name, array in arrays.items()}
