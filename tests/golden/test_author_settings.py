"""Terms that the authors of standing objectives have besides their defaults give the recorded numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from small import assert_recorded, normal, total
from torch import Tensor, nn

from ssl_inv.nn import losses
from ssl_inv.nn.sigreg import sigreg
from ssl_inv.objectives.equimod import EquiMod
from ssl_inv.objectives.gram_anchoring import Negatives, gram_anchor
from ssl_inv.objectives.lejepa import LeJEPA
from ssl_inv.transforms import Rotation

FACTS = "new_settings"


class Given(nn.Module):
    """Replaces a network: returns the given tensors, one a call."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self.outputs = list(outputs)

    def forward(self, *_: Tensor) -> Tensor:
        return self.outputs.pop(0)


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


@pytest.mark.parametrize(("temperature", "plain", "clamped"), [(0.5, 2.5912, 2.2974), (0.1, 6.8585, 5.0441)])
def test_clamped_cosines_of_context_ssl(temperature: float, plain: float, clamped: float) -> None:
    """The numbers of the authors' function, without its clamp and with it; pairs below it have no gradient."""
    z = normal(50, 8, 6).requires_grad_()
    assert losses.nt_xent(z[:4], z[4:], temperature).item() == pytest.approx(plain, abs=1e-4)
    value = losses.nt_xent(z[:4], z[4:], temperature, least=1e-7)
    assert value.item() == pytest.approx(clamped, abs=1e-4)
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], requires_grad=True)
    losses.nt_xent(corners[:2], corners[2:], temperature, least=1e-7).backward()
    assert corners.grad is not None
    assert not corners.grad.any(), "all angles are obtuse"


def test_nodes_symmetric_about_zero() -> None:
    """EB-JEPA's test: the trapezoid rule over 10 nodes from -3 to 3, none of them 0, without the number of samples."""
    z, directions = normal(100, 32, 6), normal(101, 6, 10)
    directions = directions / directions.norm(dim=0)
    t = np.linspace(-3, 3, 10)
    found = np.exp(1j * (z @ directions).numpy()[:, :, None] * t).mean(axis=0)
    heights = np.abs(found - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)
    expected = (heights[:, 1:] + heights[:, :-1]).sum(axis=1) / 2 * (t[1] - t[0])
    value = sigreg(z, directions, 10, scale_by_batch=False, symmetric=True)
    assert value.item() == pytest.approx(expected.mean(), rel=1e-10)
    assert sigreg(z, directions, 33, symmetric=True).item() == pytest.approx(sigreg(z, directions).item(), rel=1e-12)


def test_lejepa_is_eb_jepas_loss_up_to_a_factor() -> None:
    """Its squared error of two views is four times the distance from their mean."""
    z = normal(102, 2, 16, 6)
    objective = LeJEPA(4, {}, weight=5 / 7, nodes=10, symmetric_nodes=True, scale_by_batch=False, directions=10)
    terms = objective.embedding_loss(z)
    bcs = sigreg(z, objective.directions(z), 10, scale_by_batch=False, symmetric=True)
    assert 14 * total(terms).item() == pytest.approx((losses.mean_squared_error(*z) + 10 * bcs).item(), rel=1e-10)


@pytest.mark.parametrize(
    ("case", "negatives"),
    [
        ("per_image", "kept"),
        ("per_image_clip_both", "clipped"),
        ("per_image_clip_teacher", "teacher-clipped"),
    ],
)
def test_gram_anchoring(facts: dict[str, Any], case: str, negatives: Negatives) -> None:
    recorded = facts["gram_anchoring"][0]["cases"][case]
    student, anchor = normal(7500, 2, 6, 5).requires_grad_(), normal(7501, 2, 6, 5)
    value = gram_anchor(student, anchor, negatives)
    assert value.item() == pytest.approx(recorded["loss"], rel=1e-9)
    value.backward()
    assert_recorded(student.grad, recorded["grad_student"])
