"""BYOL, SimSiam, Barlow Twins, MoCo v3, DINO and iBOT: the authors' numbers, their formulas and another library."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, DINOLoss, IBOTPatchLoss, NegativeCosineSimilarity
from small import single, total, transformer
from torch import nn

from ssl_inv.catalogue import OBJECTIVES
from ssl_inv.memories.centring import CentredTargets
from ssl_inv.nn import losses
from ssl_inv.nn.backbones import Backbone
from ssl_inv.nn.heads import PrototypeHead
from ssl_inv.nn.tokens import encode_tokens
from ssl_inv.objectives.base import Objective
from ssl_inv.objectives.dino import DINO
from ssl_inv.objectives.ibot import block_masks
from ssl_inv.objectives.multi_crop import encode_by_size, mean_of_different_crops
from ssl_inv.views import Views

FACTS = "distillation"
TRANSFORMER = {"img_size": 16, "patch_size": 4, "depth": 2, "dynamic_img_size": True}
SMALL: dict[str, dict[str, Any]] = {
    "byol": {"projector": [16, 8], "predictor": [16]},
    "simsiam": {"projector": [16, 8], "predictor": 16},
    "barlow-twins": {"projector": [16, 8]},
    "moco-v3": {"projector": [16, 8], "predictor": [16]},
    "dino": {"projector": [16, 8], "prototypes": 10, "local_crops": 2, "local_size": 8},
    "msn": {"projector": [16, 8], "prototypes": 10, "focal_views": 2, "focal_size": 8},
    "ibot": {"projector": [16, 8], "prototypes": 10, "local_crops": 2, "local_size": 8, "mask_probability": 1.0},
}
WITH_TEACHER = ["byol", "moco-v3", "dino", "ibot", "msn"]


def build(name: str, **settings: Any) -> tuple[Backbone, Any]:
    """A small transformer and the objective, in training mode."""
    torch.manual_seed(0)
    backbone = transformer(**TRANSFORMER)
    objective: Objective = OBJECTIVES.find(name).load()(backbone.features, {}, **{**SMALL[name], **settings})
    objective.adopt(backbone)
    return backbone.train(), objective.train()


def noise(objective: Objective) -> Views:
    """Views of random pixels with 16 pixels a side, the local ones with 8."""
    return small.noise([16, 16] + [8] * (objective.plan.count - 2))


def test_sinkhorn_gives_the_authors_assignments(facts):
    values = facts["dinov2_sinkhorn"]
    assigned = losses.sinkhorn(single(121, 6, 7), 0.07)
    np.testing.assert_allclose(assigned[0], values["Q_row0"], rtol=2e-5)
    np.testing.assert_allclose(assigned.sum(dim=1), values["row_sums"], rtol=1e-6)
    np.testing.assert_allclose(assigned.sum(dim=0), values["col_sums"], rtol=2e-5)


def test_sinkhorn_stays_finite_where_exponentials_would_not():
    assigned = losses.sinkhorn(1000 * single(0, 6, 7), 0.01)
    assert assigned.isfinite().all()
    torch.testing.assert_close(assigned.sum(dim=1), torch.ones(6))


def test_distillation_gives_the_authors_cross_entropy(facts):
    student, targets = torch.stack((single(122, 6, 7), single(123, 6, 7))), losses.sinkhorn(single(121, 6, 7), 0.07)
    value = losses.distillation(student, targets[None], 0.1).sum()
    assert value.item() == pytest.approx(facts["dino_cross_entropy"]["value"], rel=1e-6)


def test_the_centre_moves_as_the_authors(facts):
    targets = CentredTargets(7, 0.9, 0.04, 0.04, 0.0)
    targets.put(single(121, 6, 7).mean(dim=0))
    targets.flush()
    np.testing.assert_allclose(targets.centre, facts["dino_center_update"]["centre"], rtol=1e-6)


def test_koleo_gives_the_authors_value(facts):
    assert losses.koleo(single(120, 8, 5)).item() == pytest.approx(facts["dinov2_koleo"]["value"], rel=1e-6)


@pytest.mark.parametrize("dimensions", [5, 40], ids=["more samples than dimensions", "fewer"])
def test_cross_correlation_is_its_definition(dimensions):
    x, y = (torch.randn(12, dimensions, dtype=torch.float64) * 3 + 1 for _ in range(2))
    normalise = nn.BatchNorm1d(dimensions, affine=False).double()
    matrix = normalise(x).T @ normalise(y) / 12
    on, off = losses.cross_correlation(x, y)
    assert on.item() == pytest.approx((1 - matrix.diagonal()).square().sum().item(), rel=1e-12)
    assert off.item() == pytest.approx((matrix - matrix.diag().diag()).square().sum().item(), rel=1e-12)
    assert (on + 0.0051 * off).item() == pytest.approx(BarlowTwinsLoss(lambda_param=0.0051)(x, y).item(), rel=1e-4)


def test_equal_independent_dimensions_have_no_barlow_twins_loss():
    x = torch.randn(64, 6, dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(dim=0))[0] * 8  # no mean, variance one, no covariances
    assert float(sum(losses.cross_correlation(x, x))) == pytest.approx(0, abs=1e-8)


def test_cosine_error_is_the_distance_of_normalised_vectors():
    x, y = torch.randn(2, 8, 5, dtype=torch.float64)
    squared = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(dim=1).mean()
    assert losses.cosine_error(x, y).item() == pytest.approx(squared.item(), rel=1e-12)
    assert losses.cosine_error(x, y).item() == pytest.approx(2 + 2 * NegativeCosineSimilarity()(x, y).item(), rel=1e-12)


def test_info_nce_finds_the_key_of_the_same_sample():
    queries, keys = torch.randn(2, 6, 4, dtype=torch.float64).unbind()
    queries.requires_grad_()
    keys.requires_grad_()
    value = losses.info_nce(queries, keys, 0.2)
    cosines = torch.stack([F.cosine_similarity(query, keys) for query in queries])
    expected = -(cosines / 0.2).log_softmax(dim=1).diagonal().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    value.backward()
    assert queries.grad is not None
    assert keys.grad is None, "keys have no gradient"
    assert losses.info_nce(torch.eye(5), torch.eye(5), 0.01).item() < 1e-6
    assert losses.info_nce(torch.ones(5, 3), torch.ones(5, 3), 0.2).item() == pytest.approx(math.log(5))


def test_moco_v3_scales_by_twice_the_temperature():
    backbone, objective = build("moco-v3", temperature=0.2)
    assert objective.loss(noise(objective), backbone)["info_nce"].weight == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_a_prediction_that_ignores_its_input_teaches_the_encoder_nothing(name):
    backbone, objective = build(name)
    last = objective.prediction[-1]
    nn.init.zeros_(last.weight)
    if last.bias is None:
        last.bias = nn.Parameter(torch.ones(last.out_features))
    total(objective.loss(noise(objective), backbone)).backward()
    assert all(not one.grad.any() for one in backbone.parameters()), "a gradient reached the encoder through the target"


@pytest.mark.parametrize(("name", "range_"), [("byol", (0, 8)), ("simsiam", (-1, 1))])
def test_cosine_losses_have_their_papers_range(name, range_):
    backbone, objective = build(name)
    value = total(objective.loss(noise(objective), backbone)).item()
    assert range_[0] <= value <= range_[1]
    objective.projector, objective.prediction = nn.Linear(12, 8), nn.Identity()
    nn.init.zeros_(objective.projector.weight)
    objective.adopt(backbone)
    value = total(objective.loss(noise(objective), backbone)).item()
    assert value == pytest.approx(range_[0], abs=1e-5), "equal vectors"


def teachers(objective: Objective) -> list[nn.Module]:
    return [one for name, one in objective.named_children() if name.endswith("teacher")]


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_a_teacher_learns_nothing_and_follows(name):
    backbone, objective = build(name, momentum=0.9)
    before = [copy.deepcopy(one.state_dict()) for one in teachers(objective)]
    total(objective.loss(noise(objective), backbone)).backward()
    held = [one for teacher in teachers(objective) for one in teacher.parameters()]
    assert all(one.grad is None and not one.requires_grad for one in held)
    with torch.no_grad():
        for one in (*backbone.parameters(), *objective.parameters()):
            if one.requires_grad:
                one.add_(1.0)
    objective.after_step(backbone, 5, 10)
    for teacher, old in zip(teachers(objective), before, strict=True):
        for key, value in teacher.named_parameters():
            message = f"{key}: momentum 0.95 halfway keeps 0.95"
            torch.testing.assert_close(value, old[key] + 0.05, msg=message, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["dino", "ibot"])
def test_the_teacher_drops_nothing(name):
    dropout = {"drop_path_rate": 0.5, "proj_drop_rate": 0.5, "attn_drop_rate": 0.5}
    backbone = transformer(**TRANSFORMER, **dropout).train()
    objective: Any = OBJECTIVES.find(name).load()(backbone.features, {}, **SMALL[name]).train()
    objective.adopt(backbone)
    pixels = torch.randn(4, 3, 16, 16)
    first, second = (teachers(objective)[0](pixels) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(backbone(pixels), backbone(pixels)), "the student does"


@pytest.mark.parametrize("keep", ["teacher", "student"])
@pytest.mark.parametrize("name", ["dino", "ibot", "msn"])
def test_the_backbone_is_the_teacher_after_the_last_step_and_not_before(name, keep):
    backbone, objective = build(name, keep=keep)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1)
    student = {key: value.clone() for key, value in backbone.state_dict().items()}
    for step in (1, 2, 3):
        same = all(torch.equal(value, student[key]) for key, value in backbone.state_dict().items())
        assert same, f"changed before step {step}"
        objective.after_step(backbone, step, 3)
    teacher = objective.backbone_teacher.network if name == "ibot" else objective.teacher.network[0]
    kept = teacher.state_dict() if keep == "teacher" else student
    assert all(torch.equal(value, kept[key]) for key, value in backbone.state_dict().items())
    assert any(not torch.equal(value, student[key]) for key, value in teacher.state_dict().items())


def test_dino_averages_over_pairs_of_different_crops():
    student, teacher = torch.randn(4, 6, 7), torch.randn(2, 6, 7)
    centring, theirs = CentredTargets(7, 0.9, 0.04, 0.04, 0.0), DINOLoss(7, center_momentum=0.9)
    for _ in range(2):
        value = mean_of_different_crops(losses.distillation(student, centring(teacher), 0.1))
        centring.put(teacher.flatten(0, 1).mean(dim=0))
        centring.flush()
        assert value.item() == pytest.approx(theirs(list(teacher), list(student)).item(), rel=1e-5)


def test_dino_of_uniform_students_is_the_logarithm_of_the_prototypes():
    targets = torch.randn(2, 6, 7).softmax(dim=-1)
    value = mean_of_different_crops(losses.distillation(torch.zeros(5, 6, 7), targets, 0.1))
    assert value.item() == pytest.approx(math.log(7))


@pytest.mark.parametrize("name", ["dino", "ibot"])
def test_prototypes_are_frozen_and_temperatures_rise_for_their_share_of_steps(name):
    temperature = {"warmup_temperature": 0.04, "teacher_temperature": 0.08, "temperature_warmup": 0.5}
    backbone, objective = build(name, frozen_prototypes=0.3, **temperature)
    heads = [objective.head] if name == "dino" else objective.heads
    prototypes = {parameter for head in heads for parameter in head.prototype_parameters()}
    centring = objective.centring if name == "dino" else objective.patch_targets
    held, temperatures = [], []
    for step in range(1, 11):
        objective.loss(noise(objective), backbone)
        held.append({*objective.held(step, 10)})
        temperatures.append(centring.temperature.item())
        objective.after_step(backbone, step, 10)
    assert held == [prototypes] * 3 + [set()] * 7
    np.testing.assert_allclose(temperatures, np.minimum(0.04 + 0.008 * np.arange(10), 0.08), rtol=1e-6)


def test_crops_of_every_size_are_encoded_as_alone():
    backbone, objective = build("dino")
    views = noise(objective).views
    torch.testing.assert_close(encode_by_size(backbone, views), torch.cat([backbone(view.pixels) for view in views]))


def test_a_prototype_head_is_linear_in_mean_embeddings_and_bounded():
    head = PrototypeHead(6, [16, 8], 10)
    embedded = head.embed(torch.randn(20, 6))
    logits = head.similarities(embedded)
    assert logits.abs().max() <= 1 + 1e-6, "cosines"
    torch.testing.assert_close(head.similarities(embedded.mean(dim=0)), logits.mean(dim=0))
    copy.deepcopy(head)


def test_tokens_and_pooled_features_are_the_backbones():
    backbone, _ = build("ibot")
    pixels = torch.randn(3, 3, 16, 16)
    pooled, patches = encode_tokens(backbone, pixels)
    assert torch.equal(pooled, backbone(pixels))
    assert torch.equal(patches, backbone.tokens(pixels))


def test_the_student_does_not_see_masked_patches():
    backbone, _ = build("ibot")
    pixels, token = torch.randn(2, 3, 16, 16), torch.randn(12)
    masked = torch.zeros(2, 16, dtype=torch.bool)
    masked[:, 5] = True
    hidden, seen = pixels.clone(), pixels.clone()
    hidden[:, :, 4:8, 4:8] += 1  # patch 5 of a grid of four by four
    seen[:, :, 0:4, 4:8] += 1
    made = [encode_tokens(backbone, some, masked, token) for some in (pixels, hidden, seen)]
    outputs = [torch.cat([one.flatten() for one in both]) for both in made]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not backbone.model.patch_embed._forward_hooks, "the next pass masks nothing"


def test_patch_distillation_is_another_librarys():
    masks = torch.from_numpy(block_masks(np.array([3, 0, 7, 5]), (4, 4), (1, np.arange(4))))
    student, teacher = torch.randn(2, int(masks.sum()), 9)
    value = losses.patch_distillation(student, CentredTargets(9, 0.9, 0.07, 0.07, 0.0)(teacher), masks.flatten(1), 0.1)
    assert value.item() == pytest.approx(IBOTPatchLoss(9, teacher_temp=0.07)(teacher, student, masks).item(), rel=1e-5)


def test_the_patch_centre_is_the_mean_over_all_patches():
    backbone, objective = build("ibot", centre_momentum=0.0)
    views = noise(objective)
    objective.loss(views, backbone)
    tokens = objective.backbone_teacher.network.tokens(torch.cat([view.pixels for view in views.views[:2]]))
    objective.patch_targets.flush()
    expected = objective.heads[0](tokens).mean(dim=(0, 1))
    torch.testing.assert_close(objective.patch_targets.centre, expected, atol=1e-6, rtol=1e-4)


def test_no_masked_patch_gives_no_patch_loss_but_a_gradient():
    backbone, objective = build("ibot", mask_probability=0.0)
    terms = objective.loss(noise(objective), backbone)
    assert terms["patch"].value.item() == 0
    total(terms).backward()
    assert not objective.mask_token.grad.any()


def test_masks_are_blocks_of_the_wanted_size_that_depend_on_the_sample_alone():
    counts, index = np.array([20, 98, 0, 59] * 50), np.arange(200)
    masks = block_masks(counts, (14, 14), (0, 7, index))
    made = masks.sum(axis=(1, 2))
    assert (made <= counts).all()
    assert made.sum() >= 0.9 * counts.sum()
    np.testing.assert_array_equal(masks[30:40], block_masks(counts[30:40], (14, 14), (0, 7, index[30:40])))
    another_step = block_masks(counts, (14, 14), (0, 8, index))
    assert (masks != another_step).any(axis=(1, 2))[counts > 0].all()
    beside = (masks[:, 1:] & masks[:, :-1]).sum() / masks.sum()
    assert beside > 0.7, "scattered patches would have a masked neighbour below far less often"


def test_masks_of_ibot_have_the_papers_shares():
    _, objective = build("ibot", mask_probability=0.5, mask_share=[0.1, 0.5])
    masks = objective._masks(np.arange(500), (14, 14))
    share = masks.mean(axis=1)
    assert np.mean(share > 0) == pytest.approx(0.5, abs=0.06)
    assert share.max() <= 0.5
    assert share[share > 0].mean() == pytest.approx(0.3, abs=0.03)
    assert (masks[:500] != masks[500:]).any(), "crops of one sample have masks of their own"


def test_dino_without_local_crops_has_two_views():
    assert DINO(8, {}, **{**SMALL["dino"], "local_crops": 0}).plan.count == 2
