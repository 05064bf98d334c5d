"""SER, STL and magnitude-invariant hypernetworks give the numbers of the authors' code, EbC those of its formula."""

from typing import Any

import numpy as np
import pytest
import torch
from small import normal
from torch import Tensor

from ssl_inv.nn.token_moves import Move, carried
from ssl_inv.objectives.ser import token_contrast

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
