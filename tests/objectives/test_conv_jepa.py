"""Claims about Conv-JEPA: hidden places change nothing, statistics are those of visible places, masks are keyed."""

import pytest
import timm
import torch
import torch.nn.functional as F
from small import build, noise
from torch import nn

from ssl_inv.catalogue import SettingError
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.nn.visible import SeenPlaces, encode_places, only_visible, smooth_l1_of_unit_places
from ssl_inv.objectives.conv_jepa import ConvJEPA

NARROW = {"name": "resnet18", "stem": "3x3-stride1", "arguments": {"channels": [4, 4, 6, 8]}}


def checkered(batch: int = 3, side: int = 4) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(batch, side, side) < 0.5


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_hidden_pixels_reaches_visible_places_and_hidden_places_stay_empty(training):
    backbone = make_backbone(**NARROW).train(training)
    pixels, visible = torch.randn(3, 3, 32, 32), checkered()
    hidden = F.interpolate((~visible).unsqueeze(1).float(), (32, 32)).bool()
    found = encode_places(backbone, pixels, visible)
    torch.testing.assert_close(found, encode_places(backbone, torch.where(hidden, torch.randn(()), pixels), visible))
    assert found.shape == (3, 8, 4, 4)
    assert not found.movedim(1, 3)[~visible].any()
    assert found.movedim(1, 3)[visible].any()


def test_with_all_places_visible_the_pass_is_the_usual_one_with_its_statistics():
    one, other = (make_backbone(**NARROW) for _ in range(2))
    other.load_state_dict(one.state_dict())
    pixels = torch.randn(3, 3, 32, 32)
    found, usual = encode_places(one, pixels, torch.ones(3, 4, 4, dtype=torch.bool)), other.feature_map(pixels)
    torch.testing.assert_close(found, usual, rtol=1e-4, atol=1e-5)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(one.feature_map(pixels), other.feature_map(pixels), rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_visible_places():
    class Network(torch.nn.Module):
        num_features = 3

        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)

        def forward_features(self, pixels):
            return self.norm(pixels)

    pixels, visible = 3 + torch.randn(3, 3, 4, 4), checkered()
    found = encode_places(Backbone(Network(), "norm"), pixels, visible).movedim(1, 3)[visible]
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.var(dim=0, correction=0), torch.ones(3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_is_that_of_batch_normalisation_of_the_visible_places_as_rows(affine, layout):
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16, affine=affine)).double()
    if affine:
        nn.init.uniform_(network[1].weight), nn.init.uniform_(network[1].bias)
    pixels = torch.randn(3, 3, 8, 8, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    visible, weight = checkered(side=8), torch.randn(3, 16, 8, 8, dtype=torch.float64)

    def grads(normalised) -> list[torch.Tensor]:
        return torch.autograd.grad((normalised * weight).sum(), [pixels, *network.parameters()])

    with only_visible(network, SeenPlaces(visible)):
        found = grads(network(pixels))
    maps = network[0](pixels).movedim(1, 3)
    rows = F.batch_norm(maps[visible], None, None, network[1].weight, network[1].bias, True)
    expected = grads(torch.zeros_like(maps).masked_scatter(visible.unsqueeze(-1).expand_as(maps), rows).movedim(3, 1))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_loss_is_of_hidden_places_alone():
    predicted, targets, counted = torch.randn(3, 5, 4, 4), torch.randn(3, 5, 4, 4), checkered()
    p, h = (F.normalize(one, dim=1).movedim(1, 3)[counted] for one in (predicted, targets))
    expected = F.smooth_l1_loss(p, h, reduction="sum") / counted.sum()
    torch.testing.assert_close(smooth_l1_of_unit_places(predicted, targets, counted), expected)


def test_masks_have_their_shares_and_depend_on_step_and_sample_alone():
    objective = ConvJEPA(8, {})
    index, shares, single = torch.arange(64), [], 0
    for step in range(40):
        objective.masking.advance(step, 40)
        hidden = objective.hidden(index, (7, 7))
        assert torch.equal(hidden[3:5], objective.hidden(index[3:5], (7, 7)))
        counts = hidden.flatten(1).sum(dim=1)
        assert (49 - counts >= 5).all()
        single += bool((counts == 29).all())  # 0.6 of 49
        shares.append(counts.float().mean() / 49)
    assert 4 <= single <= 16
    assert 0.4 < torch.stack(shares).mean() < 0.65


def test_the_run_ends_with_the_teacher():
    backbone, objective = build("conv-jepa", backbone=NARROW)
    with torch.no_grad():
        next(backbone.parameters()).add_(1)
    objective.loss(noise([32]), backbone)["prediction"].value.backward()
    objective.after_step(backbone, 4, 4)
    for name, value in objective.teacher.network.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "resnet50_gn"])
def test_networks_without_batch_normalisation_are_refused(name):
    network = Backbone(timm.create_model(name, num_classes=0), name)
    with pytest.raises(SettingError, match=rf"name: conv-jepa hides .* not of {name}; choose a ResNet"):
        ConvJEPA(network.features, {}).adopt(network)


@pytest.mark.parametrize("ibn", ["a", "b"])
def test_ibn_is_refused_by_its_own_name(ibn):
    network = make_backbone(name="resnet18", ibn=ibn)
    with pytest.raises(SettingError, match=r"^backbone\.ibn: .* IBN adds instance normalisation; choose none$"):
        ConvJEPA(network.features, {}).adopt(network)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"predictor_kernel": 2}, "predictor_kernel: must be odd, got 2"),
        ({"hidden_share": 1.5}, "hidden_share: must lie between 0 and 1, got 1.5"),
    ],
)
def test_settings_out_of_their_range_are_refused(settings, line):
    with pytest.raises(SettingError, match=line):
        ConvJEPA(8, {}, **settings)


def test_a_last_map_of_one_place_is_refused():
    with pytest.raises(SettingError, match=r"^backbone\.stem: the last map of these images has one place, "):
        ConvJEPA(8, {}).hidden(torch.arange(2), (1, 1))
