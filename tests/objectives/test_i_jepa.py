"""Claims about I-JEPA: masks, the encoder of some patches, the predictor and the targets."""

import numpy as np
import pytest
import torch
from small import MEAN_OF_PATCHES, normal, single, transformer, views_of
from torch import Tensor

from ssl_inv.memories.masking import BlockMasking
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.teacher import linear_momentum
from ssl_inv.nn.tokens import TokenPredictor, encode_visible, normalised, take
from ssl_inv.objectives.i_jepa import IJEPA
from ssl_inv.views import Views

TINY = {"img_size": 24, "patch_size": 4, "depth": 2, **MEAN_OF_PATCHES}
SMALL = {"predictor_width": 16, "predictor_depth": 1, "least_context": 4}
PAPER = {"blocks": 4, "scale": (0.15, 0.2), "aspect": (0.75, 1.5), "context_scale": (0.85, 1.0), "seed": 0}


def masking(**settings) -> BlockMasking:
    return BlockMasking(**{**PAPER, "least_context": 10, **settings})


def build(**settings) -> tuple[Backbone, IJEPA]:
    torch.manual_seed(0)
    backbone = transformer(**TINY)
    objective = IJEPA(backbone.features, {}, **{**SMALL, **settings})
    objective.adopt(backbone)
    return backbone, objective


def images(count: int = 4) -> Views:
    return views_of([torch.randn(count, 3, 24, 24, requires_grad=True)])


def patches_of(images: Tensor, size: int = 4) -> Tensor:
    """Patches `(B, N, ...)` of images, as the backbone numbers them."""
    return images.unfold(2, size, size).unfold(3, size, size).movedim(1, 3).flatten(1, 2)


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (16, 10)], ids=str)
def test_targets_are_rectangles_of_the_papers_shares_and_never_in_the_context(grid):
    rows, columns = grid
    drawn, sides = masking(), set()
    for step in range(20):
        drawn.steps_done = step
        masks = drawn(torch.arange(50), grid, torch.device("cpu"))
        assert masks.targets.shape[:2] == (50, 4), "every sample has all blocks, and all are of one size"
        assert not (masks.context[:, None, :, None] == masks.targets[:, :, None]).any()
        assert (masks.context.diff(dim=1) > 0).all(), "each patch once, in order"
        y, x = masks.targets // columns, masks.targets % columns
        height, width = ((axis.amax(-1) - axis.amin(-1) + 1) for axis in (y, x))
        assert (height * width == masks.targets.shape[2]).all(), "as many patches as the rectangle about them has"
        assert height.max() <= rows
        sides.add((int(height[0, 0]), int(width[0, 0])))
    shares = np.array([height * width / (rows * columns) for height, width in sides])
    assert len(sides) > 1
    assert shares.mean() == pytest.approx(0.175, abs=0.03)
    assert np.log([height / width for height, width in sides]).mean() == pytest.approx(np.log(1.06), abs=0.25)


def test_contexts_are_rectangular_and_large_enough_for_images_of_the_paper():
    drawn, sizes = masking(), []
    for step in range(30):
        drawn.steps_done = step
        _, visible = drawn.draw(np.arange(64), (14, 14))
        assert visible.sum(axis=1).min() >= 10
        masks = drawn(torch.arange(64), (14, 14), torch.device("cpu"))
        assert masks.context.shape == (64, visible.sum(axis=1).min())
        assert np.take_along_axis(visible, masks.context.numpy(), axis=1).all(), "only surplus is lost, none is added"
        sizes.append(visible.mean())
    assert 0.35 < np.mean(sizes) < 0.6


def test_places_depend_on_seed_step_and_sample_alone():
    drawn, samples = masking(), np.array([7, 90, 3, 12345678901])
    targets, visible = drawn.draw(np.arange(100), (14, 14))
    some, seen = drawn.draw(samples[:3], (14, 14))
    np.testing.assert_array_equal(targets[samples[:3]], some)
    np.testing.assert_array_equal(visible[samples[:3]], seen)
    assert len(np.unique(targets.reshape(100, -1), axis=0)) == 100
    for change in ({"steps_done": 1}, {"seed": 1}):
        other = masking()
        vars(other).update(change)
        assert not np.array_equal(*(one.draw(samples, (14, 14))[0] for one in (other, drawn)))


def test_samples_with_a_small_context_are_drawn_anew_and_no_others():
    settings = {"scale": (0.25, 0.25), "aspect": (1.0, 1.0), "context_scale": (1.0, 1.0)}
    first, redrawn = masking(**settings, least_context=1), masking(**settings, least_context=24)
    (targets, visible), (again, larger) = (one.draw(np.arange(200), (8, 8)) for one in (first, redrawn))
    short = visible.sum(axis=1) < 24
    assert 0 < short.sum() < 200
    assert (larger.sum(axis=1) >= 24).all()
    np.testing.assert_array_equal(targets[~short], again[~short])


def test_blocks_that_leave_nothing_are_an_error_of_one_line():
    message = "blocks: 4 of them can hide all 6 x 6 patches of an image; make block_scale smaller"
    with pytest.raises(ValueError, match=message):
        masking(scale=(1.0, 1.0), aspect=(1.0, 1.0))(torch.arange(3), (6, 6), torch.device("cpu"))


