"""Measures of feature maps and of robustness against recorded numbers of independent computations in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from ssl_inv.evaluation.protocols.corruptions import corruption_errors

FACTS = json.loads((Path(__file__).parent / "data" / "exam_dense.json").read_text())


def expected(case: str) -> dict:
    return FACTS[case]["values"]


def test_corruption_errors_equal_the_recorded_ones() -> None:
    rs = RandomState(111)
    base = rs.uniform(0.2, 0.5, 15)
    errors = torch.from_numpy(np.clip(base[:, None] + np.sort(rs.uniform(0, 0.4, (15, 5)), axis=1), 0, 1))
    clean = 0.2 + 0.05 * rs.rand()
    below = torch.tensor(list(FACTS["corruption_error"]["alexnet_mean_error_over_severities"].values())).double()
    values = expected("corruption_error")
    assert corruption_errors(errors, below).tolist() == pytest.approx(list(values["ce_percent"].values()), rel=1e-6)
    assert float(corruption_errors(errors, below).mean()) == pytest.approx(values["mce_percent"], rel=1e-6)
    relative = corruption_errors(errors - clean, below - 0.4348).mean()
    assert float(relative) == pytest.approx(values["relative_mce_percent"], rel=1e-6)
    assert clean == pytest.approx(values["clean_error"])
