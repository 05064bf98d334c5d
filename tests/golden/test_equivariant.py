"""Objectives that read or predict how views differ give the numbers of the authors' code."""

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from small import bilinear, total, views_of
from torch import Tensor, nn

from ssl_inv.nn import losses
from ssl_inv.nn.heads import mlp
from ssl_inv.objectives.augself import AugSelf
from ssl_inv.objectives.base import Objective
from ssl_inv.objectives.equimod import EquiMod
from ssl_inv.objectives.sen import SEN
from ssl_inv.objectives.simclr import SimCLR
from ssl_inv.objectives.vicreg import VICReg
from ssl_inv.transforms import Rotation, Transform
from ssl_inv.views import Views

ROTATION = {"rotation": Rotation()}


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def turned(x: Tensor, y: Tensor, q: Tensor) -> Views:
    """Two views whose pixels are x and y and whose relative rotation is q."""
    identity = ROTATION["rotation"].neutral(len(x)).to(q.dtype)
    return views_of([x, y], [Transform({"rotation": one}, ROTATION) for one in (identity, q)])


def sen_of_sie(inputs: dict[str, Tensor]) -> SEN:
    objective = SEN(14, ROTATION, projector=[14], temperature=0.1, predictor="bilinear", convention="sie").double()
    objective.projector, objective.action_predictor = nn.Identity(), bilinear(inputs["W14"])
    return objective


def equimod_of_sie(inputs: dict[str, Tensor]) -> EquiMod:
    settings = {"source": "pair", "temperature": 0.1, "equivariant_temperature": 0.1, "convention": "sie"}
    objective = EquiMod(14, ROTATION, parameters=["rotation"], projector=[14], **settings).double()
    objective.invariant_projector, objective.equivariant_projector = linear(inputs["Pi"]), linear(inputs["Pe"])
    objective.action_predictor = bilinear(inputs["W14"])
    return objective


def augself_of_sie(inputs: dict[str, Tensor]) -> AugSelf:
    settings = {"parameters": ["rotation"], "projector": [14], "temperature": 0.1, "convention": "sie"}
    heads = {"hidden": [28, 28], "normalised_heads": False, "bounded": False, "symmetric": False}
    objective = AugSelf(14, ROTATION, **settings, **heads).double()
    objective.projector = nn.Identity()
    names = [name for number in (1, 2, 3) for name in (f"H{number}", f"hb{number}")]
    ours = mlp((28, 28, 28, 4)).state_dict()
    objective.heads[0].load_state_dict(dict(zip(ours, (inputs[name] for name in names), strict=True)))
    return objective


def plain(kind: type[Objective], **settings: float) -> Objective:
    objective = kind(14, ROTATION, projector=[14], **settings).double()
    objective.projector = nn.Identity()
    return objective


@pytest.mark.parametrize(
    ("case", "objective"),
    [
        ("E4_SimCLROnlyEqui", sen_of_sie),
        ("E5_SimCLREquiMod", equimod_of_sie),
        ("E7_SimCLRAugSelf", augself_of_sie),
        ("E1_VICReg", lambda _: plain(VICReg, invariance=10.0, variance=10.0)),
        ("E1b_VICReg_25_25_1", lambda _: plain(VICReg, invariance=25.0, variance=25.0)),
        ("E2_SimCLR_t0.1", lambda _: plain(SimCLR, temperature=0.1)),
        ("E2_SimCLR_t0.5", lambda _: plain(SimCLR, temperature=0.5)),
        ("E8_VICRegPartInv", lambda _: plain(VICReg, invariance=10.0, variance=10.0, invariant_share=8 / 14)),
    ],
)
def test_comparisons_of_sie(golden, inputs, case, objective):
    """From the views: the transforms give the action."""
    values = golden("sie")[case]["values"]
    x, y = inputs["x"].requires_grad_(), inputs["y"].requires_grad_()
    value = total(objective(inputs).loss(turned(x, y, inputs["q"]), nn.Identity()))
    assert value.item() == pytest.approx(values["loss"], rel=1e-10)
    value.backward()
    assert x.grad.norm().item() == pytest.approx(values["grad_x_norm"], rel=1e-9)
    assert y.grad.norm().item() == pytest.approx(values["grad_y_norm"], rel=1e-9)


class Given(nn.Module):
    """Replaces a network: returns the recorded tensors, one a call."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self.outputs = list(outputs)

    def forward(self, *_: Tensor) -> Tensor:
        return self.outputs.pop(0)


def test_equimod(golden):
    values, rng = golden("equivariant_extra")["EquiMod_SimCLR"]["values"], RandomState(23)
    z1 = rng.randn(8, 5)
    z2 = 0.7 * z1 + 0.7 * rng.randn(8, 5)
    y1, y2 = rng.randn(8, 5), rng.randn(8, 5)
    predicted = [0.8 * y + 0.5 * rng.randn(8, 5) for y in (y1, y2)]
    objective = EquiMod(3, ROTATION, parameters=["rotation"], temperature=0.5)
    objective.invariant_projector = Given(*map(torch.tensor, (z1, z2)))
    objective.equivariant_projector = Given(torch.zeros(8, 5), *map(torch.tensor, (y1, y2)))
    objective.action_predictor = Given(*map(torch.tensor, predicted))
    terms = objective.embedding_loss([torch.zeros(8, 3)] * 3, [torch.zeros(8, 4)] * 2)
    assert terms["invariance"].value.item() == pytest.approx(values["L_inv"], rel=1e-10)
    assert terms["equivariance"].value.item() == pytest.approx(values["L_eq"], rel=1e-10)
    assert total(terms).item() == pytest.approx(values["total"], rel=1e-10)


def test_care(golden):
    values, rng = golden("equivariant_extra")["CARE"]["values"], RandomState(25)

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    c1 = unit(rng.randn(12, 5))
    c2 = unit(0.8 * c1 + 0.4 * rng.randn(12, 5))
    o1 = unit(rng.randn(12, 5))
    o2 = unit(0.8 * o1 + 0.4 * rng.randn(12, 5))
    c1, c2, o1, o2 = map(torch.tensor, (c1, c2, o1, o2))
    assert losses.gram_difference(c1, c2, torch.arange(12) // 4).item() == pytest.approx(values["L_equi"], rel=1e-10)
    assert losses.nt_xent(o1, o2, 0.5).item() == pytest.approx(values["infonce"], rel=1e-10)
    assert values["infonce"] + 0.01 * values["L_equi"] == pytest.approx(values["total_lambda_0.01"], rel=1e-10)
