"""Checkpoints of other libraries are found under their prefixes; nothing is loaded silently in part, no code is run."""

import argparse
import os
import socket
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from huggingface_hub import constants
from torch import Tensor, nn

from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.nn.weights import read_weights, start_from

CHANNELS = {"layers": [1, 1, 1, 1], "channels": [4, 4, 6, 8]}
VIT = {"img_size": 28, "patch_size": 14, "embed_dim": 12, "depth": 2, "num_heads": 2, "init_values": 1e-5}
ONE = torch.ones(2)


def resnet() -> Backbone:
    return make_backbone(name="resnet18", arguments=CHANNELS)


def transformer(**changes: Any) -> Backbone:
    return make_backbone(name="vit_tiny_patch16_224", arguments={**VIT, **changes})


def state(seed: int, backbone: Backbone | None = None) -> dict[str, Tensor]:
    """Other weights than any initialisation has."""
    generator = torch.Generator().manual_seed(seed)
    kept = (backbone or resnet()).model.state_dict()
    return {
        name: torch.rand(one.shape, generator=generator) if one.is_floating_point() else one
        for name, one in kept.items()
    }


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: one for name, one in tensors.items()}


def as_sequence(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of a ResNet's children in an `nn.Sequential`."""
    numbers = {name: str(number) for number, (name, _) in enumerate(resnet().model.named_children())}
    return {".".join((numbers[name.split(".")[0]], *name.split(".")[1:])): one for name, one in tensors.items()}


R, OTHER, V = state(1), state(2), state(3, transformer())
LIBRARIES: dict[str, tuple[Any, str]] = {
    "torchvision": ({**R, "fc.weight": ONE, "fc.bias": ONE}, ""),
    "moco": (
        {
            "epoch": 1,
            "state_dict": {
                **under("module.encoder_k.", OTHER),
                **under("module.encoder_q.", {**R, "fc.0.weight": ONE}),
                "module.queue": ONE,
            },
            "optimizer": {"state": {0: {"momentum_buffer": ONE}}},
        },
        "state_dict.module.encoder_q",
    ),
    "moco-v3": (
        {
            "state_dict": {
                **under("module.base_encoder.", {**R, "fc.0.weight": ONE}),
                **under("module.momentum_encoder.", OTHER),
                "module.predictor.0.weight": ONE,
            }
        },
        "state_dict.module.base_encoder",
    ),
    "swav": (
        {**under("module.", R), "module.projection_head.0.weight": ONE, "module.prototypes.weight": ONE},
        "module",
    ),
    "barlow-twins": (
        {"model": {**under("module.backbone.", R), "module.projector.0.weight": ONE}},
        "model.module.backbone",
    ),
    "vicreg": ({**R}, ""),
    "byol": (
        {"model": {**under("target_network.encoder.", OTHER), **under("online_network.encoder.", R)}},
        "model.online_network.encoder",
    ),
    "vissl": (
        {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": under("_feature_blocks.", R), "heads": {"0.clf.0.weight": ONE}}}
            }
        },
        "classy_state_dict.base_model.model.trunk._feature_blocks",
    ),
    "solo-learn": (
        {
            "state_dict": {
                **under("momentum_backbone.", OTHER),
                **under("backbone.", R),
                "projector.0.weight": ONE,
                "classifier.weight": ONE,
            }
        },
        "state_dict.backbone",
    ),
    "lightly": (
        {
            "state_dict": {
                **under("backbone_momentum.", as_sequence(OTHER)),
                **under("backbone.", as_sequence(R)),
                "projection_head.layers.0.weight": ONE,
            }
        },
        "state_dict.backbone",
    ),
    "dino": (
        {
            "student": under("module.backbone.", OTHER),
            "teacher": {**under("backbone.", R), "head.mlp.0.weight": ONE},
            "args": argparse.Namespace(arch="resnet18"),
        },
        "teacher.backbone",
    ),
    "timm": ({"state_dict": {**R, "fc.weight": ONE}, "state_dict_ema": OTHER}, "state_dict"),
}


def saved(folder: Path, content: Any) -> str:
    torch.save(content, folder / "weights.pth")
    return str(folder / "weights.pth")


def holds(backbone: Backbone, wanted: Mapping[str, Tensor]) -> bool:
    found = backbone.model.state_dict()
    return all(torch.equal(found[name], one) for name, one in wanted.items())


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_backbone_of_other_libraries_is_found(tmp_path, library):
    content, part = LIBRARIES[library]
    backbone = resnet()
    found = start_from(backbone, read_weights(saved(tmp_path, content), "resnet18"))
    assert (found.part, found.whole, found.differences) == (part, True, "")
    assert holds(backbone, R)


def test_torchvision_and_lightly_themselves_fit(tmp_path):
    network = torchvision.models.resnet18()
    backbone = make_backbone(name="resnet18").eval()
    start_from(backbone, read_weights(saved(tmp_path, network.state_dict()), "resnet18"))
    pixels = torch.randn(2, 3, 64, 64)
    sequence = nn.Sequential(*list(network.children())[:-1]).eval()
    with torch.no_grad():
        assert torch.equal(backbone(pixels), sequence(pixels).flatten(1))
        for one in sequence.parameters():
            one.mul_(1.1)
        content = {"state_dict": under("backbone.", sequence.state_dict())}
        start_from(backbone, read_weights(saved(tmp_path, content), "resnet18"))
        assert torch.equal(backbone(pixels), sequence(pixels).flatten(1))


