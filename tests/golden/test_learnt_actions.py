"""SER, STL and magnitude-invariant hypernetworks give the numbers of the authors' code, EbC those of its formula."""

from typing import Any

import numpy as np
import pytest
import torch
from small import normal, total
from torch import Tensor

from ssl_inv.nn.hypernetworks import magnitude_invariant_hypernetwork, on_circles
from ssl_inv.nn.token_moves import Move, carried
from ssl_inv.objectives.ebc import EbC
from ssl_inv.objectives.ser import token_contrast
from ssl_inv.objectives.stl import STL
from ssl_inv.transforms import Code

FACTS = "learnt_actions"


def assert_close(found: Tensor, recorded: dict[str, Any]) -> None:
    """Compare a tensor with its recorded sums and first numbers."""
    flat = found.detach().flatten().numpy()
    measured = {"sum": flat.sum(), "abs": np.abs(flat).sum(), "wsum": flat @ np.cos(np.arange(flat.size))}
    for name, value in measured.items():
        assert value == pytest.approx(recorded[name], rel=1e-9, abs=1e-12), name
    np.testing.assert_allclose(flat[:4], recorded["head"], rtol=1e-9)


SER = [((3, 2), (2, 3), 0, 0, 7700, 0.5), ((3, 3), (2, 4), 1, 2, 7720, 0.2)]


@pytest.mark.parametrize("case", range(2))
def test_ser_moves_images_and_maps(facts: dict[str, Any], case: int) -> None:
    recorded = facts["ser_token_loss"][case]["geometry"]
    first_grid, second_grid, first_turns, second_turns, seed, _ = SER[case]
    image = normal(seed + 4, 2, 3, 8, 6)
    first = Move(torch.tensor([True, False]), torch.tensor([True, True]), first_grid, first_turns)
    second = first.opposite(second_grid, second_turns)
    view = first.images(image, 1)
    assert_close(view, recorded["view0"])
    assert_close(second.images(image, 1), recorded["view1"])
    assert_close(carried(view, first, second), recorded["view0_mapped_to_view1"])


@pytest.mark.parametrize("case", range(2))
def test_ser_loss_and_gradients(facts: dict[str, Any], case: int) -> None:
    recorded = facts["ser_token_loss"][case]
    first_grid, second_grid, first_turns, second_turns, seed, temperature = SER[case]
    count = 3 - case
    bits = torch.zeros(count, dtype=torch.bool)
    first = Move(bits, bits, first_grid, first_turns)
    moves = first, first.opposite(second_grid, second_turns)
    # A quarter turn exchanges the sides; recorded shapes are those before turns.
    q0, q1, t0, t1 = (
        normal(seed + number, count, 512, *(first_grid, second_grid)[number % 2]).requires_grad_(number < 2)
        for number in range(4)
    )
    loss = token_contrast(carried(t0, *moves), q1, temperature) + token_contrast(
        carried(t1, *moves[::-1]), q0, temperature
    )
    assert loss.item() / 2 == pytest.approx(recorded["loss"], rel=1e-9)
    (loss / 2).backward()
    assert_close(q0.grad, recorded["grad_q0"])
    assert_close(q1.grad, recorded["grad_q1"])


THEIR_PARTS = {
    "trans_backbone": "transformation",
    "equi_transform.hypernet": "action_matrices",
    "inv_projector": "invariant_projector",
    "equi_projector": "equivariant_projector",
    "trans_projector": "transformation_projector",
}


def test_stl_terms_and_gradients(facts: dict[str, Any]) -> None:
    recorded = facts["stl_loss"][0]
    widths = {"projector": [7, 5], "transformation_widths": [5, 5], "transformation_projector": [5, 5]}
    objective = STL(6, {"chunk": Code()}, **widths).double()
    state = objective.state_dict()
    for number, (name, shape) in enumerate(recorded["parameters"]):
        part, _, rest = next((ours, *name.partition(their)[1:]) for their, ours in THEIR_PARTS.items() if their in name)
        value = 0.3 * normal(7810 + number, *shape)
        # Their rows are (out, in) of a matrix, their columns the vector; ours are the vector, then the matrix.
        state[part + rest] = value.view(6, 6, -1).permute(2, 0, 1) if part == "action_matrices" else value
    objective.load_state_dict(state)
    x, y = (normal(seed, 8, 6).requires_grad_() for seed in (7800, 7801))
    terms = objective.train().embedding_loss(x, y)
    for name, term in terms.items():
        assert term.value.item() == pytest.approx(recorded[name], rel=1e-9), name
    loss = total(terms)
    assert loss.item() == pytest.approx(recorded["loss"], rel=1e-9)
    loss.backward()
    assert_close(x.grad, recorded["grad_y1"])
    assert_close(y.grad, recorded["grad_y2"])


def test_ebc_formula_and_gradients(facts: dict[str, Any]) -> None:
    recorded = facts["ebc_formula"][0]
    context = [normal(7980, 48, 3).view(6, 8, 3), normal(7981, 6, 8, 3)]
    query = [normal(seed, 6, 3) for seed in (7982, 7983)]
    parts = [one.requires_grad_() for one in (*context, *query)]
    x, y = (torch.cat((parts[view], parts[2 + view].unsqueeze(1)), dim=1).flatten(0, 1) for view in (0, 1))
    settings = {"context": 8, "projector": [3], "ridge": 0.0, "queries": "last", "candidates": "queries"}
    objective = EbC(3, {"chunk": Code()}, **settings)
    moved = objective._moved(x, y)
    np.testing.assert_allclose(moved[0].detach(), recorded["u_group0"], rtol=1e-9)
    loss = objective.embedding_loss(x, y)["contrast"].value
    assert loss.item() == pytest.approx(recorded["loss"], rel=1e-9)
    loss.backward()
    for part, name in zip(parts, ("X", "Xp", "query", "partner"), strict=True):
        assert_close(part.grad, recorded[f"grad_{name}"])


def test_magnitude_invariant_hypernetwork(facts: dict[str, Any]) -> None:
    recorded = facts["mip_hypernetwork"][0]
    fractions = torch.tensor(np.random.RandomState(7970).uniform(0, 1, (3, 2)))
    encoded = on_circles(fractions)
    np.testing.assert_allclose(encoded[0], recorded["encoded_row0"], rtol=1e-9)
    assert encoded[0].norm().item() == pytest.approx(recorded["encoded_norm_row0"], rel=1e-9)
    network = magnitude_invariant_hypernetwork((4, 5), [(2, 3)]).double()
    shapes = [shape for _, shape in recorded["parameters"]]
    values = [0.4 * normal(7975 + number, *shape) for number, shape in enumerate(shapes)]
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    weights = network(torch.atanh(2 * fractions - 1)).view(3, 2, 3)
    assert_close(weights, recorded["weights"])
    np.testing.assert_allclose(weights[0].detach(), recorded["weights_row0"], rtol=1e-9)
