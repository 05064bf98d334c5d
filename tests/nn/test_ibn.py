"""ResNets with instance normalisation: the authors' numbers, weights that are kept, exports that timm makes again."""

import subprocess
import sys

import pytest
import timm
import torch
from small import assert_recorded, normal
from torch import nn

from ssl_inv.catalogue import SettingError
from ssl_inv.nn.backbones import make_backbone
from ssl_inv.nn.ibn import InstanceBatchNorm, to_ibn
from ssl_inv.nn.sync_batch_norm import synchronise_batch_norm
from ssl_inv.nn.weights import read_weights, start_from
from ssl_inv.run.exports.export import Preprocessing, export_timm

NARROW = {"channels": [4, 4, 8, 8]}


def test_the_halves_give_the_authors_numbers(golden):
    (case,) = golden("new_settings")["ibn"]
    norm = InstanceBatchNorm(nn.BatchNorm2d(6)).double()
    for number, (name, shape) in enumerate(case["parameters"]):
        norm.get_parameter(name).data = normal(7955 + number, *shape)
    x = normal(7950, 3, 6, 4, 4).requires_grad_()
    found = norm(x)
    assert_recorded(found, case["train_output"])
    (found * normal(7951, *found.shape)).sum().backward()
    assert_recorded(x.grad, case["grad_x"])
    torch.testing.assert_close(norm.BN.running_mean.tolist(), case["running_mean"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(norm.BN.running_var.tolist(), case["running_var"], rtol=1e-9, atol=1e-12)
    assert_recorded(norm.eval()(x), case["eval_output"])


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "seresnet50", "resnet50d"])
def test_the_kinds_are_where_the_paper_has_them(name):
    blocks = [2, 2, 2, 2] if name == "resnet18" else [3, 4, 6, 3]
    a, b = (make_backbone(name=name, ibn=kind).model for kind in ("a", "b"))
    halved = [one for one, module in a.named_modules() if isinstance(module, InstanceBatchNorm)]
    assert halved == [f"layer{stage}.{number}.bn1" for stage in (1, 2, 3) for number in range(blocks[stage - 1])]
    whole = [one for one, module in b.named_modules() if isinstance(module, nn.InstanceNorm2d)]
    act = "act2" if name == "resnet18" else "act3"
    assert whole == ["bn1", *(f"layer{stage}.{blocks[stage - 1] - 1}.{act}.norm" for stage in (1, 2))]
    pixels = torch.randn(2, 3, 64, 64)
    assert all(model(pixels).isfinite().all() for model in (a, b))


def test_colours_leave_the_stem_of_kind_b():
    torch.manual_seed(0)
    plain, kind_b = (make_backbone(name="resnet18", ibn=ibn, arguments=NARROW).model.eval() for ibn in ("none", "b"))
    pixels = torch.randn(2, 3, 64, 64)
    brighter = 3 * pixels
    difference = [
        (model.bn1(model.conv1(brighter)) - model.bn1(model.conv1(pixels))).abs().max() for model in (plain, kind_b)
    ]
    assert difference[1] < 1e-3 < 1 < difference[0]


@pytest.mark.parametrize("kind", ["a", "b"])
def test_weights_of_a_plain_resnet_are_kept_by_conversion_and_by_loading(kind, tmp_path):
    torch.manual_seed(0)
    plain = timm.create_model("resnet18", num_classes=0, **NARROW)
    for one in (*plain.parameters(), *(one for one in plain.buffers() if one.dim())):
        one.data = torch.rand_like(one)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    loaded = make_backbone(name="resnet18", ibn=kind, arguments=NARROW)
    new = [name for name in loaded.model.state_dict() if "act2.norm" in name]
    start_from(loaded, read_weights(str(tmp_path / "plain.pth"), loaded.architecture), partial=bool(new))
    converted = to_ibn(plain, kind).state_dict()
    for name, value in loaded.model.state_dict().items():
        torch.testing.assert_close(value, converted[name], msg=name)


@pytest.mark.parametrize(("kind", "stem"), [("a", "3x3-stride2"), ("b", "default")])
def test_one_import_lets_timm_rebuild_an_export(kind, stem, tmp_path):
    backbone = make_backbone(name="resnet18", stem=stem, ibn=kind, arguments=NARROW)
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, 64)
    place = export_timm(backbone.model, backbone.architecture, tmp_path / "export", preprocessing, backbone.arguments)
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    code = (
        "import timm, torch, ssl_inv.backbones\n"
        f"model = timm.create_model('local-dir:{place}', pretrained=True, num_classes=0).eval()\n"
        "print(model(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)).sum().item())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(found.stdout) == pytest.approx(backbone.model.eval()(pixels).sum().item(), rel=1e-5)


def test_batch_halves_share_statistics_and_instance_halves_stay():
    model = make_backbone(name="resnet18", ibn="a", arguments=NARROW).model
    names = list(model.state_dict())
    model = synchronise_batch_norm(model, torch.device("cpu"))
    assert list(model.state_dict()) == names
    assert type(model.layer1[0].bn1.IN) is nn.InstanceNorm2d
    assert type(model.layer1[0].bn1.BN) is not nn.BatchNorm2d


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"name": "vit_tiny_patch16_224", "ibn": "a"}, "ibn: 'a' exists for timm's ResNets, such as resnet18"),
        ({"name": "resnet50_gn", "ibn": "a"}, "IBN replaces batch normalisation of 2 channels or more, not GroupNorm"),
    ],
)
def test_other_networks_are_refused(settings, line):
    with pytest.raises(SettingError, match=line):
        make_backbone(**settings)


def test_maps_of_one_place_are_refused():
    backbone = make_backbone(name="resnet18", ibn="a", arguments=NARROW)
    with pytest.raises(SettingError, match=r"backbone.ibn: a map of one place has no variance"):
        backbone(torch.randn(2, 3, 16, 16))
