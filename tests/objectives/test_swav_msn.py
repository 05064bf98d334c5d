"""Claims about SwAV and MSN: assignments of crops to prototypes, against another library where it is right, and against
formulas.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import MSNLoss, SwaVLoss
from small import total, transformer
from torch import Tensor

from ssl_inv.objectives.msn import MSN, encode_some
from ssl_inv.objectives.swav import SwAV

TRANSFORMER = {"img_size": 16, "patch_size": 4, "depth": 2, "dynamic_img_size": True}


def swav(**settings: Any) -> SwAV:
    torch.manual_seed(0)
    small = {"projector": [16, 8], "prototypes": 10, "local_crops": 2, "frozen_prototypes": 0.0}
    return SwAV(12, {}, **{**small, **settings}).double()


def msn(**settings: Any) -> MSN:
    torch.manual_seed(0)
    return MSN(12, {}, **{"projector": [16, 8], "prototypes": 10, "focal_views": 2, "focal_size": 8, **settings})


def units(*shape: int) -> Tensor:
    return F.normalize(torch.randn(shape, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("queued", [False, True], ids=["batch alone", "with a queue"])
def test_swav_is_another_librarys_where_that_is_right(queued):
    objective = swav(queue=6 if queued else 0, queue_start=0.0)
    z, earlier = units(4, 5, 8), units(2, 6, 8)
    for queue, rows in zip(objective.queues, earlier, strict=False):
        queue.put(rows)
        queue.flush()
    logits = list(z @ objective.prototypes.T)
    theirs = SwaVLoss()(logits[:2], logits[2:], list(earlier @ objective.prototypes.T) if queued else None)
    assert total(objective.embedding_loss(z)).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_a_queue_takes_part_from_its_start_on_and_as_soon_as_it_is_full():
    objective, alone, backbone, same = swav(queue=10, queue_start=0.3), swav(), transformer(**TRANSFORMER).train(), []
    for step in range(1, 8):
        z = units(4, 5, 8)
        same.append(bool(torch.isclose(total(objective.embedding_loss(z)), total(alone.embedding_loss(z)), rtol=1e-9)))
        for one in (objective, alone):
            one.after_step(backbone, step, 10)
    # Steps 1 to 3 come before the start, 4 and 5 fill the queue, and the loss of step 6 is the first with it.
    assert same == [True] * 5 + [False] * 2
    # Step 7, the last of steps 4 to 7, is in the second half again.
    torch.testing.assert_close(objective.queues[1].entries()[5:].double(), z[1])


def test_prototypes_have_length_one_after_every_step_and_learn_after_their_share():
    objective, learns = swav(frozen_prototypes=0.3), []
    for step in range(1, 6):
        learns.append(not [*objective.held(step, 10)])
        with torch.no_grad():
            objective.prototypes.add_(1.0)
        objective.after_step(transformer(**TRANSFORMER).train(), step, 10)
        torch.testing.assert_close(objective.prototypes.norm(dim=1), torch.ones(10, dtype=torch.float64))
    assert learns == [False] * 3 + [True] * 2


def test_swav_has_no_gradient_through_assignments():
    objective, z = swav(), units(2, 5, 8).requires_grad_()
    total(objective.embedding_loss(z)).backward()
    logits = z.detach() @ objective.prototypes.detach().T
    targets = torch.stack([objective._assignments(one, 0) for one in logits])
    # Of CE(q, softmax(s / T)) with a constant q: (softmax - q) c / T, for one of two crops and a mean over samples.
    expected = ((logits / 0.1).softmax(dim=-1) - targets.flip(0)) @ objective.prototypes.detach() / 0.1 / (2 * 5)
    torch.testing.assert_close(z.grad, expected)


def test_swav_stays_finite_where_exponentials_would_not():
    assert total(swav(sinkhorn_temperature=1e-4, temperature=1e-4).embedding_loss(units(4, 5, 8))).isfinite()


def test_msn_is_another_librarys_on_one_process():
    objective = msn().double()
    anchors, targets = units(3, 5, 8), units(5, 8)
    given = (anchors.flatten(0, 1), targets.repeat(3, 1), objective.head.directions)
    theirs = MSNLoss()(*given, target_sharpen_temperature=0.25)
    terms = objective.embedding_loss(anchors, targets)
    # The authors' code repeats the targets before Sinkhorn's algorithm, which changes nothing.
    assert total(terms).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_msn_stays_finite_where_probabilities_would_not():
    objective = msn(temperature=0.001, entropy=1.0)
    terms = objective.embedding_loss(units(3, 5, 8).float(), units(5, 8).float())
    assert total(terms).isfinite()
    total(terms).backward()
    assert objective.head.directions.grad.isfinite().all()


@pytest.mark.parametrize(("rows", "mean", "each"), [("one", math.log(10), 0.0), ("all", 0.0, 0.0)])
def test_entropies_tell_how_prototypes_are_used(rows, mean, each):
    objective = msn(projector=[16, 10], entropy=1.0, temperature=0.001, sinkhorn_iterations=0)
    with torch.no_grad():
        objective.head.directions.copy_(torch.eye(10))
    anchors = torch.eye(10) if rows == "all" else torch.eye(10)[:1].expand(10, -1)
    terms = objective.embedding_loss(anchors[None], anchors)
    assert terms["mean_entropy"].value.item() == pytest.approx(mean, abs=1e-5)
    assert terms["entropy"].value.item() == pytest.approx(each, abs=1e-5)
    assert terms["prediction"].value.item() == pytest.approx(0.0, abs=1e-5), "anchors that agree with their targets"


def test_a_transformer_sees_the_kept_patches_with_their_positions_and_no_others():
    backbone = transformer(**TRANSFORMER).train()
    pixels = torch.randn(2, 3, 16, 16)
    everything = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(encode_some(backbone, pixels, everything), backbone(pixels))
    reordered = encode_some(backbone, pixels, everything.flip(1))
    torch.testing.assert_close(reordered, backbone(pixels), msg="their order is no matter")
    kept = torch.tensor([[0, 1, 2, 3, 4, 6], [15, 14, 13, 12, 11, 6]])
    hidden = pixels.clone()
    hidden[:, :, 4:8, 4:8] += 1  # patch 5 of a grid of four by four
    assert torch.equal(encode_some(backbone, pixels, kept), encode_some(backbone, hidden, kept))
    assert not torch.equal(backbone(pixels), backbone(hidden))
    assert not backbone.model.patch_drop._forward_hooks, "the next pass sees everything"


def test_dropped_patches_depend_on_step_sample_and_view_alone():
    objective, backbone = msn(random_views=2, patch_drop=0.15), transformer(**TRANSFORMER).train()
    pixels = torch.randn(8, 3, 16, 16)
    kept = objective._kept(np.arange(4), backbone, pixels)
    assert kept.shape == (8, 13)
    assert all(len(set(row.tolist())) == 13 for row in kept)
    second_half = objective._kept(np.arange(2, 4), backbone, pixels).view(2, 2, -1)
    torch.testing.assert_close(kept.view(2, 4, -1)[:, 2:], second_half)
    assert len({tuple(sorted(row.tolist())) for row in kept}) > 4
    objective.steps_done = 1
    assert not torch.equal(kept, objective._kept(np.arange(4), backbone, pixels))
