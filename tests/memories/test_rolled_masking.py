"""CAPI's masks show one rectangle, shifted round the edges, and ask about some of the other patches."""

import numpy as np
import pytest
import torch

from ssl_inv.catalogue import SettingError
from ssl_inv.memories.rolled_masking import RolledMasking

GRID, CPU = (16, 16), torch.device("cpu")


def test_counts_are_those_of_the_paper() -> None:
    masks = RolledMasking(0.65, 0.05, seed=0)(torch.arange(50), GRID, CPU)
    assert masks.context.shape == (50, 90)
    assert masks.targets.shape == (50, 1, 8)
    both = torch.cat((masks.context, masks.targets[:, 0]), dim=1)
    assert all(len(set(row.tolist())) == 98 for row in both), "no target is visible, and none is asked for twice"


def test_the_visible_patches_are_a_rectangle_shifted_round_the_edges() -> None:
    visible = RolledMasking(0.65, 0.05, seed=0).visible(torch.arange(400), GRID).numpy()
    heights, torn = [], 0
    for mask in visible:
        full = mask.any(axis=1).sum(), mask.any(axis=0).sum()
        assert 0 <= full[0] * full[1] - 90 < full[1], "all but the end of the last row"
        heights.append(full[0] / full[1])
        torn += bool(mask[0].any() and mask[-1].any() and not mask.any(axis=1).all())
    assert 0.45 < min(heights) < 0.55
    assert 1.8 < max(heights) < 2.2
    assert 100 < torn < 300, "about as many are torn as rows are visible"
    np.testing.assert_allclose(visible.mean(axis=0), 90 / 256, atol=0.12)


def test_a_mask_depends_on_seed_step_and_sample_alone() -> None:
    masking, index = RolledMasking(0.5, 0.5, seed=3), torch.tensor([5, 17, 2])
    masks, alone = masking(index, GRID, CPU), masking(index[1:2], GRID, CPU)
    assert torch.equal(masks.context[1:2], alone.context)
    assert torch.equal(masks.targets[1:2], alone.targets)
    masking.advance(1, 10)
    assert not torch.equal(masks.context, masking(index, GRID, CPU).context)


def test_images_of_too_few_patches_are_refused() -> None:
    with pytest.raises(SettingError, match=r"hidden_share: 0.3 of 1 x 2 patches leaves 2 to see; give larger images"):
        RolledMasking(0.3, 0.5, seed=0)(torch.arange(2), (1, 2), CPU)
