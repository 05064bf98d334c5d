"""CAPI: what each term trains, what the predictor reads, and how assignments share out the clusters."""

import pytest
import torch
from small import build, noise

from ssl_inv.nn import losses
from ssl_inv.objectives.capi import warmed_momentum


def moved(term: torch.Tensor, module: torch.nn.Module) -> bool:
    gradients = torch.autograd.grad(term, list(module.parameters()), retain_graph=True, allow_unused=True)
    return any(one is not None and bool(one.any()) for one in gradients)


def test_each_term_trains_its_own_networks() -> None:
    backbone, objective = build("capi")
    terms = objective.loss(noise([12]), backbone)
    clustering, prediction = (terms[name].value for name in ("clustering", "prediction"))
    assert moved(clustering, objective.cluster_head)
    assert not moved(clustering, backbone)
    assert not moved(prediction, objective.cluster_head)
    for module in (backbone, objective.token_predictor, objective.head):
        assert moved(prediction, module)


def test_the_predictor_reads_places_and_visible_patches_and_no_other_question() -> None:
    _, objective = build("capi")
    predictor = objective.token_predictor
    torch.manual_seed(1)
    seen, context, asked = torch.randn(2, 5, 12), torch.arange(5).expand(2, -1), torch.tensor([[9, 12], [7, 15]])
    both = predictor(seen, context, asked, (4, 4))
    torch.testing.assert_close(both[:, :1], predictor(seen, context, asked[:, :1], (4, 4)))
    assert not torch.allclose(both[:, 0], both[:, 1])
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(both, predictor(seen[:, order], context[:, order], asked, (4, 4)))
    assert not torch.allclose(both, predictor(seen + torch.randn(2, 5, 12), context, asked, (4, 4)))
    torch.testing.assert_close(both.square().mean(-1), torch.ones(2, 2), rtol=1e-3, atol=0)


def test_clusters_are_used_equally_at_every_position() -> None:
    torch.manual_seed(0)
    logits = 0.1 * torch.randn(12, 3, 4).double() + 5 * torch.eye(4)[:3].double()
    assigned = losses.positionwise_sinkhorn(logits, 0.5, iterations=200)
    torch.testing.assert_close(assigned.sum(dim=2), torch.ones(12, 3).double())
    torch.testing.assert_close(assigned.sum(dim=0), torch.full((3, 4), 3.0).double(), rtol=1e-4, atol=0)


def test_extreme_logits_stay_finite_in_single_precision() -> None:
    assigned = losses.positionwise_sinkhorn(1000 * torch.eye(4)[None].expand(3, -1, -1), 0.06)
    assert assigned.isfinite().all()
    assert torch.allclose(assigned.sum(dim=2), torch.ones(3, 4), atol=1e-4)


def test_momentum() -> None:
    steps = [warmed_momentum(0.9, 0.2, share) for share in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert steps == pytest.approx([1.0, 0.95, 0.9, 0.95, 1.0])
    assert warmed_momentum(0.9, 0.0, 0.0) == pytest.approx(0.9)


@pytest.mark.parametrize("keep", ["teacher", "student"])
def test_the_kept_network(keep: str) -> None:
    backbone, objective = build("capi", keep=keep, momentum=0.5, momentum_warmup=0.0)
    with torch.no_grad():
        for one in backbone.parameters():
            one.add_(1)
    trained = [one.clone() for one in backbone.parameters()]
    objective.after_step(backbone, 1, 2)
    assert all(torch.equal(*both) for both in zip(trained, backbone.parameters(), strict=True))
    objective.after_step(backbone, 2, 2)
    kept = all(torch.equal(*both) for both in zip(trained, backbone.parameters(), strict=True))
    assert kept == (keep == "student")