@pytest.mark.parametrize("prefix", [{}, {"class_token": True}, {"reg_tokens": 2}], ids=str)
def test_dropped_tokens_equal_masked_attention(prefix):
    torch.manual_seed(0)
    backbone, pixels = transformer(**{**TINY, **prefix}).double().eval(), torch.randn(3, 3, 24, 24, dtype=torch.float64)
    count = backbone.model.num_prefix_tokens
    context = torch.stack([torch.randperm(36)[:11].sort().values for _ in range(3)])
    attended = torch.zeros(3, 36 + count, dtype=torch.bool).scatter(1, context + count, True)
    attended[:, :count] = True
    masked = backbone.model.forward_features(pixels, attn_mask=attended[:, None, None].expand(-1, 1, 36 + count, -1))
    torch.testing.assert_close(encode_visible(backbone, pixels, context), take(masked[:, count:], context))
    everything = torch.arange(36).expand(3, -1)
    torch.testing.assert_close(encode_visible(backbone, pixels, everything), backbone.tokens(pixels))
    assert not backbone.model.patch_drop._forward_hooks, "the next pass drops nothing"


def test_blocks_of_the_encoder_compute_nothing_of_other_patches():
    backbone, _ = build()
    lengths = []
    backbone.model.blocks[0].register_forward_hook(lambda module, inputs, output: lengths.append(output.shape))
    encode_visible(backbone, torch.randn(2, 3, 24, 24), torch.arange(9).expand(2, -1))
    assert lengths == [(2, 9, 12)]


def test_gradients_reach_the_context_alone():
    backbone, objective = build()
    views = images()
    masks = objective.masking(views.index, (6, 6), torch.device("cpu"))
    objective.loss(views, backbone)["prediction"].value.backward()
    reached = patches_of(views[0].pixels.grad).flatten(2).abs().sum(dim=2) > 0
    assert torch.equal(reached, torch.zeros(4, 36, dtype=torch.bool).scatter(1, masks.context, True))
    assert all(one.grad is None for one in objective.teacher.parameters())
    assert all(one.grad is not None for one in (*backbone.parameters(), *objective.token_predictor.parameters()))


def test_targets_are_the_normalised_tokens_of_the_whole_image():
    backbone, objective = build()
    pixels, patches = torch.randn(2, 3, 24, 24), torch.tensor([[[3, 4], [9, 10]], [[30, 31], [0, 1]]])
    tokens = backbone.tokens(pixels).detach()
    found = objective._targets(pixels, patches)
    torch.testing.assert_close(found[1, 0, 1], normalised(tokens)[1, 31], msg="the teacher begins as the backbone")
    torch.testing.assert_close(found.mean(dim=-1), torch.zeros(2, 2, 2), atol=1e-6, rtol=0)
    _, plain = build(normalised_targets=False)
    torch.testing.assert_close(plain._targets(pixels, patches)[0, 1, 0], tokens[0, 9])


def test_the_error_is_the_authors(golden):
    facts = golden("jepa_targets")["jepa_targets"]
    predicted, targets = single(140, 2, 5, 4), normalised((3 * normal(141, 2, 5, 4) + 1).float())
    squared = (predicted - targets).square().mean().item()
    recorded = {"smooth-l1": facts["ijepa_smooth_l1"], "absolute": facts["vjepa_l1"], "squared": squared}
    for kind, value in recorded.items():
        assert losses.token_error(predicted, targets, kind).item() == pytest.approx(value, rel=1e-6), kind


@pytest.fixture
def predictor() -> TokenPredictor:
    torch.manual_seed(0)
    return TokenPredictor(12, 16, 2, 4).double()


def test_blocks_are_predicted_on_their_own_and_by_their_places(predictor):
    seen, context = torch.randn(2, 7, 12, dtype=torch.float64), torch.arange(7).expand(2, -1)
    targets = torch.tensor([[[10, 11], [20, 21], [30, 31]]]).expand(2, -1, -1)
    made = predictor(seen, context, targets, (6, 6))
    assert made.shape == (2, 3, 2, 12)
    torch.testing.assert_close(predictor(seen, context, targets[:, 1:2], (6, 6)), made[:, 1:2])
    assert not torch.allclose(made[:, 0], made[:, 1])
    order = torch.randperm(7)  # the context is a set of tokens with places
    torch.testing.assert_close(predictor(seen[:, order], context[:, order], targets, (6, 6)), made)
    assert not torch.allclose(predictor(seen[:, order], context, targets, (6, 6)), made)


def test_the_teacher_comes_to_rest_linearly():
    assert [linear_momentum(0.9, step, 10) for step in (0, 5, 10)] == pytest.approx([0.9, 0.95, 1.0])
    backbone, objective = build()
    with torch.no_grad():
        backbone.model.pos_embed.add_(1.0)
    before = objective.teacher.network.model.pos_embed.clone()
    objective.after_step(backbone, 1, 10)
    expected = before + 0.004  # the first step has the momentum of the setting
    torch.testing.assert_close(objective.teacher.network.model.pos_embed, expected)
    objective.after_step(backbone, 6, 10)
    torch.testing.assert_close(objective.teacher.network.model.pos_embed, expected + 0.002 * (1 - 0.004))
    assert objective.masking.steps_done == 6


def test_features_are_the_mean_of_patch_tokens():
    backbone, objective = build()
    pixels = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(objective.representations(backbone)(pixels)["all"], backbone.tokens(pixels).mean(dim=1))
