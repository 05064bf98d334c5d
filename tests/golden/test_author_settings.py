"""Terms that the authors of standing objectives have besides their defaults give the recorded numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from small import normal, total
from torch import Tensor, nn

from ssl_inv.objectives.equimod import EquiMod
from ssl_inv.transforms import Rotation

FACTS = "new_settings"


class Given(nn.Module):
    """Replaces a network: returns the given tensors, one a call."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self.outputs = list(outputs)

    def forward(self, *_: Tensor) -> Tensor:
        return self.outputs.pop(0)


def assert_recorded(found: Tensor | None, recorded: dict[str, Any]) -> None:
    """A tensor has the recorded sums and first numbers."""
    assert found is not None
    numbers = found.detach().double().flatten().numpy()
    weights = np.cos(np.arange(len(numbers)))
    assert numbers.sum() == pytest.approx(recorded["sum"], rel=1e-9, abs=1e-12)
    assert np.abs(numbers).sum() == pytest.approx(recorded["abs"], rel=1e-9)
    assert (numbers * weights).sum() == pytest.approx(recorded["wsum"], rel=1e-9)
    np.testing.assert_allclose(numbers[:4], recorded["head"], rtol=1e-9)


def test_vicreg_with_equimod(facts: dict[str, Any]) -> None:
    (case,) = facts["vicreg_equimod_formula"]
    inputs = [normal(7990 + number, 12, 5).requires_grad_() for number in range(5)]
    x, y, x_e, y_e, predicted = inputs
    settings: dict[str, Any] = {"parameters": ["rotation"], "source": "pair", "projector": [5], "equivariance": 0.45}
    groups = {"rotation": Rotation()}
    objective = EquiMod(3, groups, base="vicreg", invariance=10.0, variance=10.0, predictor="bilinear", **settings)
    objective.invariant_projector = Given(x, y)
    objective.equivariant_projector = Given(x_e, y_e)
    objective.action_predictor = Given(predicted)
    terms = objective.embedding_loss([torch.zeros(12, 3)] * 2, [torch.zeros(12, 4)])
    parts = list(terms.items())
    invariant, equivariant = total(dict(parts[:3])).item(), total(dict(parts[3:])).item()
    assert invariant == pytest.approx(case["invariant_part"], rel=1e-9)
    assert equivariant == pytest.approx(0.45 * case["equivariant_part"], rel=1e-9)
    total(terms).backward()
    for tensor, name in ((x, "x"), (x_e, "xe"), (y_e, "ye"), (predicted, "prediction")):
        assert_recorded(tensor.grad, case[f"grad_{name}"])
