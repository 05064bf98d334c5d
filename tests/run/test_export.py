"""Exported backbones have the features of the original. A backbone that would not is never written."""

import copy
import importlib.util
import json
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

import ssl_inv
from ssl_inv.engine.preflight import require_forward
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.run.exports.export import (
    TORCHVISION_ARCHITECTURES,
    Preprocessing,
    export_timm,
    export_torchvision,
)
from ssl_inv.run.exports.export_onnx import ONNX_TOLERANCE, export_onnx
from ssl_inv.run.exports.export_program import export_program
from ssl_inv.run.exports.reading import load_backbone_file
from ssl_inv.run.exports.rebuilding import require_rebuildable

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


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection fails."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("architecture", "arguments"), [*NETWORKS, ("resnet18_stem3x3s2", {"channels": [8] * 4})])
def test_transformers_loads_the_same_network_and_prepares_images_as_timm_does(
    tmp_path, architecture, arguments
) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    transformers.utils.logging.disable_progress_bar()
    model = trained(architecture, **arguments).eval()
    folder = export_timm(
        model, architecture, tmp_path / "export", PREPROCESSING, arguments, parts={"invariant": (0, 5)}
    )
    loaded = transformers.AutoModel.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 255, (90, 70, 3), dtype=np.uint8)
    prepared = processor(Image.fromarray(pixels), return_tensors="pt")
    known = timm.create_model(f"local-dir:{folder}", pretrained=True).pretrained_cfg
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=known))
    assert torch.equal(prepared["pixel_values"][0], transform(Image.fromarray(pixels)))
    with torch.inference_mode():
        found, image = loaded(**prepared), prepared["pixel_values"]
        torch.testing.assert_close(found.pooler_output, model(image), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.last_hidden_state, model.forward_features(image), atol=1e-4, rtol=1e-4)
    assert loaded.config.ssl_inv["parts"] == {"invariant": [0, 5]}


@pytest.mark.parametrize(("architecture", "arguments"), NETWORKS)
def test_feature_maps_and_tokens_are_those_of_the_network(tmp_path, architecture, arguments) -> None:
    model = trained(architecture, **arguments).eval()
    folder = export_timm(model, architecture, tmp_path / "export", PREPROCESSING, arguments)
    maps = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    whole = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    image = PREPROCESSING.sample(batch=2)
    with torch.inference_mode():
        found = maps(image)
        wanted: list[Tensor] = model.forward_intermediates(image, intermediates_only=True)  # type: ignore[operator]
        assert len(found) > 2
        for one, other in zip(found, wanted[-len(found) :], strict=True):
            assert torch.equal(one, other)
        assert torch.equal(whole.forward_features(image), model.forward_features(image))  # type: ignore[operator]


def test_an_export_of_an_earlier_version_loads_as_before(tmp_path: Path) -> None:
    model = trained("test_resnet", output_stride=16)
    folder = export_timm(model, "test_resnet", tmp_path / "export", PREPROCESSING, {"output_stride": 16})
    config = json.loads((folder / "config.json").read_text())
    config["model_args"]["num_classes"] = 0
    del config["ssl_inv"]
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load_backbone_file(folder)
    assert loaded.parts == {}
    assert loaded.model_args == {"num_classes": 0, "output_stride": 16}
    assert torch.equal(features(loaded.build()), features(timm.create_model(f"local-dir:{folder}", pretrained=True)))


def test_the_parts_and_the_card_travel_with_the_export(tmp_path: Path) -> None:
    model, parts = trained("test_resnet"), {"invariant": (0, 30), "equivariant": (30, 96)}
    folder = export_timm(model, "test_resnet", tmp_path / "export", PREPROCESSING, parts=parts, card="# A card\n")
    assert load_backbone_file(folder).parts == {"invariant": slice(0, 30), "equivariant": slice(30, 96)}
    assert (folder / "README.md").read_text() == "# A card\n"


