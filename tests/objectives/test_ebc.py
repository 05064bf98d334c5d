"""Claims about EbC: the matrix of an unknown action is recovered, and the query finds its partner by it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_inv.objectives.ebc import EbC
from ssl_inv.transforms import Code

CHOICES = [(queries, candidates) for queries in ("each", "last") for candidates in ("batch", "queries")]


def ebc(**settings: Any) -> EbC:
    torch.manual_seed(0)
    return EbC(6, {"chunk": Code()}, **{"context": 9, "projector": [5], "ridge": 0.0, **settings})


def acted_on(invariant: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings of four groups of ten samples, and the same after an orthogonal matrix of each group's own."""
    torch.manual_seed(1)
    x = 3 * torch.randn(40, 5, dtype=torch.float64)
    maps = torch.linalg.qr(torch.randn(4, 5 - invariant, 5 - invariant, dtype=torch.float64))[0]
    moved = torch.einsum("gij,gnj->gni", maps, x[:, : 5 - invariant].unflatten(0, (4, 10))).flatten(0, 1)
    return x, torch.cat((moved, x[:, 5 - invariant :]), dim=1)


@pytest.mark.parametrize(("queries", "candidates"), CHOICES)
@pytest.mark.parametrize("invariant", [0, 2])
def test_linear_actions_are_recovered_exactly(queries: Any, candidates: Any, invariant: int) -> None:
    objective = ebc(queries=queries, candidates=candidates, invariant=invariant)
    x, y = acted_on(invariant)
    own = slice(9, None, 10) if queries == "last" else slice(None)
    torch.testing.assert_close(objective._moved(x, y), y[own], atol=1e-9, rtol=0)
    right = objective.embedding_loss(x, y)["contrast"].value
    wrong = objective.embedding_loss(x, y.roll(1, dims=0))["contrast"].value
    assert right < 0.5 < wrong


def test_every_query_is_left_out_of_its_own_context() -> None:
    x, y = acted_on()
    noisy = y + torch.randn_like(y)
    each, last = (ebc(queries=queries)._moved(x, noisy) for queries in ("each", "last"))
    torch.testing.assert_close(each[9::10], last)
    changed = noisy.clone()
    changed[3] += 1
    assert torch.allclose(ebc()._moved(x, changed)[3], each[3]), "its partner is not seen by the query"
    assert not torch.allclose(ebc()._moved(x, changed)[4], each[4])


def test_a_small_context_is_solved_with_a_ridge_whatever_the_scale() -> None:
    x, y = (one.float() for one in acted_on())
    x = x[:, :1].expand(-1, 5).clone()  # of rank one
    for scale in (1e-3, 1.0, 1e3):
        small = ebc(ridge=1e-3)._moved(scale * x, scale * y) / scale
        assert small.isfinite().all()
        torch.testing.assert_close(small, ebc(ridge=1e-3)._moved(x, y), rtol=1e-4, atol=1e-4)


def test_the_scale_of_embeddings_is_told_without_weight() -> None:
    x, y = acted_on()
    term = ebc().embedding_loss(x, y)["scale"]
    assert term.weight == 0
    assert term.value.item() == pytest.approx(x.square().sum(1).mean().item())
