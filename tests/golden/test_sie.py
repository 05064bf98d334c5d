"""SIE and its invariant comparisons give the numbers of the authors' code."""

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from small import THEIR_TERMS, bilinear, total
from torch import Tensor, nn

from ssl_inv.nn.predictors import ConcatenationPredictor, HypernetworkPredictor
from ssl_inv.objectives.base import Losses
from ssl_inv.objectives.sie import SIE
from ssl_inv.transforms import Circle, Rotation, Transform
from ssl_inv.transforms.quaternions import quaternion_from_euler, quaternion_to_matrix

FACTS = "sie"
GROUPS = {"rotation": Rotation()}


def sie(weight: Tensor, **settings) -> SIE:
    """SIE on 14 features of which 6 are equivariant, with the projectors replaced by the identity."""
    objective = SIE(14, GROUPS, equivariant_share=6 / 14, projector=[14], **settings).double()
    objective.invariant_projector = objective.equivariant_projector = nn.Identity()
    objective.action_predictor = bilinear(weight)
    return objective


def assert_terms(terms: Losses, values: dict) -> None:
    for name, term in terms.items():
        recorded = values.get(THEIR_TERMS[name], values.get("repr_loss_inv") if name == "invariance" else None)
        assert term.value.item() == pytest.approx(recorded, rel=1e-10), name
    assert total(terms).item() == pytest.approx(values["loss"], rel=1e-10)


@pytest.mark.parametrize(
    ("case", "settings"), [("A1_SIE_readme_coeffs", {}), ("A3_SIENoVar", {"predicted_variance": False})]
)
def test_sie_terms_and_gradients(facts, inputs, case, settings):
    values = facts[case]["values"]
    objective = sie(inputs["W"], **settings)
    x, y = inputs["x"].requires_grad_(), inputs["y"].requires_grad_()
    terms = objective.embedding_loss(x, y, inputs["q"])
    assert_terms(terms, values)
    total(terms).backward()
    for tensor, name in ((x, "x"), (y, "y")):
        assert tensor.grad.norm().item() == pytest.approx(values[f"grad_{name}_norm"], rel=1e-10)
        np.testing.assert_allclose(tensor.grad[0, :3], values[f"grad_{name}[0,:3]"], rtol=1e-9)
        np.testing.assert_allclose(tensor.grad[0, 8:11], values[f"grad_{name}[0,8:11]"], rtol=1e-9)
    gradient = objective.action_predictor.weight.grad.permute(1, 2, 0).reshape(36, -1)
    assert gradient.norm().item() == pytest.approx(values["grad_W_norm"], rel=1e-10)
    np.testing.assert_allclose(gradient[0], values["grad_W[0]"], rtol=1e-9)


def test_rotation_and_colour_variant_predicts_as_one_matrix_per_sample(inputs):
    """The 6-d action of the rotation and colour variant, against the definition with one matrix for each sample."""
    predictor = bilinear(inputs["W6"])
    embedding, action = inputs["x"][:, 8:], inputs["qc"]
    matrices = (action @ inputs["W6"].T).view(-1, 6, 6)
    torch.testing.assert_close(predictor(embedding, action), torch.einsum("boi,bi->bo", matrices, embedding))


def test_deep_hypernetwork(facts, inputs):
    values, rng = facts["B_deep_hypernet_2layer_predictor"]["values"], RandomState(1)
    predictor = HypernetworkPredictor((6, 5, 6), action=4).double()
    state = [array for rows in (4, 4, 71) for array in (0.4 * rng.randn(rows, 4), 0.1 * rng.randn(rows))]
    predictor.load_state_dict(dict(zip(predictor.state_dict(), map(torch.tensor, state), strict=True)))
    assert_output(predictor(inputs["x"][:, 8:], inputs["q"]), values)


def test_concatenation_predictor(facts, inputs):
    values, rng = facts["C_mlp_predictor_1layer"]["values"], RandomState(2)
    predictor = ConcatenationPredictor(6, 4).double()
    state = [0.3 * rng.randn(6, 10), 0.1 * rng.randn(6)]
    predictor.load_state_dict(dict(zip(predictor.state_dict(), map(torch.tensor, state), strict=True)))
    assert_output(predictor(inputs["x"][:, 8:], inputs["q"]), values)


def assert_output(out: Tensor, values: dict) -> None:
    np.testing.assert_allclose(out[0].detach(), values["out[0]"], rtol=1e-10)
    assert out.sum().item() == pytest.approx(values["out_sum"], rel=1e-10)
    assert out.square().sum().item() == pytest.approx(values["out_sumsq"], rel=1e-10)


def test_sie_with_split_and_projectors(facts, inputs):
    values, rng = facts["D_SIE_with_split_and_projectors"]["values"], RandomState(4)
    h1, e = rng.randn(16, 12), rng.randn(16, 12)
    objective = SIE(12, GROUPS, projector=[20, 20, 16]).double()
    for part in (objective.invariant_projector, objective.equivariant_projector):
        for linear, norm, inputs_ in ((part[0], part[1], 6), (part[3], part[4], 10)):
            linear.weight.data = torch.tensor(0.4 * rng.randn(10, inputs_))
            linear.bias.data = torch.tensor(0.1 * rng.randn(10))
            norm.weight.data, norm.bias.data = torch.tensor(1 + 0.1 * rng.randn(10)), torch.tensor(0.1 * rng.randn(10))
        part[6].weight.data = torch.tensor(0.4 * rng.randn(8, 10))
    objective.action_predictor = bilinear(torch.tensor(0.2 * rng.randn(64, 4)))
    x, y = torch.tensor(h1, requires_grad=True), torch.tensor(0.7 * h1 + 0.7 * e, requires_grad=True)
    terms = objective.embedding_loss(x, y, inputs["q"])
    assert_terms(terms, values)
    total(terms).backward()
    assert x.grad.norm().item() == pytest.approx(values["grad_h1_norm"], rel=1e-9)
    assert y.grad.norm().item() == pytest.approx(values["grad_h2_norm"], rel=1e-9)


def test_latents(facts):
    values, rng = facts["F_latents"], RandomState(6)
    a1, a2 = rng.uniform(-np.pi / 2, np.pi / 2, (6, 3)), rng.uniform(-np.pi / 2, np.pi / 2, (6, 3))
    c1, c2 = rng.uniform(0, 1, (6, 2)), rng.uniform(0, 1, (6, 2))

    def transform(angles, hues):
        rotation = quaternion_from_euler(torch.tensor(angles))
        hues = torch.tensor(hues)
        groups = {"rotation": Rotation(), "floor_hue": Circle(), "light_hue": Circle()}
        return Transform({"rotation": rotation, "floor_hue": hues[:, 0], "light_hue": hues[:, 1]}, groups)

    first, second = transform(a1, c1), transform(a2, c2)
    np.testing.assert_allclose(first["rotation"], values["quat_abs1"], atol=1e-14)
    vector = first.relative(second).as_vector(["rotation", "floor_hue", "light_hue"], "sie")
    np.testing.assert_allclose(vector, np.concatenate([values["quat_rel"], values["colour_rel"]], 1), atol=1e-12)
    np.testing.assert_allclose(quaternion_to_matrix(vector[:1, :4])[0], values["matrix_rel[0]"], atol=1e-12)