def test_weights_of_dinov2_are_translated_and_their_positions_resampled(tmp_path):
    registers = {"reg_tokens": 3, "no_embed_class": True}
    theirs = state(4, transformer(**registers))
    class_position = torch.rand(1, 1, 12)
    content = {name: one for name, one in theirs.items() if name not in ("reg_token", "pos_embed", "cls_token")}
    content |= {
        "register_tokens": theirs["reg_token"],
        "cls_token": theirs["cls_token"] - class_position,
        "pos_embed": torch.cat((class_position, theirs["pos_embed"]), dim=1),
        "mask_token": ONE,
    }
    file = saved(tmp_path, {"teacher": {**under("backbone.", content), "dino_head.mlp.0.weight": ONE}})
    same, larger = transformer(**registers), transformer(**registers, img_size=42)
    assert start_from(same, read_weights(file, "")).resampled == []
    torch.testing.assert_close(same.model.state_dict(), theirs)
    found = start_from(larger, read_weights(file, ""))
    assert (found.part, found.resampled) == ("teacher.backbone", ["pos_embed"])
    assert larger.model.pos_embed.shape == (1, 9, 12)


def test_a_prefix_chooses_among_networks(tmp_path):
    file = saved(tmp_path, LIBRARIES["moco"][0])
    for prefix in ("state_dict.module.encoder_k.", "module.encoder_k"):
        backbone = resnet()
        start_from(backbone, read_weights(file, ""), prefix)
        assert holds(backbone, OTHER)
    with pytest.raises(ValueError, match=r"weights_prefix: no parameter of resnet18 is under 'encoder\.'"):
        start_from(resnet(), read_weights(file, ""), "encoder.")


