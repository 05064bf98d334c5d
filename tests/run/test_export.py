"""Exported backbones have the features of the original. A backbone that would not is never written."""

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from ssl_inv.engine.preflight import require_forward
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.run.export import (
    TORCHVISION_ARCHITECTURES,
    Preprocessing,
    export_timm,
    export_torchvision,
    load_backbone_file,
)
from ssl_inv.run.export_onnx import ONNX_TOLERANCE, export_onnx
from ssl_inv.run.rebuilding import require_rebuildable

PREPROCESSING = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), input_size=64)
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("test_resnet", {}),
    ("test_resnet", {"output_stride": 16}),
    ("test_vit", {"patch_size": 8, "img_size": 64}),
    ("test_convnext", {"patch_size": 2}),
    ("test_byobnet", {"stem_type": "3x3", "stem_pool": ""}),
]
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the extra onnx is not installed",
)


def trained(architecture: str, **arguments: Any) -> nn.Module:
    """A network whose weights and running statistics differ from any initialisation."""
    torch.manual_seed(3)
    model = timm.create_model(architecture, num_classes=0, **arguments)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape))
        for statistic in model.buffers():
            if statistic.is_floating_point():
                statistic.add_(torch.rand(statistic.shape))
    return model


def features(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        result: Tensor = model.eval()(PREPROCESSING.sample(batch=2))
    return result


@pytest.mark.parametrize(("architecture", "arguments"), NETWORKS)
def test_timm_rebuilds_the_same_network_and_preprocessing_travels_with_it(tmp_path, architecture, arguments) -> None:
    model = trained(architecture, **arguments)
    folder = export_timm(model, architecture, tmp_path / "export", PREPROCESSING, arguments)
    rebuilt, loaded = timm.create_model(f"local-dir:{folder}", pretrained=True), load_backbone_file(folder)
    assert torch.equal(features(rebuilt), features(model))
    assert torch.equal(features(loaded.build()), features(model))
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7).num_classes == 7
    config = rebuilt.pretrained_cfg
    told = [tuple(config[key]) for key in ("mean", "std", "input_size")]
    assert told == [PREPROCESSING.mean, PREPROCESSING.std, (3, 64, 64)]
    assert config["crop_pct"] == PREPROCESSING.crop_share
    assert loaded.preprocessing == PREPROCESSING


def test_export_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    model = trained("test_resnet").train()
    before = torch.random.get_rng_state()
    export_timm(model, "test_resnet", tmp_path / "export", PREPROCESSING)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return trained("resnet18")


CHANGES = {"conv1": nn.Conv2d(3, 64, 3, padding=1, bias=False), "maxpool": nn.Identity()}


@pytest.mark.parametrize("layer", CHANGES)
def test_a_changed_stem_is_refused_by_name(tmp_path: Path, resnet18: nn.Module, layer: str) -> None:
    model = copy.deepcopy(resnet18)
    setattr(model, layer, CHANGES[layer])
    given, kind = (model, "resnet18", tmp_path / "export"), type(CHANGES[layer]).__name__
    with pytest.raises(ValueError, match=f"{layer} is {kind}.*timm's is"):
        export_timm(*given, PREPROCESSING)
    with pytest.raises(ValueError, match=f"{layer} is {kind}.*torchvision's is"):
        export_torchvision(*given)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_and_unknown_architectures_are_refused(tmp_path: Path) -> None:
    model = trained("test_resnet")
    with pytest.raises(ValueError, match="'resnet18'"):
        export_timm(model, "resnet18x", tmp_path / "export", PREPROCESSING)
    next(model.parameters()).data[0] = float("nan")
    with pytest.raises(ValueError, match=r"conv1.*not finite"):
        export_timm(model, "test_resnet", tmp_path / "export", PREPROCESSING)