def test_an_export_of_an_own_network_names_the_module_that_registers_it(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "own_network.py").write_text(
        "from timm.models import build_model_with_cfg, register_model\n"
        "from timm.models.resnet import BasicBlock, ResNet\n"
        "@register_model\n"
        "def own_network(pretrained=False, **settings):\n"
        "    shape = {'block': BasicBlock, 'layers': (1, 1, 1, 1), 'channels': (4, 4, 8, 8)}\n"
        "    return build_model_with_cfg(ResNet, 'own_network', pretrained, **shape, **settings)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SSL_INV_TRUST", "own_network")
    backbone = make_backbone(name="own_network.own_network")
    folder = export_timm(backbone.model, backbone.architecture, tmp_path / "export", PREPROCESSING)
    assert json.loads((folder / "config.json").read_text())["ssl_inv"]["module"] == "own_network"
    assert torch.equal(features(load_backbone_file(folder).build()), features(backbone.model.eval()))
    with monkeypatch.context() as patched:
        patched.delitem(timm.models._registry._model_entrypoints, "own_network")
        patched.delitem(sys.modules, "own_network")
        patched.setenv("SSL_INV_TRUST", "")
        with pytest.raises(ssl_inv.RecipeError, match=r"code of the module 'own_network'.* --trust own_network"):
            ssl_inv.load(folder)
        assert "own_network" not in sys.modules
        ssl_inv.load(folder, trust=["own_network"])


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
    path = export_onnx(model, tmp_path / "backbone.onnx", PREPROCESSING, parts={"invariant": (0, 5)})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = PREPROCESSING.sample(batch=5)
    with torch.inference_mode():
        expected = model.eval()(image)
    found = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    torch.testing.assert_close(found, expected, atol=ONNX_TOLERANCE, rtol=0)
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert metadata["mean"] == list(PREPROCESSING.mean)
    assert metadata["parts"] == {"invariant": [0, 5]}


@needs_onnx
@pytest.mark.slow
def test_onnx_agrees_at_any_image_size_if_asked(tmp_path: Path) -> None:
    import onnxruntime

    model = trained("test_resnet").eval()
    path = export_onnx(model, tmp_path / "backbone.onnx", PREPROCESSING, any_size=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = torch.randn(4, 3, 97, 160)
    with torch.inference_mode():
        expected = model(image)
    found = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    torch.testing.assert_close(found, expected, atol=ONNX_TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("architecture", "arguments", "shapes"),
    [
        ("test_resnet", {}, [(1, 64, 64), (7, 64, 64)]),
        ("test_vit", {"patch_size": 8, "img_size": 64}, [(1, 64, 64), (7, 64, 64)]),
        ("test_resnet", {}, [(1, 33, 47), (3, 160, 64)]),
    ],
)
def test_a_program_of_torch_has_the_same_features_at_every_batch_and_if_asked_every_image_size(
    tmp_path, architecture, arguments, shapes
) -> None:
    model = trained(architecture, **arguments).eval()
    any_size, parts = shapes[0][1] != 64, {"equivariant": (3, 9)}
    path = export_program(model, tmp_path / "backbone.pt2", PREPROCESSING, any_size=any_size, parts=parts)
    facts = {"ssl_inv.json": ""}
    program = torch.export.load(path, extra_files=facts).module()
    for shape in shapes:
        image = PREPROCESSING.sample(*shape)
        with torch.inference_mode():
            torch.testing.assert_close(program(image), model(image), atol=1e-4, rtol=1e-4)
    told = json.loads(facts["ssl_inv.json"])
    assert told == {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": 64, "parts": {"equivariant": [3, 9]}}
    assert [one.name for one in tmp_path.iterdir()] == ["backbone.pt2"]


class Branching(nn.Module):
    """A network whose way depends on the numbers in the image, so it is no single program."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, image: Tensor) -> Tensor:
        means = image.mean((2, 3))
        return self.layer(means if means.sum() > 0 else -means)  # type: ignore[no-any-return]


def test_a_network_that_is_no_program_or_takes_one_size_is_one_line_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "backbone.pt2"
    fixed = trained("vit_tiny_patch16_224", img_size=64, embed_dim=24, depth=1, num_heads=1)
    with pytest.raises(ValueError, match="64 x 64 pixels only, not of any size") as size:
        export_program(fixed, path, PREPROCESSING, any_size=True)
    with pytest.raises(ValueError, match=r"torch\.export does not export this network") as branch:
        export_program(Branching(), path, PREPROCESSING)
    small = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), input_size=32)
    with pytest.raises(ValueError, match="map of one pixel need a program of their own") as pixel:
        export_program(trained("test_resnet"), path, small, any_size=True)
    assert "\n" not in str(size.value) + str(branch.value) + str(pixel.value)
    assert not list(tmp_path.iterdir())


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