DIFFERENCES = {
    "missing": ({name: one for name, one in R.items() if name != "bn1.weight"}, "missing: bn1.weight"),
    "unknown": ({**R, "layer5.0.conv1.weight": ONE}, "unknown: layer5.0.conv1.weight"),
    "shape": (
        {**R, "conv1.weight": torch.ones(64, 1, 7, 7)},
        r"shape: conv1.weight \(64, 1, 7, 7\) for \(64, 3, 7, 7\)",
    ),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_a_part_is_loaded_only_if_the_user_says_so(tmp_path, case):
    content, words = DIFFERENCES[case]
    weights, backbone = read_weights(saved(tmp_path, content), ""), resnet()
    before = {name: one.clone() for name, one in backbone.model.state_dict().items()}
    with pytest.raises(ValueError, match=f"fits resnet18 in part; .*{words}.*weights_partial: true") as caught:
        start_from(backbone, weights)
    assert "\n" not in str(caught.value)
    assert holds(backbone, before), "a refused file changes nothing"
    found = start_from(backbone, weights, partial=True)
    assert not found.whole
    odd = {*found.missing, *found.other_shape}
    assert holds(backbone, {name: before[name] if name in odd else one for name, one in R.items()})


def test_files_without_a_backbone_are_refused_in_a_line(tmp_path):
    bad = {
        "another network": (V, "no parameter of resnet18 is in .*; it holds blocks"),
        "no tensors": ({"epoch": 3}, "no parameter of resnet18"),
        "a tensor": (ONE, "holds no tensors by name, but a Tensor"),
        "numbers that are none": ({**R, "conv1.weight": R["conv1.weight"] * float("nan")}, "conv1.weight .*not finite"),
    }
    for content, words in bad.values():
        with pytest.raises(ValueError, match=words) as caught:
            start_from(resnet(), read_weights(saved(tmp_path, content), ""))
        assert "\n" not in str(caught.value)
    (tmp_path / "noise.pth").write_bytes(b"no checkpoint")
    (tmp_path / "jax.npz").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, words in (("noise.pth", "cannot be read"), ("jax.npz", "npz"), ("empty", "neither"), ("no", "no such")):
        with pytest.raises(ValueError, match=words) as caught:
            read_weights(str(tmp_path / name), "")
        assert "\n" not in str(caught.value)


class Harmful:
    """Unpickling it makes a folder."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.makedirs, ("code-was-run",)


def test_settings_of_foreign_classes_do_nothing_and_code_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("foreign_settings")
    module.Settings = type("Settings", (dict,), {"__module__": "foreign_settings"})
    monkeypatch.setitem(sys.modules, "foreign_settings", module)
    settings = module.Settings(lr=1)
    settings.flags = {"a": settings}
    file = saved(tmp_path, {"state_dict": under("backbone.", R), "hyper_parameters": settings, "best": np.float64(0.5)})
    monkeypatch.delitem(sys.modules, "foreign_settings")
    backbone = resnet()
    start_from(backbone, read_weights(file, ""))
    assert holds(backbone, R)
    file = saved(tmp_path, {"state_dict": R, "more": Harmful()})
    with pytest.raises(ValueError, match="cannot be read as tensors and plain values"):
        read_weights(file, "")
    assert not (tmp_path / "code-was-run").exists()


def test_safetensors_and_half_precision_are_read(tmp_path):
    halves = {name: one.half() if one.is_floating_point() else one for name, one in R.items()}
    safetensors.torch.save_file(halves, tmp_path / "weights.safetensors")
    backbone = resnet()
    start_from(backbone, read_weights(str(tmp_path / "weights.safetensors"), ""))
    assert backbone.model.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(backbone.model.conv1.weight, R["conv1.weight"], atol=1e-3, rtol=0)


def _cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with timm's test network, and no network beside it."""

    def nobody(*_: Any) -> None:
        raise OSError("offline")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    monkeypatch.setattr("ssl_inv.nn.weight_files.getproxies", dict)
    place = folder / "models--timm--test_resnet.r160_in1k"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    snapshot = place / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    return snapshot


def test_timms_own_weights_come_from_the_cache_and_offline_is_one_line(tmp_path, monkeypatch):
    snapshot = _cache(tmp_path, monkeypatch)
    torch.manual_seed(5)
    network = timm.create_model("test_resnet")
    before = torch.random.get_rng_state()
    for source in ("timm", "timm/test_resnet.r160_in1k"):
        with pytest.raises(ValueError, match=r"weights: .* is not in this machine's cache") as caught:
            read_weights(source, "test_resnet")
        assert "\n" not in str(caught.value)
    safetensors.torch.save_file(network.state_dict(), snapshot / "model.safetensors")
    weights, backbone = read_weights("timm", "test_resnet"), make_backbone(name="test_resnet")
    found = start_from(backbone, weights)
    assert (found.heads, found.whole) == (["fc"], True)
    assert torch.equal(backbone.model.conv1[0].weight, network.conv1[0].weight)
    assert weights.mean == (0.5, 0.5, 0.5)
    torch.random.set_rng_state(before)
    read_weights("timm", "test_resnet")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_settings_of_weights_load_nothing_where_only_the_structure_is_needed():
    torch.manual_seed(0)
    plain = make_backbone(name="test_resnet")
    torch.manual_seed(0)
    named = make_backbone(name="test_resnet", weights="gone.pth", weights_prefix="x.", weights_partial=True)
    assert holds(named, plain.model.state_dict())


CHANNEL_NETWORKS = [("test_resnet", {}), ("test_vit", {}), ("test_convnext", {}), ("resnet18", CHANNELS)]


@pytest.mark.parametrize("channels", [1, 2, 5, 12])
@pytest.mark.parametrize(("name", "arguments"), CHANNEL_NETWORKS)
def test_a_first_layer_for_colours_is_adapted_as_timm_does(tmp_path, name, arguments, channels):
    colours = state(4, make_backbone(name=name, arguments=arguments))
    file = tmp_path / "colours.safetensors"
    safetensors.torch.save_file(colours, file)
    backbone = make_backbone(name=name, arguments={**arguments, "in_chans": channels})
    (first,) = start_from(backbone, read_weights(str(file), name)).adapted
    overlay = {"file": str(file), "hf_hub_id": None, "url": None, "num_classes": 0}
    settings = {**arguments, "in_chans": channels, "num_classes": 0}
    theirs = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **settings).state_dict()
    ours = backbone.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    # Independent of timm: every colour in turn, scaled to the same sum; a single channel is the sum itself.
    wanted = colours[first].sum(1, keepdim=True) if channels == 1 else colours[first][:, torch.arange(channels) % 3]
    assert torch.allclose(ours[first], wanted * (1 if channels == 1 else 3 / channels))


@pytest.mark.parametrize("channels", [1, 6, 12])
def test_an_adapted_network_sees_grey_as_before(tmp_path, channels):
    colours = make_backbone(name="test_resnet")
    file = tmp_path / "colours.safetensors"
    safetensors.torch.save_file(colours.model.state_dict(), file)
    adapted = make_backbone(name="test_resnet", arguments={"in_chans": channels})
    start_from(adapted, read_weights(str(file), "test_resnet"))
    grey = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = colours.eval()(grey.expand(-1, 3, -1, -1))
        after = adapted.eval()(grey.expand(-1, channels, -1, -1))
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize(("of", "to"), [(5, 3), (1, 3), (5, 4), (1, 5)])
def test_weights_for_other_channels_than_colours_are_refused_in_one_line(tmp_path, of, to):
    file = tmp_path / "other.safetensors"
    given = make_backbone(name="test_resnet", arguments={"in_chans": of})
    safetensors.torch.save_file(given.model.state_dict(), file)
    with pytest.raises(
        ValueError, match=rf"of another shape: conv1.0.weight \(\d+, {of}, 3, 3\) for \(\d+, {to}, 3, 3\)"
    ):
        start_from(
            make_backbone(name="test_resnet", arguments={"in_chans": to}), read_weights(str(file), "test_resnet")
        )