def test_an_existing_folder_is_replaced_only_on_request(tmp_path: Path) -> None:
    model = trained("test_resnet")
    folder = export_timm(model, "test_resnet", tmp_path / "export", PREPROCESSING)
    (folder / "mine").write_text("kept")
    with pytest.raises(ValueError, match="exists already"):
        export_timm(model, "test_resnet", folder, PREPROCESSING)
    assert (folder / "mine").exists()
    export_timm(model, "test_resnet", folder, PREPROCESSING, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_torchvision_loads_the_same_network_and_refuses_what_it_does_not_have(
    tmp_path: Path, resnet18: nn.Module
) -> None:
    path = export_torchvision(resnet18, "resnet18", tmp_path / "weights.pth")
    network = torchvision.models.resnet18()
    result = network.load_state_dict(torch.load(path, weights_only=True), strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    network.fc = nn.Identity()
    assert torch.equal(features(network), features(resnet18))
    with pytest.raises(ValueError, match="resnet18d has no counterpart"):
        export_torchvision(resnet18, "resnet18d", tmp_path / "weights.pth")


@pytest.mark.parametrize("architecture", TORCHVISION_ARCHITECTURES)
def test_torchvision_uses_the_same_names(architecture: str) -> None:
    with torch.device("meta"):
        ours = timm.create_model(architecture).state_dict()
        theirs = torchvision.models.get_model(architecture).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


@needs_onnx
def test_onnx_agrees_at_any_batch_size(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    model = trained("test_resnet")
    path = export_onnx(model, tmp_path / "backbone.onnx", PREPROCESSING)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = PREPROCESSING.sample(batch=5)
    with torch.inference_mode():
        expected = model.eval()(image)
    found = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    torch.testing.assert_close(found, expected, atol=ONNX_TOLERANCE, rtol=0)
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert metadata["mean"] == list(PREPROCESSING.mean)


def test_onnx_without_its_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ssl-inv\[onnx\]'"):
        export_onnx(trained("test_resnet"), tmp_path / "backbone.onnx", PREPROCESSING)


def test_a_checkpoint_gives_the_backbone_only(tmp_path: Path) -> None:
    state = trained("test_resnet").state_dict()
    path = tmp_path / "last.ckpt"
    named = {f"backbone.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": {**named, "head.weight": torch.ones(1)}}, path)
    loaded = load_backbone_file(path).state
    assert loaded.keys() == state.keys()
    with pytest.raises(ValueError, match=r"begins with 'encoder\.'; there are backbone\., head\."):
        load_backbone_file(path, prefix="encoder.")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("test_vit", {"global_pool": ""}, "does it pool"),
        ("gemma4_vit_167m", {"depth": 1}, "not finite"),
        ("resnet18", {"features_only": True}, "arguments.features_only"),
        ("resnet18", {"checkpoint_path": "w.safetensors"}, "arguments.checkpoint_path"),
    ],
)
def test_what_no_export_could_hold_is_refused_before_training(name, arguments, message) -> None:
    def before_training() -> None:
        backbone = make_backbone(name=name, arguments=arguments)
        require_forward(backbone, 160)
        require_rebuildable(backbone, Preprocessing((0.5,) * 3, (0.5,) * 3, 160))

    with pytest.raises(ValueError, match=message):
        before_training()


def test_an_export_that_would_be_another_network_is_refused_before_training() -> None:
    backbone = make_backbone(name="test_resnet")
    require_rebuildable(backbone, PREPROCESSING)
    backbone.model.add_module("extra", nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"another network: extra.weight has the form \(2, 2\)"):
        require_rebuildable(backbone, PREPROCESSING)
    with pytest.raises(ValueError, match="cannot be loaded: TypeError"):
        require_rebuildable(Backbone(timm.create_model("test_resnet"), "test_resnet", {"colour": 3}), PREPROCESSING)


class Payload:
    """Something that a file may not bring along."""


@pytest.mark.parametrize("content", ["code", "noise", "nothing", "folder"])
def test_a_file_that_is_no_backbone_is_one_clear_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.ckpt"
    if content == "code":
        torch.save({"state_dict": {"backbone.weight": Payload()}}, path)
    elif content == "noise":
        path.write_bytes(b"not a checkpoint")
    elif content == "folder":
        path.mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=r"file\.ckpt") as caught:
        load_backbone_file(path)
    assert "\n" not in str(caught.value)
