"""Any timm model behind one face, and stems for small images that timm can make again."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from ssl_inv.engine.preflight import advice_on_stem
from ssl_inv.nn.backbones import Cached, make_backbone, to_channels_last
from ssl_inv.run.exports.export import Preprocessing, export_timm


@pytest.mark.parametrize(("stem", "side"), [("default", 1), ("3x3-stride2", 2), ("3x3-stride1", 4)])
def test_stems_keep_resolution(stem, side):
    backbone = make_backbone(name="resnet18", stem=stem).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert backbone.feature_map(pixels).shape == (2, 512, side, side)
        torch.testing.assert_close(backbone.feature_map(pixels).mean((2, 3)), backbone(pixels))
        again = timm.create_model(backbone.architecture, num_classes=0).eval()
        again.load_state_dict(backbone.model.state_dict())
        assert torch.equal(again(pixels), backbone.model(pixels))


@pytest.mark.parametrize("stem", ["default", "3x3-stride2", "3x3-stride1"])
@pytest.mark.parametrize("ibn", ["none", "b"])
def test_layers_tell_by_how_much_they_shrink_the_image(stem, ibn):
    model = make_backbone(name="resnet18", stem=stem, ibn=ibn, arguments={"channels": [4, 4, 8, 8]}).model.eval()
    maps = model.forward_intermediates(torch.zeros(1, 3, 64, 64), intermediates_only=True)
    assert [64 // one.shape[-1] for one in maps] == [one["reduction"] for one in model.feature_info]


def test_one_import_lets_timm_rebuild_an_export_with_a_small_stem(tmp_path):
    backbone = make_backbone(name="resnet18", stem="3x3-stride2", arguments={"channels": [4, 4, 8, 8]})
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, 64)
    place = export_timm(backbone.model, backbone.architecture, tmp_path / "export", preprocessing, backbone.arguments)
    create = f"timm.create_model('local-dir:{place}', pretrained=True).conv1.stride"
    code = f"import timm, ssl_inv.backbones; print({create}, timm.is_model('resnet101_stem3x3s1'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["(2,", "2)", "True"]


def test_a_map_of_one_pixel_is_pointed_out():
    assert advice_on_stem(make_backbone(name="resnet18"), 33) is None
    assert advice_on_stem(make_backbone(name="resnet18", stem="3x3-stride1"), 32) is None
    assert "one pixel" in advice_on_stem(make_backbone(name="resnet18"), 32)
    assert "3x3-stride1 leaves 4 x 4" in advice_on_stem(make_backbone(name="resnet18"), 28)


def test_small_stem_starts_as_any_other_convolution():
    torch.manual_seed(0)
    weight = make_backbone(name="resnet18", stem="3x3-stride1").model.conv1.weight
    assert weight.shape == (64, 3, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("name", "arguments", "tokens"),
    [("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}, 16), ("test_vit", {"img_size": 32}, 4)],
)
def test_transformers_give_patch_tokens(name, arguments, tokens):
    backbone = make_backbone(name=name, arguments=arguments).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert backbone(pixels).shape == (2, backbone.features)
        assert backbone.tokens(pixels).shape == (2, tokens, backbone.features)
        with pytest.raises(TypeError, match="tokens, not a feature map"):
            backbone.feature_map(pixels)


def test_a_hidden_layer_behind_the_pooling_counts_and_is_no_channel():
    backbone = make_backbone(name="mobilenetv3_small_050").eval()
    pixels = torch.randn(2, 3, 32, 32)
    assert (backbone.channels, backbone.features) == (288, 1024)
    with torch.no_grad():
        assert backbone(pixels).shape == (2, 1024)
        assert backbone.feature_map(pixels).shape == (2, 288, 1, 1)


def test_convolutional_models_have_no_tokens():
    with pytest.raises(TypeError, match="feature map, not tokens"):
        make_backbone(name="test_resnet").tokens(torch.randn(1, 3, 64, 64))


def test_a_cached_batch_passes_once():
    backbone = make_backbone(name="test_resnet").eval()
    last, passes = Cached(backbone, batches=1), []
    backbone.model.conv1.register_forward_hook(lambda *_: passes.append(1))
    one, other = torch.randn(2, 2, 3, 64, 64)
    with torch.no_grad():
        for pixels in (one, one, other, other, one):
            assert torch.equal(last(pixels), backbone.model(pixels))
        assert last.encode(one) is last.encode(one)
        assert torch.equal(last.feature_map(one), backbone.feature_map(one))
    assert len(passes) == 3 + 5 + 1, "of three batches in a row, and those of the backbone itself"
    every = Cached(backbone)
    passes.clear()
    for pixels in (one, other, one, other):
        every(pixels)
    with torch.no_grad():
        assert not every(one).requires_grad
    assert every(one).requires_grad
    assert len(passes) == 3, "of two batches with gradients, and of one without"


def test_parts_of_a_larger_batch_are_found_and_changed_passes_are_not_reused():
    backbone = make_backbone(name="vit_tiny_patch16_224", arguments={"img_size": 32, "patch_size": 8, "depth": 1})
    cached, passes = Cached(backbone.eval()), []
    backbone.model.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    one, other = torch.randn(2, 2, 3, 32, 32)
    keep = (backbone.model.patch_drop, lambda _, inputs, tokens: tokens[:, :5])
    with torch.no_grad():
        expected = backbone.tokens(other).transpose(1, 2).unflatten(2, (4, 4))
        passes.clear()
        assert cached.encode(one, keep).map.shape[1] == 4
        assert cached.encode(one).map.shape[1] == 16
        cached.encode(torch.cat((one, other)))
        assert len(passes) == 3
        torch.testing.assert_close(cached.whole_map(other), expected)
        assert len(passes) == 3
        assert cached.whole_map(other.flip(0)).shape == expected.shape
        assert len(passes) == 4


def test_channels_last_changes_no_value():
    backbone = make_backbone(name="test_resnet").eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = backbone(pixels)
        to_channels_last(backbone)
        after = backbone(pixels.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert all(not isinstance(module, nn.Linear) for module in [backbone.model.get_classifier()])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnt18"}, "did you mean 'resnet18'"),
        ({"name": "vit_tiny_patch16_224", "stem": "3x3-stride1"}, "not for vit_tiny_patch16_224"),
        ({"name": "resnet18", "arguments": {"colour": 3}}, "resnet18 refuses"),
        ({"name": "resnet18", "arguments": {"pretrained": True}}, "arguments.pretrained: .*backbone.weights: timm"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ValueError, match=message):
        make_backbone(**settings)
