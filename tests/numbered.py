"""Inputs and checksums of facts that name their random numbers: `emb=RS(7100)(16,4,6)`."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from numpy.random import RandomState
from torch import Tensor, nn


def drawn(seed: int, *shape: int) -> Tensor:
    """RS(seed)(shape) of the facts."""
    return torch.from_numpy(RandomState(seed).standard_normal(shape))


def named(case: Mapping[str, Any], name: str) -> Tensor:
    """The input that a case calls `name=RS(seed)(shape)`, as a leaf with gradient; `name` is a pattern."""
    found = re.search(rf"{name}[= ]RS\((\d+)\)\(([^)]*)\)", case["inputs"])
    assert found, f"{name} in {case['inputs']}"
    shape = [int(one) for one in re.findall(r"\d+", re.sub(r"[a-z]+ (\d+)", r"\1", found[2]))]
    return drawn(int(found[1]), *shape).requires_grad_()


def number(case: Mapping[str, Any], what: str) -> float:
    """The number that follows or precedes `what`, a pattern with one group."""
    found = re.search(what, case["inputs"])
    assert found, f"{what} in {case['inputs']}"
    return float(found[1])


def fill(parameters: Sequence[nn.Parameter], listed: Sequence[Sequence[Any]], factor: float, seed: int) -> None:
    """Set parameters, in the listed order, to factor * RS(seed + k)(shape)."""
    with torch.no_grad():
        for k, (parameter, (_, shape)) in enumerate(zip(parameters, listed, strict=True)):
            parameter.copy_((factor * drawn(seed + k, *shape)).view(parameter.shape))


def check(tensor: Tensor | None, sums: Mapping[str, Any], tolerance: float = 1e-8) -> None:
    """Compare a tensor with its recorded checksums."""
    assert tensor is not None
    flat = tensor.detach().flatten()
    weights = torch.cos(torch.arange(len(flat), dtype=flat.dtype))
    near = {"rel": tolerance, "abs": tolerance / 1000}
    assert flat.sum().item() == pytest.approx(sums["sum"], **near)
    assert flat.abs().sum().item() == pytest.approx(sums["abs"], **near)
    assert math.fsum((flat * weights).tolist()) == pytest.approx(sums["wsum"], **near)
    assert flat[:4].tolist() == pytest.approx(sums["head"], **near)
